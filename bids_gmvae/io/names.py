"""BIDS file names: entities, suffix, extension."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@functools.cache
def io_spec() -> Mapping[str, Any]:
    """Give the queries and names of ``data/io_spec.json``."""
    return json.loads(files("bids_gmvae").joinpath("data/io_spec.json").read_text("utf-8"))


@functools.cache
def _long_names() -> Mapping[str, str]:
    return {short: name for name, short in io_spec()["entities"].items()}


@dataclass(frozen=True)
class Name:
    """A BIDS file name, taken apart.

    Attributes
    ----------
    entities : mapping
        Labels by the long name of the entity (the short one where BIDS has no long one that we
        know), in BIDS order.
    suffix : str
        What is measured, e.g. ``"dwi"``.
    extension : str
        From the first dot on, e.g. ``".nii.gz"``.
    """

    entities: Mapping[str, str]
    suffix: str
    extension: str


def parse_name(name: str) -> Name:
    """Take a BIDS file name apart.

    Parameters
    ----------
    name : str
        File name, without folder.

    Examples
    --------
    >>> parsed = parse_name("sub-01_acq-b2000_desc-preproc_dwi.nii.gz")
    >>> dict(parsed.entities)
    {'subject': '01', 'acquisition': 'b2000', 'desc': 'preproc'}
    >>> parsed.suffix, parsed.extension
    ('dwi', '.nii.gz')
    """
    stem, dot, rest = name.partition(".")
    *pairs, suffix = stem.split("_")
    found = {}
    for pair in pairs:
        key, dash, label = pair.partition("-")
        if dash:
            found[_long_names().get(key, key)] = label
    ordered = {key: found[key] for key in io_spec()["entities"] if key in found}
    return Name(ordered | found, suffix, dot + rest)


def name_key(entities: Mapping[str, str], suffix: str, extension: str) -> tuple[Any, ...]:
    """Give a hashable form of a file name, whatever the order of its entities.

    Parameters
    ----------
    entities : mapping
        Labels by long name.
    suffix, extension : str
        As in `Name`.
    """
    return frozenset(entities.items()), suffix, extension
