"""Gradient tables: reading, and rotation into the frame of the image axes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.inheritance import require_content

#: Of a word that is no number, so many letters are shown.
LETTERS = 30


def read_bvals(path: Path) -> NDArray[np.float64]:
    """Read b-values: numbers in one row, or one per row.

    Parameters
    ----------
    path : Path
        FSL-style file; blanks, tabs and line breaks separate.

    Returns
    -------
    array of shape (n_volumes,)
        b-values, s/mm^2.

    Raises
    ------
    InputError
        If the file is no such table.
    """
    rows = _read_rows(path)
    if len(rows) > 1 and any(len(row) != 1 for row in rows):
        raise InputError(
            f"{path} must have one row of b-values, but has {len(rows)} rows.",
            "Check that it is not the .bvec file.",
        )
    return np.array([value for row in rows for value in row])


def read_bvecs(path: Path) -> tuple[NDArray[np.float64], bool]:
    """Read gradient directions: three rows, or three columns.

    Parameters
    ----------
    path : Path
        FSL-style file; blanks, tabs and line breaks separate.

    Returns
    -------
    bvecs : array of shape (n_volumes, 3)
        As in the file.
    transposed : bool
        Whether the file had three columns, against the BIDS rule.

    Raises
    ------
    InputError
        If the file is no such table.
    """
    rows = _read_rows(path)
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise InputError(
            f"{path} must have rows of equal length, but they have "
            f"{_enumerate(sorted(lengths))} values.",
            "Correct the file.",
        )
    table = np.array(rows)
    if len(table) == 3:
        return table.T, False
    if table.shape[1] == 3:
        return table, True
    raise InputError(
        f"{path} must have 3 rows of equal length, but has {len(table)} rows of "
        f"{table.shape[1]} values.",
        "Check that it is the .bvec file.",
    )


def read_b(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read a gradient table of MRtrix: x y z b in each row.

    Parameters
    ----------
    path : Path
        The ``.b`` file that QSIPrep writes.

    Returns
    -------
    vectors : array of shape (n_volumes, 3)
        Directions in world axes (RAS+).
    bvals : array of shape (n_volumes,)
        b-values, s/mm^2.

    Raises
    ------
    InputError
        If the file is no such table.
    """
    rows = _read_rows(path)
    bad = next((number for number, row in enumerate(rows, 1) if len(row) != 4), None)
    if bad is not None:
        raise InputError(
            f"{path} must have 4 values in each row (x y z b), but row {bad} has "
            f"{len(rows[bad - 1])}.",
            "Correct the file, or remove it to use the .bvec file.",
        )
    table = np.array(rows)
    return table[:, :3], table[:, 3]


def fsl_to_image(bvecs: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring FSL-style directions into the frame of the image axes.

    FSL refers to image axes with the first one negated if the affine has a positive determinant.

    Parameters
    ----------
    bvecs : array of shape (n_volumes, 3)
        As in the ``.bvec`` file.
    affine : array of shape (4, 4)
        Voxel indices to world coordinates, mm.

    Returns
    -------
    array of shape (n_volumes, 3)
        Directions along the image axes.

    Examples
    --------
    >>> fsl_to_image(np.array([[1.0, 0.0, 0.0]]), np.eye(4)).tolist()
    [[-1.0, 0.0, 0.0]]
    """
    sign = -1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0
    # Adding 0 turns -0 into 0.
    return bvecs * np.array([sign, 1.0, 1.0]) + 0.0


def world_to_image(
    vectors: NDArray[np.float64], affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rotate directions in world axes into the frame of the image axes.

    Parameters
    ----------
    vectors : array of shape (n_volumes, 3)
        Directions in world axes (RAS+).
    affine : array of shape (4, 4)
        Voxel indices to world coordinates, mm.

    Returns
    -------
    array of shape (n_volumes, 3)
        Directions along the image axes.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return vectors @ np.linalg.inv(cosines).T


def _read_rows(path: Path) -> list[list[float]]:
    require_content(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be a text file, but is not.") from error
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        row = []
        for column, word in enumerate(line.split("#")[0].split(), 1):
            try:
                row.append(float(word))
            except ValueError:
                advice = "Separate by blanks, without commas." if "," in word else "Correct it."
                shown = word if len(word) <= LETTERS else f"{word[:LETTERS]}..."
                raise InputError(
                    f"{path} must hold numbers, but row {number}, column {column} is '{shown}'.",
                    advice,
                ) from None
        if row:
            rows.append(row)
    if not rows:
        size = os.path.getsize(path)
        raise InputError(f"{path} must hold numbers, but is empty ({size} bytes).")
    return rows


def _enumerate(values: list[int]) -> str:
    return " and ".join(str(value) for value in values)
