"""The ground truth of a simulated scan, as a BIDS derivative dataset beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bids_gmvae import __version__
from bids_gmvae.io.atomic import write_image, write_json, write_text, write_tsv
from bids_gmvae.signal_models.base import Parameter
from bids_gmvae.simulation.phantom import Phantom
from bids_gmvae.simulation.scan import WHITE_MATTER, Frame
from bids_gmvae.voxels import unmask

README = """\
# Ground truth of a simulated dataset

Every `*_desc-truth_*` image lies on the grid of the simulated image of the same name and gives
what was put into it: tissue parameters, S0, the standard deviation of the noise, and for
directional models the fibre orientation (along the image axes). `desc-truth_dseg` labels the
dominant tissue, and `param-purity` says which share of the voxel it takes. Values outside the
brain are 0.
"""


def initialise_truth(root: Path) -> None:
    """Write the files of the truth dataset that belong to no subject."""
    write_json(
        root / "dataset_description.json",
        {
            "Name": "truth",
            "BIDSVersion": "1.11.1",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "bids-gmvae-simulate", "Version": __version__}],
        },
    )
    # The names of maps are those of BEP016, which is not part of the standard yet.
    write_text(root / ".bidsignore", "*_dwimap.*\n*_T2map.*\n")
    write_text(root / "README.md", README)


def write_truth(
    folder: Path, stem: str, phantom: Phantom, frame: Frame, sigma: NDArray[np.float64]
) -> list[Path]:
    """Write what is true about a run.

    Parameters
    ----------
    folder : Path
        The ``dwi`` folder of the subject or session in the truth dataset.
    stem : str
        Name of the simulated image without suffix, e.g. ``sub-01_space-ACPC``.
    phantom : Phantom
        The head.
    frame : Frame
        Axes of the simulated image.
    sigma : array, 3-D
        Standard deviation of the noise, in units of the image.

    Returns
    -------
    list of Path
        The images.
    """
    model = phantom.population.model
    written = []
    values = zip(model.parameters, phantom.values.unbind(-1), strict=True)
    for parameter, column in (*values, *model.derived(phantom.values).items()):
        name = f"{stem}_{_ending(model.label, parameter)}"
        content: dict[str, Any] = {"Description": parameter.description}
        if parameter.unit:
            content["Units"] = parameter.unit
        written.append(_write(folder / name, _volume(column, phantom), frame, content))
    extra: list[tuple[str, NDArray, dict[str, Any]]] = [
        (
            "s0",
            _volume(WHITE_MATTER * phantom.s0, phantom),
            {"Description": "Signal without weighting and noise", "Units": "arbitrary"},
        ),
        (
            "noise",
            sigma,
            {
                "Description": "Standard deviation of the noise in each of two channels",
                "Units": "arbitrary",
            },
        ),
        (
            "purity",
            phantom.purity,
            {"Description": "Share of the dominant tissue"},
        ),
    ]
    if model.directional:
        directions = torch.from_numpy(frame.vectors(phantom.orientation.numpy()))
        encoding: dict[str, Any] = {
            "Type": "unit3vector",
            "EncodingAxis": 3,
            "Reference": "ijk",
            "AntipodalSymmetry": True,
        }
        content = {"Description": "Fibre orientation", "OrientationEncoding": encoding}
        extra.append(("vector", _volume(directions, phantom), content))
    for param, data, content in extra:
        name = f"{stem}_model-{model.label}_param-{param}_desc-truth_dwimap"
        written.append(_write(folder / name, data, frame, content))
    written.append(_write_labels(folder / f"{stem}_desc-truth_dseg", phantom, frame))
    return written


def _ending(label: str, parameter: Parameter) -> str:
    if "suffix" in parameter.bids:
        return f"desc-truth_{parameter.bids['suffix']}"
    return f"model-{label}_param-{parameter.bids['param']}_desc-truth_dwimap"


def _volume(values: Tensor, phantom: Phantom) -> NDArray:
    return unmask(values.numpy(), phantom.mask, fill=0.0)


def _write(path: Path, data: NDArray, frame: Frame, content: dict[str, Any]) -> Path:
    image = frame.image(data.astype(np.float32))
    write_json(path.with_name(f"{path.name}.json"), {**content, **_common(path.name)})
    return write_image(path.with_name(f"{path.name}.nii.gz"), image)


def _write_labels(path: Path, phantom: Phantom, frame: Frame) -> Path:
    content = {"Description": "Dominant tissue", "Manual": False, **_common(path.name)}
    write_json(path.with_name(f"{path.name}.json"), content)
    tissues = phantom.population.labelled
    rows = [{"index": 0, "name": "background"}]
    rows += [{"index": index, "name": tissue.name} for index, tissue in enumerate(tissues, 1)]
    write_tsv(path.with_name(f"{path.name}.tsv"), rows)
    return write_image(path.with_name(f"{path.name}.nii.gz"), frame.image(phantom.labels))


def _common(name: str) -> dict[str, Any]:
    reference: dict[str, Any] = {"SkullStripped": True}
    if "_space-" not in name:
        return reference
    return {**reference, "SpatialReference": "The grid of the simulated image of the same name"}
