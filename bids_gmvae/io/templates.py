"""Grids and atlases of TemplateFlow, without its import or the network unless they are needed."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path
from typing import Any

from bids_gmvae.exceptions import InputError, UnknownNameError
from bids_gmvae.voxels import Grid, load_image

#: TemplateFlow's resolution index where none is asked for: that of usual diffusion images.
DEFAULT_RESOLUTION = "2"

_OFFLINE = (
    "The maps that were written are complete. Fetch it where there is a network, and point "
    "TEMPLATEFLOW_HOME to it."
)
_TEMPLATES = "https://templateflow.s3.amazonaws.com"


def require_template(space: str) -> None:
    """Raise `UnknownNameError` if TemplateFlow has no template of that name; needs no network.

    Parameters
    ----------
    space : str
        Name of a template, e.g. ``"MNI152NLin2009cAsym"``.
    """
    package = importlib.util.find_spec("templateflow")
    home = os.environ.get("TEMPLATEFLOW_HOME") or os.path.expanduser("~/.cache/templateflow")
    found = {path.name for path in Path(home).glob("tpl-*")}
    # What TemplateFlow unpacks when it is first used: the folders and empty files of all.
    skeleton = Path(str(package and package.origin)).with_name("conf") / "templateflow-skel.zip"
    if not skeleton.exists():
        return
    with zipfile.ZipFile(skeleton) as archive:
        found |= {name.split("/")[0] for name in archive.namelist()}
    known = {name.removeprefix("tpl-") for name in found if name.startswith("tpl-")}
    if space not in known:
        raise UnknownNameError.of("template in --output-spaces", space, known)


def template_grid(space: str, resolution: str) -> tuple[Grid, str]:
    """Find the grid of a template; downloads it only if it is not there.

    Parameters
    ----------
    space, resolution : str
        Name of the template and TemplateFlow's index of the resolution.

    Returns
    -------
    grid : Grid
        The grid.
    url : str
        Public address of the image that defines it.

    Raises
    ------
    InputError
        If the template is unknown, or not there and the network does not answer.
    """
    path = template_path(space, resolution)
    return Grid.of(load_image(path)), f"{_TEMPLATES}/{_name(space, resolution)}"


def template_path(space: str, resolution: str) -> Path:
    """Find the image that defines the grid of a template; downloads it only if it is not there.

    Parameters
    ----------
    space, resolution : str
        Name of the template and TemplateFlow's index of the resolution.

    Raises
    ------
    InputError
        If the template is unknown, or not there and the network does not answer.
    """
    home = os.environ.get("TEMPLATEFLOW_HOME")
    path = Path(home) / _name(space, resolution) if home else None
    if path is None or not _has_content(path):
        path = _download(space, resolution)
    return path


def _name(space: str, resolution: str) -> str:
    return f"tpl-{space}/tpl-{space}_res-{int(resolution):02d}_T1w.nii.gz"


def template_atlas(text: str) -> tuple[Path, Path | None]:
    """Get an atlas from TemplateFlow; downloads it only if it is not there.

    Parameters
    ----------
    text : str
        ``TEMPLATE:atlas-NAME[:res-INDEX][:desc-NAME]``.

    Returns
    -------
    image, table : Path
        The segmentation and the table of its labels, None where there is none.

    Raises
    ------
    InputError
        If the text is something else, the atlas is unknown, or the network does not answer.
    """
    space, *pairs = text.split(":")
    query = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    if "atlas" not in query or len(query) != len(pairs) or query.keys() - {"atlas", "res", "desc"}:
        raise InputError(
            f"The atlas '{text}' is neither a file nor of the form "
            "TEMPLATE:atlas-NAME[:res-INDEX][:desc-NAME].",
            "Write IMAGE.nii.gz+TABLE.tsv, or e.g. "
            "MNI152NLin2009cAsym:res-2:atlas-Schaefer2018:desc-400Parcels7Networks.",
        )
    named = {key: value for key, value in query.items() if key != "res"}
    index = query.get("res", DEFAULT_RESOLUTION)
    if not index.isdigit():
        raise InputError(
            f"The resolution of the atlas '{text}' is no number.", "Write e.g. res-2."
        )
    images = _query(
        f"atlas {text}", space, suffix="dseg", extension=".nii.gz", resolution=int(index), **named
    )
    if not images:
        raise InputError(f"TemplateFlow has no atlas {text}.", "See https://www.templateflow.org.")
    tables = _query(f"table of {text}", space, suffix="dseg", extension=".tsv", **named)
    return images[0], tables[0] if tables else None


def _download(space: str, resolution: str) -> Path:
    what = f"template {space} at res-{resolution}"
    found = _query(what, space, resolution=int(resolution), suffix="T1w", desc=None)
    if not found:
        raise InputError(
            f"TemplateFlow has no T1w image of {space} at res-{resolution}.", _OFFLINE
        )
    return found[0]


def _query(what: str, space: str, **entities: Any) -> list[Path]:
    """Ask TemplateFlow, which downloads what is missing."""
    try:
        # Its import makes folders, and its queries use the network: only when asked for.
        from templateflow import api

        found = api.get(space, **entities)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"The {what} is not here and cannot be downloaded ({type(error).__name__}).", _OFFLINE
        ) from error
    paths = [Path(path) for path in (found if isinstance(found, list) else [found])]
    return [path for path in paths if _has_content(path)]


def _has_content(path: Path) -> bool:
    """Tell a template from the empty placeholder of one."""
    return path.is_file() and path.stat().st_size > 0
