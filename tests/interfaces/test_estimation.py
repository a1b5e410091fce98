from dataclasses import replace

import numpy as np
import pytest
import torch
from nipype.pipeline import engine as pe

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements, no_progress
from bids_gmvae.estimators.device import resolve_device
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.exceptions import DeviceError, GMVAEError, InputError
from bids_gmvae.interfaces import FitRuns
from bids_gmvae.interfaces.estimation import fit_runs
from bids_gmvae.io.derivatives import write_result
from bids_gmvae.io.measured import MeasuredRun
from bids_gmvae.io.result import RunResult
from bids_gmvae.io.training import read_training
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.voxels import Grid
from tests.bids_tree import directions
from tests.results import make_run
from tests.tiny import BVALS, SHAPE, signals


def measured_run(seed=0, subject="01"):
    """Make a run of voxels without files."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:-2, 2:-2, 1] = True
    data = signals(seed)[mask].astype(np.float32)
    bvecs = torch.from_numpy(directions(len(BVALS)) * (BVALS[:, None] > 0))
    return MeasuredRun(
        run=make_run(subject=subject),
        grid=Grid(SHAPE, np.eye(4), 1, 1),
        mask=mask,
        removed=np.zeros_like(mask),
        reference=np.ones(SHAPE, np.float32),
        measurements=Measurements(
            torch.from_numpy(data),
            torch.full((len(data),), 30.0),
            Acquisition(bvals=torch.from_numpy(BVALS), bvecs=bvecs),
        ),
        info={"issues": [], "mask": {}, "shells": [], "frame": "image axes"},
    )


def test_a_measured_run_survives_its_file(tmp_path):
    run = measured_run()
    run.save(tmp_path / "voxels.pt")
    again = MeasuredRun.load(tmp_path / "voxels.pt")
    assert torch.equal(again.measurements.signals, run.measurements.signals)
    assert torch.equal(again.measurements.acquisition.bvecs, run.measurements.acquisition.bvecs)
    assert np.array_equal(again.mask, run.mask)
    assert again.run == run.run
    assert again.info == run.info


def test_other_signals_make_another_file(tmp_path):
    run = measured_run()
    run.save(tmp_path / "voxels.pt")
    before = (tmp_path / "voxels.pt").read_bytes()
    run.measurements.signals[3, 2] += 1
    run.save(tmp_path / "voxels.pt")
    assert (tmp_path / "voxels.pt").read_bytes() != before


@pytest.mark.parametrize("name", ["voxels.pt", "voxels.f32"])
@pytest.mark.parametrize("damage", [lambda half: bytes(len(half)), lambda _: b""], ids="0-")
def test_a_measured_run_that_was_damaged_is_not_fitted(tmp_path, name, damage):
    run, path = measured_run(), tmp_path / name
    run.save(tmp_path / "voxels.pt")
    content = path.read_bytes()
    middle = len(content) // 8 * 4
    path.write_bytes(content[:middle] + damage(content[middle:]))
    with pytest.raises(GMVAEError, match=rf"{name} was changed or damaged .*{tmp_path} and run"):
        MeasuredRun.load(tmp_path / "voxels.pt")


def test_a_number_that_changed_in_a_result_is_noticed(tmp_path):
    _, (result,) = fit_runs(
        [measured_run()], get_signal_model("msdki"), [""], ModelSettings(), estimator="lsq",
        device="cpu", progress=no_progress,
    )  # fmt: skip
    path = tmp_path / "result.pt"
    result.save(path)
    content = path.read_bytes()
    sigma = np.full(3, 30, "f4").tobytes()
    assert sigma in content
    path.write_bytes(content.replace(sigma, np.full(3, 31, "f4").tobytes(), 1))
    with pytest.raises(GMVAEError, match=r"result\.pt was changed or damaged"):
        RunResult.load(path)


def test_the_interface_keeps_the_order_of_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [measured_run(1, "b"), measured_run(2, "a")]
    for index, run in enumerate(runs):
        run.save(tmp_path / f"{index}.pt")
    done = FitRuns(
        voxels=[str(tmp_path / "0.pt"), str(tmp_path / "1.pt")],
        signal_model="msdki",
        estimator="lsq",
        reasons=["first", "second"],
        settings={},
    ).run()
    results = [RunResult.load(path) for path in done.outputs.results]
    assert [result.run.subject for result in results] == ["b", "a"]
    assert [result.info["reason"] for result in results] == ["first", "second"]
    assert all(result.lsq is None for result in results)


def test_the_same_fit_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _, (result,) = fit_runs(
            [measured_run()],
            get_signal_model("msdki"),
            ["as requested"],
            ModelSettings(),
            estimator="lsq",
            device="cpu",
            progress=no_progress,
        )
        result.save(tmp_path / name / "result.pt")
    one, two = ((tmp_path / name / "result.pt").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_fit_for_another_model_is_refused(tmp_path):
    arguments = {"estimator": "lsq", "device": "cpu", "progress": no_progress}
    fit, _ = fit_runs(
        [measured_run()], get_signal_model("msdki"), [""], ModelSettings(), **arguments
    )
    fit.save(tmp_path / "fit.pt")
    with pytest.raises(InputError, match=r"is for the signal model msdki"):
        fit_runs(
            [measured_run()],
            get_signal_model("ball_stick"),
            [""],
            ModelSettings(),
            reuse_fit=tmp_path / "fit.pt",
            **arguments,
        )


def test_a_missing_cuda_device_is_an_error_that_says_how_to_expose_it():
    with pytest.raises(DeviceError, match=r"--gpus all.*--nv"):
        resolve_device("cuda:99")


def test_the_voxels_that_were_learnt_from_go_on_with_the_result(tmp_path):
    settings = ModelSettings(n_components=2)
    runs = [measured_run(1, "b"), measured_run(2, "a")]
    _, results = fit_runs(
        runs, get_signal_model("msdki"), ["", ""], settings, estimator="gmvae", device="cpu",
        progress=no_progress,
    )  # fmt: skip
    for run, result in zip(runs, results, strict=True):
        result.save(tmp_path / "result.pt")
        again = RunResult.load(tmp_path / "result.pt")
        expected = Problem.of(
            run.measurements.to("cpu", torch.float64), get_signal_model("msdki"), settings
        )
        torch.testing.assert_close(again.training.data, expected.data, rtol=1e-7, atol=0)
    written = write_result(results[0], tmp_path, provenance={})
    (voxels,) = [path for path in written if path.name.endswith("_voxels.pt")]
    assert len(read_training(voxels)) == len(runs[0].measurements)
    write_result(replace(results[0], training=None), tmp_path, provenance={})
    assert not voxels.exists()


def test_a_fit_is_taken_up_again_only_with_the_same_settings(tmp_path):
    measured_run().save(tmp_path / "voxels.pt")

    def fit(**settings):
        node = pe.Node(FitRuns(signal_model="msdki", estimator="lsq"), "fit", base_dir=tmp_path)
        node.inputs.trait_set(
            voxels=[str(tmp_path / "voxels.pt")], reasons=["as requested"], settings=settings
        )
        node.run()
        (result,) = tmp_path.glob("fit/result*.pt")
        return RunResult.load(result).info["fit"]["settings"], result.stat().st_mtime_ns

    first, again, other = fit(), fit(), fit(noise_model="gaussian")
    assert first == again
    assert other[0]["noise_model"] == "gaussian"
