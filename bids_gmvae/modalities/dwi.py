"""Diffusion series: which exist, what belongs to them, and whether they can be mapped."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.bids import (
    build_query,
    files_by_name,
    find_images,
    load_filters,
    open_layout,
)
from bids_gmvae.io.inheritance import Inheritance
from bids_gmvae.io.names import io_spec, name_key, parse_name
from bids_gmvae.io.run import Run
from bids_gmvae.io.sources import Dataset, Skipped, check_participants, find_datasets
from bids_gmvae.modalities.dwi_checks import CheckedRun, check
from bids_gmvae.modalities.dwi_data import check_data
from bids_gmvae.modalities.dwi_tables import read_acquisition

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

__all__ = [
    "CheckedRun",
    "Skipped",
    "check",
    "check_data",
    "find_runs",
    "read_acquisition",
]

name = "dwi"
logger = logging.getLogger(__name__)

INPUT_TYPES = ("auto", "raw", "qsiprep")
#: Entities that preprocessing adds or drops, so that they do not tell runs apart: QSIPrep
#: merges runs and phase-encoding directions.
_CHANGED = frozenset({"space", "cohort", "res", "desc", "direction", "part"})

#: What BIDS lets a label consist of.
_LABEL = re.compile(r"[0-9a-zA-Z+]+")

_Files = Mapping[tuple[Any, ...], Path]


def find_runs(settings: RunSettings) -> tuple[list[Run], list[Skipped]]:
    """Find the diffusion series to be mapped.

    Parameters
    ----------
    settings : RunSettings
        Uses the folders and the selection.

    Returns
    -------
    runs : list of Run
        By participant and name. They are not checked yet.
    skipped : list of Skipped
        Diffusion images, folders and participants that are left out, with the reason.

    Raises
    ------
    InputError
        If BIDS_DIR or a derivative is no BIDS dataset, or a participant does not exist.
    """
    selection = settings.selection
    datasets, skipped = find_datasets(settings)
    sources = _sources(datasets, selection.input_type)
    participants = check_participants(selection.participant_label, datasets)
    filters = load_filters(selection.bids_filter_file)

    files: dict[str, _Files] = {}
    found: list[Run] = []
    for dataset in datasets:
        layout = open_layout(dataset, participants, selection.bids_database_dir)
        files[dataset.name] = files_by_name(layout)
        if dataset not in sources:
            continue
        present = _present(dataset, participants)
        _require_current(layout, present, selection.bids_database_dir)
        query = build_query(
            "dwi", dataset, participants=participants, selection=selection, filters=filters
        )
        images, others = find_images("dwi", dataset, layout, query)
        misnamed = _misnamed(dataset, present, images)
        skipped += [*others, *misnamed]
        inheritance = Inheritance(dataset.root)
        left_out = {item.path for item in misnamed}
        found += [_run(image, dataset, inheritance) for image in images if image not in left_out]

    runs, superseded = _choose(found)
    skipped += superseded
    runs = [_with_companions(run, datasets, files) for run in runs]
    skipped += _without_images(participants, runs, skipped, datasets[0])
    return sorted(runs, key=lambda run: (run.subject, run.stem)), skipped


def _sources(datasets: Sequence[Dataset], input_type: str) -> list[Dataset]:
    """Choose the datasets whose runs are mapped; the others only give masks."""
    if input_type not in INPUT_TYPES:
        raise InputError(
            f"--input-type must be one of {', '.join(INPUT_TYPES)}, but is '{input_type}'."
        )
    if input_type == "auto":
        return list(datasets)
    derivative = input_type == "qsiprep"
    sources = [dataset for dataset in datasets if dataset.derivative == derivative]
    if not sources:
        what = "a preprocessed derivative dataset" if derivative else "raw data"
        raise InputError(
            f"--input-type {input_type} needs {what}, but neither {datasets[0].root} nor any "
            "derivative is one.",
            "Add --derivatives NAME=PATH." if derivative else "Use --input-type auto.",
        )
    return sources


def _present(dataset: Dataset, participants: Sequence[str]) -> set[Path]:
    """List all that look like diffusion images, whatever the index knows."""
    folders = (dataset.root / f"sub-{label}" for label in participants)
    patterns = ("dwi/*_dwi.nii*", "ses-*/dwi/*_dwi.nii*")
    return {path for folder in folders for pattern in patterns for path in folder.glob(pattern)}


def _require_current(
    layout: BIDSLayout, present: AbstractSet[Path], database_dir: Path | None
) -> None:
    """Refuse a kept index that is older than images of the dataset, which would be left out."""
    if database_dir is None:
        return
    known = layout.files.keys()
    missing = sorted(path for path in present if str(path) not in known)
    if missing:
        raise InputError(
            f"--bids-database-dir {database_dir} must index all images, but lacks {missing[0]}"
            f"{f' and {len(missing) - 1} more' if missing[1:] else ''}.",
            "Delete it to index anew.",
        )


def _misnamed(
    dataset: Dataset, present: AbstractSet[Path], selected: Iterable[Path]
) -> list[Skipped]:
    """Find images whose names are not those of BIDS, or of another folder.

    Maps take name and folder from the name of their image: they would be somebody else's.
    """
    return [
        Skipped(image, fault, invalid=image in selected)
        for image in sorted({*present, *selected})
        if (fault := _fault_of_name(image, dataset.root))
    ]


def _fault_of_name(image: Path, root: Path) -> str:
    """Say what is wrong with the name of an image; nothing if all is well."""
    name = parse_name(image.name)
    if name.suffix != "dwi":
        return "its name is not of BIDS: only its extension may hold dots"
    for key, label in name.entities.items():
        if not _LABEL.fullmatch(label):
            return f"its name is not of BIDS: {key} '{label}' must be letters and digits"
    for folder in image.relative_to(root).parts[:-1]:
        prefix, _, label = folder.partition("-")
        key = {"sub": "subject", "ses": "session"}.get(prefix, "")
        # Without a session in its name, it is at worst a file like another one.
        if key and name.entities.get(key, label if key == "session" else "") != label:
            return f"its name must be of {folder}, whose folder it is in"
    return ""


def _run(image: Path, dataset: Dataset, inheritance: Inheritance) -> Run:
    companions = {}
    metadata: Mapping[str, Any] = {}
    try:
        for kind in ("bval", "bvec"):
            path = inheritance.closest(image, f".{kind}")
            if path:
                companions[kind] = path
        metadata = inheritance.metadata(image)
    except InputError as error:
        # One ambiguous or broken file must not hide the other runs; `check` reports it.
        logger.debug("Incomplete companions of %s: %s", image, error)
    return Run(
        modality="dwi",
        files=(image,),
        entities=parse_name(image.name).entities,
        metadata=metadata,
        companions=companions,
        dataset=dataset.name,
        dataset_root=dataset.root,
    )


def _choose(found: Sequence[Run]) -> tuple[list[Run], list[Skipped]]:
    """Keep one source per run: preprocessed before raw, earlier before later datasets."""
    sessions: dict[tuple[str, str | None], list[Run]] = {}
    for run in sorted(found, key=lambda run: run.dataset == "raw"):
        sessions.setdefault((run.subject, run.session), []).append(run)
    kept: list[Run] = []
    skipped = []
    for runs in sessions.values():
        chosen: list[Run] = []
        for run in runs:
            against = ((_reason_against(run, other), other) for other in chosen)
            reason, rival = next((pair for pair in against if pair[0]), (None, run))
            if reason is None:
                chosen.append(run)
            else:
                # Which of two files of one dataset is right, nobody knows.
                twice = (run.stem, run.dataset) == (rival.stem, rival.dataset)
                skipped.append(Skipped(run.image, reason, invalid=twice))
        kept += chosen
    return kept, skipped


def _reason_against(run: Run, chosen: Run) -> str | None:
    """Say why a run is not mapped beside one of its session that was chosen before, if so."""
    if run.dataset == "raw" and chosen.dataset != "raw" and _covers(chosen, run):
        return (
            f"raw run whose preprocessed version is used: {chosen.image} "
            "(--input-type raw uses the raw run)"
        )
    if run.dataset != "raw" and _same_source(run, chosen):
        return f"the same run is taken from dataset '{chosen.dataset}': {chosen.image}"
    if run.stem == chosen.stem:
        return f"would have the same output names as {chosen.image}"
    return None


def _same_source(run: Run, chosen: Run) -> bool:
    """Tell whether two datasets hold preprocessed versions of one run."""
    without = {"space", "desc"}
    return run.dataset != chosen.dataset and _identity(run, without) == _identity(chosen, without)


def _covers(preprocessed: Run, raw: Run) -> bool:
    """Tell whether a raw run went into a preprocessed one, whose name may have fewer entities."""
    return _identity(preprocessed, _CHANGED).items() <= _identity(raw, _CHANGED).items()


def _identity(run: Run, without: AbstractSet[str]) -> dict[str, str]:
    return {key: label for key, label in run.entities.items() if key not in without}


def _with_companions(run: Run, datasets: Sequence[Dataset], files: Mapping[str, _Files]) -> Run:
    companions = dict(run.companions)
    own = files[run.dataset]
    # A mask may come from any derivative; everything else belongs to the preprocessing itself.
    others = [files[dataset.name] for dataset in datasets if dataset.derivative]
    for kind, patterns in io_spec()["companions"].items():
        places = [own, *others] if kind == "mask" else [own]
        if run.dataset == "raw":
            places = others if kind == "mask" else []
        for place in places:
            path = next((hit for hit in _matches(run, patterns, place)), None)
            if path:
                companions[kind] = path
                break
    transform = _to_template(run, own)
    if transform:
        companions["to_template"] = transform
    return replace(run, companions=companions)


def _matches(run: Run, patterns: Sequence[Mapping[str, Any]], files: _Files) -> list[Path]:
    found = []
    for pattern in patterns:
        entities = {**run.entities, **pattern}
        for key in ("suffix", "extension", *(key for key in entities if entities[key] is None)):
            del entities[key]
        for extension in pattern["extension"]:
            path = files.get(name_key(entities, pattern["suffix"], extension))
            if path:
                found.append(path)
    return found


def _to_template(run: Run, files: _Files) -> Path | None:
    """Find the transform from the run's space to the template, of its session or participant."""
    if "space" not in run.entities:
        return None
    spec = io_spec()["to_template"]
    entities = {"subject": run.subject, "from": run.entities["space"]}
    entities |= {"to": spec["to"], "mode": spec["mode"]}
    session = [{"session": run.session}] if run.session else []
    for level in [*session, {}]:
        for extension in spec["extension"]:
            path = files.get(name_key(entities | level, spec["suffix"], extension))
            if path:
                return path
    return None


def _without_images(
    participants: Sequence[str], runs: Sequence[Run], skipped: Sequence[Skipped], main: Dataset
) -> list[Skipped]:
    mentioned = {run.subject for run in runs}
    mentioned |= {
        part[4:] for item in skipped for part in item.path.parts[:-1] if part.startswith("sub-")
    }
    return [
        Skipped(main.root / f"sub-{label}", "no diffusion series (dwi/*_dwi.nii[.gz])")
        for label in participants
        if label not in mentioned
    ]
