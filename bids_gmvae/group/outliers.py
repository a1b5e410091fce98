"""Which runs of a cohort stand apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: A run stands apart beyond this robust z-score.
THRESHOLD = 3.0

#: Fewer runs than this say nothing about what is usual.
FEWEST = 5

#: Differences below these mean nothing, however alike the other runs are.
RELATIVE_FLOOR = 0.01
FRACTION_FLOOR = 0.005

#: Measures in which runs are compared; beside them the median of every parameter.
MEASURES = ("residual_rms", "sigma_median", "snr_b0", "fraction_failed")


def robust_z(values: ArrayLike, *, floor: float = 0.0) -> NDArray[np.float64]:
    """Give the distances from the median in robust standard deviations.

    Parameters
    ----------
    values : array of shape (n,)
        NaN where absent.
    floor : float
        Smallest scale, in the unit of the values.

    Returns
    -------
    array of shape (n,)
        Median absolute deviations times 1.4826; where more than half of the values are equal,
        mean absolute deviations times 1.2533. NaN where the value is absent or fewer than
        `FEWEST` are present.

    Examples
    --------
    >>> robust_z([1.0, 1.1, 0.9, 1.0, 1.2, 9.0]).round(1).tolist()
    [-0.3, 0.3, -1.0, -0.3, 1.0, 53.6]
    """
    array = np.asarray(values, dtype=np.float64)
    present = array[np.isfinite(array)]
    if len(present) < FEWEST:
        return np.full(array.shape, np.nan)
    center = np.median(present)
    deviations = np.abs(present - center)
    scale = 1.4826 * np.median(deviations) or 1.2533 * deviations.mean()
    scale = max(scale, floor, RELATIVE_FLOOR * abs(center))
    return (array - center) / scale if scale else np.where(np.isfinite(array), 0.0, np.nan)


def flag_outliers(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Add robust z-scores and flags to the quality of the runs of a cohort.

    Runs are compared with those of the same signal model and estimator.

    Parameters
    ----------
    rows : sequence of mapping
        One flat mapping of measures per run.

    Returns
    -------
    rows : list of dict
        The same with ``outlier`` (bool; None where there are too few runs to tell),
        ``outlier_measures`` and one ``z_…`` per measure.
    descriptions : dict
        What the new columns say.
    """
    names = [*MEASURES, *dict.fromkeys(_medians(rows))]
    names = [name for name in names if any(name in row for row in rows)]
    scores: list[dict[str, float]] = [{} for _ in rows]
    kinds = [(row.get("model"), row.get("estimator")) for row in rows]
    for kind in dict.fromkeys(kinds):
        members = [index for index, own in enumerate(kinds) if own == kind]
        for name in names:
            values = [_number(rows[index].get(name)) for index in members]
            floor = FRACTION_FLOOR if name.startswith("fraction_") else 0.0
            for index, z in zip(members, robust_z(values, floor=floor), strict=True):
                if np.isfinite(z):
                    scores[index][name] = float(z)
    flagged = []
    for row, own in zip(rows, scores, strict=True):
        apart = [name for name, z in own.items() if abs(z) > THRESHOLD]
        flagged.append(
            {
                **row,
                "outlier": bool(apart) if own else None,
                "outlier_measures": "; ".join(apart) or None,
                **{f"z_{name}": own.get(name) for name in names},
            }
        )
    descriptions = {
        "outlier": (
            f"Whether any robust z-score exceeds {THRESHOLD:g}; n/a with fewer than {FEWEST} "
            "runs of the same model and estimator"
        ),
        "outlier_measures": f"Measures whose robust z-score exceeds {THRESHOLD:g}",
        **{
            f"z_{name}": f"Robust z-score of {name} among runs of the same model and estimator"
            for name in names
        },
    }
    return flagged, descriptions


def _medians(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [name for row in rows for name in row if name.endswith("_mean_median")]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
