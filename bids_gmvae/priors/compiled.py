"""The posterior of a mixture, compiled: only a gain in speed, on the CPU.

Imported only where it is needed, because compiling takes seconds the first time.
"""

from __future__ import annotations

import math

from bids_gmvae.signal_models.compiled import jit


@jit()
def combine(  # type: ignore[no-untyped-def]
    precision, shift, constant, prior_precision, pull, offset,
    responsibilities, means, covariances, log_evidence, scratch,
):  # fmt: skip
    """Combine potentials with the components of a mixture, like `combine_tensors`.

    Parameters
    ----------
    precision, shift, constant : array of shape (n_voxels, 1 or n_components, ...)
        The potentials.
    prior_precision, pull : array of shape (n_components, n_latent, ...)
        Precision of each component, and precision times mean.
    offset : array of shape (n_components,)
        What of the log joint probability depends on the component alone.
    responsibilities, means, covariances, log_evidence : array
        Written; see `MixturePosterior`.
    scratch : array of shape (2 n_latent + 1, n_latent)
        Room to compute in.
    """
    n_voxels, n_components, n = means.shape
    own = precision.shape[1]
    root, inverse, white = scratch[:n], scratch[n : 2 * n], scratch[2 * n]
    for v in range(n_voxels):
        highest = -math.inf
        for k in range(n_components):
            j = min(k, own - 1)
            # Cholesky root of the total precision, and the inverse of that root.
            log_det = 0.0
            for row in range(n):
                for column in range(row + 1):
                    total = precision[v, j, row, column] + prior_precision[k, row, column]
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
                    white[row] += inverse[row, i] * (shift[v, j, i] + pull[k, i])
                quadratic += white[row] ** 2
            for row in range(n):
                total = 0.0
                for i in range(row, n):
                    total += inverse[i, row] * white[i]
                means[v, k, row] = total
                for column in range(row + 1):
                    total = 0.0
                    for i in range(row, n):
                        total += inverse[i, row] * inverse[i, column]
                    covariances[v, k, row, column] = total
                    covariances[v, k, column, row] = total
            joint = constant[v, j] + offset[k] - log_det + quadratic / 2
            responsibilities[v, k] = joint
            highest = max(highest, joint)
        total = 0.0
        for k in range(n_components):
            responsibilities[v, k] = math.exp(responsibilities[v, k] - highest)
            total += responsibilities[v, k]
        for k in range(n_components):
            responsibilities[v, k] /= total
        log_evidence[v] = highest + math.log(total)
