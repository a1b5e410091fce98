"""Which slices of a volume are shown, and how they lie on the page."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

#: An axis with voxels this much longer than the others is the one across slices.
THICK = 1.4

#: So is an axis with this many times fewer voxels than the others.
FEW = 4

#: Voxels left around the mask.
MARGIN = 2

#: Canonical axes (R, A, S): name, and the letters at the left and right edge when it is
#: horizontal. Radiological convention: the patient's right is on the left.
_NAMES = "xyz"
_SIDES = (("R", "L"), ("A", "P"))

#: For slices across x, y, z: the canonical axes that are horizontal and vertical.
_PLANES = ((1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, eq=False)
class View:
    """The slices of a run that all its figures show.

    Attributes
    ----------
    orientation : array of shape (3, 2)
        From voxel axes to the closest of R, A, S, as nibabel gives it.
    axis : int
        Canonical axis across slices.
    positions : tuple of int
        Slices along it.
    crop : tuple of slice
        Rows and columns of a drawn tile that hold the mask.
    aspect : float
        Height over width of a drawn pixel.
    labels : tuple of str
        Place of each slice, mm.
    sides : tuple of str
        What the left and the right edge of a tile are.
    """

    orientation: NDArray[np.float64]
    axis: int
    positions: tuple[int, ...]
    crop: tuple[slice, slice]
    aspect: float
    labels: tuple[str, ...]
    sides: tuple[str, str]

    def tiles(self, volume: NDArray) -> list[NDArray]:
        """Cut a volume (3-D, or 4-D with colours last) into one upright tile per slice."""
        canonical = nb.orientations.apply_orientation(volume, self.orientation)
        return [
            upright(canonical.take(position, self.axis))[self.crop] for position in self.positions
        ]

    @property
    def tile_shape(self) -> tuple[float, float]:
        """Height and width of a tile, in units of a drawn pixel's width."""
        rows, columns = self.crop
        return (rows.stop - rows.start) * self.aspect, float(columns.stop - columns.start)


def choose_view(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], *, n_slices: int = 6
) -> View:
    """Choose evenly spaced slices through a mask.

    Parameters
    ----------
    mask : array of bool, 3-D
        What is to be seen; where it is empty, the whole volume is.
    affine : array of shape (4, 4)
        Voxel indices to world coordinates, mm.
    n_slices : int
        At most so many.

    Returns
    -------
    View
        Slices across the thickest voxel axis if there is one, else axial.
    """
    if not mask.any():
        mask = np.ones_like(mask)
    orientation = nb.io_orientation(affine)
    canonical = nb.orientations.apply_orientation(mask, orientation).astype(bool)
    to_world = affine @ nb.orientations.inv_ornt_aff(orientation, mask.shape)
    sizes = nb.affines.voxel_sizes(to_world)
    axis = _across(canonical.shape, sizes)
    horizontal, vertical = _PLANES[axis]

    counts = canonical.sum(axis=(horizontal, vertical))
    shown = upright(canonical.any(axis=axis))
    crop = (_extent(np.any(shown, axis=1)), _extent(np.any(shown, axis=0)))
    aspect = float(sizes[vertical] / sizes[horizontal])
    flatness = (crop[1].stop - crop[1].start) / ((crop[0].stop - crop[0].start) * aspect)
    # Flat cuts, such as both legs, would be too small to read side by side.
    positions = _spread(counts, min(n_slices, max(2, int(n_slices * 1.2 / flatness))))
    centre = np.array(canonical.shape) / 2
    labels = []
    for position in positions:
        centre[axis] = position
        world = to_world[:3] @ np.append(centre, 1)
        labels.append(f"{_NAMES[axis]} = {world[axis]:.0f} mm".replace("-", "−"))
    return View(
        orientation=orientation,
        axis=axis,
        positions=positions,
        crop=crop,
        aspect=aspect,
        labels=tuple(labels),
        sides=_SIDES[horizontal],
    )


def upright(plane: NDArray) -> NDArray:
    """Turn a plane (horizontal, vertical) into rows from the top, flipped left to right."""
    return np.swapaxes(plane, 0, 1)[::-1, ::-1]


def _across(shape: tuple[int, ...], sizes: NDArray[np.float64]) -> int:
    """Choose the axis across slices: a lone slice, thick slices, few slices, else axial."""
    for axis in (2, 1, 0):
        if shape[axis] == 1:
            return axis
    for axis in (2, 1, 0):
        others = [other for other in range(3) if other != axis]
        if sizes[axis] > THICK * max(sizes[other] for other in others):
            return axis
    for axis in (2, 1, 0):
        others = [other for other in range(3) if other != axis]
        if shape[axis] * FEW < min(shape[other] for other in others):
            return axis
    return 2


def _spread(counts: NDArray[np.int_], n_slices: int) -> tuple[int, ...]:
    """Choose evenly spaced slices between those that leave 4 % of the mask outside."""
    inside = np.flatnonzero(counts)
    if len(inside) <= n_slices:
        return tuple(int(position) for position in inside)
    share = np.cumsum(counts) / counts.sum()
    first, last = np.searchsorted(share, (0.04, 0.96))
    if last - first < n_slices:
        first, last = inside[0], inside[-1]
    spaced = np.unique(np.linspace(first, last, n_slices).round().astype(int))
    return tuple(int(position) for position in spaced)


def _extent(present: NDArray) -> slice:
    inside = np.flatnonzero(present)
    return slice(max(0, int(inside[0]) - MARGIN), min(len(present), int(inside[-1]) + 1 + MARGIN))
