"""What all benchmarks share: efforts, tasks in parallel processes, records, tables.

A benchmark is a module of this package with two functions, and a third if it has a picture::

    def tasks(effort: Effort) -> list[Task]              # independent units: condition x seed
    def summarise(records: Sequence[Record]) -> Table    # medians over seeds
    def draw(table: Table, figure: Figure) -> None       # optional

With ``ALONE = True`` its tasks run one after the other, so that times mean something.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

#: One line of results: the condition, the seed, and what was measured.
Record = Mapping[str, Any]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes
    ----------
    quick : bool
        Whether only a few conditions are wanted, to see that everything works.
    n_voxels : int
        Voxels per condition and seed.
    n_seeds : int
        Repetitions; each draws its own tissue and noise.
    """

    quick: bool
    n_voxels: int
    n_seeds: int

    @property
    def name(self) -> str:
        """The option that asks for it."""
        return "quick" if self.quick else "full"


QUICK = Effort(True, n_voxels=2_000, n_seeds=1)
FULL = Effort(False, n_voxels=10_000, n_seeds=5)


@dataclass(frozen=True, eq=False)
class Task:
    """One condition with one seed.

    Attributes
    ----------
    function : callable
        Defined at the top level of its module. Called with ``seed``, the fields of the condition
        and the settings as keywords; gives records.
    condition : mapping
        Becomes part of every record.
    seed : int
        Becomes part of every record.
    settings : mapping
        Further arguments, which no record needs.
    """

    function: Callable[..., Iterable[Record]]
    condition: Mapping[str, Any]
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the progress line calls it."""
        return " ".join([*(str(value) for value in self.condition.values()), f"seed {self.seed}"])

    def run(self) -> list[Record]:
        """Compute the records."""
        measured = self.function(seed=self.seed, **self.condition, **self.settings)
        return [{**self.condition, "seed": self.seed, **record} for record in measured]


def product(
    function: Callable[..., Iterable[Record]],
    effort: Effort,
    *,
    settings: Mapping[str, Any] | None = None,
    **axes: Sequence[Any],
) -> list[Task]:
    """Give a task for every combination of the axes and every seed.

    Parameters
    ----------
    function : callable
        See `Task`; also takes ``n_voxels``, unless ``settings`` are given.
    effort : Effort
        Gives the seeds.
    settings : mapping, optional
        Instead of ``n_voxels``.
    **axes
        Values of each field of the condition.
    """
    given = {"n_voxels": effort.n_voxels} if settings is None else settings
    return [
        Task(function, dict(zip(axes, values, strict=True)), seed, given)
        for values in itertools.product(*axes.values())
        for seed in range(effort.n_seeds)
    ]


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its records, or the traceback that ended it."""

    task: Task
    seconds: float
    records: Sequence[Record] = ()
    error: str | None = None


def run_tasks(
    tasks: Sequence[Task], pool: Executor, *, alone: bool = False
) -> Iterator[tuple[int, Outcome]]:
    """Run tasks in the processes of a pool; yield position and outcome as soon as one is done.

    With ``alone`` the next one starts only when the last has ended.
    """
    limit = 1 if alone else len(tasks)
    waiting = list(reversed(range(len(tasks))))
    running: dict[Future[Outcome], int] = {}
    while waiting or running:
        while waiting and len(running) < limit:
            position = waiting.pop()
            running[pool.submit(_attempt, tasks[position])] = position
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            position = running.pop(future)
            error = future.exception()  # of the process, such as being killed
            lost = Outcome(tasks[position], 0.0, error=repr(error))
            yield position, lost if error else future.result()


def _attempt(task: Task) -> Outcome:
    start = time.process_time()
    try:
        records = task.run()
    except Exception:
        return Outcome(task, time.process_time() - start, error=traceback.format_exc())
    return Outcome(task, time.process_time() - start, records)


def process_pool(n_jobs: int) -> ProcessPoolExecutor:
    """Start processes that compute with one thread each."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    return ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Table:
    """Rows of results.

    Attributes
    ----------
    columns : tuple of str
        In the order they are shown.
    rows : list of mapping
        Missing entries are shown as ``n/a``.
    """

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Table:
        """Take the columns from the rows, in order of appearance."""
        return cls(tuple(dict.fromkeys(key for row in rows for key in row)), rows)

    def where(self, **fields: Any) -> list[Mapping[str, Any]]:
        """Give the rows with these entries."""
        return [
            row
            for row in self.rows
            if all(row.get(name) == value for name, value in fields.items())
        ]

    def cells(self) -> list[list[str]]:
        """Give the head and all rows as text."""
        body = [[_text(row.get(name)) for name in self.columns] for row in self.rows]
        return [list(self.columns), *body]

    def tsv(self, comments: Sequence[str] = ()) -> str:
        """Write tab-separated values below comment lines."""
        lines = [f"# {comment}" for comment in comments]
        return "\n".join([*lines, *("\t".join(row) for row in self.cells())]) + "\n"

    def aligned(self) -> str:
        """Write columns of equal width, for people."""
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = (
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in cells
        )
        return "\n".join(lines)


def _text(value: Any) -> str:
    if value is None or value != value:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def medians(
    records: Sequence[Record], by: Sequence[str], values: Sequence[str]
) -> list[dict[str, Any]]:
    """Take medians of ``values`` over all records that agree in ``by``, in order of appearance.

    Missing and NaN values are left out.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.get(name) for name in by), []).append(record)
    rows = []
    for key, members in groups.items():
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        for name in values:
            found = [float(item[name]) for item in members if name in item]
            found = [number for number in found if number == number]
            row[name] = statistics.median(found) if found else None
        rows.append(row)
    return rows


def pivot(
    rows: Sequence[Mapping[str, Any]], *, across: Sequence[str], values: Sequence[str]
) -> list[dict[str, Any]]:
    """Spread ``values`` over columns named after the entries of the fields ``across``.

    Examples
    --------
    >>> pivot([{"snr": 10, "tissue": "WM", "rmse": 0.1}, {"snr": 10, "tissue": "GM", "rmse": 0.2}],
    ...       across=["tissue"], values=["rmse"])
    [{'snr': 10, 'WM': 0.1, 'GM': 0.2}]
    """
    spread: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        kept = {key: item for key, item in row.items() if key not in (*across, *values)}
        target = spread.setdefault(tuple(kept.values()), kept)
        for name in values:
            entries = [str(row[field]) for field in across]
            target[" ".join([*entries, name] if len(values) > 1 else entries)] = row[name]
    return list(spread.values())
