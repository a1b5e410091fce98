"""The configuration file: the same settings as on the command line, as TOML."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from bids_gmvae import __version__
from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import InputError, UnknownNameError, why_unreadable

#: Given on the command line always; in a file they are only a record.
POSITIONALS = ("bids_dir", "output_dir", "analysis_level")


def read_config(path: Path, actions: Mapping[str, argparse.Action]) -> dict[str, dict[str, Any]]:
    """Read settings by section, each value checked as its option would be.

    Parameters
    ----------
    path : Path
        TOML file, as `write_config` writes it; every key may be left out.
    actions : mapping of str to argparse.Action
        The options by the name of their setting.

    Returns
    -------
    dict
        Values by section and name; only what the file gives.

    Raises
    ------
    InputError
        If the file is no TOML, or a section, name or value in it is not known.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"The configuration file {path} cannot be read: {why_unreadable(error)}.",
            "It must be TOML; the config.toml in the logs of an earlier run is an example.",
        ) from error
    sections = RunSettings.sections()
    settings: dict[str, dict[str, Any]] = {}
    for name, values in content.items():
        if name in POSITIONALS:
            continue
        if name not in sections or not isinstance(values, Mapping):
            unknown = UnknownNameError.of("section", name, sections)
            raise InputError(f"{path}: {unknown.message}", unknown.hint)
        known = {item.name: str(item.type) for item in fields(sections[name])}
        settings[name] = {}
        for key, value in values.items():
            if key not in known:
                unknown = UnknownNameError.of("setting", key, known)
                raise InputError(f"{path}, section [{name}]: {unknown.message}", unknown.hint)
            try:
                settings[name][key] = _convert(value, actions.get(key), known[key])
            except (argparse.ArgumentTypeError, TypeError, ValueError) as reason:
                raise InputError(
                    f"{path}, section [{name}]: {key} = {value!r} cannot be used: {reason}.",
                    "See bids-gmvae --help for what it may be.",
                ) from reason
    return settings


def write_config(settings: RunSettings, path: Path) -> Path:
    """Write all settings of a run, so that the run can be repeated with ``--config-file``."""
    # Here, not above: reading the command line must not wait for them.
    import tomli_w

    from bids_gmvae.io.atomic import write_text

    header = f"# Settings of a run of bids-gmvae {__version__}; repeat it with --config-file.\n"
    return write_text(path, header + tomli_w.dumps(settings.to_dict()))


def _convert(value: Any, action: argparse.Action | None, annotation: str) -> Any:
    """Turn a TOML value into what the option of the same name would give."""
    if annotation == "bool":
        return _instance(value, bool, "true or false")
    if annotation.startswith("Mapping"):
        table = _instance(value, dict, "a table of name = path")
        return dict(_checked(f"{name}={path}", action) for name, path in table.items())
    if annotation.startswith("tuple"):
        items = value if isinstance(value, list) else [value]
        return tuple(_checked(item, action) for item in items)
    # Settings without an option of their own, and counted ones such as verbose.
    untyped = action is None or action.type is None
    if untyped and annotation in ("int", "float"):
        allowed = (int,) if annotation == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise TypeError(f"a number ({annotation}) is needed")
    return _checked(value, action)


def _checked(value: Any, action: argparse.Action | None) -> Any:
    if action is None:
        return value
    if callable(action.type):
        value = action.type(str(value))
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"it must be one of: {', '.join(map(str, action.choices))}")
    return value


def _instance(value: Any, kind: type[Any], wanted: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{wanted} is needed")
    return value
