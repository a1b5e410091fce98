"""Every benchmark can be run, and says what it does."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import calibration, framework
from benchmarks.__main__ import names
from benchmarks.framework import FULL, QUICK, Effort
from benchmarks.misspecified import CROSSED, _break
from benchmarks.samples import draw_sample


@pytest.mark.parametrize("name", names())
def test_every_benchmark_says_what_it_does_and_has_tasks(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert len(module.__doc__.split()) > 50
    quick, full = module.tasks(QUICK), module.tasks(FULL)
    assert len(quick) <= len(full)  # none without the data that `real` needs
    assert len({(task.name, task.function) for task in full}) == len(full)


@pytest.mark.parametrize("name", names())
def test_the_readme_names_every_benchmark(name):
    readme = Path(framework.__file__).with_name("README.md").read_text()
    assert f"| `{name}` |" in readme


def test_a_tiny_run_gives_a_table():
    effort = Effort(True, n_voxels=60, n_seeds=1)
    task = calibration.tasks(effort)[1]
    table = calibration.summarise(task.run())
    assert {row["method"] for row in table.rows} == {"lsq", "gmvae"}
    assert all(0 <= row["WM cov68"] <= 1 for row in table.rows)


def test_only_the_crossing_voxels_change():
    sample = draw_sample("ball_stick", "multishell", 20, n_voxels=50, seed=0)
    labels = sample.labels.clone()
    labels[:5] = CROSSED
    changed = _break("crossing", replace(sample, labels=labels), torch.Generator().manual_seed(0))
    same = (changed.run.signals == sample.run.signals).all(dim=1)
    assert not same[:5].any()
    assert same[5:].all()
