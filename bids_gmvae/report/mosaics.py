"""Figures of maps: rows of slices with colour bars or legends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bids_gmvae.report import style
from bids_gmvae.report.slices import View

#: Inches.
LABEL_WIDTH = 1.25
BAR_WIDTH = 1.0
GAP = 0.05
ROW_GAP = 0.1
TALLEST = 2.6
TALLEST_ALONE = 3.6
HEADING = 0.28
NARROWEST_LEGEND = 5.4

#: Letters of a legend per inch, marks counted as five.
LETTERS = 12.5


@dataclass(frozen=True, eq=False)
class Layer:
    """A scalar map as it is drawn.

    Attributes
    ----------
    label : str
        What it is, in few words.
    volume : array of float, 3-D
        Values in the unit that is shown; NaN where there is no estimate.
    window : tuple of float
        Display range.
    cmap : str
        Name of the colour map.
    unit : str
        Beside the colour bar; empty if dimensionless.
    """

    label: str
    volume: NDArray
    window: tuple[float, float]
    cmap: str
    unit: str = ""


def mosaic(layers: Sequence[Layer], view: View, mask: NDArray[np.bool_]) -> Figure:
    """Draw maps over the same slices.

    Parameters
    ----------
    layers : sequence of Layer
        One row each; with one or two slices one column each, to be seen at full size.
    view : View
        Slices.
    mask : array of bool, 3-D
        Voxels that should have a value; those without one are marked, the others are dark.

    Returns
    -------
    Figure
        At most as wide as the page.
    """
    if len(view.positions) == 1:
        return _side_by_side(layers, view, mask)
    width, height = _tile_size(view, style.WIDTH - LABEL_WIDTH - BAR_WIDTH, len(view.positions))
    total = HEADING + len(layers) * (height + ROW_GAP)
    n_tiles = len(view.positions)
    tiles_width = n_tiles * width + (n_tiles - 1) * GAP
    figure = style.new_figure(LABEL_WIDTH + tiles_width + BAR_WIDTH, total)
    inside = view.tiles(mask)
    for row, layer in enumerate(layers):
        bottom = total - HEADING - (row + 1) * height - row * ROW_GAP
        _row_label(figure, layer.label, bottom + height / 2)
        cmap, norm = _colours(layer)
        for column, tile in enumerate(view.tiles(layer.volume)):
            left = LABEL_WIDTH + column * (width + GAP)
            axes = _tile_axes(figure, left, bottom, width, height)
            _draw(axes, tile, inside[column], cmap, norm)
            if row == 0:
                axes.set_title(view.labels[column], fontsize=8, color=style.MUTED, pad=4)
            if column == 0:
                _sides(axes, view)
        bar_height = min(height * 0.72, 1.6)
        bar = style.add_axes(
            figure, LABEL_WIDTH + tiles_width + 0.12, bottom + (height - bar_height) / 2,
            0.1, bar_height,
        )  # fmt: skip
        _colour_bar(figure, bar, layer, norm, cmap, "vertical")
    return figure


def _side_by_side(layers: Sequence[Layer], view: View, mask: NDArray[np.bool_]) -> Figure:
    columns = min(len(layers), 4)
    rows = -(-len(layers) // columns)
    width, height = _tile_size(view, style.WIDTH - 0.2 * (columns - 1), columns, TALLEST_ALONE)
    gap, heading, foot = 0.2, 0.3, 0.55
    total_height = rows * (heading + height + foot)
    figure = style.new_figure(columns * width + (columns - 1) * gap, total_height)
    inside = view.tiles(mask)[0]
    for index, layer in enumerate(layers):
        row, column = divmod(index, columns)
        left = column * (width + gap)
        bottom = total_height - row * (heading + height + foot) - heading - height
        axes = _tile_axes(figure, left, bottom, width, height)
        cmap, norm = _colours(layer)
        _draw(axes, view.tiles(layer.volume)[0], inside, cmap, norm)
        axes.set_title(layer.label, loc="left", pad=5)
        if index == 0:
            _sides(axes, view)
        bar = style.add_axes(figure, left + width * 0.08, bottom - 0.16, width * 0.84, 0.09)
        _colour_bar(figure, bar, layer, norm, cmap, "horizontal")
    return figure


def category_mosaic(
    codes: NDArray[np.int_],
    categories: Sequence[tuple[int, str, str]],
    view: View,
    *,
    label: str,
) -> Figure:
    """Draw a map of codes with a legend below.

    Parameters
    ----------
    codes : array of int, 3-D
        Codes; those that are not in ``categories`` stay dark.
    categories : sequence of (code, colour, text)
        What the codes mean.
    view : View
        Slices.
    label : str
        What it is, in few words.
    """
    colours = ListedColormap([style.BACKDROP, *(item[1] for item in categories)])
    index = np.zeros(codes.shape, dtype=np.int64)
    for position, (code, _, _) in enumerate(categories, start=1):
        index[codes == code] = position
    figure, panels = _one_row(view, label, [(c, text) for _, c, text in categories])
    for axes, tile in zip(panels, view.tiles(index), strict=True):
        axes.imshow(
            tile, cmap=colours, vmin=-0.5, vmax=len(categories) + 0.5,
            interpolation="nearest", aspect="auto",
        )  # fmt: skip
    return figure


def colour_mosaic(colours: NDArray, view: View, *, label: str) -> Figure:
    """Draw a map of colours.

    Parameters
    ----------
    colours : array of shape (x, y, z, 3)
        Red, green, blue in 0..1; black outside.
    view : View
        Slices.
    label : str
        What it is, in few words.
    """
    figure, panels = _one_row(view, label)
    for axes, tile in zip(panels, view.tiles(colours), strict=True):
        axes.imshow(tile, interpolation="nearest", aspect="auto")
    return figure


def mask_mosaic(
    reference: NDArray, mask: NDArray[np.bool_], removed: NDArray[np.bool_], view: View
) -> Figure:
    """Draw the outline of the mask over the mean b0, and the voxels taken out of it.

    Parameters
    ----------
    reference : array, 3-D
        Mean b0 image.
    mask, removed : array of bool, 3-D
        Voxels that are mapped; voxels of the given mask without signal.
    view : View
        Slices.
    """
    entries = [(style.NO_ESTIMATE, "Outline of the mask")]
    if removed.any():
        entries.append(("#ff7a45", "Removed: no signal there"))
    figure, panels = _one_row(view, "Mean b0", entries)
    bright = reference[mask & np.isfinite(reference)]
    high = float(np.percentile(bright, 99)) if bright.size else 1.0
    tiles = zip(panels, *(view.tiles(v) for v in (reference, mask, removed)), strict=True)
    for axes, tile, inside, gone in tiles:
        axes.imshow(
            tile, cmap="gray", vmin=0, vmax=high or 1.0, interpolation="nearest",
            aspect="auto",
        )  # fmt: skip
        _outline(axes, inside)
        if gone.any():
            overlay = np.zeros((*gone.shape, 4))
            overlay[gone] = mpl.colors.to_rgba("#ff7a45", 0.9)
            axes.imshow(overlay, interpolation="nearest", aspect="auto")
    return figure


def _one_row(
    view: View, label: str, legend: Sequence[tuple[str, str]] = ()
) -> tuple[Figure, list[Axes]]:
    """Make the empty tiles of a figure with one map; the legend is (colour, text) pairs."""
    n_tiles = len(view.positions)
    alone = n_tiles == 1
    left = 0.0 if alone else LABEL_WIDTH
    width, height = _tile_size(
        view, style.WIDTH - LABEL_WIDTH - BAR_WIDTH, n_tiles, TALLEST_ALONE if alone else TALLEST
    )
    tiles_width = n_tiles * width + (n_tiles - 1) * GAP
    legend_width = max(tiles_width, NARROWEST_LEGEND if legend else 0.0)
    rows = -(-sum(len(text) + 5 for _, text in legend) // int(LETTERS * legend_width))
    foot = 0.16 + 0.2 * rows if legend else 0.0
    figure = style.new_figure(left + legend_width, HEADING + height + foot)
    panels = []
    for column in range(n_tiles):
        axes = _tile_axes(figure, left + column * (width + GAP), foot, width, height)
        if alone:
            axes.set_title(label, loc="left", pad=5)
        else:
            axes.set_title(view.labels[column], fontsize=8, color=style.MUTED, pad=4)
        panels.append(axes)
    if not alone:
        _row_label(figure, label, foot + height / 2)
    if legend:
        _legend(figure, legend, rows, left)
    _sides(panels[0], view)
    return figure, panels


def _tile_size(
    view: View, available: float, n_tiles: int, tallest: float = TALLEST
) -> tuple[float, float]:
    rows, columns = view.tile_shape
    width = (available - (n_tiles - 1) * GAP) / n_tiles
    width = min(width, tallest * columns / rows)
    return width, width * rows / columns


def _tile_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    axes = style.add_axes(figure, left, bottom, width, height)
    axes.set_facecolor(style.BACKDROP)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _draw(axes: Axes, tile: NDArray, inside: NDArray, cmap: Colormap, norm: Normalize) -> None:
    shown = cmap(norm(np.nan_to_num(tile)))
    shown[~inside] = mpl.colors.to_rgba(style.BACKDROP)
    shown[inside & ~np.isfinite(tile)] = mpl.colors.to_rgba(style.NO_ESTIMATE)
    axes.imshow(shown, interpolation="nearest", aspect="auto")


def _colours(layer: Layer) -> tuple[Colormap, Normalize]:
    return mpl.colormaps[layer.cmap], Normalize(*layer.window)


def _colour_bar(
    figure: Figure, axes: Axes, layer: Layer, norm: Normalize, cmap: Colormap, side: str
) -> None:
    low, high = layer.window
    finite = layer.volume[np.isfinite(layer.volume)]
    below, above = bool((finite < low).any()), bool((finite > high).any())
    extend = {(1, 1): "both", (1, 0): "min", (0, 1): "max"}.get((below, above), "neither")
    bar = figure.colorbar(
        ScalarMappable(norm, cmap), cax=axes, orientation=side, extend=extend,
        ticks=[low, (low + high) / 2, high], extendfrac=0.06,
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, pad=3, labelsize=8)
    text = [style.short(tick) for tick in (low, (low + high) / 2, high)]
    if side == "vertical":
        bar.ax.set_yticklabels(text)
        bar.ax.set_title(layer.unit, fontsize=7.5, loc="left", pad=6, color=style.MUTED)
    else:
        bar.ax.set_xticklabels(text)
        bar.set_label(layer.unit, fontsize=7.5, color=style.MUTED, labelpad=1)


def _row_label(figure: Figure, label: str, height: float) -> None:
    text = "\n".join(textwrap.wrap(label, 15))
    figure.text(
        (LABEL_WIDTH - 0.15) / figure.get_size_inches()[0], height / figure.get_size_inches()[1],
        text, ha="right", va="center", linespacing=1.3,
    )  # fmt: skip


def _sides(axes: Axes, view: View) -> None:
    for letter, place, align in zip(view.sides, (0.02, 0.98), ("left", "right"), strict=True):
        axes.text(
            place, 0.02, letter, transform=axes.transAxes, ha=align, va="bottom",
            fontsize=7.5, color="#e6edf3",
        )  # fmt: skip


def _outline(axes: Axes, inside: NDArray[np.bool_]) -> None:
    """Draw the voxel edges between inside and outside, exactly."""
    padded = np.pad(inside.astype(np.int8), 1)
    rows, columns = np.nonzero(np.diff(padded, axis=1)[1:-1])
    axes.vlines(columns - 0.5, rows - 0.5, rows + 0.5, colors=style.NO_ESTIMATE, linewidth=0.7)
    rows, columns = np.nonzero(np.diff(padded, axis=0)[:, 1:-1])
    axes.hlines(rows - 0.5, columns - 0.5, columns + 0.5, colors=style.NO_ESTIMATE, linewidth=0.7)


def _legend(figure: Figure, entries: Sequence[tuple[str, str]], rows: int, left: float) -> None:
    columns = -(-len(entries) // rows)
    # Legends are filled by columns, but read by rows.
    ordered = [
        entries[index] for start in range(columns) for index in range(start, len(entries), columns)
    ]
    figure.legend(
        handles=[Patch(facecolor=c, edgecolor=style.FAINT, linewidth=0.5) for c, _ in ordered],
        labels=[text for _, text in ordered], loc="lower left", ncols=columns,
        bbox_to_anchor=(left / figure.get_size_inches()[0], 0.0), handlelength=1.0,
        handleheight=0.9, columnspacing=1.4, handletextpad=0.5, borderaxespad=0.1, borderpad=0,
    )  # fmt: skip
