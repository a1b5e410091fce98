"""Figures of numbers: directions, training, components, residuals, cohorts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bids_gmvae.io.qc import ACTIVE
from bids_gmvae.report import style

#: At most so many shells get a disc of their own, those with at least so many directions.
DISCS = 4
ENOUGH = 6

#: Residuals over noise beyond this are cut off the figure, so that the others can be read.
HIGHEST = 4.0

#: Fewer values than this have no box and no outliers.
FEWEST = 4

#: Longer names of regions are cut.
REGION_LETTERS = 30

#: Of the places of dots across their row, so that equal tables give equal figures.
RNG_SEED = 0


@dataclass(frozen=True, eq=False)
class Axis:
    """One parameter as an axis: values of voxels in the unit that is shown."""

    label: str
    values: NDArray
    window: tuple[float, float]


def gradient_spheres(directions: Sequence[tuple[str, NDArray]]) -> Figure:
    """Draw where the gradient directions lie, one disc per shell.

    Parameters
    ----------
    directions : sequence of (label, array of shape (n_directions, 3))
        Unit vectors (right, anterior, superior) of each shell. A direction and its opposite
        weight alike, so all are turned to the upper half, which is mapped onto a disc of equal
        areas.
    """
    full = [index for index, item in enumerate(directions) if len(item[1]) >= ENOUGH]
    # With many shells some are shown, from the lowest to the highest.
    spread = np.unique(np.linspace(0, len(full) - 1, min(DISCS, len(full))).round().astype(int))
    shown = [full[position] for position in spread]
    together = len(directions) > 1 or not shown
    n_discs = len(shown) + together
    size = min(2.1, (style.WIDTH - 0.15 * (n_discs - 1)) / n_discs)
    width = n_discs * size + (n_discs - 1) * 0.15
    figure = style.new_figure(width, size + 0.34)

    def disc(column: int, title: str) -> Axes:
        axes = style.add_axes(figure, column * (size + 0.15), 0.0, size, size)
        axes.set_aspect("equal")
        axes.axis("off")
        axes.set_xlim(-1.2, 1.2)
        axes.set_ylim(-1.2, 1.2)
        axes.add_patch(Circle((0, 0), 1, facecolor="#f4f6f8", edgecolor=style.FAINT))
        axes.add_patch(
            Circle((0, 0), np.sqrt(1 - np.cos(np.pi / 4)), fill=False, edgecolor=style.FAINT)
        )
        axes.plot([-1, 1], [0, 0], color=style.FAINT, linewidth=0.7)
        axes.plot([0, 0], [-1, 1], color=style.FAINT, linewidth=0.7)
        for text, place in zip("RLAP", ((-1.1, 0), (1.1, 0), (0, 1.1), (0, -1.1)), strict=True):
            axes.text(*place, text, ha="center", va="center", fontsize=8, color=style.MUTED)
        axes.text(0, 1.32, title, ha="center", va="bottom", fontsize=8.5)
        return axes

    for column, index in enumerate(shown):
        label, vectors = directions[index]
        _points(disc(column, f"{label}, {len(vectors)} directions"), vectors, style.colour(index))
    if together:
        everything = disc(len(shown), "all b-values")
        for index, (_, vectors) in enumerate(directions):
            _points(everything, vectors, style.colour(index))
    return figure


def _points(axes: Axes, vectors: NDArray, colour: str) -> None:
    mirrored = vectors[:, 2] < 0
    upper = np.where(mirrored[:, None], -vectors, vectors)
    # Lambert's equal-area azimuthal projection; the patient's right is on the left.
    radius = np.sqrt(np.clip(1 - upper[:, 2], 0, None))
    across = np.maximum(np.hypot(upper[:, 0], upper[:, 1]), 1e-9)
    x, y = -upper[:, 0] / across * radius, upper[:, 1] / across * radius
    options: Any = {"s": 13, "linewidths": 0.9, "edgecolors": colour}
    axes.scatter(x[~mirrored], y[~mirrored], facecolors=colour, **options)
    axes.scatter(x[mirrored], y[mirrored], facecolors="white", **options)


def training(
    history: Sequence[float],
    weights: Sequence[float],
    unexpected: float | None,
    *,
    objective: str,
) -> Figure:
    """Draw what the training raised, by step, and the weights of the components.

    Parameters
    ----------
    history : sequence of float
        Value of the objective; may be empty.
    weights : sequence of float
        Share of each component; may be empty.
    unexpected : float, optional
        Share of the broad component.
    objective : str
        What the history is of.
    """
    both = len(history) > 1 and len(weights) > 0
    width = style.WIDTH if both else style.WIDTH * 0.55
    figure = style.new_figure(width, 2.7)
    left_width = width - 1.0 if not both else width * 0.5 - 0.9
    if len(history) > 1:
        axes = style.add_axes(figure, 0.75, 0.5, left_width, 1.85)
        steps = np.arange(1, len(history) + 1)
        axes.plot(steps, history, color=style.ACCENT, linewidth=1.6)
        axes.plot(steps[-1:], history[-1:], "o", color=style.ACCENT, markersize=4)
        axes.set_xlabel("Training step")
        axes.set_title(objective, loc="left", pad=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.ticklabel_format(axis="y", useOffset=False, style="plain")
        axes.grid(axis="y")
        # The first steps start far below and would flatten the part that matters.
        ordered = np.sort(np.asarray(history, dtype=float)[np.isfinite(history)])
        low, high = np.quantile(ordered, 0.02), ordered[-1]
        pad = 0.08 * max(high - low, 1e-6)
        axes.set_ylim(low - pad, high + pad)
        axes.margins(x=0.02)
    if len(weights) > 0:
        start = width * 0.5 + 0.55 if both else 0.75
        axes = style.add_axes(figure, start, 0.5, width - start - 0.2, 1.85)
        _weights(axes, weights, unexpected)
    return figure


def _weights(axes: Axes, weights: Sequence[float], unexpected: float | None) -> None:
    values = [100 * weight for weight in weights]
    names = [f"C{k}" for k in range(1, len(values) + 1)]
    colours = [style.colour(k) for k in range(len(values))]
    if unexpected is not None:
        values.append(100 * unexpected)
        names.append("unexp.")
        colours.append(style.MUTED)
    places = np.arange(len(values))
    axes.bar(places, values, color=colours, width=0.72)
    axes.axhline(100 * ACTIVE, color=style.MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xticks(places, names)
    axes.set_ylabel("Share of voxels, %")
    axes.set_title("Tissue components", loc="left", pad=8)
    axes.set_ylim(0, max([*values, 1.0]) * 1.15)
    axes.grid(axis="y")
    axes.tick_params(axis="x", length=0)
    for place, value in zip(places, values, strict=True):
        text = f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"
        axes.text(float(place), value, text, ha="center", va="bottom", fontsize=7.5)


def parameter_space(
    axes_of: Sequence[Axis], winner: NDArray[np.int_] | None = None, active: Sequence[int] = ()
) -> Figure:
    """Draw how voxels and components lie in parameter space, one panel per pair.

    Parameters
    ----------
    axes_of : sequence of Axis
        The parameters, each with values of shape (n_voxels,).
    winner : array of int of shape (n_voxels,), optional
        Most probable component of each voxel, from 0.
    active : sequence of int
        Components that are drawn.
    """
    pairs = list(combinations(range(len(axes_of)), 2))[:3]
    panel, gap, size = (4.4, 0.0, 9) if len(pairs) == 1 else (2.75, 0.95, 8)
    width = len(pairs) * panel + (len(pairs) - 1) * gap + 0.95
    heading = 0.1 if winner is None else 0.4
    figure = style.new_figure(width, panel * 0.82 + 0.65 + heading)
    values = np.stack([axis.values for axis in axes_of], axis=1)
    usable = np.isfinite(values).all(axis=1)
    for position, (first, second) in enumerate(pairs):
        axes = style.add_axes(figure, 0.75 + position * (panel + gap), 0.55, panel, panel * 0.82)
        x, y = axes_of[first], axes_of[second]
        counts, *edges = np.histogram2d(
            x.values[usable], y.values[usable], bins=80, range=(x.window, y.window)
        )
        axes.pcolormesh(
            *edges, np.where(counts > 0, np.log1p(counts), np.nan).T, cmap="Greys",
            vmin=-0.8, vmax=max(np.log1p(counts.max()), 1.0) * 1.5, rasterized=True,
        )  # fmt: skip
        axes.set_xlim(*x.window)
        axes.set_ylim(*y.window)
        axes.set_xlabel(_wrap(x.label, panel), fontsize=size)
        axes.set_ylabel(_wrap(y.label, panel), fontsize=size)
        if winner is not None:
            _ellipses(axes, values[usable][:, [first, second]], winner[usable], active)
    handles = figure.axes[0].get_legend_handles_labels()
    if handles[0]:
        figure.legend(
            *handles, loc="upper left", bbox_to_anchor=(0.75 / width, 1.0), ncols=12,
            handlelength=0.8, columnspacing=1.2, handletextpad=0.3, borderpad=0.1,
        )  # fmt: skip
    return figure


def _ellipses(
    axes: Axes, points: NDArray, winner: NDArray[np.int_], active: Sequence[int]
) -> None:
    """Draw mean and one sd of the voxels that most probably belong to each component."""
    for k in active:
        members = points[winner == k]
        if len(members) < 3:
            continue
        centre = members.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(members.T))
        lengths = 2 * np.sqrt(np.clip(values, 0, None))
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        axes.add_patch(
            Ellipse(
                centre,
                lengths[1],
                lengths[0],
                angle=angle,
                fill=False,
                edgecolor=style.colour(k),
                linewidth=1.6,
            )
        )
        axes.plot(
            *centre, "o", color=style.colour(k), markersize=6, markeredgecolor="white",
            linestyle="none", label=f"C{k + 1}",
        )  # fmt: skip


def shell_residuals(
    labels: Sequence[str], residuals: NDArray, overall: Sequence[float | None]
) -> Figure:
    """Draw how large the residuals of each shell are against the noise.

    Parameters
    ----------
    labels : sequence of str
        Name of each shell.
    residuals : array of shape (n_voxels, n_shells)
        Root mean square of the residuals over the noise sd.
    overall : sequence of float
        The same over all voxels, by shell.
    """
    width = min(style.WIDTH, max(3.6, 1.3 + 0.75 * len(labels)))
    lines = max(label.count("\n") + 1 for label in labels)
    bottom = 0.4 + 0.16 * lines
    figure = style.new_figure(width, bottom + 2.1)
    axes = style.add_axes(figure, 0.75, bottom, width - 0.95, 2.0)
    boxes = []
    for column in residuals.T:
        finite = column[np.isfinite(column)]
        low, first, middle, third, high = (
            np.percentile(finite, (5, 25, 50, 75, 95)) if finite.size else [np.nan] * 5
        )
        boxes.append({"whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high})
    places = np.arange(len(labels))
    axes.axhspan(0.8, 1.2, color="#e6f0f3", zorder=0)
    axes.axhline(1, color=style.ACCENT, linewidth=1)
    line = {"color": style.MUTED, "linewidth": 1}
    axes.bxp(
        boxes, positions=places, widths=0.45, showfliers=False, patch_artist=True,
        boxprops={"facecolor": "#c9d6de", "edgecolor": style.MUTED},
        medianprops={"color": style.INK, "linewidth": 1.8}, whiskerprops=line, capprops=line,
    )  # fmt: skip
    known = [place for place, value in zip(places, overall, strict=True) if value is not None]
    axes.plot(
        known, [value for value in overall if value is not None], "D", color=style.ACCENT,
        markersize=6, markeredgecolor="white", zorder=5,
    )  # fmt: skip
    axes.set_xticks(places, labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    top = np.nanmax([1.5, *(box["whishi"] for box in boxes)])
    axes.set_ylim(0, min(top * 1.08, HIGHEST))
    axes.set_xlabel("b-value, s/mm²")
    axes.set_ylabel("Residual over noise")
    axes.grid(axis="y")
    axes.tick_params(axis="x", length=0)
    return figure


def cohort_strip(regions: Mapping[str, Sequence[tuple[str, float]]], *, label: str) -> Figure:
    """Draw the values of all participants, one row per region, and name the furthest ones.

    Parameters
    ----------
    regions : mapping of str to sequence of (participant, value)
        Values in the unit that is shown, by region.
    label : str
        Name and unit of the values.
    """
    height = 0.36 * len(regions)
    left = 0.3 + 0.075 * min(REGION_LETTERS, max(map(len, regions), default=1))
    figure = style.new_figure(7.0, height + 0.65)
    axes = style.add_axes(figure, left, 0.55, 6.8 - left, height)
    rng = np.random.default_rng(RNG_SEED)
    line = {"color": style.MUTED, "linewidth": 0.9}
    longest = 0
    for place, entries in enumerate(regions.values()):
        values = np.array([value for _, value in entries])
        places = place + rng.uniform(-0.14, 0.14, len(values))
        if len(values) >= FEWEST:
            axes.boxplot(
                values, positions=[place], widths=0.56, showfliers=False, patch_artist=True,
                orientation="horizontal", manage_ticks=False,
                boxprops={"facecolor": "#eef2f5", "edgecolor": "#b8c4cd"},
                medianprops={"color": style.INK, "linewidth": 1.5},
                whiskerprops=line, capprops=line,
            )  # fmt: skip
        far = outlying(values)
        axes.scatter(
            values, places, s=18, zorder=3, linewidths=0.5, edgecolors="white",
            c=[style.ALERT if is_far else style.ACCENT for is_far in far],
        )  # fmt: skip
        # Only the furthest on each side is named, outwards, so that no name covers a dot.
        for index, side in ((int(values.argmin()), -1), (int(values.argmax()), 1)):
            if far[index]:
                longest = max(longest, len(entries[index][0]))
                axes.annotate(
                    entries[index][0], (values[index], places[index]), xytext=(5 * side, 0),
                    textcoords="offset points", va="center", ha="left" if side > 0 else "right",
                    fontsize=7.5, color=style.ALERT,
                )  # fmt: skip
    axes.set_yticks(range(len(regions)), [_short(name, REGION_LETTERS) for name in regions])
    axes.set_ylim(len(regions) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    # Room for the names, as a share of the range of values.
    share = min(0.35, 0.07 * longest / (6.8 - left))
    axes.margins(x=max(0.22, share / (1 - 2 * share)))
    return figure


def outlying(values: NDArray) -> NDArray[np.bool_]:
    """Tell which values lie more than 1.5 interquartile ranges outside the quartiles.

    Examples
    --------
    >>> outlying(np.array([1.0, 1.1, 0.9, 1.0, 5.0])).tolist()
    [False, False, False, False, True]
    """
    if len(values) < FEWEST:
        return np.zeros(len(values), dtype=bool)
    first, third = np.percentile(values, (25, 75))
    reach = 1.5 * (third - first)
    return (values < first - reach) | (values > third + reach)


def _wrap(label: str, inches: float) -> str:
    return "\n".join(textwrap.wrap(label, int(12 * inches)))


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
