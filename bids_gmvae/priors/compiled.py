"""The posterior of a mixture, compiled: only a gain in speed, on the CPU.

Imported only where it is needed, because compiling takes seconds the first time.
"""

from __future__ import annotations

import math

from bids_gmvae.signal_models.compiled import jit


@jit()
def combine_voxel(  # type: ignore[no-untyped-def]
    precision, shift, constant, prior_precision, pull, offset,
    responsibilities, means, covariances, scratch,
):  # fmt: skip
    """Combine the potentials of one voxel with the components of a mixture.

    Parameters
    ----------
    precision, shift, constant : array of shape (1 or n_components, ...)
        The potentials.
    prior_precision, pull : array of shape (n_components, n_latent, ...)
        Precision of each component, and precision times mean.
    offset : array of shape (n_components,)
        What of the log joint probability depends on the component alone.
    responsibilities, means, covariances : array of shape (n_components, ...)
        Written; see `MixturePosterior`.
    scratch : array of shape (2 n_latent + 1, n_latent)
        Room to compute in.

    Returns
    -------
    float
        Log-evidence, nats.
    """
    n_components, n = means.shape
    root, inverse, white = scratch[:n], scratch[n : 2 * n], scratch[2 * n]
    highest = -math.inf
    for k in range(n_components):
        j = min(k, len(precision) - 1)
        # Cholesky root of the total precision, and the inverse of that root.
        log_det = 0.0
        for row in range(n):
            for column in range(row + 1):
                total = precision[j, row, column] + prior_precision[k, row, column]
                for i in range(column):
                    total -= root[row, i] * root[column, i]
                root[row, column] = (
                    math.sqrt(total) if row == column else total / root[column, column]
                )
            log_det += math.log(root[row, row])
        for column in range(n):
            inverse[column, column] = 1 / root[column, column]
            for row in range(column + 1, n):
                total = 0.0
                for i in range(column, row):
                    total -= root[row, i] * inverse[i, column]
                inverse[row, column] = total / root[row, row]
        quadratic = 0.0
        for row in range(n):
            white[row] = 0.0
            for i in range(row + 1):
                white[row] += inverse[row, i] * (shift[j, i] + pull[k, i])
            quadratic += white[row] ** 2
        for row in range(n):
            total = 0.0
            for i in range(row, n):
                total += inverse[i, row] * white[i]
            means[k, row] = total
            for column in range(row + 1):
                total = 0.0
                for i in range(row, n):
                    total += inverse[i, row] * inverse[i, column]
                covariances[k, row, column] = total
                covariances[k, column, row] = total
        joint = constant[j] + offset[k] - log_det + quadratic / 2
        responsibilities[k] = joint
        highest = max(highest, joint)
    total = 0.0
    for k in range(n_components):
        responsibilities[k] = math.exp(responsibilities[k] - highest)
        total += responsibilities[k]
    for k in range(n_components):
        responsibilities[k] /= total
    return highest + math.log(total)


@jit()
def combine(  # type: ignore[no-untyped-def]
    precision, shift, constant, prior_precision, pull, offset,
    responsibilities, means, covariances, log_evidence, scratch,
):  # fmt: skip
    """Do what `combine_tensors` does: arrays as in `combine_voxel`, voxels in front."""
    for v in range(len(means)):
        log_evidence[v] = combine_voxel(
            precision[v], shift[v], constant[v], prior_precision, pull, offset,
            responsibilities[v], means[v], covariances[v], scratch,
        )  # fmt: skip


@jit()
def add_up(  # type: ignore[no-untyped-def]
    precision, shift, constant, prior_precision, pull, offset,
    responsibilities, means, covariances, scratch, counts, first, second,
):  # fmt: skip
    """Sum what voxels contribute to the next prior, without keeping their posteriors.

    Parameters
    ----------
    precision, shift, constant, prior_precision, pull, offset
        As in `combine`.
    responsibilities, means, covariances, scratch
        Room for one voxel, as in `combine_voxel`.
    counts, first, second : array of shape (n_components, ...)
        Zeros; the sums of `Statistics` are written.

    Returns
    -------
    float
        Sum of log-evidences, nats.
    """
    n_components, n = means.shape
    evidence = 0.0
    for v in range(len(precision)):
        evidence += combine_voxel(
            precision[v], shift[v], constant[v], prior_precision, pull, offset,
            responsibilities, means, covariances, scratch,
        )  # fmt: skip
        for k in range(n_components):
            weight = responsibilities[k]
            counts[k] += weight
            for p in range(n):
                first[k, p] += weight * means[k, p]
                for q in range(n):
                    moment = covariances[k, p, q] + means[k, p] * means[k, q]
                    second[k, p, q] += weight * moment
    return evidence
