"""Everything known about a fitted run, on its way from the fit to maps, report and tables."""

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
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.io.run import Run
from bids_gmvae.io.training import from_content, read_content, to_content, write_content
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.voxels import Grid


@dataclass(frozen=True, eq=False)
class RunResult:
    """A fitted run.

    Attributes
    ----------
    run : Run
        What was mapped.
    grid : Grid
        Where its voxels lie.
    mask : array of bool, 3-D
        Fitted voxels; the rows of all per-voxel tensors, in C order.
    removed : array of bool, 3-D
        Voxels of the given mask that have no signal support.
    reference : array of float32, 3-D
        Mean b0 image.
    sigma : array of float32, shape (n_voxels,)
        Noise standard deviation, in units of the image.
    acquisition : Acquisition
        Settings of the volumes that were used; directions in the frame of the image axes.
    posterior : ParameterPosterior
        What the chosen estimator says.
    lsq : ParameterPosterior or None
        The voxelwise fit of the same data; None if it is the chosen estimator.
    info : mapping
        Plain values: ``issues`` (list of issue dicts), ``mask`` (source and counts), ``shells``
        (list of {b_value, n_volumes, is_b0, ...}), ``fit`` (estimator, settings, history, summary,
        device), ``frame``, ``signal_model`` and ``reason`` (why this model).
    training : Problem, optional
        Voxels of the run for a prior of many participants.
    """

    run: Run
    grid: Grid
    mask: NDArray[np.bool_]
    removed: NDArray[np.bool_]
    reference: NDArray[np.float32]
    sigma: NDArray[np.float32]
    acquisition: Acquisition
    posterior: ParameterPosterior
    lsq: ParameterPosterior | None
    info: Mapping[str, Any]
    training: Problem | None = None

    def save(self, path: Path) -> None:
        """Write to one file, estimates in single precision as maps are; no code is pickled."""
        tensors = {
            "mask": torch.from_numpy(self.mask),
            "removed": torch.from_numpy(self.removed),
            "reference": torch.from_numpy(self.reference),
            "sigma": torch.from_numpy(self.sigma),
        }
        header = {
            "run": self.run.to_dict(),
            "grid": self.grid.to_dict(),
            "signal_model": self.posterior.signal_model.name,
            "info": self.info,
        }
        content = {
            "header": json.dumps(header),
            "tensors": tensors,
            "acquisition": dict(self.acquisition.columns),
            "posterior": _single(self.posterior),
            "lsq": {} if self.lsq is None else _single(self.lsq),
            "training": {} if self.training is None else to_content(self.training),
        }
        write_content(path, content)

    @classmethod
    def load(cls, path: Path) -> RunResult:
        """Read what `save` wrote.

        Raises
        ------
        GMVAEError
            If it was changed or damaged since.
        """
        content = read_content(path)
        header = json.loads(content["header"])
        tensors = {name: tensor.numpy() for name, tensor in content["tensors"].items()}
        signal_model = get_signal_model(header["signal_model"])
        lsq, training = content["lsq"], content["training"]
        return cls(
            run=Run.from_dict(header["run"]),
            grid=Grid.from_dict(tensors["mask"].shape, header["grid"]),
            mask=tensors["mask"],
            removed=tensors["removed"],
            reference=tensors["reference"],
            sigma=tensors["sigma"],
            acquisition=Acquisition(**content["acquisition"]),
            posterior=ParameterPosterior.from_tensors(signal_model, content["posterior"]),
            lsq=ParameterPosterior.from_tensors(signal_model, lsq) if lsq else None,
            info=header["info"],
            training=from_content(training) if training else None,
        )


def _single(posterior: ParameterPosterior) -> dict[str, torch.Tensor]:
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in posterior.tensors().items()
    }
