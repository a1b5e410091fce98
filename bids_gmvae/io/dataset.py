"""The output dataset as a whole: its description, what validators may ignore, its manifest.

Several processes may share an output folder, so everything that concerns more than one run is
written under a lock.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from bids_gmvae import __version__
from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.atomic import locked, remove_abandoned, write_json, write_text
from bids_gmvae.io.manifest import MANIFEST, write_manifest

__all__ = [
    "description", "initialise", "merge_description", "remove_unfinished", "validate",
    "write_manifest",
]  # fmt: skip

LOGGER = logging.getLogger(__name__)

BIDS_VERSION = "1.11.1"
NAME = "bids_gmvae"

#: Name, tag and address of the container image, set where the image is built.
CONTAINER_VARIABLES = {
    "Type": "BIDS_GMVAE_CONTAINER_TYPE",
    "Tag": "BIDS_GMVAE_CONTAINER_TAG",
    "URI": "BIDS_GMVAE_CONTAINER_URI",
}

#: What BIDS 1.11.1 has no words for: BEP016's entities, and files that are no data.
#: ``figures`` bears no slash: with one, the validator still complains about the folder.
BIDSIGNORE = (
    "*.html", "logs/", "figures", "*_model-*", "*_T2map.*", "group_*", MANIFEST,
)  # fmt: skip


def initialise(out_dir: Path, settings: RunSettings | None, datasets: Mapping[str, Path]) -> None:
    """Create or complete the dataset-level files of an output dataset.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.
    settings : RunSettings or None
        What was asked for; only whether the call was sloppy is recorded.
    datasets : mapping of str to Path
        Input datasets by the key that BIDS URIs use (``raw``, or the name of a derivative).

    Raises
    ------
    InputError
        If the folder holds a dataset of another kind.
    StorageError
        For want of space, quota or permission.
    """
    sloppy = settings is not None and settings.execution.sloppy
    new = description(out_dir, datasets, sloppy=sloppy)
    path = out_dir / "dataset_description.json"
    with locked(out_dir) as held:
        if not held:
            LOGGER.warning(
                "The file system of %s has no locks. Do not map participants there in several "
                "calls at a time, or lines of %s and entries of %s may be lost.",
                out_dir,
                MANIFEST,
                path.name,
            )
        present = _read_description(path)
        merged = merge_description(present, new)
        if merged != present:
            write_json(path, merged)
        _complete_lines(out_dir / ".bidsignore", BIDSIGNORE)
        readme = out_dir / "README.md"
        if not any(out_dir.glob("README*")):
            write_text(readme, files("bids_gmvae").joinpath("data/output_readme.md").read_text())


def description(
    out_dir: Path, datasets: Mapping[str, Path], *, sloppy: bool = False
) -> dict[str, Any]:
    """Describe the output dataset of one call of the app."""
    generator: dict[str, Any] = {
        "Name": NAME,
        "Version": __version__,
        "Description": "Quantitative MRI parameter maps with uncertainty",
    }
    if url := code_url():
        generator["CodeURL"] = url
    container = {
        key: os.environ[name] for key, name in CONTAINER_VARIABLES.items() if os.environ.get(name)
    }
    if container:
        generator["Container"] = container
    if sloppy:
        generator["Sloppy"] = True
    return {
        "Name": f"{NAME} - quantitative MRI parameter maps with uncertainty",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generator],
        "SourceDatasets": [_source(root, out_dir) for root in datasets.values()],
        "DatasetLinks": {key: dataset_link(root, out_dir) for key, root in datasets.items()},
        "HowToAcknowledge": "Please cite what logs/CITATION.md names.",
    }


def code_url() -> str | None:
    """Give the address of the source code, from the metadata of the installed package."""
    try:
        named = metadata(NAME).get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    urls = dict(entry.split(", ", 1) for entry in named)
    return urls.get("Source") or urls.get("Repository") or urls.get("Homepage")


def merge_description(present: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Add what a call contributes; what is there, edited by hand or not, stays.

    Examples
    --------
    >>> merge_description({"Name": "mine", "License": "CC0"}, {"Name": "x", "DatasetLinks": {}})
    {'Name': 'mine', 'License': 'CC0', 'DatasetLinks': {}}
    """
    merged = {**new, **present} if not present else {**present}
    for key, value in new.items():
        if key == "DatasetLinks":
            # The latest path is the one that is known to exist.
            merged[key] = {**merged.get(key, {}), **value}
        elif key in ("GeneratedBy", "SourceDatasets"):
            there = merged.get(key, [])
            merged[key] = [*there, *(item for item in value if item not in there)]
        else:
            merged.setdefault(key, value)
    return merged


def dataset_link(root: Path, out_dir: Path) -> str:
    """Give the address of an input dataset.

    It is relative where one folder lies in the other, so that it survives a move.

    Examples
    --------
    >>> dataset_link(Path("/data"), Path("/data/derivatives/bids_gmvae"))
    '../..'
    >>> dataset_link(Path("/data"), Path("/out"))
    'file:///data'
    """
    root, out_dir = (Path(os.path.abspath(path)) for path in (root, out_dir))
    if root.is_relative_to(out_dir) or out_dir.is_relative_to(root):
        return Path(os.path.relpath(root, out_dir)).as_posix()
    return root.as_uri()


def remove_unfinished(out_dir: Path, subjects: Iterable[str]) -> None:
    """Remove what killed calls left half-written: of some participants, and of the dataset."""
    own = (out_dir / f"sub-{label}" for label in subjects)
    inside = (path for folder in own for path in (folder, *folder.rglob("*")) if path.is_dir())
    for folder in (out_dir, out_dir / "logs", *inside):
        remove_abandoned(folder)


def validate(out_dir: Path) -> list[str]:
    """Check a dataset against its manifest and against itself: one sentence per problem."""
    from bids_gmvae.io import validation  # it knows the signal models, hence torch

    return list(validation.validate(out_dir).problems)


def _source(root: Path, out_dir: Path) -> dict[str, str]:
    """Describe an input dataset by what it says of itself."""
    source = {"URL": dataset_link(root, out_dir)}
    try:
        own = json.loads((root / "dataset_description.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return source  # discovery has already told the user about it
    generators = own.get("GeneratedBy")
    generator = generators[0] if isinstance(generators, list) and generators else {}
    version = generator.get("Version") if isinstance(generator, dict) else None
    # Others' descriptions hold whatever they hold; ours shall be valid.
    said = {"DOI": own.get("DatasetDOI"), "Version": version}
    return source | {key: text for key, text in said.items() if text and isinstance(text, str)}


def _read_description(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        present = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path} is not JSON ({error}).", "Repair or delete it, or choose another OUTPUT_DIR."
        ) from error
    if present.get("DatasetType") != "derivative":
        raise InputError(
            f"OUTPUT_DIR {path.parent} holds a dataset that is no derivative.",
            "Choose another folder, e.g. BIDS_DIR/derivatives/bids_gmvae.",
        )
    return present


def _complete_lines(path: Path, wanted: tuple[str, ...]) -> None:
    present = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    missing = [line for line in wanted if line not in present]
    if missing:
        write_text(path, "\n".join([*present, *missing]) + "\n")
