"""Self-supervised training."""

import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.nn.training import RelativeSignals, train
from bids_gmvae.nn.vae import DirectNetwork, Draw, GaussianVAE
from bids_gmvae.signal_models import get_signal_model

MODEL = get_signal_model("msdki")
BVALS = torch.tensor([0.0, 0, 1000, 1000, 2000, 2000, 3000, 3000])


def make_run(n_voxels=256, bvals=BVALS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    acquisition = Acquisition(bvals=bvals)
    z = 0.5 * torch.randn(n_voxels, 2, generator=generator)
    signals = MODEL(MODEL.to_physical(z), acquisition)
    return RelativeSignals(signals, None, acquisition, bvals == bvals.min())


def fit(network, *runs, n_epochs=10, kl_weight=1e-4, seed=0, progress=lambda *_: None):
    return train(
        network,
        runs,
        n_epochs=n_epochs,
        kl_weight=kl_weight,
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
        batch_size=32,
    )


def test_training_explains_the_signals():
    run = make_run()
    network = DirectNetwork(MODEL, 8)
    network.encoder.standardise(run.signals)
    history = fit(network, run, n_epochs=20)
    spread = run.signals.var(dim=0).mean()
    assert len(history) == 20
    assert history[-1] > -0.06 * spread
    assert history[-1] > history[0]


def test_progress_hears_the_history():
    heard = []
    run = make_run(n_voxels=64)
    history = fit(DirectNetwork(MODEL, 8), run, n_epochs=3, progress=lambda *a: heard.append(a))
    assert heard == [(1, 3, history[0]), (2, 3, history[1]), (3, 3, history[2])]


def test_the_same_seed_gives_the_same_history():
    run = make_run(n_voxels=64)
    torch.manual_seed(0)
    first = fit(GaussianVAE(MODEL, 8, 4), run, n_epochs=2, seed=5)
    torch.manual_seed(0)
    network = GaussianVAE(MODEL, 8, 4)
    torch.manual_seed(99)
    assert fit(network, run, n_epochs=2, seed=5) == first


def test_a_heavier_divergence_leaves_less_information_in_the_latent():
    run = make_run()
    divergences = []
    for kl_weight in (1e-5, 1e-1):
        torch.manual_seed(0)
        network = GaussianVAE(MODEL, 8, 4)
        fit(network, run, kl_weight=kl_weight)
        noise = torch.zeros(len(run), network.n_noise)
        divergences.append(float(network(run.signals, noise).kl.mean().detach()))
    assert divergences[1] < 0.05 * divergences[0]


def test_each_run_is_decoded_with_its_own_acquisition():
    # The same tissue, measured with other b-values: no acquisition alone explains both runs.
    runs = make_run(), make_run(bvals=torch.cat([BVALS[:2], BVALS[2:] / 2]))
    network = DirectNetwork(MODEL, 8)
    network.encoder.standardise(torch.cat([run.signals for run in runs]))
    history = fit(network, *runs, n_epochs=20)
    assert history[-1] > -0.1 * runs[0].signals.var(dim=0).mean()


def test_predictions_are_relative_to_the_least_weighted_measurements():
    bvals = torch.tensor([200.0, 200.0, 1000.0])
    run = RelativeSignals(torch.ones(1, 3), None, Acquisition(bvals=bvals), bvals == 200)
    predicted = run.predict(MODEL, Draw(torch.tensor([[1e-3, 0.0]]), None))
    expected = torch.exp(-torch.tensor([[0.0, 0.0, 0.8]]))
    torch.testing.assert_close(predicted, expected)


def test_voxels_keep_their_axes_when_selected():
    axes = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    run = RelativeSignals(torch.rand(5, 8), axes, Acquisition(bvals=BVALS), BVALS == 0)
    part = run.select(torch.tensor([3, 1]))
    assert len(part) == 2
    torch.testing.assert_close(part.axes, axes[[3, 1]])
