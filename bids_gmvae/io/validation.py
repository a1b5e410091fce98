"""Whether an output dataset is what it claims to be: files, sidecars, geometry, values."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.io.manifest import MANIFEST, checksum, dataset_files, read_manifest
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


def validate(out_dir: Path) -> list[str]:
    """Check an output dataset against its manifest and against itself.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.

    Returns
    -------
    list of str
        One sentence per problem, naming the file; empty if all is well.
    """
    problems = list(_check_manifest(out_dir))
    for path in dataset_files(out_dir):
        if not path.name.endswith(".nii.gz"):
            continue
        name = path.relative_to(out_dir).as_posix()
        problems += [f"{name}: {problem}" for problem in _check_sidecar(path)]
        problems += [f"{name}: {problem}" for problem in _check_image(path)]
    return problems


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


def sidecar_problems(name: str, sidecar: Mapping[str, Any]) -> Iterator[str]:
    """Compare a sidecar with the schema of its kind of image.

    Parameters
    ----------
    name : str
        File name of the image.
    sidecar : mapping
        Content of the JSON file.

    Yields
    ------
    str
        One sentence per problem.
    """
    kind = kind_of(name)
    if kind is None:
        return
    for error in sorted(_validator(kind).iter_errors(sidecar), key=str):
        where = ".".join(str(part) for part in error.absolute_path)
        yield f"the sidecar{f' ({where})' if where else ''} is wrong: {error.message}"
    if "_space-" in name and "SpatialReference" not in sidecar:
        yield "the sidecar lacks SpatialReference, which a space- entity requires"
    if ("_desc-samples_" in name) != ("BootstrapAxis" in sidecar):
        yield "the sidecar must have BootstrapAxis if, and only if, the map holds samples"
    if "_res-" in name and "Resolution" not in sidecar:
        yield "the sidecar lacks Resolution, which a res- entity requires"


@functools.cache
def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator  # only wanted for validation

    text = files("bids_gmvae").joinpath("data/sidecar_schema.json").read_text("utf-8")
    return Draft202012Validator({**json.loads(text), "$ref": f"#/$defs/{kind}"})


def _check_manifest(out_dir: Path) -> Iterator[str]:
    rows = read_manifest(out_dir)
    if not rows:
        yield f"{MANIFEST} is missing or empty: the run did not come to its end."
        return
    listed = {row["path"]: row for row in rows}
    present = {path.relative_to(out_dir).as_posix(): path for path in dataset_files(out_dir)}
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            yield f"{name} is in {MANIFEST} but not there."
        elif name not in listed:
            yield f"{name} is not in {MANIFEST}."
        else:
            size, digest = checksum(present[name])
            if str(size) != listed[name]["size"]:
                yield f"{name} has {size} bytes, {MANIFEST} says {listed[name]['size']}."
            elif digest != listed[name]["sha256"]:
                yield f"{name} was changed: its checksum is not that of {MANIFEST}."


def _check_sidecar(path: Path) -> Iterator[str]:
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    if not sidecar.exists():
        yield "there is no sidecar."
        return
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        yield f"the sidecar is not JSON ({error})."
        return
    yield from (f"{problem}." for problem in sidecar_problems(path.name, content))


def _check_image(path: Path) -> Iterator[str]:
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
    if kind == "mask":
        if not np.isin(data, (0, 1)).all():
            yield "a mask holds other values than 0 and 1."
        return
    mask_path = _sibling(path, "desc-gmvae_mask")
    if not mask_path.exists():
        yield f"the mask {mask_path.name} is missing."
        return
    mask_image = load_image(mask_path)
    if mask_image.shape != image.shape[:3] or not np.allclose(mask_image.affine, image.affine):
        yield f"the grid is not that of {mask_path.name}."
        return
    mask = np.asanyarray(mask_image.dataobj) > 0
    if kind == "dseg":
        yield from _check_status(data, mask)
    else:
        yield from _check_values(path, kind, data, mask)


def _check_status(data: NDArray, mask: NDArray[np.bool_]) -> Iterator[str]:
    unknown = set(np.unique(data).tolist()) - {int(code) for code in Status}
    if unknown:
        yield f"unknown status codes {sorted(unknown)}."
    absent = (int(Status.OUTSIDE), int(Status.NO_SIGNAL_SUPPORT))
    if np.isin(data[mask], absent).any() or not np.isin(data[~mask], absent).all():
        yield "the status disagrees with the mask."


def _check_values(path: Path, kind: str, data: NDArray, mask: NDArray[np.bool_]) -> Iterator[str]:
    if np.any(data[~mask] != 0):
        yield "values outside the mask are not 0."
    inside = data[mask]
    rows = inside.reshape(len(inside), -1)
    finite = np.isfinite(rows).all(axis=1)
    if np.isinf(rows).any():
        yield "there are infinite values."
    failed = _failed(path, mask)
    # A fit that follows the signals exactly leaves no residuals to speak of: NaN, not 0.
    silent = "_desc-residual_" in path.name
    if failed is not None and not silent and (~finite & ~failed).any():
        yield f"{int((~finite & ~failed).sum())} voxels are NaN though their fit did not fail."
    if kind == "vector":
        lengths = np.linalg.norm(rows[finite], axis=1)
        if not np.allclose(lengths, 1, atol=1e-3):
            yield "orientations are not unit vectors."
        return
    bounds = _range(path.name)
    if bounds is None or not finite.any():
        return
    low, high = rows[finite].min(), rows[finite].max()
    slack = TOLERANCE * max(abs(bound) for bound in (*bounds, 1e-3) if np.isfinite(bound))
    if low < bounds[0] - slack or high > bounds[1] + slack:
        yield (
            f"values from {low:.4g} to {high:.4g} exceed the range "
            f"{bounds[0]:.4g} to {bounds[1]:.4g}."
        )


def _failed(path: Path, mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Find the voxels without an estimate, for maps that say by which model they were made."""
    model = re.search(r"_model-[a-zA-Z0-9]+", path.name)
    if not model or "_desc-lsq_" in path.name:  # the voxelwise fit fails elsewhere
        return None
    status = _sibling(path, "desc-status_dseg", model=model.group())
    if not status.exists():
        return None
    codes = np.asanyarray(load_image(status).dataobj)[mask]
    return np.isin(codes, [int(code) for code in FAILED])


def _sibling(path: Path, name: str, model: str = "") -> Path:
    """Name another image of the same run and space."""
    stem = re.split(r"_(?:model|param|res|label|desc)-", path.name)[0]
    resolution = re.search(r"_res-[a-zA-Z0-9]+", path.name)
    return path.with_name(f"{stem}{model}{resolution.group() if resolution else ''}_{name}.nii.gz")


def _range(name: str) -> tuple[float, float] | None:
    desc = re.search(r"_desc-([a-zA-Z0-9]+)_", name)
    if desc and desc.group(1) in _RANGES:
        return _RANGES[desc.group(1)]
    model, param = (re.search(rf"_{key}-([a-zA-Z0-9]+)", name) for key in ("model", "param"))
    suffix = name.split(".")[0].rsplit("_", 1)[-1]
    known = _parameters().get(
        (model.group(1), param.group(1)) if model and param else ("", suffix)
    )
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
