"""From the reportlets on disk to one self-contained page."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.atomic import write_text
from bids_gmvae.report.boilerplate import cited, methods_html, methods_text
from bids_gmvae.report.group_page import build_group_report
from bids_gmvae.report.page import embed, render_page
from bids_gmvae.report.reportlets import REPORT_SUFFIX, figures_dir

__all__ = ["build_group_report", "build_report", "remove_replaced", "report_path"]

LOGGER = logging.getLogger(__name__)

#: Order and words of the severities.
SEVERITIES = {"error": "Error", "warning": "Warning", "info": "Note"}


def build_report(
    out_dir: Path, subject: str, *, session: str | None = None, level: str = "root"
) -> Path:
    """Assemble the page of a participant from ``sub-X/figures``.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.
    subject : str
        Participant label without ``sub-``.
    session : str, optional
        Show only this session, in a page of its own.
    level : {"root", "subject", "session"}
        Folder of the page.

    Returns
    -------
    Path
        The page, e.g. ``sub-01.html``.

    Raises
    ------
    InputError
        If nothing of this participant is there.
    """
    runs = [_run(path) for path in _reports(out_dir, subject, session)]
    if not runs:
        wanted = f"sub-{subject}" + (f", session {session}" if session else "")
        raise InputError(
            f"A report needs mapped runs; {figures_dir(out_dir, subject)} has none of {wanted}.",
            "Run the participant level first.",
        )
    page = render_page(
        "template.html",
        subject=subject,
        session=session,
        runs=runs,
        verdict=_verdict(runs),
        methods=_methods(runs),
        severities=SEVERITIES,
    )  # fmt: skip
    return write_text(report_path(out_dir, subject, session=session, level=level), page)


def report_path(
    out_dir: Path, subject: str, *, session: str | None = None, level: str = "root"
) -> Path:
    """Give the path of a participant's page; see `build_report`."""
    name = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    folder = out_dir
    if level in ("subject", "session"):
        folder /= f"sub-{subject}"
    if level == "session" and session:
        folder /= f"ses-{session}"
    return folder / f"{name}.html"


def remove_replaced(out_dir: Path, subject: str, pages: Collection[Path]) -> list[Path]:
    """Remove a participant's pages of calls with another level, which ``pages`` replace.

    Returns
    -------
    list of Path
        What was removed.
    """
    name = f"sub-{subject}"
    folder = out_dir / name
    found = [out_dir / f"{name}.html", folder / f"{name}.html"]
    found += folder.glob(f"ses-*/{name}_ses-*.html")
    replaced = [path for path in found if path.is_file() and path not in pages]
    for path in replaced:
        path.unlink()
    return replaced


def _reports(out_dir: Path, subject: str, session: str | None) -> list[Path]:
    found = sorted(figures_dir(out_dir, subject).glob(f"*{REPORT_SUFFIX}"))
    if session is None:
        return found
    return [path for path in found if f"_ses-{session}_" in path.name]


def _run(path: Path) -> dict[str, Any]:
    report = json.loads(path.read_text(encoding="utf-8"))
    stem = path.name.removesuffix(REPORT_SUFFIX)
    panels = []
    for panel in report.get("panels", ()):
        # A bare name: a report can show nothing from outside its folder.
        figure = path.parent / Path(panel["file"]).name
        if figure.is_file():
            panels.append({**panel, "source": embed(figure.read_bytes(), figure.suffix)})
        else:
            LOGGER.warning("The figure %s is missing; the report goes without it.", figure.name)
    order = list(SEVERITIES)
    issues = sorted(report["issues"], key=lambda issue: order.index(issue["severity"]))
    return {**report, "id": stem, "title": _title(report), "panels": panels, "issues": issues}


def _title(report: Mapping[str, Any]) -> str:
    own = [
        part.replace("-", " ", 1)
        for part in report["stem"].split("_")
        if not part.startswith("sub-")
    ]
    place = ", ".join(own)
    model = report.get("model", {}).get("description", "Not mapped")
    return f"{model} ({place})" if place else str(model)


def _verdict(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Sum up all runs in one sentence."""
    severities = [issue["severity"] for run in runs for issue in run["issues"]]
    unmapped = [run for run in runs if not run["mapped"]]
    n_warnings = severities.count("warning")
    if unmapped:
        which = "The run" if len(runs) == 1 else f"{len(unmapped)} of {len(runs)} runs"
        return {"severity": "error", "text": f"{which} could not be mapped; the reason is below."}
    if n_warnings:
        what = "one point needs" if n_warnings == 1 else f"{n_warnings} points need"
        return {"severity": "warning", "text": f"Mapped, but {what} your attention before use."}
    return {"severity": "ok", "text": "Mapped; the automatic checks found nothing to worry about."}


def _methods(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    mapped = [run for run in runs if run["mapped"]]
    if not mapped:
        return None
    first = mapped[0]
    text = methods_text(
        models=[run["model"]["name"] for run in mapped],
        estimator=first["estimator"],
        settings=first["settings"],
        preprocessed=any(run["preprocessed"] for run in mapped),
        version=first["software"]["bids_gmvae"],
    )
    # The text is escaped by methods_html.
    return {"html": Markup(methods_html(text)), "references": cited(text)}
