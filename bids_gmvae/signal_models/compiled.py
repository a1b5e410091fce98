"""Equations of one voxel, compiled: only a gain in speed, on the CPU.

Imported only where a solver needs it, because compiling takes seconds the first time. Arrays are
passed in, never made; loops write one array each, so that the compiler can vectorise them.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.caching import FunctionCache

logger = logging.getLogger(__name__)

#: Liberties that let sums be vectorised, but keep infinities and NaN.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

Vector, Matrix = types.float64[::1], types.float64[:, ::1]
#: What a compiled equation takes: physical values (n_parameters,); the settings that the model
#: requires, by column but without directions (n_settings, n_data); the cosine between gradient
#: and fibre (n_data,), for directional models; where to write the signal, its derivatives with
#: respect to each value and, for directional models, to the cosine (n_rows, n_data).
EQUATION_SIGNATURE = types.void(Vector, Matrix, Vector, Matrix)
Equation = types.FunctionType(EQUATION_SIGNATURE)


class Cache(FunctionCache):  # type: ignore[misc]
    """Compiled functions as files: those that cannot be read are compiled and written again.

    A loss of power leaves empty or cut-off files, and network file systems lose sight of files.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Read what was compiled; None if there is nothing that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # pickle raises many kinds for a damaged file
            logger.debug("%r cannot be read: %r", self, error)
            _warn_of(self.cache_path)
        try:
            self.flush()
        except OSError as error:
            logger.debug("%r cannot be written: %r", self, error)
            self.disable()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write what was compiled, if that is possible."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            logger.debug("%r cannot be written: %r", self, error)
            _warn_of(self.cache_path)


@cache
def _warn_of(folder: str) -> None:
    """Warn, once in a process."""
    logger.warning(
        "Files of compiled code in %s are damaged or out of reach; what they held is compiled "
        "again. If this is said again, delete the folder, or check the disk that it is on.",
        folder,
    )


def jit(signature: Any = None) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function, and keep the result for the next process where that can be written.

    Parameters
    ----------
    signature : numba signature, optional
        Compile at once for these types, else at the first call.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": FASTMATH,
        # Calls within loops do not vectorise. Also, every caller holds a copy of what it calls,
        # with sums in an order of its own; whether a call meets that copy depends on what else
        # was just compiled, and the first run would differ from later ones.
        "forceinline": True,
    }

    def compile_(function: Callable[..., Any]) -> Any:
        function.__qualname__ += f"_{_digest()}"
        compiled = numba.njit(**options)(function)
        try:
            compiled._cache = Cache(function)  # numba's own gives up at the first damaged file
        except RuntimeError as error:  # an installation, and a HOME, that cannot be written
            logger.debug("%r is compiled in every process: %r", function, error)
        if signature is not None:
            compiled.compile(signature)
            compiled.disable_compile()
        return compiled

    return compile_


@cache
def _digest() -> str:
    """Tell sources apart: numba's cache does not notice changes in what a function calls."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in ("estimators", "signal_models"):
        for source in sorted((package / folder).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


#: Coefficients of the exponential series.
C2, C3, C4, C5 = (1 / math.factorial(n) for n in range(2, 6))


@jit()
def exp(x):  # type: ignore[no-untyped-def]
    """Compute the exponential of -100 < x < 100 by squaring; unlike libm's, it vectorises.

    Right to 2e-8 of its value between -15 and 15, and to 1e-12 below.
    """
    y = min(max(x, -100.0), 100.0) / 256
    y = 1 + y * (1 + y * (C2 + y * (C3 + y * (C4 + y * C5))))
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    return y * y


@jit(EQUATION_SIGNATURE)
def ball_stick(values, settings, cosine, out):  # type: ignore[no-untyped-def]
    """Compute what `BallStick.derivatives` gives."""
    fraction, stick_diffusivity, ball_diffusivity = values[0], values[1], values[2]
    bvals = settings[0]
    for m in range(len(bvals)):
        along = bvals[m] * cosine[m]
        stick = exp(-stick_diffusivity * along * cosine[m])
        ball = exp(-ball_diffusivity * bvals[m])
        out[0, m] = fraction * stick + (1 - fraction) * ball
        out[1, m] = stick - ball
        out[2, m] = -fraction * along * cosine[m] * stick
        out[3, m] = -(1 - fraction) * bvals[m] * ball
        out[4, m] = -2 * fraction * stick_diffusivity * along * stick


@jit(EQUATION_SIGNATURE)
def ball_stick_tied(values, settings, cosine, out):  # type: ignore[no-untyped-def]
    """Compute the signal of `BallStickTied` and its derivatives."""
    fraction, diffusivity = values[0], values[1]
    bvals = settings[0]
    for m in range(len(bvals)):
        along = bvals[m] * cosine[m]
        stick = exp(-diffusivity * along * cosine[m])
        ball = exp(-diffusivity * bvals[m])
        out[0, m] = fraction * stick + (1 - fraction) * ball
        out[1, m] = stick - ball
        out[2, m] = -fraction * along * cosine[m] * stick - (1 - fraction) * bvals[m] * ball
        out[3, m] = -2 * fraction * diffusivity * along * stick


@jit(EQUATION_SIGNATURE)
def msdki(values, settings, cosine, out):  # type: ignore[no-untyped-def]
    """Compute the signal of `MSDKI` and its derivatives."""
    diffusivity, kurtosis = values[0], values[1]
    bvals = settings[0]
    limit = 6 / (bvals.max() * diffusivity)
    limited = kurtosis > limit
    for m in range(len(bvals)):
        b, decay = bvals[m], bvals[m] * diffusivity
        signal = exp(-decay * (1 - decay * min(kurtosis, limit) / 6))
        out[0, m] = signal
        if limited:
            out[1, m] = -b * (1 - b / bvals.max()) * signal
            out[2, m] = 0.0
        else:
            out[1, m] = -b * (1 - decay * kurtosis / 3) * signal
            out[2, m] = decay**2 / 6 * signal
