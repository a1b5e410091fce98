"""Files that belong to an image by the BIDS inheritance principle."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bids_gmvae.exceptions import InputError, why_unreadable
from bids_gmvae.io.names import Name, parse_name

#: What a file of git-annex contains when its content was not fetched ("unlocked" files).
ANNEX_POINTER = b"/annex/objects/"


def is_missing(path: Path) -> bool:
    """Tell whether a file is listed but its content is not here (git-annex, DataLad).

    Parameters
    ----------
    path : Path
        A file found in a dataset.
    """
    if not path.exists():
        return True
    if path.stat().st_size > 1024:
        return False
    with path.open("rb") as file:
        return file.read(len(ANNEX_POINTER)) == ANNEX_POINTER


def require_content(path: Path) -> None:
    """Raise `InputError` if the content of a file is not here, may not be read, or never ends.

    Parameters
    ----------
    path : Path
        A file found in a dataset.
    """
    if os.path.exists(path) and not os.access(path, os.R_OK):
        raise InputError(
            f"{path} is needed, but may not be read.",
            "Ask its owner for permission, or leave the run out.",
        )
    if os.path.exists(path) and not os.path.isfile(path):
        # To read a pipe is to wait for ever for somebody who writes.
        raise InputError(
            f"{path} must be a file, but is a folder, a pipe or a device.",
            "Remove or replace it.",
        )
    if is_missing(path):
        raise InputError(
            f"The content of {path} is needed, but the file is a broken link or pointer.",
            f"If the dataset is managed by DataLad, run: datalad get {path}",
        )


class Inheritance:
    """Looks up the companions of images of one dataset, level by level.

    Parameters
    ----------
    root : Path
        Root folder of the dataset; nothing above it is searched. Of an image elsewhere, only the
        folder is searched.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Datasets have thousands of images that share the same few folders.
        self._list: Callable[[Path], list[str]] = functools.cache(_file_names)

    def find(self, image: Path, extension: str) -> list[Path]:
        """Find the applicable files, from the root of the dataset down to the image.

        Parameters
        ----------
        image : Path
            An image of the dataset.
        extension : str
            ``".bval"``, ``".bvec"`` or ``".json"``.

        Returns
        -------
        list of Path
            At most one per level; the last one is the closest to the image.

        Raises
        ------
        InputError
            If two files of one level apply and none has the name of the image.
        """
        wanted = parse_name(image.name)
        found = []
        for folder in self._levels(image):
            applicable = [
                folder / name
                for name in self._list(folder)
                if name.endswith(extension) and _applies(parse_name(name), wanted, extension)
            ]
            twin = folder / (image.name.removesuffix(wanted.extension) + extension)
            if twin in applicable:
                # As in the BIDS validator, a file of the same name leaves no doubt.
                applicable = [twin]
            if len(applicable) > 1:
                names = " and ".join(path.name for path in applicable)
                raise InputError(
                    f"At most one {extension} file per folder may apply to {image.name}, "
                    f"but in {folder} these do: {names}.",
                    "Remove or rename all but one (BIDS inheritance principle).",
                )
            found += applicable
        return found

    def closest(self, image: Path, extension: str) -> Path | None:
        """Find the applicable file closest to the image, if any.

        Parameters
        ----------
        image : Path
            An image of the dataset.
        extension : str
            ``".bval"`` or ``".bvec"``.
        """
        found = self.find(image, extension)
        return found[-1] if found else None

    def metadata(self, image: Path) -> Mapping[str, Any]:
        """Merge the applicable JSON files; the closest to the image wins.

        Parameters
        ----------
        image : Path
            An image of the dataset.

        Raises
        ------
        InputError
            If a file is not a JSON object, or two of one level apply.
        """
        merged: dict[str, Any] = {}
        for path in self.find(image, ".json"):
            merged |= read_json(path)
        return merged

    def _levels(self, image: Path) -> list[Path]:
        if not image.is_relative_to(self.root):
            return [image.parent]
        parts = image.parent.relative_to(self.root).parts
        return [self.root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    InputError
        If the file is missing or is no JSON object.
    """
    require_content(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # no JSON or UTF-8, or numbers beyond measure
        raise InputError(
            f"{path} must be a JSON file, but cannot be read: {why_unreadable(error)}.",
            "Correct the file.",
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} must hold a JSON object, but holds a {type(content).__name__}.",
            "Write it as {...}.",
        )
    return content


def _applies(candidate: Name, wanted: Name, extension: str) -> bool:
    return (
        candidate.extension == extension
        and candidate.suffix == wanted.suffix
        and candidate.entities.items() <= wanted.entities.items()
    )


def _file_names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if "_" in name or name.count(".") == 1)
