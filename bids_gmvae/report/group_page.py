"""The page of a cohort, from the tables that the group level wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.atomic import NOT_AVAILABLE, read_tsv, write_text
from bids_gmvae.report import charts, style
from bids_gmvae.report.page import embed, render_page
from bids_gmvae.signal_models import SIGNAL_MODELS

PARAMETERS = "group_parameters.tsv"
QUALITY = "group_qc.tsv"

#: Measures of the quality table that are shown: column, heading, whether it is a share.
MEASURES = (
    ("snr_b0", "Signal to noise, b0", False),
    ("sigma_median", "Noise sd", False),
    ("residual_rms", "Residual over noise", False),
    ("fraction_failed", "Without an estimate", True),
    ("fraction_at_bound", "At a bound", True),
    ("unexpected_fraction", "Unexpected tissue", True),
)

#: Regions in one figure, and figures of one parameter and segmentation.
REGIONS = 20
FIGURES = 2

Row = Mapping[str, str]


def build_group_report(out_dir: Path) -> Path:
    """Assemble ``group.html`` from ``group_parameters.tsv`` and ``group_qc.tsv``.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If the tables are missing.
    """
    for name in (PARAMETERS, QUALITY):
        if not (out_dir / name).is_file():
            raise InputError(
                f"The group page needs {name}; {out_dir} has none.", "Run the group level."
            )
    parameters, quality = read_tsv(out_dir / PARAMETERS), read_tsv(out_dir / QUALITY)
    runs = [_quality_row(row, out_dir) for row in quality]
    models = [_model(model, parameters) for model in _unique(parameters, "model")]
    page = render_page(
        "group_template.html",
        runs=runs,
        measures=[heading for _, heading, _ in MEASURES],
        participants=_unique(quality, "participant_id"),
        n_outliers=sum(bool(run["apart"]) for run in runs),
        judged=any(row.get("outlier") in ("true", "false") for row in quality),
        models=models,
        tables=(PARAMETERS, QUALITY),
    )
    return write_text(out_dir / "group.html", page)


def _quality_row(row: Row, out_dir: Path) -> dict[str, Any]:
    apart = [name.strip() for name in _text(row, "outlier_measures").split(";") if name.strip()]
    words = {name: heading for name, heading, _ in MEASURES}
    names = {item.label: item.name for item in SIGNAL_MODELS.values()}
    return {
        "label": _label(row),
        "run": _text(row, "run"),
        "model": names.get(_text(row, "model"), _text(row, "model")),
        "page": _page_of(row, out_dir),
        "apart": apart,
        "words": ", ".join(words.get(name, name.replace("_", " ")) for name in apart),
        "cells": [
            {"value": _value(row, name), "share": share, "apart": name in apart}
            for name, _, share in MEASURES
        ],
    }


def _page_of(row: Row, out_dir: Path) -> str | None:
    """Find the page of a run among the places that ``--report-output-level`` allows."""
    subject, session = _text(row, "participant_id"), _text(row, "session_id")
    candidates = [f"{subject}.html", f"{subject}/{subject}.html"]
    if session:
        candidates.append(f"{subject}/{session}/{subject}_{session}.html")
    return next((name for name in candidates if (out_dir / name).is_file()), None)


def _model(model: str, parameters: Sequence[Row]) -> dict[str, Any]:
    rows = [row for row in parameters if row["model"] == model]
    known = {item.label: item.description for item in SIGNAL_MODELS.values()}
    return {
        "label": model,
        "title": known.get(model, model),
        "figures": [
            figure
            for parameter in _unique(rows, "parameter")
            for figure in _figures([row for row in rows if row["parameter"] == parameter], model)
        ],
    }


def _figures(rows: Sequence[Row], model: str) -> Iterator[dict[str, Any]]:
    """Draw one parameter: the mask and the tissue components, then each atlas."""
    factor, unit = style.display_unit(_text(rows[0], "unit"))
    title = _describe(rows[0]["parameter"], model)
    own = [row for row in rows if row["segmentation"] in ("mask", "components")]
    groups = [("", own)] + [
        (name, [row for row in rows if row["segmentation"] == name])
        for name in _unique(rows, "segmentation")
        if name not in ("mask", "components")
    ]
    for segmentation, members in groups:
        regions = _regions(members, factor)
        names = list(regions)
        for start in range(0, min(len(names), REGIONS * FIGURES), REGIONS):
            part = {name: regions[name] for name in names[start : start + REGIONS]}
            with style.drawing():
                figure = charts.cohort_strip(part, label=f"Median{f', {unit}' if unit else ''}")
                source = embed(style.render(figure, "svg"), ".svg")
            yield {
                "title": f"{title}, {segmentation}" if segmentation else title,
                "source": source,
                "alt": f"{title} of all participants by region.",
                "width": round(100 * float(figure.get_size_inches()[0])),
                "left_out": max(0, len(names) - REGIONS * FIGURES),
            }


def _regions(rows: Sequence[Row], factor: float) -> dict[str, list[tuple[str, float]]]:
    regions: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        value = _value(row, "median")
        if value is not None:
            name = "whole mask" if row["segmentation"] == "mask" else row["region"]
            name = name.replace("-", " ").replace("component minor", "minor components")
            regions.setdefault(name, []).append((_label(row), value * factor))
    if {row["segmentation"] for row in rows} <= {"mask", "components"}:
        return {name: regions[name] for name in sorted(regions, key=_place)}
    return regions


def _place(region: str) -> tuple[bool, float, str]:
    """Order regions: the whole mask, components by their number, the rest."""
    number = region.removeprefix("component ")
    return region != "whole mask", float(number) if number.isdigit() else math.inf, region


def _describe(parameter: str, model: str) -> str:
    """Give the description of a parameter of a known model, else its label."""
    for signal_model in SIGNAL_MODELS.values():
        if signal_model.label == model:
            for item in signal_model.parameters:
                if parameter in (item.bids.get("param"), item.name):
                    return item.description
    return parameter


def _label(row: Row) -> str:
    """Name a scan by its entities; all scans of a study have the same space."""
    parts = (_text(row, "run") or row["participant_id"]).split("_")
    return ", ".join(part for part in parts if not part.startswith("space-"))


def _text(row: Row, column: str) -> str:
    value = row.get(column, NOT_AVAILABLE)
    return "" if value in (NOT_AVAILABLE, None) else value


def _value(row: Row, column: str) -> float | None:
    text = _text(row, column)
    return float(text) if text else None


def _unique(rows: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))
