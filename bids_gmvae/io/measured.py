"""A run as rows of voxels: what goes from the image to the fit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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
from bids_gmvae.exceptions import GMVAEError, InputError
from bids_gmvae.io.run import Run
from bids_gmvae.io.stamps import digest
from bids_gmvae.io.training import read_content, write_content
from bids_gmvae.io.volumes import map_rows
from bids_gmvae.masking import read_on_grid
from bids_gmvae.voxels import Grid, Neighbourhood

#: Voxels per call of the noise estimate; bounds its memory.
CHUNK = 32_768

#: Noise maps that are no files.
ESTIMATED = ("auto", "global")
#: Share of the mask in which a given noise map must have values: the others get their median.
LEAST_USABLE = 0.5


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

    def save(self, path: Path, *, signals: Path | None = None) -> None:
        """Write to one file, and the signals to another beside it; no code is pickled.

        Parameters
        ----------
        path : Path
            Where all but the signals go.
        signals : Path, optional
            File of the same folder that holds the signals already; by default it is written.
        """
        if signals is None:
            signals = path.with_suffix(".f32")
            self.measurements.signals.numpy().tofile(signals)
        with signals.open("rb") as file:
            # After a power cut, too, they are what ``path`` says of them.
            os.fsync(file.fileno())
        # Who reads only ``path`` still notices that the signals are others.
        sha256 = digest(signals)
        header = {
            "run": self.run.to_dict(),
            "grid": self.grid.to_dict(),
            "info": self.info,
            "signals": {"file": signals.name, "sha256": sha256},
        }
        tensors = {
            "mask": torch.from_numpy(self.mask),
            "removed": torch.from_numpy(self.removed),
            "reference": torch.from_numpy(self.reference),
            "sigma": self.measurements.sigma,
        }
        columns = dict(self.measurements.acquisition.columns)
        content = {"header": json.dumps(header), "tensors": tensors, "columns": columns}
        write_content(path, content)

    @classmethod
    def load(cls, path: Path) -> MeasuredRun:
        """Read what `save` wrote; the signals stay on disk until they are used.

        Raises
        ------
        GMVAEError
            If it was changed or damaged since.
        """
        content = read_content(path)
        header = json.loads(content["header"])
        tensors = content["tensors"]
        mask = tensors["mask"].numpy()
        acquisition = Acquisition(**content["columns"])
        file = path.with_name(header["signals"]["file"])
        if digest(file) != header["signals"]["sha256"]:
            raise GMVAEError(
                f"{file} was changed or damaged after it was written.",
                f"Remove the folder {path.parent} and run the command again.",
            )
        signals = map_rows(file, len(acquisition))
        return cls(
            run=Run.from_dict(header["run"]),
            grid=Grid.from_dict(mask.shape, header["grid"]),
            mask=mask,
            removed=tensors["removed"].numpy(),
            reference=tensors["reference"].numpy(),
            measurements=Measurements(torch.from_numpy(signals), tensors["sigma"], acquisition),
            info=header["info"],
        )


def noise_level(
    signals: torch.Tensor,
    mask: NDArray[np.bool_],
    grid: Grid,
    acquisition: Acquisition,
    settings: ModelSettings,
    *,
    n_threads: int = 1,
) -> torch.Tensor:
    """Give the noise sd of every voxel, float32, in units of the image.

    Parameters
    ----------
    signals : Tensor of shape (n_voxels, n_measurements)
        One row per voxel of ``mask``, in C order; may be mapped, and is read in chunks.
    mask : array of bool, 3-D
        The voxels.
    grid : Grid
        Where they lie.
    acquisition : Acquisition
        Settings of the measurements.
    settings : ModelSettings
        Noise map, noise model, b0 threshold, shell tolerance.
    n_threads : int
        Chunks that are looked at at the same time; the result does not depend on it.

    Raises
    ------
    InputError
        If a given noise map is not on the grid of the run, or not positive in most of the mask.
    """
    if settings.noise_map not in ESTIMATED:
        return torch.from_numpy(_given_sigma(Path(settings.noise_map), mask, grid))

    def look(chunk: torch.Tensor) -> ResidualVariance:
        # Single precision is far below the noise, and what follows is not.
        found = residual_variance(chunk, acquisition, settings)
        return ResidualVariance(**{name: part.double() for name, part in vars(found).items()})

    with ThreadPoolExecutor(n_threads) as pool:
        residual = ResidualVariance.concatenate(list(pool.map(look, signals.split(CHUNK))))
    neighbourhood = Neighbourhood(mask)

    def over_neighbours(columns: torch.Tensor) -> torch.Tensor:
        smoothed = map(neighbourhood.smooth, columns.numpy().T)
        return torch.from_numpy(np.stack(list(smoothed), axis=1))

    sigma = noise_sigma(residual, over_neighbours, noise_model=settings.noise_model).numpy()
    if not np.isfinite(sigma).all():
        raise InputError(
            "No noise is found in the image: repeated measurements are identical.",
            "Give the noise standard deviation with --noise-map FILE.",
        )
    if settings.noise_map == "global":
        sigma = np.full_like(sigma, np.median(sigma))
    return torch.from_numpy(sigma.astype(np.float32))


def noise_map_faults(
    mask: NDArray[np.bool_], grid: Grid, settings: ModelSettings
) -> Iterator[tuple[str, str, str]]:
    """Say where a given noise map has no noise, and what is taken there.

    Parameters
    ----------
    mask : array of bool, 3-D
        The voxels.
    grid : Grid
        Where they lie.
    settings : ModelSettings
        Noise map.

    Yields
    ------
    tuple of str
        A short identifier, a sentence, and what to do.

    Raises
    ------
    InputError
        As `noise_level` does.
    """
    if settings.noise_map in ESTIMATED:
        return
    path = Path(settings.noise_map)
    values, usable = _read_noise_map(path, mask, grid)
    missing = int((~usable).sum())
    if missing:
        text = (
            f"The noise map {path.name} must be positive in the mask, but in {missing} of "
            f"{len(usable)} voxels ({missing / len(usable):.1%}) it is not; the median of the "
            f"others, {np.median(values[usable]):.4g}, is taken there."
        )
        yield "noise_map_incomplete", text, "Give a noise map that covers the mask."


def _given_sigma(path: Path, mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float32]:
    values, usable = _read_noise_map(path, mask, grid)
    return np.where(usable, values, np.median(values[usable]))


def _read_noise_map(
    path: Path, mask: NDArray[np.bool_], grid: Grid
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Give the values of a noise map in the mask, and which of them are noise levels."""
    image = read_on_grid(path, grid, what="noise map", option="--noise-map")
    values = image[mask].astype(np.float32)
    usable = np.isfinite(values) & (values > 0)
    hint = "Give the noise standard deviation in units of the image, or use --noise-map auto."
    if not usable.any():
        raise InputError(
            f"The noise map {path} is zero or not finite everywhere in the mask.", hint
        )
    if usable.mean() < LEAST_USABLE:
        raise InputError(
            f"The noise map {path} must be positive in the mask, but is so in only "
            f"{usable.sum()} of {len(usable)} voxels ({usable.mean():.1%}).",
            hint,
        )
    return values, usable
