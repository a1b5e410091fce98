"""How figures look, and how they become bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Width of a full figure, inches; the page shows 100 CSS pixels per inch.
WIDTH = 10.6

INK = "#1f2933"
MUTED = "#667684"
FAINT = "#d5dbe1"
ACCENT = "#1f6f8b"
ALERT = "#c2410c"

#: Behind slices: dark, but lighter than the black at the foot of some colour maps.
BACKDROP = "#2a3139"

#: Voxels inside the mask without an estimate; in no colour map below.
NO_ESTIMATE = "#00e5ff"

#: Qualitative colours for components and shells, in order.
COLOURS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#edc948", "#76b7b2", "#ff9da7",
    "#9c755f", "#a0cbe8", "#8cd17d", "#ffbe7d", "#d4a6c8", "#bab0ac",
)  # fmt: skip

#: One perceptually uniform colour map per statistic, everywhere.
COLOUR_MAPS: Mapping[str, str] = MappingProxyType(
    {
        "mean": "viridis",
        "lsq": "viridis",
        "std": "magma",
        "priorinfluence": "cividis",
        "unexpected": "inferno",
        "reference": "gray",
        "noise": "magma",
        "residual": "viridis",
    }
)

#: Units as people write them: factor and label by unit of the sidecar.
DISPLAY_UNITS: Mapping[str, tuple[float, str]] = MappingProxyType(
    {
        "mm^2/s": (1e3, "10⁻³\N{NO-BREAK SPACE}mm²/s"),
        "s": (1e3, "ms"),
        "": (1.0, ""),
        "1": (1.0, ""),
    }
)

#: The hash salt and the absent dates make equal figures equal bytes.
RC = MappingProxyType(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "axes.titlesize": 9.0,
        "axes.labelsize": 9.0,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "text.color": INK,
        # A name with two dollar signs is no formula.
        "text.parse_math": False,
        "svg.hashsalt": "bids_gmvae",
        "svg.fonttype": "path",
    }
)


def display_unit(unit: str) -> tuple[float, str]:
    r"""Give the factor and the label with which a unit is shown.

    Examples
    --------
    >>> display_unit("mm^2/s")
    (1000.0, '10⁻³\xa0mm²/s')
    """
    return DISPLAY_UNITS.get(unit, (1.0, unit))


def short(value: float) -> str:
    """Write a number in few characters.

    Examples
    --------
    >>> short(0.375), short(12500.0)
    ('0.375', '12500')
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def colour(index: int) -> str:
    """Give a qualitative colour; beyond the palette they repeat."""
    return COLOURS[index % len(COLOURS)]


def new_figure(width: float, height: float) -> Figure:
    """Make a white figure of that size in inches, without any display or global state."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place given in inches from the lower left corner."""
    total_width, total_height = figure.get_size_inches()
    return figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height)
    )


def render(figure: Figure, kind: str, *, dpi: int = 150) -> bytes:
    """Draw a figure as PNG or SVG.

    Parameters
    ----------
    figure : Figure
        Made within `drawing`.
    kind : {"png", "svg"}
        File format.
    dpi : int
        Pixels per inch of images.
    """
    buffer = io.BytesIO()
    nothing = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=nothing)
    return buffer.getvalue()


@contextmanager
def drawing() -> Iterator[None]:
    """Make and render figures in here: a user's matplotlibrc does not change the report."""
    settings: Any = {
        key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"
    } | dict(RC)
    with mpl.rc_context(settings):
        yield
