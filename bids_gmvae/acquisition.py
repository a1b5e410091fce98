"""What the scanner was told for each measurement of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from bids_gmvae.exceptions import AcquisitionError

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "bvals": "s/mm^2",
        "bvecs": "",
        "echo_times": "s",
        "inversion_times": "s",
        "repetition_times": "s",
        "flip_angles": "deg",
    }
)

#: Volumes below the b0 threshold whose b-values differ by less than this (s/mm^2) are pooled.
LOW_B_RESOLUTION = 5.0


class Acquisition:
    """Settings of the measurements of one run: named columns, one row per measurement.

    Parameters
    ----------
    **columns : Tensor of shape (n_measurements,) or (n_measurements, 3)
        Any of `COLUMNS`, in the units given there. ``bvecs`` are unit vectors in the frame of
        the image axes (voxel columns), with zero vectors where b = 0.

    Raises
    ------
    AcquisitionError
        If a column is unknown or the columns differ in length.

    Examples
    --------
    >>> acquisition = Acquisition(bvals=torch.tensor([0.0, 1000.0]))
    >>> len(acquisition)
    2
    >>> acquisition["echo_times"]
    Traceback (most recent call last):
    bids_gmvae.exceptions.AcquisitionError: The run gives no echo_times, only bvals.
    """

    def __init__(self, **columns: Tensor) -> None:
        for name in columns:
            if name not in COLUMNS:
                raise AcquisitionError(
                    f"Unknown acquisition column '{name}'.", f"Known: {', '.join(COLUMNS)}."
                )
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise AcquisitionError(f"Acquisition columns differ in length: {lengths}.")
        self.columns: Mapping[str, Tensor] = MappingProxyType(dict(columns))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.columns[name]
        except KeyError:
            present = ", ".join(self.columns) or "nothing"
            raise AcquisitionError(f"The run gives no {name}, only {present}.") from None

    @property
    def bvals(self) -> Tensor:
        """Diffusion weighting, s/mm^2, shape (n_measurements,)."""
        return self["bvals"]

    @property
    def bvecs(self) -> Tensor:
        """Gradient directions, unit vectors, shape (n_measurements, 3)."""
        return self["bvecs"]

    @property
    def echo_times(self) -> Tensor:
        """Echo times, s, shape (n_measurements,)."""
        return self["echo_times"]

    def select(self, index: Tensor) -> Acquisition:
        """Keep the measurements at ``index`` (a mask or integer indices)."""
        return Acquisition(**{name: column[index] for name, column in self.columns.items()})

    def to(self, *args: object, **kwargs: object) -> Acquisition:
        """Move or cast every column, like ``Tensor.to``."""
        return Acquisition(
            **{name: column.to(*args, **kwargs) for name, column in self.columns.items()}  # type: ignore[call-overload]
        )


@dataclass(frozen=True, eq=False)
class Shells:
    """Measurements grouped by equal settings up to direction.

    Attributes
    ----------
    index : Tensor of shape (n_measurements,)
        Shell of each measurement; shells are ordered by b-value, then echo time.
    counts : Tensor of shape (n_shells,)
        Measurements per shell.
    acquisition : Acquisition
        Mean settings of each shell, without directions.
    is_b0 : Tensor of bool of shape (n_shells,)
        Whether the shell's b-value is at or below the b0 threshold.
    """

    index: Tensor
    counts: Tensor
    acquisition: Acquisition
    is_b0: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def mean(self, values: Tensor) -> Tensor:
        """Average ``values`` (..., n_measurements) within shells: (..., n_shells)."""
        total = values.new_zeros((*values.shape[:-1], len(self)))
        return total.index_add(-1, self.index, values) / self.counts.to(values)

    def agree(self, other: Shells, tolerance: float) -> bool:
        """Tell whether other shells have the same settings, whatever they count.

        Parameters
        ----------
        other : Shells
            Of another run.
        tolerance : float
            Largest relative difference, e.g. 0.05; of b0 shells `LOW_B_RESOLUTION` counts.
        """
        if len(self) != len(other) or not torch.equal(self.is_b0.cpu(), other.is_b0.cpu()):
            return False
        columns, others = self.acquisition.columns, other.acquisition.columns
        return all(
            torch.allclose(
                columns[name].cpu(), others[name].cpu(), rtol=tolerance,
                atol=LOW_B_RESOLUTION if name == "bvals" else 0.0,
            )
            for name in columns.keys() & others.keys()
        )  # fmt: skip

    def __str__(self) -> str:
        """Write them as ``4 x b0, 8 x 1000, 8 x 2000 s/mm^2``."""
        counts = self.counts.tolist()
        weighted = zip(counts, self.acquisition.bvals.tolist(), self.is_b0.tolist(), strict=True)
        parts = [f"{n} x {b:.0f}" for n, b, is_b0 in weighted if not is_b0]
        n_b0 = int(self.counts[self.is_b0].sum())
        text = ", ".join([f"{n_b0} x b0", *parts] if n_b0 else parts) + " s/mm^2"
        if "echo_times" in self.acquisition:
            times = sorted(set(self.acquisition.echo_times.tolist()))
            text += f" at echo times of {', '.join(f'{time:g}' for time in times)} s"
        return text


def find_shells(
    acquisition: Acquisition, *, b0_threshold: float = 100.0, shell_tolerance: float = 0.05
) -> Shells:
    """Group measurements whose b-values agree within a relative tolerance.

    Parameters
    ----------
    acquisition : Acquisition
        Needs ``bvals``; echo, inversion and repetition times and flip angles split shells.
    b0_threshold : float
        b-values up to this count as b0, s/mm^2. Within them only values closer than
        `LOW_B_RESOLUTION` are pooled, because low b-values carry the perfusion signal.
    shell_tolerance : float
        Half width of a shell relative to its centre, e.g. 0.05 for +-5 %, and widest relative
        gap between neighbouring b-values within it.

    Returns
    -------
    Shells
        The grouping.

    Examples
    --------
    >>> b = torch.tensor([0.0, 995.0, 1000.0, 1005.0, 2010.0, 1990.0])
    >>> find_shells(Acquisition(bvals=b)).counts.tolist()
    [1, 3, 2]
    >>> find_shells(Acquisition(bvals=torch.tensor([2000.0, 2200.0]))).counts.tolist()
    [1, 1]
    """
    bvals = acquisition.bvals.double()
    b_index = torch.zeros(len(bvals), dtype=torch.long)
    first = previous = -1.0
    shell = -1
    widest = (1 + shell_tolerance) / (1 - shell_tolerance)
    for position in torch.argsort(bvals.cpu(), stable=True).tolist():
        b = float(bvals[position])
        if b <= b0_threshold:
            joins = shell >= 0 and b - first <= LOW_B_RESOLUTION
        else:
            # Width alone would merge neighbours such as 2000 and 2200: a shell has no wide gap.
            close = b - previous <= shell_tolerance * b
            joins = first > b0_threshold and close and b <= first * widest
        if not joins:
            shell, first = shell + 1, b
        b_index[position] = shell
        previous = b

    others = [
        acquisition[name].double().cpu()
        for name in ("echo_times", "inversion_times", "repetition_times", "flip_angles")
        if name in acquisition
    ]
    keys = torch.stack([b_index.double(), *others], dim=1)
    _, index = torch.unique(keys, dim=0, return_inverse=True)
    index = index.to(bvals.device)
    counts = torch.bincount(index)
    columns = {
        name: bvals.new_zeros(len(counts)).index_add(0, index, column.double()) / counts
        for name, column in acquisition.columns.items()
        if name != "bvecs"
    }
    return Shells(index, counts, Acquisition(**columns), columns["bvals"] <= b0_threshold)
