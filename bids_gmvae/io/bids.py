"""One index and one query per dataset: which files exist, which are mapped, and why not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_gmvae.config import SelectionSettings
from bids_gmvae.exceptions import InputError, UnknownNameError
from bids_gmvae.io.inheritance import read_json
from bids_gmvae.io.names import io_spec, name_key, parse_name
from bids_gmvae.io.sources import Dataset, Skipped

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

#: Query values that cannot be written in JSON, as the filter files of other apps spell them.
SPECIAL = {"*": "ANY", "Query.ANY": "ANY", "Query.NONE": "NONE", "Query.OPTIONAL": "OPTIONAL"}


def open_layout(
    dataset: Dataset, participants: Sequence[str], database_dir: Path | None
) -> BIDSLayout:
    """Index the images of a dataset with pybids, and nothing else.

    Parameters
    ----------
    dataset : Dataset
        The dataset.
    participants : sequence of str
        Only their folders are indexed, unless the index is kept.
    database_dir : Path or None
        Folder with (or for) a kept index of the whole dataset.
    """
    from bids.layout import BIDSLayout, BIDSLayoutIndexer
    from sqlalchemy.exc import SQLAlchemyError

    labels = ".+" if database_dir else "|".join(re.escape(label) for label in participants)
    folders = "|".join(io_spec()["folders"])
    ignore = [
        re.compile(rf"^/(?!sub-(?:{labels})(?:/|$))"),
        re.compile(rf"^/sub-[^/]+/(?!(?:ses-[^/]+|{folders})(?:/|$))"),
        re.compile(rf"^/sub-[^/]+/ses-[^/]+/(?!(?:{folders})(?:/|$))"),
        # Sidecars are found by inheritance, without an index; anatomy gives transforms alone.
        re.compile(r"\.(?:json|bval|bvec|txt|mat)$|/anat/[^/]+(?<!\.h5)$"),
    ]
    if database_dir and dataset.name not in ("raw", "preprocessed"):
        database_dir = database_dir / dataset.name
    try:
        layout = BIDSLayout(
            dataset.root,
            # Validation would drop every file of a derivative that stands alone.
            validate=False,
            config=_pybids_config(),
            database_path=database_dir,
            indexer=BIDSLayoutIndexer(validate=False, ignore=ignore, index_metadata=False),
        )
    except SQLAlchemyError as error:
        raise InputError(
            f"--bids-database-dir {database_dir} must hold an index of pybids, but it cannot be "
            f"read: {getattr(error, 'orig', error)}.",
            "Delete it to index anew.",
        ) from error
    if Path(str(layout.root)) != dataset.root:
        raise InputError(
            f"--bids-database-dir {database_dir} must hold an index of {dataset.root}, "
            f"but indexes {layout.root}.",
            "Give another folder, or delete it to index anew.",
        )
    return layout


def load_filters(path: Path | None) -> dict[str, dict[str, Any]]:
    """Read a BIDS filter file.

    Parameters
    ----------
    path : Path or None
        JSON file: ``{"dwi": {"acquisition": "b2000", "direction": null}}``. ``null`` means
        that the entity is absent, ``"*"`` that it is present. Queries other than ours (``t1w``,
        ``bold``, ...) are kept and have no effect.

    Raises
    ------
    InputError
        If the file is no such JSON, or names an entity that does not exist.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise InputError(f"--bids-filter-file must be a JSON file, but {path} does not exist.")
    filters = {}
    for query, entities in read_json(path).items():
        if not isinstance(entities, Mapping):
            raise InputError(
                f"{path}: query '{query}' must be an object of entities, but is "
                f"{json.dumps(entities)}.",
                'Write it like {"dwi": {"acquisition": "b2000"}}.',
            )
        filters[query] = dict(entities)
    for query in io_spec()["queries"]:
        if query in filters:
            filters[query] = {
                _long_name(key): [_special(item, path) for item in _listed(value)]
                for key, value in filters[query].items()
            }
    return filters


def build_query(
    modality: str,
    dataset: Dataset,
    *,
    participants: Sequence[str],
    selection: SelectionSettings,
    filters: Mapping[str, Mapping[str, Any]],
) -> dict[str, list[Any]]:
    """Build the one query that finds the runs of a modality in a dataset.

    Parameters
    ----------
    modality : str
        Name of the query in ``io_spec.json`` and in the filter file.
    dataset : Dataset
        Raw and derivative datasets are asked differently.
    participants : sequence of str
        Labels.
    selection : SelectionSettings
        Sessions, acquisitions and runs.
    filters : mapping
        From `load_filters`; they replace the entries of the query.

    Returns
    -------
    dict of str to list
        Entities and the values that they may have, as pybids takes them.
    """
    base = io_spec()["queries"][modality]["derivative" if dataset.derivative else "raw"]
    query = {key: [_special(item) for item in _listed(value)] for key, value in base.items()}
    query["subject"] = list(participants)
    selected: dict[str, list[Any]] = {
        "session": [label.removeprefix("ses-") for label in selection.session_label],
        "acquisition": [label.removeprefix("acq-") for label in selection.acq_label],
        "run": [_run_number(label) for label in selection.run_id],
    }
    query |= {key: values for key, values in selected.items() if values}
    return query | {key: list(value) for key, value in filters.get(modality, {}).items()}


def find_images(
    modality: str,
    dataset: Dataset,
    layout: BIDSLayout,
    query: Mapping[str, list[Any]],
) -> tuple[list[Path], list[Skipped]]:
    """Find the images of a modality, and say of the others why they are not mapped.

    Parameters
    ----------
    modality : str
        Name of the query in ``io_spec.json``.
    dataset : Dataset
        The dataset.
    layout : BIDSLayout
        Its index.
    query : mapping
        From `build_query`.

    Returns
    -------
    images : list of Path
        Images that answer the query.
    skipped : list of Skipped
        Images of the same kind that do not.
    """
    base = io_spec()["queries"][modality]["raw"]
    suffixes = [base["suffix"], *([] if dataset.derivative else io_spec()["scanner_maps"])]
    broad = {key: base[key] for key in ("datatype", "extension")}
    broad |= {"subject": query["subject"], "suffix": suffixes}
    found = set(_ask(layout, query))
    others = [path for path in _ask(layout, broad) if path not in found]
    # Whatever pybids makes of a value, the entity that excludes a file is the one whose own
    # query does not return it.
    answers = {key: set(_ask(layout, {key: query[key]})) for key in query} if others else {}
    skipped = []
    for path in others:
        key = next((key for key, answer in answers.items() if path not in answer), "")
        skipped.append(Skipped(path, _reason(key, path, query)))
    return sorted(found), skipped


def _pybids_config() -> dict[str, Any]:
    """Define the entities for pybids by the file name alone.

    Its own definitions search the whole path, so that a dataset in a folder like
    ``/scratch/sub-01/`` would belong to participant 01.
    """
    label, end = r"([a-zA-Z0-9+]+)", r"[^/]*$"
    entities: list[dict[str, str]] = [
        {"name": name, "pattern": rf"[_/]{short}-{label}{end}"}
        for name, short in io_spec()["entities"].items()
    ]
    run = next(entity for entity in entities if entity["name"] == "run")
    run |= {"pattern": rf"[_/]run-(\d+){end}", "dtype": "int"}
    folders = "|".join(io_spec()["folders"])
    entities += [
        {"name": "suffix", "pattern": r"[_/]([a-zA-Z0-9+]+)\.[^/]+$"},
        {"name": "extension", "pattern": r"[^./](\.[^/]+)$"},
        {"name": "datatype", "pattern": rf"/({folders})/[^/]+$"},
    ]
    return {"name": "gmvae", "entities": entities}


def _ask(layout: BIDSLayout, query: Mapping[str, Any]) -> list[Path]:
    # An index made by another app may lack entities that no file of it has.
    paths = layout.get(return_type="filename", invalid_filters="drop", **query)
    return [Path(path) for path in paths]


def _reason(key: str, path: Path, query: Mapping[str, list[Any]]) -> str:
    name = parse_name(path.name)
    if key == "suffix":
        return f"map made by the scanner (suffix {name.suffix}), not a diffusion series"
    if key == "part":
        return f"part-{name.entities.get('part')}: only magnitude images are mapped"
    label = name.entities.get(key)
    found = f"{key} '{label}'" if label is not None else f"no {key}"
    if key == "desc":
        found = f"desc-{label}" if label else "a derivative without desc-"
    wanted = " or ".join(_spell(value) for value in query.get(key, []))
    return f"not selected: {found}, where {wanted} is wanted"


def _spell(value: Any) -> str:
    names = {"NONE": "none", "ANY": "any", "REQUIRED": "any", "OPTIONAL": "any or none"}
    return names.get(getattr(value, "name", ""), f"'{value}'")


def files_by_name(layout: BIDSLayout) -> dict[tuple[Any, ...], Path]:
    """Index the files of a layout by what their names say.

    Parameters
    ----------
    layout : BIDSLayout
        From `open_layout`.

    Returns
    -------
    dict
        Paths by `name_key`.
    """
    index = {}
    for path in map(Path, layout.get(return_type="filename")):
        name = parse_name(path.name)
        index[name_key(name.entities, name.suffix, name.extension)] = path
    return index


def _special(value: Any, path: Path | None = None) -> Any:
    from bids.layout import Query

    if value is None:
        return Query.NONE
    if not isinstance(value, str | int):
        raise InputError(
            f'{path}: an entity must be a label, a list of labels, null or "*", but one is '
            f"{json.dumps(value)}.",
            'Write it like {"dwi": {"acquisition": "b2000"}}.',
        )
    return getattr(Query, SPECIAL[value]) if value in SPECIAL else value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _run_number(label: str) -> int:
    digits = label.removeprefix("run-")
    if not digits.isdigit():
        raise InputError(f"--run-id must be a number, but is '{label}'.")
    return int(digits)


def _long_name(key: str) -> str:
    entities = io_spec()["entities"]
    known = {"datatype", "suffix", "extension", *entities}
    key = {short: name for name, short in entities.items()}.get(key, key)
    if key not in known:
        raise UnknownNameError.of("entity in --bids-filter-file", key, known)
    return key
