"""Tissue populations: how parameters are distributed in each class of tissue."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bids_gmvae.exceptions import UnknownNameError
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.signal_models.base import SignalModel


@dataclass(frozen=True)
class Tissue:
    """One class of tissue.

    Attributes
    ----------
    name : str
        For the label table.
    mean : tuple of float
        Centre of each parameter, in its unit.
    spread : tuple of float
        Standard deviation of each parameter on its own scale (linear, log or logit).
    weight : float
        Share of the voxels when voxels are drawn independently.
    s0 : float
        Signal without weighting, relative to white matter.
    anisotropy : float
        Axial minus radial diffusivity of the directional modulation, mm^2/s.
    """

    name: str
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weight: float = 0.0
    s0: float = 1.0
    anisotropy: float = 0.0


@dataclass(frozen=True)
class Population:
    """Tissues of a simulated head; the class label is the position in `tissues`, from 1.

    Attributes
    ----------
    signal_model : str
        Name of the signal model whose parameters are meant.
    tissues : tuple of Tissue
        White matter, grey matter, cerebrospinal fluid.
    lesions : tuple of Tissue
        Tissues that no prior learnt from `tissues` has seen.
    correlation : float
        Between any two parameters, within a class.
    """

    signal_model: str
    tissues: tuple[Tissue, ...]
    lesions: tuple[Tissue, ...] = field(default=())
    correlation: float = 0.0

    def __post_init__(self) -> None:
        n_parameters = len(self.model.parameters)
        for tissue in (*self.tissues, *self.lesions):
            if not len(tissue.mean) == len(tissue.spread) == n_parameters:
                raise ValueError(f"{tissue.name} needs {n_parameters} means and spreads.")

    @property
    def model(self) -> SignalModel:
        """The signal model."""
        return get_signal_model(self.signal_model)

    @property
    def labelled(self) -> tuple[Tissue, ...]:
        """Tissues, then lesions: label 1 is the first."""
        return (*self.tissues, *self.lesions)

    def latent_means(self) -> Tensor:
        """Centres of all labelled tissues in the latent space: (n_labels, n_parameters)."""
        means = torch.tensor([tissue.mean for tissue in self.labelled], dtype=torch.float64)
        return self.model.to_real(means)

    def latent_spreads(self) -> Tensor:
        """Spreads of all labelled tissues in the latent space, same shape."""
        spreads = torch.tensor([tissue.spread for tissue in self.labelled], dtype=torch.float64)
        units = [parameter.spread for parameter in self.model.parameters]
        return spreads / spreads.new_tensor(units)

    def mixing(self) -> Tensor:
        """Cholesky factor of the correlation: (n_parameters, n_parameters)."""
        n_parameters = len(self.model.parameters)
        full = torch.full((n_parameters, n_parameters), self.correlation, dtype=torch.float64)
        return torch.linalg.cholesky(full.fill_diagonal_(1.0))

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the parameters of independent voxels.

        Parameters
        ----------
        labels : Tensor of int of shape (n_voxels,)
            From 1; see `labelled`.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Tensor of float64 of shape (n_voxels, n_parameters)
            In the units of the signal model's parameters, strictly within their bounds.
        """
        shape = (len(labels), len(self.model.parameters))
        white = torch.randn(shape, generator=generator, dtype=torch.float64)
        variation = self.latent_spreads()[labels - 1] * (white @ self.mixing().T)
        return self.model.to_physical(self.latent_means()[labels - 1] + variation)


WM, GM, CSF = "white matter", "grey matter", "cerebrospinal fluid"
STROKE, DEMYELINATION = "stroke-like lesion", "demyelination-like lesion"

POPULATIONS: dict[str, Population] = {
    # Means close to what adult brains give at 3 T with b up to 3000 s/mm^2.
    "msdki": Population(
        "msdki",
        (
            Tissue(WM, (0.9e-3, 1.0), (1e-4, 0.1), 0.5, 1.0, 1.2e-3),
            Tissue(GM, (1.0e-3, 0.6), (1e-4, 0.1), 0.4, 1.25, 0.2e-3),
            Tissue(CSF, (3.0e-3, 0.0), (5e-5, 0.05), 0.1, 1.8, 0.0),
        ),
        (
            Tissue(STROKE, (0.5e-3, 1.5), (2e-5, 0.03), 0.0, 1.1, 0.3e-3),
            Tissue(DEMYELINATION, (1.4e-3, 0.5), (4e-5, 0.03), 0.0, 1.3, 0.4e-3),
        ),
    ),
    # The benchmark of Xu et al. 2024, https://doi.org/10.48550/arXiv.2411.10772, whose
    # "variance 0.1" can only be a standard deviation.
    "msdki_paper": Population(
        "msdki",
        (
            Tissue(WM, (1.0e-3, 1.5), (1e-4, 0.1), 0.5),
            Tissue(GM, (1.5e-3, 1.0), (1e-4, 0.1), 0.4),
            Tissue(CSF, (3.0e-3, 0.0), (1e-5, 0.01), 0.1),
        ),
    ),
    "ball_stick": Population(
        "ball_stick",
        (
            Tissue(WM, (0.60, 1.9e-3, 0.95e-3), (0.40, 0.12, 0.15), 0.45, 1.0),
            Tissue(GM, (0.22, 1.5e-3, 0.90e-3), (0.40, 0.20, 0.12), 0.40, 1.25),
            Tissue(CSF, (0.04, 2.2e-3, 2.80e-3), (0.50, 0.15, 0.03), 0.15, 1.8),
        ),
        (
            Tissue(STROKE, (0.50, 0.9e-3, 0.45e-3), (0.05, 0.03, 0.03), 0.0, 1.1),
            Tissue(DEMYELINATION, (0.30, 1.7e-3, 1.30e-3), (0.05, 0.03, 0.03), 0.0, 1.3),
        ),
        correlation=0.25,
    ),
    "ball_stick_tied": Population(
        "ball_stick_tied",
        (
            Tissue(WM, (0.60, 1.4e-3), (0.40, 0.12), 0.45, 1.0),
            Tissue(GM, (0.20, 1.0e-3), (0.40, 0.12), 0.40, 1.25),
            Tissue(CSF, (0.04, 2.8e-3), (0.50, 0.03), 0.15, 1.8),
        ),
        (
            Tissue(STROKE, (0.50, 0.6e-3), (0.05, 0.03), 0.0, 1.1),
            Tissue(DEMYELINATION, (0.30, 1.8e-3), (0.05, 0.03), 0.0, 1.3),
        ),
        correlation=0.25,
    ),
    "ivim": Population(
        "ivim",
        (
            Tissue(WM, (0.05, 12e-3, 0.75e-3), (0.25, 0.20, 0.10), 0.45, 1.0),
            Tissue(GM, (0.10, 16e-3, 0.85e-3), (0.25, 0.20, 0.10), 0.40, 1.25),
            Tissue(CSF, (0.02, 12e-3, 2.90e-3), (0.30, 0.20, 0.03), 0.15, 1.8),
        ),
        (
            Tissue(STROKE, (0.02, 10e-3, 0.45e-3), (0.05, 0.03, 0.03), 0.0, 1.1),
            Tissue("perfused lesion", (0.22, 25e-3, 1.20e-3), (0.05, 0.03, 0.03), 0.0, 1.2),
        ),
        correlation=0.25,
    ),
    "t2_adc": Population(
        "t2_adc",
        (
            Tissue(WM, (0.070, 0.75e-3), (0.10, 0.10), 0.45, 1.0),
            Tissue(GM, (0.095, 0.85e-3), (0.10, 0.10), 0.40, 1.25),
            Tissue(CSF, (0.600, 2.90e-3), (0.15, 0.03), 0.15, 1.8),
        ),
        (
            Tissue(STROKE, (0.130, 0.45e-3), (0.03, 0.03), 0.0, 1.1),
            Tissue(DEMYELINATION, (0.160, 1.30e-3), (0.03, 0.03), 0.0, 1.3),
        ),
        correlation=0.25,
    ),
}


def get_population(name: str) -> Population:
    """Give the population of that name; every signal model has one of its own name.

    Raises
    ------
    UnknownNameError
        If there is none; lists what there is.
    """
    try:
        return POPULATIONS[name]
    except KeyError:
        raise UnknownNameError.of("population", name, POPULATIONS) from None


def sample_population(
    name: str, n_voxels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw independent voxels of a population.

    Parameters
    ----------
    name : str
        Key of `POPULATIONS`: a signal model, or a variant such as ``"msdki_paper"``.
    n_voxels : int
        How many.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    values : Tensor of float64 of shape (n_voxels, n_parameters)
        In the units of the signal model's parameters, strictly within their bounds.
    labels : Tensor of int64 of shape (n_voxels,)
        1 white matter, 2 grey matter, 3 cerebrospinal fluid.

    Examples
    --------
    >>> values, labels = sample_population("msdki", 5, torch.Generator().manual_seed(0))
    >>> values.shape, bool((labels >= 1).all())
    (torch.Size([5, 2]), True)
    """
    population = get_population(name)
    weights = torch.tensor([tissue.weight for tissue in population.tissues])
    labels = 1 + torch.multinomial(weights, n_voxels, replacement=True, generator=generator)
    return population.sample(labels, generator), labels


def sample_orientations(n_voxels: int, generator: torch.Generator) -> Tensor:
    """Draw fibre orientations uniform on the sphere: float64 (n_voxels, 3), unit vectors."""
    vectors = torch.randn(n_voxels, 3, generator=generator, dtype=torch.float64)
    return vectors / vectors.norm(dim=-1, keepdim=True)
