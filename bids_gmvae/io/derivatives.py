"""A fitted run as BIDS derivatives: names, maps and their sidecars."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bids_gmvae.io import sidecars
from bids_gmvae.io.atomic import (
    storage_errors,
    to_json,
    write_image,
    write_json,
    write_text,
    write_tsv,
)
from bids_gmvae.io.qc import measures, quality, quality_table
from bids_gmvae.io.result import RunResult
from bids_gmvae.io.run import Run
from bids_gmvae.io.training import DESC, SUFFIX, write_training
from bids_gmvae.posterior import FAILED, ParameterPosterior, Status
from bids_gmvae.signal_models.base import Parameter, SignalModel
from bids_gmvae.voxels import unmask

#: Entities of source names that BIDS orders after ``space``.
_AFTER_SPACE = ("split", "recording", "chunk", "seg", "res", "den", "label")

#: Entities that our outputs add to those of their source, in BIDS order.
_OWN_ENTITIES = ("model", "param", "res", "label", "desc")

#: Suffixes of the maps whose number depends on the settings.
_MAPS = ("dwimap", "probseg", "dseg")


def map_path(
    run: Run,
    *,
    suffix: str,
    desc: str | None = None,
    model: str | None = None,
    param: str | None = None,
    label: str | None = None,
    space: str | None = None,
    resolution: str | None = None,
    extension: str = ".nii.gz",
) -> Path:
    """Name an output of a run.

    Parameters
    ----------
    run : Run
        The source.
    suffix, desc, model, param, label : str
        Entities of the output, without their keys. An empty suffix is left out.
    space, resolution : str, optional
        Standard space of a resampled map; replaces the space of the run.
    extension : str
        With its dot.

    Returns
    -------
    Path
        Relative to the output dataset.

    Examples
    --------
    >>> run = Run("dwi", (Path("sub-1_space-ACPC_desc-preproc_dwi.nii.gz"),), {"subject": "1"})
    >>> map_path(run, suffix="dwimap", desc="mean", model="msdki", param="msd").as_posix()
    'sub-1/dwi/sub-1_space-ACPC_model-msdki_param-msd_desc-mean_dwimap.nii.gz'
    """
    stem = run.stem if space is None else in_space(run.stem, space)
    folder = Path(f"sub-{run.subject}")
    if run.session:
        folder /= f"ses-{run.session}"
    name = map_name(stem, suffix, model=model, param=param, res=resolution, label=label, desc=desc)
    return folder / run.modality / (name + extension)


def map_name(stem: str, suffix: str, **labels: str | None) -> str:
    """Name an output by its entities, without extension.

    Parameters
    ----------
    stem : str
        Entities of the source.
    suffix : str
        Left out if empty.
    **labels : str or None
        ``model``, ``param``, ``res``, ``label``, ``desc``: whichever apply, put in BIDS order.

    Examples
    --------
    >>> map_name("sub-1_space-X", "dwimap", desc="mean", param="msd", model="msdki", res="2")
    'sub-1_space-X_model-msdki_param-msd_res-2_desc-mean_dwimap'
    """
    own = [f"{key}-{labels[key]}" for key in _OWN_ENTITIES if labels.get(key)]
    return "_".join(part for part in (stem, *own, suffix) if part)


def parameter_name(
    stem: str, model: str, parameter: Parameter, desc: str, res: str | None = None
) -> str:
    """Name the map of a parameter, without folder and extension.

    Parameters with a suffix of their own in BIDS (``T2map``) bear no model in their name.
    """
    if "param" not in parameter.bids:
        return map_name(stem, parameter.bids["suffix"], desc=desc, res=res)
    suffix = parameter.bids.get("suffix", "dwimap")
    return map_name(stem, suffix, model=model, param=parameter.bids["param"], desc=desc, res=res)


def parameter_path(run: Run, model: str, parameter: Parameter, desc: str) -> Path:
    """Give the path of the map of a parameter, relative to the output dataset."""
    folder = map_path(run, suffix="dwimap").parent
    return folder / (parameter_name(run.stem, model, parameter, desc) + ".nii.gz")


def training_path(run: Run, model: str) -> Path:
    """Give the path of the voxels for a prior of many, relative to the output dataset."""
    return map_path(run, suffix=SUFFIX, desc=DESC, model=model, extension=".pt")


def in_space(stem: str, space: str) -> str:
    """Put a standard space into the entities of a run, in the place of its own.

    Examples
    --------
    >>> in_space("sub-1_run-2_space-ACPC", "MNI152NLin2009cAsym")
    'sub-1_run-2_space-MNI152NLin2009cAsym'
    """
    parts = [
        part for part in stem.split("_") if not part.startswith(("space-", "cohort-", "res-"))
    ]
    before = [part for part in parts if part.split("-")[0] not in _AFTER_SPACE]
    after = [part for part in parts if part.split("-")[0] in _AFTER_SPACE]
    return "_".join([*before, f"space-{space}", *after])


@dataclass(frozen=True, eq=False)
class Output:
    """An image that is about to be written, on the grid of its run."""

    path: Path
    data: NDArray
    sidecar: Mapping[str, Any]


def write_result(result: RunResult, out_dir: Path, *, provenance: Mapping[str, Any]) -> list[Path]:
    """Write all maps of a run with their sidecars, the mask, the status and the quality.

    Parameters
    ----------
    result : RunResult
        The fitted run.
    out_dir : Path
        Root of the output dataset.
    provenance : mapping
        ``version`` (of the app), ``settings`` (`ModelSettings` as plain values), ``device``,
        ``sloppy`` (bool), ``links`` (dataset folders by ``DatasetLinks`` key); all optional.

    Returns
    -------
    list of Path
        What was written, sidecars included.

    Raises
    ------
    StorageError
        For want of space, quota or permission.
    """
    run, label = result.run, result.posterior.signal_model.label
    summary = out_dir / map_path(run, suffix="", model=label, desc="qc", extension=".json")
    found = measures(result, sloppy=bool(provenance.get("sloppy")))
    text = to_json(quality(found, result))
    _withdraw(summary, unless=text)
    written = []
    for output in outputs(result, provenance):
        path = out_dir / output.path
        # The sidecar goes first: an image that is there is complete.
        written.append(write_json(_with_extension(path, ".json"), output.sidecar))
        written.append(write_image(path, result.grid.image(output.data)))

    lookup = map_path(run, suffix="dseg", model=label, desc="status", extension=".tsv")
    written.append(write_tsv(out_dir / lookup, sidecars.status_table()))
    written.append(write_tsv(_with_extension(summary, ".tsv"), quality_table(found)))
    voxels = out_dir / training_path(run, label)
    if result.training is None:
        voxels.unlink(missing_ok=True)  # of an earlier call
    else:
        written.append(write_training(voxels, result.training))
    _remove_leftovers(out_dir, run, result.posterior.signal_model, keep=set(written))
    written.append(write_text(summary, text))
    return written


def _withdraw(summary: Path, *, unless: str) -> None:
    """Remove what tells the group level that all the rest is there and of one call; it comes last.

    Unless it says what it will say: then the rest is replaced by the same, and nothing that was
    finished is lost if this call is interrupted.
    """
    with storage_errors(summary), suppress(FileNotFoundError):
        if summary.read_bytes() != unless.encode():
            summary.unlink()


def outputs(result: RunResult, provenance: Mapping[str, Any]) -> Iterator[Output]:
    """Yield every image of a run; paths are relative to the output dataset."""
    run, posterior = result.run, result.posterior
    label = posterior.signal_model.label
    mask_path = map_path(run, suffix="mask", desc="gmvae")
    where = {"mask": mask_path.as_posix()}

    yield Output(
        mask_path, result.mask.astype(np.uint8), sidecars.mask_sidecar(result, provenance)
    )
    yield Output(
        map_path(run, suffix="dseg", model=label, desc="status"),
        status_volume(result),
        sidecars.status_sidecar(result, provenance, **where),
    )

    def volume(values: Tensor | NDArray, source: ParameterPosterior | None = None) -> NDArray:
        return _volume(values, result.mask, source or posterior)

    for item in posterior.maps():
        yield Output(
            parameter_path(run, label, item.parameter, item.statistic),
            volume(item.values),
            sidecars.parameter_sidecar(result, provenance, item, **where),
        )
    if result.lsq is not None:
        for item in result.lsq.maps():
            if item.statistic == "mean":
                yield Output(
                    parameter_path(run, label, item.parameter, sidecars.VOXELWISE),
                    volume(item.values, result.lsq),
                    sidecars.parameter_sidecar(
                        result,
                        provenance,
                        replace(item, statistic=sidecars.VOXELWISE),
                        estimator=sidecars.VOXELWISE,
                        **where,
                    ),
                )

    def quantity(description: str, unit: str = "") -> sidecars.Sidecar:
        return sidecars.quantity_sidecar(
            result, provenance, description=description, unit=unit, **where
        )

    def probability(description: str) -> sidecars.Sidecar:
        return sidecars.probability_sidecar(result, provenance, description=description, **where)

    yield Output(
        map_path(run, suffix="dwimap", model=label, param="s0", desc="mean"),
        volume(posterior.s0),
        quantity("Signal without weighting", sidecars.ARBITRARY),
    )
    yield Output(
        map_path(run, suffix="dwimap", model=label, desc="residual"),
        volume(posterior.residual),
        quantity("Root mean square of the residuals over the noise; 1 where the model is right"),
    )
    yield Output(
        map_path(run, suffix="dwimap", model=label, desc="noise"),
        unmask(result.sigma.astype(np.float32), result.mask, fill=0),
        quantity("Standard deviation of the noise", sidecars.ARBITRARY),
    )
    if posterior.orientation is not None:
        yield Output(
            map_path(run, suffix="dwimap", model=label, param="vector", desc="mean"),
            volume(posterior.orientation),
            sidecars.orientation_sidecar(result, provenance, **where),
        )
    if posterior.responsibilities is not None:
        for k, values in enumerate(posterior.responsibilities.unbind(1), start=1):
            yield Output(
                map_path(run, suffix="probseg", model=label, label=f"C{k}", desc="component"),
                volume(values),
                probability(f"Probability of tissue component {k}"),
            )
    if posterior.unexpected is not None:
        yield Output(
            map_path(run, suffix="probseg", model=label, desc="unexpected"),
            volume(posterior.unexpected),
            probability("Probability of tissue unlike the learnt population"),
        )


def status_volume(result: RunResult) -> NDArray[np.uint8]:
    """Put the status of all voxels on the grid, removed voxels included."""
    codes = result.posterior.status.cpu().numpy().astype(np.uint8)
    volume = unmask(codes, result.mask, fill=int(Status.OUTSIDE))
    volume[result.removed & ~result.mask] = int(Status.NO_SIGNAL_SUPPORT)
    return volume


def _volume(
    values: Tensor | NDArray, mask: NDArray[np.bool_], posterior: ParameterPosterior
) -> NDArray[np.float32]:
    rows = np.array(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float32)
    # A failed voxel never shows a plausible number, whatever the estimator left there.
    rows[np.isin(posterior.status.cpu().numpy(), FAILED)] = np.nan
    return unmask(rows, mask, fill=0)


def _with_extension(path: Path, extension: str) -> Path:
    return path.with_name(path.name.split(".")[0] + extension)


def _remove_leftovers(out_dir: Path, run: Run, model: SignalModel, *, keep: set[Path]) -> None:
    """Remove maps of an earlier call that this one did not make."""
    folder = (out_dir / map_path(run, suffix="dwimap")).parent
    patterns = [f"_model-{model.label}_*_{suffix}.*" for suffix in _MAPS]
    # Suffixes of their own stand for the model, see `parameter_name`.
    own = (parameter.bids for parameter in model.parameters if "param" not in parameter.bids)
    patterns += [f"_desc-*_{bids['suffix']}.*" for bids in own]
    maps = {path for pattern in patterns for path in folder.glob(run.stem + pattern)}
    _remove_outdated(out_dir, folder, maps, keep=keep)
    for path in maps - keep:
        path.unlink()


def _remove_outdated(out_dir: Path, folder: Path, maps: set[Path], *, keep: set[Path]) -> None:
    """Remove a run's maps in standard space if one no longer shows the map it was made from."""
    found, current = [], True
    for path in sorted(folder.glob("sub-*_res-*.json")):
        try:
            sidecar = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # of another model, which is being written at the same time
            continue
        origin = out_dir / sidecar.get("Sources", [""])[0].removeprefix("bids::")
        if origin in maps:
            found.append(path)
            source = _with_extension(origin, ".json")
            model = json.loads(source.read_text(encoding="utf-8")).get("Model")
            current &= origin in keep and sidecar.get("Model") == model
    for path in [] if current else found:
        for extension in (".json", ".tsv", ".nii.gz"):
            _with_extension(path, extension).unlink(missing_ok=True)
