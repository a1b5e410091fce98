"""A head with known tissue in every voxel, made from the MNI152 tissue maps in nilearn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import nibabel as nb
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates
from torch import Tensor

from bids_gmvae.exceptions import InputError
from bids_gmvae.simulation.catalogue import FIELD_OF_VIEW
from bids_gmvae.simulation.tissues import Population
from bids_gmvae.simulation.warp import Warp

#: Height of the lateral ventricles, mm, on which a slab is centred.
VENTRICLES = 14.0

#: Share of the within-class variance that is smooth, and its full width at half maximum, voxels.
SMOOTH_SHARE = 0.8
SMOOTH_FWHM = 6.0

FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))

N_LESIONS = 6


@dataclass(frozen=True, eq=False)
class Template:
    """MNI152 tissue maps at the resolution of the scan.

    Attributes
    ----------
    maps : dict of str to 3-D array
        ``white``, ``grey``, ``brain`` and ``t1w``, within [0, 1].
    affine : array of shape (4, 4)
        Voxel indices to mm.
    """

    maps: dict[str, NDArray[np.float32]]
    affine: NDArray[np.float64]

    def sample(self, name: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Read a map at points (..., 3), mm; zero outside."""
        index = nb.affines.apply_affine(np.linalg.inv(self.affine), points)
        return map_coordinates(self.maps[name], np.moveaxis(index, -1, 0), order=1)


@lru_cache(maxsize=2)
def load_template(voxel_size: float) -> Template:
    """Load the MNI152 maps that ship with nilearn, averaged over half a voxel (mm)."""
    from nilearn import datasets

    images = {
        "white": datasets.load_mni152_wm_template(resolution=1),
        "grey": datasets.load_mni152_gm_template(resolution=1),
        "brain": datasets.load_mni152_brain_mask(resolution=1),
        "t1w": datasets.load_mni152_template(resolution=1),
    }
    # Partial volume arises from these blocks and from interpolation between them.
    block = max(1, int(voxel_size / 2))
    maps = {name: _average(np.asarray(image.dataobj), block) for name, image in images.items()}
    centre = np.full(3, (block - 1) / 2)
    to_blocks = nb.affines.from_matvec(block * np.eye(3), centre)
    return Template(maps, images["white"].affine @ to_blocks)


def _average(volume: NDArray, block: int) -> NDArray[np.float32]:
    counts = [size // block for size in volume.shape]
    whole = volume[tuple(slice(count * block) for count in counts)]
    shape = [length for count in counts for length in (count, block)]
    return whole.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Phantom:
    """What is true in a simulated head; the grid's axes point right, anterior, superior.

    Attributes
    ----------
    population : Population
        Where the tissues come from.
    affine : array of shape (4, 4)
        Voxel indices to mm.
    mask : array of bool, 3-D
        The brain; the tensors below have one row per voxel of it, in C order.
    labels : array of uint8, 3-D
        0 background, then `Population.labelled` from 1.
    purity : array of float32, 3-D
        Share of the dominant tissue.
    values : Tensor of shape (n_voxels, n_parameters)
        Tissue parameters, in their units.
    orientation : Tensor of shape (n_voxels, 3)
        Fibre orientation in the same axes as the grid, unit vectors.
    anisotropy : Tensor of shape (n_voxels,)
        Of the directional modulation, mm^2/s.
    s0 : Tensor of shape (n_voxels,)
        Signal without weighting, 1 in white matter, times a smooth receive bias.
    t1w : array of float32, 3-D
        A T1-weighted image.
    warp : Warp
        Between template and subject.
    """

    population: Population
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    purity: NDArray[np.float32]
    values: Tensor
    orientation: Tensor
    anisotropy: Tensor
    s0: Tensor
    t1w: NDArray[np.float32]
    warp: Warp


def make_phantom(
    population: Population,
    rng: np.random.Generator,
    *,
    voxel_size: float,
    n_slices: int | None = None,
    lesions: bool = False,
) -> Phantom:
    """Make a head.

    Parameters
    ----------
    population : Population
        Tissues and their parameters.
    rng : numpy Generator
        Decides shape, position, variation, fibres and lesions.
    voxel_size : float
        Isotropic, mm.
    n_slices : int, optional
        A slab of that many slices through the ventricles; the whole brain by default.
    lesions : bool
        Put sharp-edged lesions, unknown to the population, into white matter.

    Returns
    -------
    Phantom
        The head.

    Raises
    ------
    InputError
        If the slab is thicker than the field of view, or the population has no lesions.
    """
    if lesions and not population.lesions:
        raise InputError("This population has no lesions.", "Leave them out.")
    template = load_template(voxel_size)
    warp = Warp.random(rng)
    affine, shape = _grid(voxel_size, n_slices)
    index = np.moveaxis(np.indices(shape), 0, -1)
    points = nb.affines.apply_affine(affine, index)
    home = warp.to_template(points)
    mask = template.sample("brain", home) > 0.5

    white = np.clip(template.sample("white", home), 0, 1)
    grey = np.clip(template.sample("grey", home), 0, 1)
    fluid = np.clip(1 - white - grey, 0, None)
    fractions = np.stack([white, grey, fluid], axis=-1)
    fractions /= fractions.sum(axis=-1, keepdims=True)
    n_extra = len(population.lesions)
    fractions = np.concatenate([fractions, np.zeros((*shape, n_extra))], axis=-1)
    if lesions:
        for which, ball in enumerate(_lesions(mask & (white > 0.85), rng)):
            fractions[ball] = np.eye(3 + n_extra)[3 + which % n_extra]

    inside = torch.from_numpy(fractions[mask])
    variation = torch.from_numpy(_variation(shape, len(population.model.parameters), rng)[mask])
    z = inside @ population.latent_means()
    z = z + inside @ population.latent_spreads() * (variation @ population.mixing().T)
    s0 = inside @ inside.new_tensor([tissue.s0 for tissue in population.labelled])
    bias = 0.15 * smooth_noise(shape, 100 / voxel_size, rng)
    labels = np.where(mask, fractions.argmax(-1) + 1, 0)
    return Phantom(
        population=population,
        affine=affine,
        mask=mask,
        labels=labels.astype(np.uint8),
        purity=np.where(mask, fractions.max(-1), 0).astype(np.float32),
        values=population.model.to_physical(z),
        orientation=torch.from_numpy(_fibres(points, rng)[mask]),
        anisotropy=inside @ inside.new_tensor([t.anisotropy for t in population.labelled]),
        s0=s0 * torch.from_numpy(np.exp(bias)[mask]),
        t1w=(1000 * template.sample("t1w", home)).astype(np.float32),
        warp=warp,
    )


def smooth_noise(
    shape: tuple[int, ...], fwhm: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a smooth random field of mean 0 and variance 1; ``fwhm`` in voxels."""
    # Drawn on a larger grid, since a slab may be thinner than the field is smooth.
    margin = int(np.ceil(fwhm))
    noise = rng.standard_normal([size + 2 * margin for size in shape])
    sigma = fwhm * FWHM_TO_SIGMA
    field = gaussian_filter(noise, sigma, mode="constant")
    # Variance of white noise behind a Gaussian filter, in three dimensions.
    field *= (2 * np.sqrt(np.pi) * sigma) ** 1.5
    return field[tuple(slice(margin, margin + size) for size in shape)]


def noise_profile(shape: tuple[int, ...], ratio: float) -> NDArray[np.float64]:
    """Give the relative noise level of a coil array: highest in the centre of the slice.

    Parameters
    ----------
    shape : tuple of int
        Of the grid.
    ratio : float
        Highest over lowest; their geometric mean is 1.

    Returns
    -------
    array of that shape
        Factor of the noise standard deviation.
    """
    x, y = (np.linspace(-1, 1, size) for size in shape[:2])
    radius = np.minimum(np.hypot(x[:, None], y[None, :]), 1.0)
    exponent = 0.5 * np.cos(np.pi * radius)
    return np.broadcast_to((ratio**exponent)[..., None], shape).copy()


def _grid(
    voxel_size: float, n_slices: int | None
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    counts = [int(np.floor((high - low) / voxel_size)) + 1 for low, high in FIELD_OF_VIEW]
    origin = [low for low, _ in FIELD_OF_VIEW]
    if n_slices is not None:
        first = VENTRICLES - voxel_size * (n_slices - 1) / 2
        highest = FIELD_OF_VIEW[2][1] - voxel_size * (n_slices - 1)
        origin[2] = min(max(first, FIELD_OF_VIEW[2][0]), highest)
        counts[2] = n_slices
    affine = nb.affines.from_matvec(voxel_size * np.eye(3), origin)
    return affine, (counts[0], counts[1], counts[2])


def _variation(
    shape: tuple[int, ...], n_parameters: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    smooth = np.stack([smooth_noise(shape, SMOOTH_FWHM, rng) for _ in range(n_parameters)], -1)
    white = rng.standard_normal((*shape, n_parameters))
    return np.sqrt(SMOOTH_SHARE) * smooth + np.sqrt(1 - SMOOTH_SHARE) * white


def _fibres(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Give a fibre field without crossings: two angles that vary slowly (..., 3)."""
    waves = rng.normal(0.0, 1.0, (2, 4, 3)) / 60.0
    phases = rng.uniform(0.0, 2 * np.pi, (2, 4))
    angles = np.cos(points @ waves.reshape(8, 3).T + phases.ravel())
    azimuth = 0.7 * angles[..., :4].sum(-1)
    elevation = 0.4 * angles[..., 4:].sum(-1)
    return np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ],
        axis=-1,
    )


def _lesions(white: NDArray[np.bool_], rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Place ellipsoids with sharp edges inside white matter, apart from each other."""
    # A slab may be one slice thin, so erosion acts within slices only.
    inner = binary_erosion(white, np.ones((3, 3, 1)))
    free = np.argwhere(inner if inner.any() else white)
    index = np.moveaxis(np.indices(white.shape), 0, -1)
    lesions: list[NDArray[np.bool_]] = []
    while len(free) and len(lesions) < N_LESIONS:
        centre = free[rng.integers(len(free))]
        radii = rng.uniform(0.8, 2.2, 3)
        distance = np.linalg.norm((index - centre) / radii, axis=-1)
        lesions.append((distance <= 1) & white)
        free = free[np.linalg.norm(free - centre, axis=-1) > 6]
    return lesions
