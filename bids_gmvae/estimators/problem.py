"""The likelihood of a run as a function of latents, unweighted signal and orientation.

One problem serves every signal model: shells are averaged for models without orientation and
volumes kept for those with one. The Jacobian comes from forward-mode differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock

import torch
from torch import Tensor
from torch.func import jvp, vmap

from bids_gmvae.acquisition import Acquisition, Shells, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.powder import average_shells
from bids_gmvae.likelihoods import get_noise_model, invert_rician_mean
from bids_gmvae.signal_models.base import SignalModel

#: The levels of torch's forward differentiation belong to the process, not to a thread.
ONE_AT_A_TIME = Lock()


@dataclass(frozen=True, eq=False)
class State:
    """A guess for every voxel.

    Attributes
    ----------
    log_s0 : Tensor of shape (n_voxels,)
        Logarithm of the unweighted signal.
    z : Tensor of shape (n_voxels, n_parameters)
        Latents.
    orientation : Tensor of shape (n_voxels, 3), optional
        Unit vectors.
    """

    log_s0: Tensor
    z: Tensor
    orientation: Tensor | None = None

    def __getitem__(self, voxels: Tensor | slice) -> State:
        orientation = None if self.orientation is None else self.orientation[voxels]
        return State(self.log_s0[voxels], self.z[voxels], orientation)

    def where(self, chosen: Tensor, other: State) -> State:
        """Take ``self`` where ``chosen`` (n_voxels,), ``other`` elsewhere."""
        column = chosen[:, None]
        orientation = None
        if self.orientation is not None and other.orientation is not None:
            orientation = torch.where(column, self.orientation, other.orientation)
        return State(
            torch.where(chosen, self.log_s0, other.log_s0),
            torch.where(column, self.z, other.z),
            orientation,
        )

    def put(self, voxels: Tensor, part: State) -> State:
        """Give a copy in which the rows at ``voxels`` are replaced by ``part``."""
        orientation = None
        if self.orientation is not None and part.orientation is not None:
            orientation = self.orientation.index_copy(0, voxels, part.orientation)
        return State(
            self.log_s0.index_copy(0, voxels, part.log_s0),
            self.z.index_copy(0, voxels, part.z),
            orientation,
        )


@dataclass(frozen=True, eq=False)
class Linearisation:
    """Log-likelihood and its derivatives in the tangent (log S0, z, tilt) of a state.

    Attributes
    ----------
    log_likelihood : Tensor of shape (n_voxels,)
        Nats.
    gradient : Tensor of shape (n_voxels, n_tangent)
        Of the log-likelihood.
    information : Tensor of shape (n_voxels, n_tangent, n_tangent)
        Fisher information.
    """

    log_likelihood: Tensor
    gradient: Tensor
    information: Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """The data of some voxels and how to predict them.

    Attributes
    ----------
    signal_model : SignalModel
        The physics.
    noise_model : str
        Name of the likelihood.
    data : Tensor of shape (n_voxels, n_data)
        Shell means, or volumes for directional models.
    sigma : Tensor of shape (n_voxels,)
        Noise sd of a single measurement.
    counts : Tensor of shape (n_data,)
        Measurements averaged in each datum.
    acquisition : Acquisition
        Settings of the data.
    shells : Shells
        Shells of the run, for reports.
    averaged : bool
        Whether the data are shell means.
    """

    signal_model: SignalModel
    noise_model: str
    data: Tensor
    sigma: Tensor
    counts: Tensor
    acquisition: Acquisition
    shells: Shells
    averaged: bool

    @classmethod
    def of(cls, run: Measurements, signal_model: SignalModel, settings: ModelSettings) -> Problem:
        """Set up the problem of a run."""
        if not signal_model.directional:
            means = average_shells(run, settings)
            return cls(
                signal_model, settings.noise_model, means.means, means.sigma, means.counts,
                means.acquisition, means.shells, True,
            )  # fmt: skip
        shells = find_shells(
            run.acquisition,
            b0_threshold=settings.b0_threshold,
            shell_tolerance=settings.shell_tolerance,
        )
        counts = torch.ones(len(run.acquisition)).to(run.signals)
        return cls(
            signal_model, settings.noise_model, run.signals, run.sigma, counts,
            run.acquisition, shells, False,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.data)

    def select(self, voxels: Tensor | slice) -> Problem:
        """Keep some voxels."""
        return replace(self, data=self.data[voxels], sigma=self.sigma[voxels])

    @property
    def n_parameters(self) -> int:
        """Number of latents."""
        return len(self.signal_model.parameters)

    @property
    def nuisance(self) -> list[int]:
        """Positions of log S0 and tilt in the tangent."""
        tilt = [1 + self.n_parameters, 2 + self.n_parameters]
        return [0, *(tilt if self.signal_model.directional else [])]

    @property
    def latents(self) -> list[int]:
        """Positions of the latents in the tangent."""
        return list(range(1, 1 + self.n_parameters))

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code may take over: on the CPU, if the model offers its equation."""
        at_hand = self.data.device.type == "cpu" and self.data.dtype == torch.float64
        return at_hand and self.signal_model.compiled() is not None

    def start(self) -> State:
        """Start from the b0 mean, the axis of least decay, and the model's guess.

        Without a guess the latents start at the centre of the broad population.
        """
        lowest = self.acquisition.bvals <= self.acquisition.bvals.min() + 1e-6
        if "echo_times" in self.signal_model.requires:
            lowest = lowest & (
                self.acquisition.echo_times == self.acquisition.echo_times[lowest].min()
            )
        weights = self.counts * lowest
        level = self.data @ weights / weights.sum()
        if self.noise_model == "rician":
            level = torch.maximum(invert_rician_mean(level, self.sigma), 0.1 * self.sigma)
        tiny = torch.finfo(level.dtype).tiny
        guess = None
        if self.averaged:
            # Magnitudes below the noise floor say little, but must not vanish in a logarithm.
            noise = self.sigma[:, None] if self.noise_model == "rician" else 0.0
            signals = (self.data**2 - noise**2).clamp(min=1e-2 * self.sigma[:, None] ** 2).sqrt()
            guess = self.signal_model.guess(signals, self.counts, self.acquisition)
        z = self.data.new_zeros(len(self), self.n_parameters)
        if guess is not None:
            lower, upper = self.signal_model.latent_range(z)
            z = self.signal_model.to_real(guess).clamp(lower, upper)
        orientation = self._axis_of_least_decay() if self.signal_model.directional else None
        return State(torch.log(level.clamp(min=tiny)), z, orientation)

    def predict(self, state: State) -> Tensor:
        """Give the noiseless signal of each datum, (n_voxels, n_data)."""
        values = self.signal_model.to_physical(state.z)
        relative = self.signal_model(values, self.acquisition, state.orientation)
        return torch.exp(state.log_s0)[:, None] * relative

    def move(self, state: State, step: Tensor) -> State:
        """Walk along a tangent vector (n_voxels, n_tangent)."""
        orientation = None
        if state.orientation is not None:
            first, second = tangent_plane(state.orientation)
            tilt = step[:, 1 + self.n_parameters :]
            moved = state.orientation + tilt[:, :1] * first + tilt[:, 1:] * second
            orientation = moved / moved.norm(dim=1, keepdim=True)
        return State(
            state.log_s0 + step[:, 0], state.z + step[:, 1 : 1 + self.n_parameters], orientation
        )

    def jacobian(self, state: State) -> tuple[Tensor, Tensor]:
        """Differentiate the prediction along the tangent of a state.

        Returns
        -------
        signal : Tensor of shape (n_voxels, n_data)
        jacobian : Tensor of shape (n_voxels, n_data, n_tangent)
        """
        analytic = self._analytic_jacobian(state)
        if analytic is not None:
            return analytic
        origin = self.data.new_zeros(len(self), len(self.nuisance) + self.n_parameters)
        basis = torch.eye(origin.shape[1]).to(origin)

        def predict(step: Tensor) -> Tensor:
            return self.predict(self.move(state, step))

        def differentiate(direction: Tensor) -> Tensor:
            derivative: Tensor = jvp(predict, (origin,), (direction.expand_as(origin),))[1]
            return derivative

        with ONE_AT_A_TIME:
            return self.predict(state), vmap(differentiate, out_dims=2)(basis)

    def _analytic_jacobian(self, state: State) -> tuple[Tensor, Tensor] | None:
        """Assemble the Jacobian from the model's own derivatives, if it gives them."""
        if state.orientation is None:
            return None
        model = self.signal_model
        with ONE_AT_A_TIME:
            values, slopes = jvp(model.to_physical, (state.z,), (torch.ones_like(state.z),))[:2]
        own = model.derivatives(values, self.acquisition, state.orientation)
        if own is None:
            return None
        s0 = torch.exp(state.log_s0)[:, None]
        columns = [own.signal]
        columns += [by * slopes[:, [index]] for index, by in enumerate(own.by_value)]
        for direction in tangent_plane(state.orientation):
            columns.append(own.by_cosine * (direction @ self.acquisition.bvecs.T))
        return s0 * own.signal, s0[..., None] * torch.stack(columns, dim=-1)

    def linearise(self, state: State) -> Linearisation:
        """Differentiate the log-likelihood at a state."""
        signal, jacobian = self.jacobian(state)
        log_likelihood, score, information = self.evaluate(signal)
        gradient = torch.einsum("vm,vmp->vp", score, jacobian)
        fisher = (information[..., None] * jacobian).transpose(1, 2) @ jacobian
        return Linearisation(log_likelihood, gradient, fisher)

    def evaluate(self, signal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the likelihood of noiseless signals.

        Returns
        -------
        log_likelihood : Tensor of shape (n_voxels,)
        score, information : Tensor of shape (n_voxels, n_data)
            Derivative with respect to the signal, and Fisher information.
        """
        noise = get_noise_model(self.noise_model)(signal, self.sigma[:, None])
        if not self.averaged:
            return noise.log_prob(self.data).sum(dim=1), noise.score(self.data), noise.information
        # A shell mean is normal, with the moments of its noise model.
        variance, slope = noise.variance / self.counts, noise.mean_slope
        residual = self.data - noise.mean
        change = noise.variance_slope / self.counts / variance / 2
        score = residual * slope / variance + change * (residual**2 / variance - 1)
        log_likelihood = -(residual**2 / variance + torch.log(variance)).sum(dim=1) / 2
        return log_likelihood, score, slope**2 / variance

    def log_likelihood(self, state: State) -> Tensor:
        """Evaluate the log-likelihood of a state, (n_voxels,)."""
        signal = self.predict(state)
        noise = get_noise_model(self.noise_model)(signal, self.sigma[:, None])
        if not self.averaged:
            return noise.log_prob(self.data).sum(dim=1)
        variance = noise.variance / self.counts
        return -((self.data - noise.mean) ** 2 / variance + torch.log(variance)).sum(dim=1) / 2

    def _axis_of_least_decay(self) -> Tensor:
        """Find the axis along which diffusion is fastest: least signal, (n_voxels, 3)."""
        # The quadratic forms that fit each shell best, summed: linear in the data.
        weights = self.data.new_zeros(6, self.data.shape[1])
        for shell in range(len(self.shells)):
            members = self.shells.index == shell
            bvecs = self.acquisition.bvecs[members]
            if self.shells.is_b0[shell] or len(bvecs) < 6:
                continue
            x, y, z = bvecs.unbind(-1)
            design = torch.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], dim=1)
            weights[:, members] = torch.linalg.pinv(design)
        xx, yy, zz, xy, xz, yz = (self.data @ weights.T).unbind(-1)
        rows = [xx, xy, xz, xy, yy, yz, xz, yz, zz]
        total = torch.stack(rows, dim=-1).reshape(-1, 3, 3)
        finite = torch.where(torch.isfinite(total), total, torch.zeros_like(total))
        _, vectors = torch.linalg.eigh(finite)
        return vectors[:, :, 0].contiguous()


def tangent_plane(orientation: Tensor) -> tuple[Tensor, Tensor]:
    """Give two unit vectors orthogonal to each orientation, and to each other."""
    x, y, z = orientation.unbind(-1)
    # Duff et al. 2017: continuous and stable everywhere but at the sign change of z.
    sign = torch.where(z >= 0, 1.0, -1.0).to(z)
    a = -1 / (sign + z)
    b = x * y * a
    first = torch.stack([1 + sign * x * x * a, sign * b, -sign * x], dim=-1)
    second = torch.stack([b, sign + y * y * a, -y], dim=-1)
    return first, second
