"""Run benchmarks: ``python -m benchmarks NAME [NAME ...] | all  --quick | --full``."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from benchmarks.framework import FULL, QUICK, Effort, Record, Table, process_pool, run_tasks

ROOT = Path(__file__).parent


def names() -> list[str]:
    """List the modules of this package that are benchmarks: those that define tasks."""
    found = [module.name for module in pkgutil.iter_modules([str(ROOT)])]
    return [name for name in found if "\ndef tasks(" in (ROOT / f"{name}.py").read_text()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code tells whether all of it worked."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=["all", *names()], metavar="NAME",
                        help=f"all, or any of {', '.join(names())}")  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="few voxels, one seed; the default")
    how.add_argument("--full", action="store_true", help="what the documentation shows")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1,
                        help="processes, one thread each; all cores by default")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("work", "benchmarks"),
                        help="where tables and figures go")  # fmt: skip
    options = parser.parse_args(arguments)
    effort = FULL if options.full else QUICK
    chosen = names() if "all" in options.names else options.names
    options.out.mkdir(parents=True, exist_ok=True)
    failures = 0
    with process_pool(options.jobs) as pool:
        for name in chosen:
            try:
                module = importlib.import_module(f"benchmarks.{name}")
                failures += run(name, module, effort, pool, options.out)
            except Exception:
                failures += 1
                _say(f"{name} FAILED\n{traceback.format_exc()}")
    if failures:
        _say(f"{failures} failed")
    return 1 if failures else 0


def run(name: str, module: ModuleType, effort: Effort, pool: Executor, out: Path) -> int:
    """Run one benchmark and write what it gives; return how many tasks failed."""
    start, seconds, failures = time.perf_counter(), 0.0, 0
    tasks = module.tasks(effort)
    by_task: dict[int, Sequence[Record]] = {}
    outcomes = run_tasks(tasks, pool, alone=getattr(module, "ALONE", False))
    for done, (position, outcome) in enumerate(outcomes, start=1):
        seconds += outcome.seconds
        by_task[position] = outcome.records
        _say(f"[{done}/{len(tasks)}] {name} {outcome.task.name} ({outcome.seconds:.1f} CPU s)")
        if outcome.error is not None:
            failures += 1
            _say(f"{name} {outcome.task.name} FAILED\n{outcome.error}")
    records = [record for position in sorted(by_task) for record in by_task[position]]
    if not records:
        return failures
    wall = time.perf_counter() - start
    comments = [
        f"python -m benchmarks {name} --{effort.name}",
        *origin(effort),
        f"{seconds:.0f} CPU s, {wall:.0f} s in all, {failures} tasks failed",
    ]
    table = module.summarise(records)
    print("\n".join(f"# {comment}" for comment in comments))
    print(table.aligned(), flush=True)
    (out / f"{name}.tsv").write_text(table.tsv(comments))
    (out / f"{name}_records.tsv").write_text(Table.of(records).tsv(comments))
    if hasattr(module, "draw"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5), layout="constrained")
        module.draw(table, figure)
        figure.savefig(out / f"{name}.png", dpi=120)
    return failures


def origin(effort: Effort) -> list[str]:
    """Say where figures come from: versions, processor, effort."""
    packages = ("bids-gmvae", "torch", "numpy")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return [
        f"{versions}, Python {platform.python_version()}",
        f"{_processor()}, {os.cpu_count()} cores",
        f"{effort.name}: {effort.n_voxels} voxels, {effort.n_seeds} seeds",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
