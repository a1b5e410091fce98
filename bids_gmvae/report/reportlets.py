"""Everything the report shows of one run, written to ``sub-X/figures``.

The page is assembled from these files alone, so it can be made again without the fit. niworkflows
and nireports have such pages too; theirs load scripts from the network, ours must open offline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bids_gmvae.io.atomic import write_bytes, write_json
from bids_gmvae.io.result import RunResult
from bids_gmvae.io.run import Run
from bids_gmvae.io.sources import preprocessed_by_qsiprep
from bids_gmvae.report import facts, style
from bids_gmvae.report.findings import findings
from bids_gmvae.report.panels import panels

#: How the names of the files end from which pages are assembled.
REPORT_SUFFIX = "_desc-report_dwi.json"


def figures_dir(out_dir: Path, subject: str) -> Path:
    """Give the folder of a participant's reportlets."""
    return out_dir / f"sub-{subject}" / "figures"


def write_reportlets(result: RunResult, out_dir: Path, *, sloppy: bool = False) -> list[Path]:
    """Draw the figures of a run and write what the report says about it.

    Parameters
    ----------
    result : RunResult
        The fitted run.
    out_dir : Path
        Root of the output dataset.
    sloppy : bool
        Whether it was a fast test run; the report says so.

    Returns
    -------
    list of Path
        The figures, then the JSON that names them; it is written last, so that it never names
        a figure that is not there.
    """
    model = result.posterior.signal_model
    stem = f"{result.run.stem}_model-{model.label}"
    folder = figures_dir(out_dir, result.run.subject)
    written, shown = [], []
    with style.drawing():
        for panel in panels(result):
            path = folder / f"{stem}_desc-{panel.name}_dwi.{panel.kind}"
            written.append(write_bytes(path, style.render(panel.figure, panel.kind)))
            shown.append({"file": path.name, **panel.to_dict()})
    content = {**describe(result, sloppy=sloppy), "panels": shown}
    written.append(write_json(folder / f"{stem}{REPORT_SUFFIX}", content))
    return written


def describe(result: RunResult, *, sloppy: bool = False) -> dict[str, Any]:
    """Give all words and numbers of the report about a run, as plain values."""
    model = result.posterior.signal_model
    return {
        **_identity(result.run),
        "mapped": True,
        "model": {
            "name": model.name,
            "label": model.label,
            "description": model.description,
            "reference": model.reference,
            "reason": result.info.get("reason", ""),
        },
        "estimator": result.info.get("fit", {}).get("estimator", ""),
        "numbers": facts.numbers(result),
        "issues": [*map(dict, result.info.get("issues", ())), *findings(result, sloppy=sloppy)],
        "shells": facts.shell_rows(result),
        "frame": result.info.get("frame", ""),
        "mask": facts.mask_source(result),
        "parameters": facts.parameter_rows(result),
        "components": facts.component_rows(result),
        "status": facts.status_rows(result),
        "learnt_from": facts.learnt_from(result),
        "settings": facts.settings_of(result),
        "software": facts.software(),
    }


def write_unmapped(run: Run, issues: Iterable[Mapping[str, str]], out_dir: Path) -> Path:
    """Write what the report says about a run that could not be mapped.

    Parameters
    ----------
    run : Run
        The run.
    issues : iterable of mapping
        Its findings as plain values: ``severity``, ``code``, ``text``, ``hint``.
    out_dir : Path
        Root of the output dataset.
    """
    content = {
        **_identity(run),
        "mapped": False,
        "issues": run.without_folders(issues),
        "software": facts.software(),
    }
    return write_json(figures_dir(out_dir, run.subject) / f"{run.stem}{REPORT_SUFFIX}", content)


def _identity(run: Run) -> dict[str, Any]:
    return {
        "stem": run.stem,
        "subject": run.subject,
        "session": run.session,
        "input": run.image.name,
        "dataset": run.dataset,
        "preprocessed": preprocessed_by_qsiprep(run),
    }
