"""The datasets that take part in a call of the app."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from bids_gmvae.config import RunSettings, SelectionSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.inheritance import read_json
from bids_gmvae.io.run import Run


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is not mapped, and why.

    Attributes
    ----------
    path : Path
        What is skipped.
    reason : str
        Why, in a few words.
    invalid : bool
        Whether it should have been mapped, but something is wrong with it.
    """

    path: Path
    reason: str
    invalid: bool = False


@dataclass(frozen=True, eq=False)
class Dataset:
    """One BIDS dataset, raw or derivative.

    Attributes
    ----------
    name : str
        ``"raw"``, ``"preprocessed"`` (BIDS_DIR itself being a derivative) or the name of the
        derivative; the key of its DatasetLinks entry.
    root : Path
        Root folder, absolute.
    derivative : bool
        Whether it is a derivative dataset.
    description : mapping
        Content of its dataset_description.json.
    """

    name: str
    root: Path
    derivative: bool
    description: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subjects(self) -> list[str]:
        """Participant labels that have a folder, sorted."""
        names = (entry.name for entry in os.scandir(self.root) if entry.is_dir())
        return sorted(name[4:] for name in names if name.startswith("sub-"))


def made_by_qsiprep(description: Mapping[str, Any]) -> bool:
    """Tell whether QSIPrep, of any version, wrote a dataset.

    Parameters
    ----------
    description : mapping
        Content of dataset_description.json.
    """
    return any(name.lower().startswith("qsiprep") for name in _pipelines(description))


def preprocessed_by_qsiprep(run: Run) -> bool:
    """Tell whether a run comes from QSIPrep, by what its dataset says of itself."""
    return run.dataset != "raw" and made_by_qsiprep(read_description(run.dataset_root) or {})


def read_description(root: Path) -> dict[str, Any] | None:
    """Read dataset_description.json; None if there is none.

    Parameters
    ----------
    root : Path
        Root folder of a dataset.
    """
    path = root / "dataset_description.json"
    return read_json(path) if path.is_file() or path.is_symlink() else None


def dataset_key(name: str) -> str:
    """Make a name a key of DatasetLinks, of characters that BIDS URIs may have.

    Examples
    --------
    >>> dataset_key("my prep (2)")
    'my-prep-2-'
    """
    return re.sub(r"[^0-9A-Za-z_.-]+", "-", name)


def find_datasets(settings: RunSettings) -> tuple[list[Dataset], list[Skipped]]:
    """Find BIDS_DIR, the derivatives that were named, and those in BIDS_DIR/derivatives.

    Parameters
    ----------
    settings : RunSettings
        Uses the folders and the selection.

    Returns
    -------
    datasets : list of Dataset
        In order of precedence; the first is BIDS_DIR.
    skipped : list of Skipped
        Derivative folders that cannot be used.

    Raises
    ------
    InputError
        If a dataset that was named is not one.
    """
    selection = settings.selection
    main = _main_dataset(_absolute(settings.bids_dir), selection)
    datasets = [main]
    for name, path in selection.derivatives.items():
        key = dataset_key(name)
        if key in {dataset.name for dataset in datasets} | {"raw"}:
            raise InputError(
                f"Each dataset needs its own name, but --derivatives {name}={path} takes "
                f"'{key}', which is reserved or taken.",
                "Choose another NAME.",
            )
        datasets.append(_named_dataset(key, _absolute(path), selection))

    skipped = []
    unnamed: dict[Path, Mapping[str, Any]] = {}
    for root in _derivative_folders(main.root):
        taken = {dataset.root for dataset in datasets} | {_absolute(settings.output_dir)}
        if root in taken:
            continue
        description = read_description(root)
        if description is None:
            skipped.append(
                Skipped(
                    root,
                    "derivative folder without dataset_description.json, which pybids drops "
                    "silently; add the file, or name the folder with --derivatives and "
                    "--skip-bids-validation",
                )
            )
        elif "bids_gmvae" not in _pipelines(description):
            unnamed[root] = description
    keys = _free_keys(
        ["-".join(root.relative_to(main.root / "derivatives").parts) for root in unnamed],
        {dataset.name for dataset in datasets} | {"raw"},
    )
    datasets += (
        Dataset(key, root, True, description)
        for key, (root, description) in zip(keys, unnamed.items(), strict=True)
    )
    return datasets, skipped


def check_participants(labels: Iterable[str], datasets: Sequence[Dataset]) -> list[str]:
    """Give the participants to be mapped.

    Parameters
    ----------
    labels : iterable of str
        Labels asked for, with or without ``sub-``; all if empty.
    datasets : sequence of Dataset
        Where they may be.

    Raises
    ------
    InputError
        If a label exists in no dataset.
    """
    known = sorted({label for dataset in datasets for label in dataset.subjects})
    wanted = sorted({label.removeprefix("sub-") for label in labels})
    unknown = [label for label in wanted if label not in known]
    if unknown:
        raise InputError(
            f"Participants {', '.join(unknown)} were asked for, but no dataset has them.",
            f"Participants in {datasets[0].root}: {_shorten(known)}.",
        )
    return wanted or known


def _free_keys(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """Give every name its own key; where two want the same, whoever bears it already has it."""
    found: dict[int, str] = {}
    for i, name in sorted(enumerate(names), key=lambda item: item[1] != dataset_key(item[1])):
        endings = chain(("", "-auto"), (f"-auto{number}" for number in count(2)))
        candidates = (dataset_key(name) + ending for ending in endings)
        used = {*taken, *found.values()}
        found[i] = next(key for key in candidates if key not in used)
    return [found[i] for i in range(len(names))]


def _main_dataset(root: Path, selection: SelectionSettings) -> Dataset:
    if not root.is_dir():
        raise InputError(f"BIDS_DIR must be a folder, but {root} does not exist.")
    if not _has_subjects(root) and _has_subjects(root / "qsiprep"):
        # QSIPrep before 0.23 made this folder inside the output folder it was given.
        root = root / "qsiprep"
    if not _has_subjects(root):
        raise InputError(
            f"BIDS_DIR must hold a BIDS dataset, but {root} has no sub-<label> folder.",
            "Give the root folder of the dataset; see https://bids.neuroimaging.io.",
        )
    description = _require_description(root, selection)
    if _is_derivative(root, description):
        return Dataset("preprocessed", root, True, description)
    return Dataset("raw", root, False, description)


def _named_dataset(name: str, root: Path, selection: SelectionSettings) -> Dataset:
    if not root.is_dir():
        raise InputError(f"--derivatives {name}={root} must name a folder, but it does not exist.")
    if not _has_subjects(root) and _has_subjects(root / "qsiprep"):
        root = root / "qsiprep"
    return Dataset(name, root, True, _require_description(root, selection))


def _require_description(root: Path, selection: SelectionSettings) -> Mapping[str, Any]:
    description = read_description(root)
    if description is None and not selection.skip_bids_validation:
        raise InputError(
            f"A BIDS dataset needs dataset_description.json, but {root} has none.",
            'Add one with at least {"Name": ..., "BIDSVersion": ..., "DatasetType": "raw" or '
            '"derivative"}, or use --skip-bids-validation.',
        )
    return description or {}


def _is_derivative(root: Path, description: Mapping[str, Any]) -> bool:
    if "DatasetType" in description:
        return description["DatasetType"] == "derivative"
    if "PipelineDescription" in description or made_by_qsiprep(description):
        return True
    patterns = ("sub-*/dwi/*_desc-preproc_dwi.nii*", "sub-*/ses-*/dwi/*_desc-preproc_dwi.nii*")
    return any(any(root.glob(pattern)) for pattern in patterns)


def _pipelines(description: Mapping[str, Any]) -> list[str]:
    generated = description.get("GeneratedBy")
    entries = [*(generated if isinstance(generated, list) else [generated])]
    entries.append(description.get("PipelineDescription"))
    names = [entry.get("Name") for entry in entries if isinstance(entry, Mapping)]
    return [name for name in (*names, description.get("Name")) if isinstance(name, str)]


def _derivative_folders(root: Path) -> list[Path]:
    """List folders in derivatives/ that hold diffusion data, also one level deeper."""
    found = []
    for folder in sorted((root / "derivatives").glob("[!.]*/")):
        inner = [] if _has_subjects(folder) else sorted(folder.glob("[!.]*/"))
        for candidate in [folder, *inner]:
            if _has_dwi(candidate):
                found.append(candidate)
    return found


def _has_subjects(root: Path) -> bool:
    return any(path.is_dir() for path in root.glob("sub-*"))


def _has_dwi(root: Path) -> bool:
    return any(root.glob("sub-*/dwi")) or any(root.glob("sub-*/ses-*/dwi"))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _shorten(labels: Sequence[str], limit: int = 20) -> str:
    more = f", ... ({len(labels)} in all)" if len(labels) > limit else ""
    return ", ".join(labels[:limit]) + more
