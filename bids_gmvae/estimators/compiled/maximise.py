"""The Levenberg-Marquardt of `bids_gmvae.estimators.solver`, voxel by voxel."""

from __future__ import annotations

import math

from numba import types

from bids_gmvae.estimators.compiled.voxel import (
    Cube,
    DesignType,
    ScratchType,
    evaluate,
    factorise,
    linearise,
    move,
    substitute,
)
from bids_gmvae.estimators.solver import (
    CREEP,
    DAMPING_DOWN,
    DAMPING_MAX,
    DAMPING_MIN,
    DAMPING_START,
    DAMPING_UP,
    GOOD_RATIO,
    MAX_STEP,
    MAX_TILT,
    MIN_STEP,
    POOR_RATIO,
)
from bids_gmvae.signal_models.compiled import Equation, Matrix, Vector, jit


@jit()
def penalised(likelihood, position, prior):  # type: ignore[no-untyped-def]
    """Add the log-prior; a prediction that overflows must lose every comparison."""
    mean, precision = prior
    total = likelihood
    for p in range(len(mean)):
        for q in range(len(mean)):
            offsets = (position[1 + p] - mean[p]) * (position[1 + q] - mean[q])
            total -= offsets * precision[p, q] / 2
    return total if math.isfinite(total) else -1e300


@jit()
def largest(vector):  # type: ignore[no-untyped-def]
    """Give the largest magnitude."""
    value = 0.0
    for i in range(len(vector)):
        value = max(value, abs(vector[i]))
    return value


@jit()
def propose(here, prior, ends, damping, gradient, information, scratch, step):  # type: ignore[no-untyped-def]
    """Write the damped step; give the gain (nats) that the quadratic model promises."""
    mean, precision = prior
    n, n_parameters = len(gradient), len(mean)
    slope = scratch.small[4, :n]
    curvature, factor = scratch.small[5 : 5 + n], scratch.small[5 + n : 5 + 2 * n]
    for i in range(n):
        slope[i] = gradient[i]
        for j in range(n):
            curvature[i, j] = information[i, j]
    for p in range(n_parameters):
        for q in range(n_parameters):
            slope[1 + p] -= precision[p, q] * (here[1 + q] - mean[q])
            curvature[1 + p, 1 + q] += precision[p, q]
    for p in range(n_parameters):
        z, push = here[1 + p], slope[1 + p]
        below = z <= ends[0, p] + MIN_STEP and push < 0
        if below or (z >= ends[1, p] - MIN_STEP and push > 0):
            slope[1 + p] = 0.0
            for j in range(n):
                curvature[1 + p, j] = curvature[j, 1 + p] = 0.0
            curvature[1 + p, 1 + p] = 1.0

    floor = 1e-12
    for i in range(n):
        floor = max(floor, curvature[i, i])
    for i in range(n):
        step[i] = slope[i]
        for j in range(n):
            factor[i, j] = curvature[i, j]
        # Directions without information (f = 0 leaves the tilt free) must not make it singular.
        factor[i, i] += damping * curvature[i, i] + 1e-10 * floor
    factorise(factor, n)
    substitute(factor, n, step)

    excess = 1.0
    for i in range(n):
        if not math.isfinite(step[i]):
            step[:] = 0.0
        excess = max(excess, abs(step[i]) / (MAX_STEP if i <= n_parameters else MAX_TILT))
    gain = 0.0
    for i in range(n):
        step[i] /= excess
        if 1 <= i <= n_parameters:
            target = min(max(here[i] + step[i], ends[0, i - 1]), ends[1, i - 1])
            step[i] = target - here[i]
        gain += step[i] * slope[i]
    for i in range(n):
        for j in range(n):
            gain -= step[i] * curvature[i, j] * step[j] / 2
    return gain


@jit(
    types.void(
        Equation, DesignType, Matrix, Vector, Matrix, Cube, Matrix, types.float64, types.int64,
        ScratchType, Matrix, Vector, Matrix, Cube, types.boolean[::1],
    )
)  # fmt: skip
def maximise(  # type: ignore[no-untyped-def]
    equation, design, data, sigma, prior_mean, prior_precision, ends, tolerance, n_steps,
    scratch, positions, log_likelihood, gradient, information, converged,
):  # fmt: skip
    """Maximise the posterior density of every voxel.

    Parameters
    ----------
    equation : Equation
        The signal model.
    design : Design
        What the voxels share.
    data : array of shape (n_voxels, n_data)
    sigma : array of shape (n_voxels,)
    prior_mean, prior_precision : array of shape (n_voxels, n_parameters, ...)
        The normal penalty; of precision zero if there is none.
    ends : array of shape (2, n_parameters)
        Range of the latents.
    tolerance, n_steps
        As in `solver.solve`.
    scratch : Scratch
        Overwritten.
    positions : array of shape (n_voxels, n)
        Where to begin; overwritten by the modes.
    log_likelihood, gradient, information, converged : arrays
        Written: the fields of `Solution`, the first without constants of the data.
    """
    n_parameters, n_tangent = len(design.parameters), gradient.shape[1]
    there, step = scratch.small[2, : positions.shape[1]], scratch.small[3, :n_tangent]
    for v in range(len(data)):
        here, prior = positions[v], (prior_mean[v], prior_precision[v])
        log_likelihood[v] = evaluate(equation, design, here, data[v], sigma[v], scratch)
        objective = penalised(log_likelihood[v], here, prior)
        linearise(design, here, scratch, gradient[v], information[v])
        damping = DAMPING_START
        for _ in range(n_steps):
            gain = propose(here, prior, ends, damping, gradient[v], information[v], scratch, step)
            move(here, step, n_parameters, there)
            likelihood = evaluate(equation, design, there, data[v], sigma[v], scratch)
            difference = penalised(likelihood, there, prior) - objective
            better = difference >= 0
            if better:
                here[:] = there
                log_likelihood[v] = likelihood
                objective += difference
                linearise(design, here, scratch, gradient[v], information[v])
            ratio = difference / max(gain, 1e-12)
            if ratio > GOOD_RATIO:
                damping *= DAMPING_DOWN
            elif ratio < POOR_RATIO:
                damping *= DAMPING_UP
            damping = max(damping, DAMPING_MIN)
            stuck = damping > DAMPING_MAX or largest(step) < MIN_STEP
            done = stuck or (better and gain < tolerance)
            converged[v] = done or gain < CREEP
            if done:
                break
