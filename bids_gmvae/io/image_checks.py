"""Whether a written image can be true: its grid, its data type, its values."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import nibabel as nb
import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.masking import AFFINE_TOLERANCE
from bids_gmvae.posterior import FAILED, Status
from bids_gmvae.signal_models import SIGNAL_MODELS
from bids_gmvae.signal_models.base import Parameter
from bids_gmvae.voxels import DAMAGED, load_image

#: Maps are single precision: values may miss a bound by this relative amount.
TOLERANCE = 1e-5

#: Range of the maps that are no parameters, by the ``desc-`` label of their names.
_RANGES: Mapping[str, tuple[float, float]] = {
    "std": (0.0, np.inf),
    "priorinfluence": (0.0, 1.0),
    "residual": (0.0, np.inf),
    "noise": (0.0, np.inf),
    "component": (0.0, 1.0),
    "unexpected": (0.0, 1.0),
}


def kind_of(name: str) -> str | None:
    """Name the kind of an image: its entry in the sidecar schema.

    Examples
    --------
    >>> kind_of("sub-1_model-bs_param-vector_desc-mean_dwimap.nii.gz")
    'vector'
    """
    suffix = name.split(".")[0].rsplit("_", 1)[-1]
    if suffix in ("mask", "dseg", "probseg"):
        return suffix
    if suffix.endswith("map"):
        return "vector" if "_param-vector_" in name else "scalar"
    return None


def check_image(
    path: Path, sources: Sequence[Path], suspects: Collection[Path] = ()
) -> Iterator[str]:
    """Check an image of an output dataset.

    Parameters
    ----------
    path : Path
        The image.
    sources : sequence of Path
        Images it was made from, on the same grid.
    suspects : collection of Path
        Files that nothing is to be compared with.

    Yields
    ------
    str
        One sentence per problem.
    """
    kind = kind_of(path.name)
    if kind is None:
        return
    try:
        image = load_image(path)
        data = np.asanyarray(image.dataobj)
    except DAMAGED as error:
        yield f"the image cannot be read ({error})."
        return
    wanted = np.uint8 if kind in ("mask", "dseg") else np.float32
    if image.get_data_dtype() != wanted:
        yield f"the data type is {image.get_data_dtype()}, not {np.dtype(wanted)}."
    grids = {source.name: grid for source in sources if (grid := _read(source, header=True))}
    others = [name for name, grid in grids.items() if not _same_grid(image, grid)]
    if others:
        yield f"the grid is not that of its source {', '.join(others)}."
        return
    if kind in ("mask", "dseg") and data.ndim != 3:
        yield f"the image has {data.ndim} dimensions, not 3."
        return
    if kind == "mask":
        if not np.isin(data, (0, 1)).all():
            yield "a mask holds other values than 0 and 1."
        return
    mask_path = _sibling(path, "desc-gmvae_mask")
    mask_image = None if mask_path in suspects else _read(mask_path)
    if mask_image is None:
        if mask_path not in suspects and not mask_path.exists():
            yield f"the mask {mask_path.name} is missing."
        return
    if len(mask_image.shape) != 3:
        return  # the mask's own check tells of it
    if not _same_grid(image, mask_image):
        yield f"the grid is not that of {mask_path.name}."
        return
    mask = np.asanyarray(mask_image.dataobj) > 0
    if kind == "dseg":
        yield from _check_status(data, mask)
        return
    yield from _check_places(path, data, mask, suspects)
    yield from _check_values(path, kind, data[mask])


def _read(path: Path, *, header: bool = False) -> nb.Nifti1Image | None:
    """Read an image to compare with; None if it cannot be, which its own check tells of."""
    try:
        image = load_image(path)
        if not header:
            np.asanyarray(image.dataobj)
    except DAMAGED:
        return None
    return image


def _same_grid(image: nb.Nifti1Image, other: nb.Nifti1Image) -> bool:
    return image.shape[:3] == other.shape[:3] and np.allclose(
        image.affine, other.affine, atol=AFFINE_TOLERANCE
    )


def _check_status(data: NDArray, mask: NDArray[np.bool_]) -> Iterator[str]:
    unknown = set(np.unique(data).tolist()) - {int(code) for code in Status}
    if unknown:
        yield f"unknown status codes {sorted(unknown)}."
    absent = (int(Status.OUTSIDE), int(Status.NO_SIGNAL_SUPPORT))
    if np.isin(data[mask], absent).any() or not np.isin(data[~mask], absent).all():
        yield "the status disagrees with the mask."


def _check_places(
    path: Path, data: NDArray, mask: NDArray[np.bool_], suspects: Collection[Path]
) -> Iterator[str]:
    """Compare where there are values with the mask, and with where the fit failed."""
    if np.any(data[~mask] != 0):
        yield "values outside the mask are not 0."
    # A fit that follows the signals exactly leaves no residuals to speak of: NaN, not 0. The
    # voxelwise fit fails elsewhere.
    model = re.search(r"_model-[a-zA-Z0-9]+", path.name)
    if not model or re.search("_desc-(lsq|residual)_", path.name):
        return
    status = _sibling(path, "desc-status_dseg", model=model.group())
    image = None if status in suspects else _read(status)
    if image is None or image.shape != mask.shape:
        return
    failed = np.isin(np.asanyarray(image.dataobj)[mask], [int(code) for code in FAILED])
    empty = ~np.isfinite(_rows(data[mask])).all(axis=1)
    if (empty & ~failed).any():
        yield f"{int((empty & ~failed).sum())} voxels are NaN though their fit did not fail."


def _check_values(path: Path, kind: str, inside: NDArray) -> Iterator[str]:
    rows = _rows(inside)
    if np.isinf(rows).any():
        yield "there are infinite values."
    rows = rows[np.isfinite(rows).all(axis=1)]
    if kind == "vector":
        if not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3):
            yield "orientations are not unit vectors."
        return
    bounds = _range(path.name)
    if bounds is None or not rows.size:
        return
    low, high = rows.min(), rows.max()
    slack = TOLERANCE * max(abs(bound) for bound in (*bounds, 1e-3) if np.isfinite(bound))
    if low < bounds[0] - slack or high > bounds[1] + slack:
        yield (
            f"values from {low:.4g} to {high:.4g} exceed the range "
            f"{bounds[0]:.4g} to {bounds[1]:.4g}."
        )


def _rows(inside: NDArray) -> NDArray:
    return inside.reshape(len(inside), -1)


def _sibling(path: Path, name: str, model: str = "") -> Path:
    """Name another image of the same run and space."""
    stem = re.split(r"_(?:model|param|res|label|desc)-", path.name)[0]
    resolution = re.search(r"_res-[a-zA-Z0-9]+", path.name)
    return path.with_name(f"{stem}{model}{resolution.group() if resolution else ''}_{name}.nii.gz")


def _range(name: str) -> tuple[float, float] | None:
    *entities, suffix = name.split(".")[0].split("_")
    labels = dict(entity.partition("-")[::2] for entity in entities)
    if labels.get("desc") in _RANGES:
        return _RANGES[labels["desc"]]
    if labels.get("param") == "s0":
        return 0.0, np.inf
    own = "param" in labels
    known = _parameters().get((labels.get("model", ""), labels["param"]) if own else ("", suffix))
    return (known.lower, known.upper) if known else None


@functools.cache
def _parameters() -> Mapping[tuple[str, str], Parameter]:
    """Give every mapped parameter by model and ``param-`` label, or by its own suffix."""
    found = {}
    for signal_model in (model() for model in SIGNAL_MODELS.values()):
        derived = signal_model.derived(torch.zeros(1, len(signal_model.parameters)))
        for parameter in (*signal_model.parameters, *derived):
            label = parameter.bids.get("param")
            key = (signal_model.label, label) if label else ("", parameter.bids["suffix"])
            found[key] = parameter
    return found
