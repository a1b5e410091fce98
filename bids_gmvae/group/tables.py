"""Tables over all participants: parameters by region, and quality with its outliers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.exceptions import NothingEligibleError
from bids_gmvae.group.outliers import flag_outliers
from bids_gmvae.group.regions import (
    Atlas,
    Segmentation,
    load_map,
    place_of,
    read_atlas,
    tissue_components,
    voxels_with_estimate,
)
from bids_gmvae.io.atomic import read_tsv, write_json, write_tsv
from bids_gmvae.io.derivatives import parameter_name
from bids_gmvae.io.qc import ACTIVE
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.signal_models.base import Parameter
from bids_gmvae.voxels import DAMAGED

logger = logging.getLogger(__name__)

PARAMETERS = "group_parameters"
QUALITY = "group_qc"

#: Columns of the table of parameters, and what they say.
COLUMNS: Mapping[str, str] = {
    "participant_id": "Participant",
    "session_id": "Session",
    "run": "Entities of the image that was mapped",
    "model": "Signal model: the model- label of the maps",
    "sloppy": "Whether the maps are of a fast test run, not to be used",
    "parameter": "Parameter: the param- label of its map, or its name where the map has none",
    "unit": "Unit of the statistics; 1 for pure numbers",
    "segmentation": "What the region is a part of: mask, components, or the name of an atlas",
    "region": (
        "all: every voxel with an estimate. component-<n>: voxels whose most probable tissue "
        "component is the n-th in the order of the mean of the model's first parameter, lowest "
        f"first, among the components that hold at least {100 * ACTIVE:.0f} % of the voxels. "
        "component-minor: voxels of the other components. unexpected: voxels that are probably "
        "unlike the learnt population. Else the name of the label in the atlas"
    ),
    "label": (
        "Components: the label- of the map, numbered anew in every run, so that the same label "
        "means different tissue in different runs. Atlases: the index of the region"
    ),
    "n_voxels": "Voxels of the region that hold an estimate",
    "mean": "Mean over voxels of the posterior mean",
    "median": "Median over voxels of the posterior mean",
    "std": "Standard deviation over voxels of the posterior mean",
    "iqr": "Interquartile range over voxels of the posterior mean",
    "mean_posterior_sd": "Mean over voxels of the posterior standard deviation",
    "mean_prior_influence": "Mean over voxels of the share that came from the prior, 0 to 1",
}


@dataclass(frozen=True, eq=False)
class GroupResult:
    """What the group level found.

    Attributes
    ----------
    parameters, qc : list of dict
        Rows of the two tables.
    written : list of Path
        The tables and their data dictionaries.
    problems : list of str
        One sentence for each run or atlas that could not be used.
    """

    parameters: list[dict[str, Any]]
    qc: list[dict[str, Any]]
    written: list[Path]
    problems: list[str]


def group_level(out_dir: Path, *, atlases: Sequence[str] = ()) -> GroupResult:
    """Write the tables of all runs that are in an output dataset.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.
    atlases : sequence of str
        Each ``IMAGE.nii.gz+TABLE.tsv`` (the table with columns ``index`` and ``name``; by default
        the one beside the image, and without any labels are numbers), or an atlas of
        TemplateFlow, see `bids_gmvae.io.templates.template_atlas`. Its grid must be that of the
        native maps or of maps that were resampled by ``--output-spaces``.

    Returns
    -------
    GroupResult
        The rows, the files, and what could not be used.

    Raises
    ------
    NothingEligibleError
        If no run was mapped.
    InputError
        If an atlas cannot be read.
    """
    loaded = [read_atlas(text) for text in atlases]
    parameters: list[dict[str, Any]] = []
    quality: list[dict[str, Any]] = []
    descriptions: dict[str, str] = {}
    problems: list[str] = []
    for path in sorted(out_dir.glob("sub-*/**/*_model-*_desc-qc.json")):
        name = path.relative_to(out_dir).as_posix()
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            parameters += run_rows(path.parent, run, loaded, problems)
        except (*DAMAGED, KeyError) as error:
            problems.append(f"{name} is left out: {error}.")
            continue
        quality.append({key: run[key] for key in run if key not in ("issues", "Sloppy")})
        table = path.with_suffix(".tsv")
        for row in read_tsv(table) if table.exists() else []:
            unit = "" if row["unit"] == "n/a" else f" ({row['unit']})"
            descriptions.setdefault(row["measure"], row["description"] + unit)
    problems += _unfinished(out_dir)
    for problem in problems:
        logger.warning(problem)
    if not quality:
        raise NothingEligibleError(
            f"{out_dir} holds no mapped run.", "Run the participant level first."
        )
    quality, outlier_descriptions = flag_outliers(quality)
    descriptions |= outlier_descriptions
    dictionaries: list[tuple[str, list[dict[str, Any]], Mapping[str, str]]] = [
        (PARAMETERS, parameters, COLUMNS),
        (QUALITY, quality, descriptions),
    ]
    written = []
    for stem, rows, columns in dictionaries:
        dictionary = {key: {"Description": text} for key, text in columns.items()}
        written.append(write_json(out_dir / f"{stem}.json", dictionary))
        names = list(COLUMNS) if stem == PARAMETERS else None
        written.append(write_tsv(out_dir / f"{stem}.tsv", rows, names))
    return GroupResult(parameters, quality, written, problems)


def run_rows(
    folder: Path, run: Mapping[str, Any], atlases: Iterable[Atlas], problems: list[str]
) -> list[dict[str, Any]]:
    """Summarise the parameters of one run in every region.

    Parameters
    ----------
    folder : Path
        Where its maps lie.
    run : mapping
        Content of its ``desc-qc.json``.
    atlases : iterable of Atlas
        Further segmentations.
    problems : list of str
        Sentences are appended to it for atlases that fit no grid of the run.

    Returns
    -------
    list of dict
        One row per parameter and region, see `COLUMNS`.
    """
    signal_model = get_signal_model(run["signal_model"])
    derived = signal_model.derived(torch.zeros(1, len(signal_model.parameters)))
    parameters = [*signal_model.parameters, *derived]
    stem, model = run["run"], run["model"]
    inside = voxels_with_estimate(folder, stem, model)
    first = _maps(folder, stem, model, parameters[0])["mean"]
    whole = Segmentation("mask", np.where(inside, 1, -1), {1: ("all", "")})
    spaces: list[tuple[str, str | None, NDArray[np.bool_], Segmentation]] = [
        (stem, None, inside, whole)
    ]
    tissue = tissue_components(folder, stem, model, inside, first)
    if tissue is not None:
        spaces.append((stem, None, inside, tissue))
    for atlas in atlases:
        place = place_of(folder, stem, model, atlas)
        if place is None:
            problems.append(
                f"{stem}: the atlas {atlas.name} is on the grid of neither its native nor its "
                "resampled maps, so it has no rows."
            )
            continue
        regions = {label: (name, str(label)) for label, name in atlas.regions.items()}
        there = voxels_with_estimate(folder, place[0], model, place[1])
        spaces.append((*place, there, Segmentation(atlas.name, atlas.labels, regions)))
    rows = []
    for parameter in parameters:
        for place_stem, resolution, inside, segmentation in spaces:
            maps = _maps(folder, place_stem, model, parameter, resolution)
            for region, label, statistics in _summaries(segmentation, inside, maps):
                rows.append(
                    {
                        "participant_id": run["participant_id"],
                        "session_id": run["session_id"],
                        "run": stem,
                        "model": model,
                        "sloppy": bool(run.get("sloppy")),
                        "parameter": parameter.bids.get("param", parameter.name),
                        "unit": parameter.unit or "1",
                        "segmentation": segmentation.name,
                        "region": region,
                        "label": label,
                        **statistics,
                    }
                )
    return rows


def _unfinished(out_dir: Path) -> Iterator[str]:
    """Tell of maps without the quality file, which is removed first and written last."""
    for path in sorted(out_dir.glob("sub-*/**/*_model-*_desc-status_dseg.nii.gz")):
        found = re.fullmatch(r"(.+_model-[^_]+)_desc-status_dseg\.nii\.gz", path.name)
        if found and not (summary := path.with_name(f"{found[1]}_desc-qc.json")).exists():
            yield (
                f"{summary.relative_to(out_dir).as_posix()} is missing, as after an interruption: "
                "the maps beside it are incomplete or of different calls, and are left out. "
                "Map the run again."
            )


def _summaries(
    segmentation: Segmentation, inside: NDArray[np.bool_], maps: Mapping[str, NDArray]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield region, label and statistics of every region, empty ones included."""
    usable = inside & np.isfinite(maps["mean"])
    labels = segmentation.labels[usable]
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    values = {name: volume[usable][order] for name, volume in maps.items()}
    for index, (region, label) in segmentation.regions.items():
        start, stop = np.searchsorted(sorted_labels, [index, index + 1])
        own = {name: array[start:stop].astype(np.float64) for name, array in values.items()}
        yield region, label, _statistics(own)


def _statistics(values: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    mean = values["mean"]
    if not len(mean):
        return {"n_voxels": 0}
    low, median, high = np.percentile(mean, (25, 50, 75))
    further = {
        f"mean_{name}": float(np.nanmean(values[statistic]))
        for name, statistic in (("posterior_sd", "std"), ("prior_influence", "priorinfluence"))
        if statistic in values and np.isfinite(values[statistic]).any()
    }
    return {
        "n_voxels": len(mean),
        "mean": float(mean.mean()),
        "median": float(median),
        "std": float(mean.std()),
        "iqr": float(high - low),
        **further,
    }


def _maps(
    folder: Path, stem: str, model: str, parameter: Parameter, resolution: str | None = None
) -> dict[str, NDArray]:
    """Load the statistics of a parameter that were written."""
    found = {}
    for statistic in ("mean", "std", "priorinfluence"):
        name = parameter_name(stem, model, parameter, statistic, resolution)
        if statistic == "mean" or (folder / f"{name}.nii.gz").exists():
            found[statistic] = load_map(folder, name)
    return found
