"""Recognition by a network whose last layers are two Gauss-Newton steps on the physics.

The network only has to guess; the unrolled steps bring the guess to the mode, and the curvature
there is analytic. It is trained per subject, without labels, on the evidence lower bound under
the broad population.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.estimators.recognition.base import TOLERANCE, Recognised, Recognition, recognise
from bids_gmvae.estimators.solver import NormalPenalty, gauss_newton_step, solve
from bids_gmvae.exceptions import InputError
from bids_gmvae.priors import GaussianMixturePrior, MixturePosterior

WIDTH, N_STEPS = 64, 2
#: Most steps after training. Two leave a few voxels between modes, which learning never forgets.
N_FINISH = 8
N_EPOCHS, BATCH, LEARNING_RATE = 10, 512, 3e-3
#: It only has to guess: more voxels than this do not make it guess better.
N_TRAINING = 3_000
#: Degrees of the Legendre moments that describe a shell in the voxel's own frame.
DEGREES = (0, 2, 4, 6)
#: Guesses stay within this many spreads of the centre.
GUESS_RANGE = 4.0


class Network(Recognition):
    """Amortised recognition; the weights are part of the fit."""

    name = "network"
    n_refine_steps = N_STEPS

    def __init__(self) -> None:
        self.encoder: nn.Module | None = None
        self.centre = self.scale = torch.zeros(0)

    def train(self, problems: Sequence[Problem], generator: torch.Generator) -> None:
        """Maximise the evidence lower bound of all voxels."""
        total = sum(len(problem) for problem in problems)
        problems = [
            problem.select(_draw(len(problem), N_TRAINING / total, generator))
            for problem in problems
        ]
        inputs = [features(problem, problem.start()) for problem in problems]
        widths = {rows.shape[1] for rows in inputs}
        if len(widths) > 1:
            raise InputError(
                "A network needs runs of one acquisition, these have different shells.",
                "Use --runs separate or --recognition newton.",
            )
        everything = torch.cat(inputs)
        self.centre = everything.mean(dim=0)
        self.scale = everything.std(dim=0).clamp(min=1e-6)
        self.encoder = _encoder(everything.shape[1], problems[0].n_parameters, generator).to(
            everything
        )
        optimiser = torch.optim.Adam(self.encoder.parameters(), lr=LEARNING_RATE)
        n_batches = sum(-(-len(problem) // BATCH) for problem in problems)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=LEARNING_RATE, total_steps=N_EPOCHS * n_batches
        )
        for _ in range(N_EPOCHS):
            for problem in problems:
                order = torch.randperm(len(problem), generator=generator).to(problem.data.device)
                for batch in order.split(BATCH):
                    part = problem.select(batch)
                    with torch.enable_grad():
                        state, penalty = self._modes(part)
                        elbo = _elbo(part, state, penalty)
                        optimiser.zero_grad()
                        (-elbo.mean()).backward()
                    nn.utils.clip_grad_norm_(self.encoder.parameters(), 10.0)
                    optimiser.step()
                    schedule.step()

    def first(self, problem: Problem) -> Recognised:
        """Guess, take two Gauss-Newton steps, and linearise."""
        with torch.no_grad():
            guess, penalty = self._guess(problem)
            solution = solve(
                problem, guess, penalty=penalty, tolerance=TOLERANCE, n_steps=N_FINISH
            )
        # The number of steps is fixed: what they give is the result, if it is a number.
        converged = torch.isfinite(solution.linearisation.log_likelihood)
        return recognise(problem, replace(solution, converged=converged))

    def refine(
        self,
        problem: Problem,
        recognised: Recognised,
        posterior: MixturePosterior,
        prior: GaussianMixturePrior,
    ) -> Recognised:
        """Take two further steps, under the component that explains the voxel best."""
        refined = super().refine(problem, recognised, posterior, prior)
        return replace(refined, converged=torch.isfinite(refined.potential.constant))

    def _modes(self, problem: Problem) -> tuple[State, NormalPenalty]:
        """Unroll the steps so that they can be differentiated."""
        state, penalty = self._guess(problem)
        for _ in range(N_STEPS):
            state = gauss_newton_step(problem, state, penalty)
        return state, penalty

    def _guess(self, problem: Problem) -> tuple[State, NormalPenalty]:
        encoder = self._trained()
        start = problem.start()
        inputs = (features(problem, start) - self.centre.to(problem.data)) / self.scale.to(
            problem.data
        )
        guess = GUESS_RANGE * torch.tanh(encoder.to(inputs)(inputs) / GUESS_RANGE)
        return State(start.log_s0, guess, start.orientation), NormalPenalty.standard(guess)

    def _trained(self) -> nn.Module:
        if self.encoder is None:
            raise RuntimeError("The recognition network was used before it was trained.")
        return self.encoder

    def state(self) -> dict[str, Tensor]:
        """Give the weights, and the standardisation of the inputs."""
        weights = {f"network.{name}": item for name, item in self._trained().state_dict().items()}
        return {**weights, "network.centre": self.centre, "network.scale": self.scale}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Rebuild the network from saved tensors."""
        own = {
            name.removeprefix("network."): item
            for name, item in state.items()
            if name.startswith("network.")
        }
        self.centre, self.scale = own.pop("centre"), own.pop("scale")
        n_outputs = own[max(name for name in own if name.endswith("bias"))].shape[0]
        self.encoder = _encoder(len(self.centre), n_outputs, torch.Generator()).to(self.centre)
        self.encoder.load_state_dict(own)


def features(problem: Problem, start: State) -> Tensor:
    """Describe each voxel independently of its orientation and of the receiver gain.

    Parameters
    ----------
    problem : Problem
        The data.
    start : State
        First S0, and the axis of least signal for directional models.

    Returns
    -------
    Tensor of shape (n_voxels, n_features)
        Shell means, or Legendre moments of each shell about the axis, relative to S0; the
        logarithms of the means; the SNR.
    """
    level = torch.exp(start.log_s0)[:, None]
    relative = problem.data / level
    if start.orientation is None:
        means = relative
        moments = [means]
    else:
        shells = problem.shells
        cosine = start.orientation @ problem.acquisition.bvecs.T
        moments = [
            shells.mean(relative * torch.special.legendre_polynomial_p(cosine, degree))
            for degree in DEGREES
        ]
        means = moments[0]
    noise = (problem.sigma[:, None] / level).clamp(1e-4, 10.0)
    return torch.cat([*moments, torch.log(means.clamp(min=1e-3)), torch.log(noise)], dim=1)


def _draw(n: int, share: float, generator: torch.Generator) -> Tensor:
    """Draw at most a share of ``n`` voxels, in their order."""
    chosen = torch.randperm(n, generator=generator)[: max(1, round(min(share, 1.0) * n))]
    return chosen.sort().values


def _elbo(problem: Problem, state: State, penalty: NormalPenalty) -> Tensor:
    """Give the bound at a normal posterior with the analytic curvature, (n_voxels,)."""
    linear = problem.linearise(state)
    curvature = linear.information
    block = slice(1, 1 + problem.n_parameters)
    prior = torch.zeros_like(curvature)
    prior[:, block, block] = penalty.precision
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    ridge = torch.diag_embed(1e-8 * diagonal.amax(dim=1, keepdim=True).expand_as(diagonal))
    log_det = torch.linalg.slogdet(curvature + prior + ridge)[1]
    return linear.log_likelihood + penalty.log_prob(state.z) - log_det / 2


def _encoder(n_inputs: int, n_outputs: int, generator: torch.Generator) -> nn.Module:
    """Build the network with weights drawn from ``generator``."""
    network = nn.Sequential(
        nn.Linear(n_inputs, WIDTH), nn.SiLU(),
        nn.Linear(WIDTH, WIDTH), nn.SiLU(),
        nn.Linear(WIDTH, n_outputs),
    )  # fmt: skip
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
            nn.init.zeros_(layer.bias)
    return network
