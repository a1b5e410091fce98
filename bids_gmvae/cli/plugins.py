"""Nipype's plugins, chosen by a file, and mended for schedulers that end jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.pipeline import plugins
from nipype.pipeline.engine import Node
from nipype.pipeline.plugins.base import PluginBase, SGELikeBatchManagerBase

from bids_gmvae.exceptions import InputError, why_unreadable

EXAMPLE = 'It holds, as JSON or YAML, e.g. {"plugin": "Linear", "plugin_args": {}}.'


def read_plugin(path: Path) -> dict[str, Any]:
    """Read the Nipype plugin and its arguments from a JSON or YAML file.

    Raises
    ------
    InputError
        If the file is neither, or names no plugin.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else _read_yaml(text)
    except (ValueError, RecursionError) as error:
        message = f"The plugin file {path} cannot be read: {why_unreadable(error)}."
        raise InputError(message, EXAMPLE) from error
    try:
        name = content["plugin"]
        arguments = dict(content.get("plugin_args") or {})
    except (ValueError, TypeError, KeyError) as error:
        message = f"The plugin file {path} names no plugin, or its plugin_args are no settings."
        raise InputError(message, EXAMPLE) from error
    if not hasattr(plugins, f"{name}Plugin"):
        known = sorted(item[:-6] for item in dir(plugins) if item.endswith("Plugin"))
        raise InputError(
            f"{path} names the plugin {name}, which Nipype does not have.",
            f"Known: {', '.join(known)}.",
        )
    if name == "MultiProc":
        # A plain fork deadlocks once torch has run.
        arguments.setdefault("mp_context", "forkserver")
        arguments.setdefault("raise_insufficient", False)
    return {"plugin": name, "plugin_args": arguments}


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError("it is no YAML") from error


class _SurvivesEndedJobs:
    """A plugin that goes on with the other nodes when a job ended without a result.

    The original gives the traceback as text, to which its own report of the crash cannot append
    lines: it stops with a TypeError, and leaves its jobs in the queue.
    """

    def _report_crash(self, node: Node, result: dict[str, Any] | None = None) -> str:
        if result is not None and isinstance(result["traceback"], str):
            result["traceback"] = result["traceback"].splitlines(keepends=True)
        return super()._report_crash(node, result)  # type: ignore[misc]


def make_plugin(plugin: str, plugin_args: Mapping[str, Any]) -> PluginBase:
    """Make what runs the nodes.

    Parameters
    ----------
    plugin : str
        Name of one of Nipype's plugins.
    plugin_args : mapping
        Its arguments.
    """
    kind = getattr(plugins, f"{plugin}Plugin")
    if issubclass(kind, SGELikeBatchManagerBase):
        kind = type(kind.__name__, (_SurvivesEndedJobs, kind), {})
    return kind(plugin_args=dict(plugin_args))
