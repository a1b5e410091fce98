"""A run as rows of voxels: what goes from the image to the fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.noise import ResidualVariance, noise_sigma, residual_variance
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.run import Run
from bids_gmvae.masking import read_on_grid
from bids_gmvae.voxels import Grid, smooth

#: Voxels per call of the noise estimate; bounds its memory.
CHUNK = 50_000


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """A run, masked and checked, with its noise level.

    Attributes
    ----------
    run : Run
        Where it came from.
    grid : Grid
        Where its voxels lie.
    mask, removed : array of bool, 3-D
        Voxels to fit, and voxels of the given mask without signal support.
    reference : array of float32, 3-D
        Mean b0 image.
    measurements : Measurements
        Signals (float32, one row per voxel of ``mask`` in C order), noise sd, acquisition.
    info : mapping
        Plain values for `RunResult.info`: issues, shells, frame, mask.
    """

    run: Run
    grid: Grid
    mask: NDArray[np.bool_]
    removed: NDArray[np.bool_]
    reference: NDArray[np.float32]
    measurements: Measurements
    info: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write to one file; no code is pickled."""
        header = {
            "run": self.run.to_dict(),
            "grid": self.grid.to_dict(),
            "info": self.info,
        }
        tensors = {
            "mask": torch.from_numpy(self.mask),
            "removed": torch.from_numpy(self.removed),
            "reference": torch.from_numpy(self.reference),
            "signals": self.measurements.signals,
            "sigma": self.measurements.sigma,
        }
        columns = dict(self.measurements.acquisition.columns)
        torch.save({"header": json.dumps(header), "tensors": tensors, "columns": columns}, path)

    @classmethod
    def load(cls, path: Path, *, mapped: bool = False) -> MeasuredRun:
        """Read what `save` wrote; ``mapped`` leaves the signals on disk until they are used."""
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        header = json.loads(content["header"])
        tensors = content["tensors"]
        mask = tensors["mask"].numpy()
        return cls(
            run=Run.from_dict(header["run"]),
            grid=Grid.from_dict(mask.shape, header["grid"]),
            mask=mask,
            removed=tensors["removed"].numpy(),
            reference=tensors["reference"].numpy(),
            measurements=Measurements(
                tensors["signals"], tensors["sigma"], Acquisition(**content["columns"])
            ),
            info=header["info"],
        )


def read_checked(path: Path) -> tuple[Acquisition, NDArray[np.bool_], dict[str, Any]]:
    """Read what the check of a run left.

    Returns
    -------
    acquisition : Acquisition
        Settings of all volumes, float64.
    selected : array of bool, shape (n_volumes,)
        Volumes to use.
    info : dict
        The rest: ``frame``, ``shells``, ``issues``.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    columns = content.pop("acquisition")
    acquisition = Acquisition(
        **{name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
    )
    return acquisition, np.array(content.pop("selected"), dtype=bool), content


def measure(
    run: Run,
    grid: Grid,
    data: NDArray[np.float32],
    *,
    mask: NDArray[np.bool_],
    removed: NDArray[np.bool_],
    acquisition: Acquisition,
    selected: NDArray[np.bool_],
    settings: ModelSettings,
    info: Mapping[str, Any],
) -> MeasuredRun:
    """Take the selected volumes of the voxels to fit, and estimate their noise.

    Parameters
    ----------
    run, grid, mask, removed, info
        See `MeasuredRun`.
    data : array of float32, 4-D
        The whole image.
    acquisition : Acquisition
        Settings of all its volumes.
    selected : array of bool, shape (n_volumes,)
        Volumes to use.
    settings : ModelSettings
        Noise map, noise model, b0 threshold, shell tolerance.
    """
    chosen = acquisition.select(torch.from_numpy(selected))
    signals = torch.from_numpy(np.ascontiguousarray(data[mask][:, selected]))
    bvals = acquisition.bvals.numpy()
    is_b0 = selected & (bvals <= max(settings.b0_threshold, bvals[selected].min()))
    return MeasuredRun(
        run=run,
        grid=grid,
        mask=mask,
        removed=removed,
        reference=data[..., is_b0].mean(axis=-1, dtype=np.float64).astype(np.float32),
        measurements=Measurements(
            signals, noise_level(signals, mask, grid, chosen, settings), chosen
        ),
        info=info,
    )


def noise_level(
    signals: torch.Tensor,
    mask: NDArray[np.bool_],
    grid: Grid,
    acquisition: Acquisition,
    settings: ModelSettings,
) -> torch.Tensor:
    """Give the noise sd of every voxel, float32, in units of the image.

    Raises
    ------
    InputError
        If a given noise map is not on the grid of the run, or not positive in the mask.
    """
    if settings.noise_map not in ("auto", "global"):
        return torch.from_numpy(_given_sigma(Path(settings.noise_map), mask, grid))
    residual = ResidualVariance.concatenate(
        [
            residual_variance(chunk.double(), acquisition, settings)
            for chunk in signals.split(CHUNK)
        ]
    )

    def over_neighbours(columns: torch.Tensor) -> torch.Tensor:
        smoothed = [smooth(column.numpy(), mask) for column in columns.unbind(1)]
        return torch.from_numpy(np.stack(smoothed, axis=1))

    sigma = noise_sigma(residual, over_neighbours, noise_model=settings.noise_model).numpy()
    if not np.isfinite(sigma).all():
        raise InputError(
            "No noise is found in the image: repeated measurements are identical.",
            "Give the noise standard deviation with --noise-map FILE.",
        )
    if settings.noise_map == "global":
        sigma = np.full_like(sigma, np.median(sigma))
    return torch.from_numpy(sigma.astype(np.float32))


def _given_sigma(path: Path, mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float32]:
    image = read_on_grid(path, grid, what="noise map", option="--noise-map")
    values = image[mask].astype(np.float32)
    usable = np.isfinite(values) & (values > 0)
    if not usable.any():
        raise InputError(
            f"The noise map {path} is zero or not finite everywhere in the mask.",
            "Give the noise standard deviation in units of the image, or use --noise-map auto.",
        )
    return np.where(usable, values, np.median(values[usable]))
