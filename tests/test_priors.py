"""The mixture prior, against closed forms and brute force."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from bids_gmvae.priors import (
    GaussianMixturePrior,
    Potential,
    Statistics,
    combine_compiled,
    combine_tensors,
    invert,
    learn,
    spread_centres,
    sum_compiled,
)

F64 = torch.float64
LOWER, UPPER = torch.full((2,), -3.0, dtype=F64), torch.full((2,), 3.0, dtype=F64)


def random_precisions(n, generator):
    root = torch.randn(n, 2, 2, dtype=F64, generator=generator)
    return root @ root.transpose(1, 2) + 0.5 * torch.eye(2, dtype=F64)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def prior():
    return GaussianMixturePrior(
        weights=torch.tensor([0.6, 0.3, 0.1], dtype=F64),
        means=torch.tensor([[-0.5, 0.4], [1.0, -0.8], [0.0, 0.0]], dtype=F64),
        covariances=torch.tensor(
            [[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.05]], [[1.0, 0.0], [0.0, 1.0]]],
            dtype=F64,
        ),
        lower=LOWER,
        upper=UPPER,
        fixed=torch.tensor([False, False, True]),
        pull=torch.zeros(2, dtype=F64),
    )


@pytest.fixture
def potential(generator):
    precision = random_precisions(5, generator)
    mode = torch.randn(5, 2, dtype=F64, generator=generator)
    return Potential(
        precision, torch.einsum("vpq,vq->vp", precision, mode), torch.zeros(5, dtype=F64)
    )


def test_small_matrices_are_inverted_as_by_lapack(generator):
    for n in (1, 2, 3, 4):
        root = torch.randn(6, n, n, dtype=F64, generator=generator)
        matrices = root @ root.transpose(1, 2) + torch.eye(n, dtype=F64)
        inverse, log_determinant = invert(matrices)
        torch.testing.assert_close(inverse, torch.linalg.inv(matrices))
        torch.testing.assert_close(log_determinant, torch.logdet(matrices))


def test_the_posterior_equals_brute_force_on_a_grid(prior, potential):
    axis = torch.linspace(-6, 6, 601, dtype=F64)
    z = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    density = sum(
        weight * MultivariateNormal(mean, covariance).log_prob(z).exp()
        for weight, mean, covariance in zip(
            prior.weights, prior.means, prior.covariances, strict=True
        )
    )
    posterior = prior.posterior(potential)
    for voxel in range(len(potential)):
        quadratic = torch.einsum("np,pq,nq->n", z, potential.precision[voxel], z)
        mass = density * torch.exp(z @ potential.shift[voxel] - quadratic / 2) * cell
        torch.testing.assert_close(posterior.log_evidence[voxel], mass.sum().log())
        mean = posterior.responsibilities[voxel] @ posterior.means[voxel]
        torch.testing.assert_close(mean, (mass[:, None] * z).sum(0) / mass.sum())


@pytest.mark.parametrize("n_latent", [1, 2, 3, 5])
@pytest.mark.parametrize("own", [True, False], ids=["potential by component", "one for all"])
def test_the_compiled_posterior_equals_the_tensors(n_latent, own, generator):
    n_voxels, n_components = 7, 4

    def matrices(*shape):
        root = torch.randn(*shape, n_latent, n_latent, dtype=F64, generator=generator)
        return root @ root.transpose(-1, -2) + 0.1 * torch.eye(n_latent, dtype=F64)

    def numbers(*shape):
        return 5 * torch.randn(*shape, dtype=F64, generator=generator)

    shape = (n_voxels, n_components) if own else (n_voxels,)
    potential = Potential(matrices(*shape), numbers(*shape, n_latent), numbers(*shape))
    components = matrices(n_components), numbers(n_components, n_latent), numbers(n_components)
    expected = combine_tensors(potential, *components)
    torch.testing.assert_close(vars(combine_compiled(potential, *components)), vars(expected))
    summed = sum_compiled(potential, *components)
    torch.testing.assert_close(vars(summed), vars(Statistics.of(expected)))


def test_no_data_give_the_prior_back(prior):
    nothing = Potential(
        torch.zeros(1, 2, 2, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.zeros(1, dtype=F64)
    )
    posterior = prior.posterior(nothing)
    torch.testing.assert_close(posterior.responsibilities[0], prior.weights)
    torch.testing.assert_close(posterior.means[0], prior.means)
    torch.testing.assert_close(posterior.log_evidence, torch.zeros(1, dtype=F64))


def test_statistics_of_shards_add_up(prior, potential):
    whole = prior.posterior(potential)
    parts = [
        Statistics.of(prior.posterior(potential.select(torch.tensor(rows))))
        for rows in ([0, 3], [1], [2, 4])
    ]
    added = prior.update(parts[0] + parts[1] + parts[2])
    at_once = prior.update(Statistics.of(whole))
    torch.testing.assert_close(added.means, at_once.means)
    torch.testing.assert_close(added.covariances, at_once.covariances)
    torch.testing.assert_close(added.weights, at_once.weights)


def test_a_known_mixture_is_learnt_from_noisy_voxels(prior, generator):
    n = 20_000
    label = torch.multinomial(prior.weights, n, replacement=True, generator=generator)
    noise = torch.randn(n, 2, dtype=F64, generator=generator)
    root = torch.linalg.cholesky(prior.covariances)[label]
    truth = prior.means[label] + torch.einsum("vpq,vq->vp", root, noise)
    precision = 20 * torch.eye(2, dtype=F64).expand(n, -1, -1)
    seen = truth + torch.randn(n, 2, dtype=F64, generator=generator) / 20**0.5
    potential = Potential(precision, 20 * seen, torch.zeros(n, dtype=F64))
    start = GaussianMixturePrior.around(
        spread_centres(seen, 2, generator), spread=0.3, lower=LOWER, upper=UPPER
    )
    learnt, history = learn(start, potential, n_steps=200)
    learnt = learnt.sorted()
    torch.testing.assert_close(learnt.means, prior.means, rtol=0, atol=0.04)
    torch.testing.assert_close(learnt.covariances, prior.covariances, rtol=0, atol=0.04)
    torch.testing.assert_close(learnt.weights, prior.weights, rtol=0, atol=0.03)
    steps = torch.tensor(history).diff()
    assert (steps > -1e-5).all(), "expectation-maximisation must not lose evidence"


def test_the_broad_component_neither_moves_nor_dies(prior, generator):
    # So many that the pseudo-count alone would let it fall below the floor.
    n = 20_000
    seen = 0.05 * torch.randn(n, 2, dtype=F64, generator=generator)
    potential = Potential(
        400 * torch.eye(2, dtype=F64).expand(n, -1, -1), 400 * seen, torch.zeros(n, dtype=F64)
    )
    start = GaussianMixturePrior.around(
        torch.zeros(2, 2, dtype=F64), spread=0.3, lower=LOWER, upper=UPPER
    )
    learnt, _ = learn(start, potential)
    assert learnt.weights[-1] >= 1e-3
    assert (learnt.means[-1] == 0).all()
    torch.testing.assert_close(learnt.covariances[-1], torch.eye(2, dtype=F64))


def test_component_means_stay_in_their_box(prior, generator):
    seen = torch.full((200, 2), 5.0, dtype=F64)
    potential = Potential(
        100 * torch.eye(2, dtype=F64).expand(200, -1, -1), 100 * seen, torch.zeros(200, dtype=F64)
    )
    learnt, _ = learn(prior, potential, n_steps=20)
    assert (learnt.means <= UPPER).all()


def test_an_anchor_keeps_its_place_and_learns_its_weight(generator):
    anchor = torch.tensor([1.5, -1.0], dtype=F64)
    start = GaussianMixturePrior.around(
        torch.zeros(1, 2, dtype=F64), spread=0.3, lower=LOWER, upper=UPPER, anchor=anchor
    )
    assert start.n_components == 2
    modes = 0.3 * torch.randn(400, 2, dtype=F64, generator=generator)
    modes[:100] = anchor
    precision = 1e4 * torch.eye(2, dtype=F64).expand(400, -1, -1)
    potential = Potential(precision, 1e4 * modes, torch.zeros(400, dtype=F64))
    prior, _ = learn(start, potential)
    torch.testing.assert_close(prior.means[1], anchor)
    torch.testing.assert_close(prior.covariances[1], start.covariances[1])
    assert abs(prior.weights[1].item() - 0.25) < 0.01


def test_narrowing_limits_every_axis_but_spares_what_is_fixed(prior):
    narrow = prior.narrowed(0.4)
    widths = torch.linalg.eigvalsh(narrow.covariances[:-1]).sqrt()
    before = torch.linalg.eigvalsh(prior.covariances[:-1]).sqrt()
    torch.testing.assert_close(widths, before.clamp(max=0.4))
    torch.testing.assert_close(narrow.covariances[-1], prior.covariances[-1])
