"""From simulated files to parameters for every signal model, with nothing left out."""

from dataclasses import replace

import nibabel as nb
import numpy as np
import pytest
import torch

from bids_gmvae.config import ModelSettings, RunSettings, SelectionSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.io.measured import noise_level
from bids_gmvae.modalities.dwi import check, find_runs
from bids_gmvae.signal_models import SIGNAL_MODELS, get_signal_model
from bids_gmvae.simulation.dataset import simulate_dataset
from bids_gmvae.voxels import Grid

SNR = 25
WHITE, GREY = 1, 2
#: Parameters with more prior influence are the population's, not the voxel's.
DECIDED = 0.8


def truth_of(folder, stem, parameter):
    """Find the true map of a parameter."""
    entity = parameter.bids.get("param")
    name = (
        f"_param-{entity}_desc-truth_dwimap"
        if entity
        else f"_desc-truth_{parameter.bids['suffix']}"
    )
    (path,) = folder.rglob(f"{stem}*{name}.nii.gz")
    return nb.load(path).get_fdata()


def map_simulated(name, folder):
    """Simulate a small scan, read it as the app does, and estimate it twice."""
    simulate_dataset(
        folder, n_subjects=1, signal_model=name, snr=SNR, voxel_size=5.0, n_slices=2, seed=4
    )
    settings = RunSettings(
        folder, folder / "out", "participant",
        selection=SelectionSettings(participant_label=("01",)),
        model=ModelSettings(signal_model=(name,), n_components=5),
    )  # fmt: skip
    ((run, *_), _) = find_runs(settings)
    checked = check(run, settings.model)
    assert checked.acquisition is not None
    image = nb.load(run.image)
    truth = folder / "derivatives" / "truth"
    (labels,) = truth.rglob("*_desc-truth_dseg.nii.gz")
    labels = np.asarray(nb.load(labels).dataobj)
    mask = labels > 0
    signals = torch.from_numpy(image.get_fdata(dtype=np.float32)[mask])
    sigma = noise_level(signals, mask, Grid.of(image), checked.acquisition, settings.model)
    measured = Measurements(signals, sigma, checked.acquisition)
    model = get_signal_model(name)
    posteriors = {
        estimator: get_estimator(estimator)(model, replace(settings.model))
        .fit(measured)
        .posterior(measured)
        for estimator in ("gmvae", "lsq")
    }
    values = np.stack(
        [truth_of(truth, run.stem, parameter)[mask] for parameter in model.parameters], axis=1
    )
    (noise,) = truth.rglob("*_param-noise_desc-truth_dwimap.nii.gz")
    level = sigma.numpy() / nb.load(noise).get_fdata()[mask]
    return posteriors, values, labels[mask], level


@pytest.mark.parametrize("name", sorted(SIGNAL_MODELS))
def test_the_truth_is_recovered_with_honest_intervals_and_better_than_voxel_by_voxel(
    name, tmp_path
):
    posteriors, values, labels, level = map_simulated(name, tmp_path)
    assert np.median(level) == pytest.approx(1, abs=0.08), "noise level"
    estimates = {key: posterior.mean.numpy() for key, posterior in posteriors.items()}
    for key, estimate in estimates.items():
        assert np.isfinite(estimate).mean() > 0.998, f"{key} fails"
    within = np.abs(estimates["gmvae"] - values) < posteriors["gmvae"].std.numpy()
    for tissue in (WHITE, GREY):
        own = labels == tissue
        errors = {
            key: np.sqrt(np.nanmean((estimate - values)[own] ** 2, axis=0))
            for key, estimate in estimates.items()
        }
        assert (errors["gmvae"] < 1.02 * errors["lsq"]).all(), errors
        # Where the prior decides, a learnt prior's own error is what remains; it is flagged.
        decided = np.median(posteriors["gmvae"].prior_influence.numpy()[own], axis=0) > DECIDED
        covered = within[own].mean(axis=0)
        assert (decided | (covered > 0.58) & (covered < 0.78)).all(), covered
    assert not decided.all()
