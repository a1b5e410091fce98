"""The transform between a simulated head and the template it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

#: World axes of ITK (left, posterior, superior) in those of NIfTI (right, anterior, superior).
LPS = np.diag([-1.0, -1.0, 1.0])

#: Grid of the displacements: first point, spacing (mm) and shape; it holds the whole head.
FIELD_ORIGIN = np.array([-104.0, -140.0, -80.0])
FIELD_SPACING = 8.0
FIELD_SHAPE = (27, 31, 25)


@dataclass(frozen=True, eq=False)
class Warp:
    r"""From template to subject, as :math:`x = M (y + u(y)) + t`.

    Attributes
    ----------
    matrix : array of shape (3, 3)
        Linear part M.
    translation : array of shape (3,)
        Shift t, mm.
    field : array of shape (*FIELD_SHAPE, 3)
        Displacements u on the template's side, mm, along right, anterior, superior.
    """

    matrix: NDArray[np.float64]
    translation: NDArray[np.float64]
    field: NDArray[np.float64]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Warp:
        """Draw a head of its own size, position and shape: a few degrees, per cent and mm."""
        rx, ry, rz = np.deg2rad(rng.normal(0.0, 2.0, 3))
        skew = np.array([[0.0, -rz, ry], [rz, 0.0, -rx], [-ry, rx, 0.0]])
        rotation: NDArray[np.float64] = np.eye(3) + skew + skew @ skew / 2
        matrix = rotation * rng.normal(1.0, 0.02, 3)
        noise = rng.standard_normal((*FIELD_SHAPE, 3))
        field: NDArray[np.float64] = gaussian_filter(noise, (4.0, 4.0, 4.0, 0.0), mode="wrap")
        # Without displacement at its border the field ends without a step, as ITK assumes.
        for axis, size in enumerate(FIELD_SHAPE):
            window = np.sin(np.pi * np.arange(size) / (size - 1))
            field *= np.expand_dims(window, [other for other in range(4) if other != axis])
        field *= 2.0 / float(field.std())
        return cls(matrix, rng.normal(0.0, 1.5, 3), field)

    def to_subject(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points of the template (..., 3), mm, to the subject."""
        return (points + _displacement(self.field, points)) @ self.matrix.T + self.translation

    def to_template(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points of the subject (..., 3), mm, to the template."""
        linear = (points - self.translation) @ np.linalg.inv(self.matrix).T
        return _undisplace(self.field, linear)

    def write(self, path: Path) -> None:
        """Write the transform that resamples the subject onto the template, as ITK composite."""
        _write_composite(path, [self._affine(), ("field", self.field)])

    def write_inverse(self, path: Path) -> None:
        """Write the transform that resamples the template onto the subject."""
        axes = [
            start + FIELD_SPACING * np.arange(n)
            for start, n in zip(FIELD_ORIGIN, FIELD_SHAPE, strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        inverse = _undisplace(self.field, grid) - grid
        matrix = np.linalg.inv(self.matrix).astype(np.float64)
        affine = Warp(matrix, -matrix @ self.translation, self.field)._affine()
        _write_composite(path, [("field", inverse), affine])

    def _affine(self) -> tuple[str, NDArray[np.float64]]:
        matrix = LPS @ self.matrix @ LPS
        return "affine", np.concatenate([matrix.ravel(), LPS @ self.translation])


def _displacement(field: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    index = np.moveaxis((points - FIELD_ORIGIN) / FIELD_SPACING, -1, 0)
    columns = [map_coordinates(field[..., axis], index, order=1) for axis in range(3)]
    return np.stack(columns, axis=-1)


def _undisplace(field: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve y + u(y) = points; the displacements vary slowly, so iterating contracts."""
    solution = points
    for _ in range(20):
        solution = points - _displacement(field, solution)
    return solution


def _write_composite(path: Path, transforms: list[tuple[str, NDArray[np.float64]]]) -> None:
    """Write the layout of ITK's HDF5 transform files; the last transform applies first."""
    geometry = np.concatenate(
        [FIELD_SHAPE, LPS @ FIELD_ORIGIN, np.full(3, FIELD_SPACING), LPS.ravel()]
    )
    text = h5py.string_dtype("ascii")  # ITK refuses UTF-8
    with h5py.File(path, "w") as file:
        group = file.create_group("TransformGroup")
        composite = group.create_group("0")
        composite.create_dataset(
            "TransformType", data=["CompositeTransform_double_3_3"], dtype=text
        )
        for position, (kind, values) in enumerate(transforms, start=1):
            item = group.create_group(str(position))
            if kind == "affine":
                name, fixed, parameters = "AffineTransform", np.zeros(3), values
            else:
                name, fixed = "DisplacementFieldTransform", geometry
                # Vector components vary fastest, then the first axis.
                parameters = np.moveaxis(values @ LPS, -1, 0).ravel(order="F")
            item.create_dataset("TransformType", data=[f"{name}_double_3_3"], dtype=text)
            item.create_dataset("TransformFixedParameters", data=fixed.astype(np.float64))
            item.create_dataset("TransformParameters", data=parameters)
