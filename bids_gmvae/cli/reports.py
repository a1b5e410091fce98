"""Pages and texts made from what is on disk; called in a child process."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import NothingEligibleError, explain
from bids_gmvae.io.run import Run

if TYPE_CHECKING:
    from bids_gmvae.io.validation import Validation

LOGGER = logging.getLogger(__name__)


def subjects_on_disk(out_dir: Path, wanted: Sequence[str] = ()) -> list[str]:
    """List the participants of an output dataset that have something to report."""
    found = sorted(path.parent.name[4:] for path in out_dir.glob("sub-*/figures"))
    return [label for label in found if not wanted or label in wanted]


def write_subject_reports(
    out_dir: Path,
    subjects: Sequence[str],
    *,
    level: str = "root",
    mapped: Sequence[Run] = (),
    unmapped: Sequence[tuple[Run, Sequence[Mapping[str, str]]]] = (),
) -> tuple[list[Path], list[str]]:
    """Build the pages of participants, in place of earlier ones.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.
    subjects : sequence of str
        Labels.
    level : {"root", "subject", "session"}
        Folder of the pages; with ``session`` there is one per session.
    mapped : sequence of Run
        Runs that were mapped: what was said of earlier failures is withdrawn.
    unmapped : sequence of (Run, issues)
        Runs that were not, and why; the page says so.

    Returns
    -------
    pages : list of Path
        What was written.
    failures : list of str
        One sentence for each page that could not be built.
    """
    from bids_gmvae.report.assemble import build_group_report, build_report, remove_replaced
    from bids_gmvae.report.reportlets import REPORT_SUFFIX, figures_dir, write_unmapped

    for run in mapped:
        said = figures_dir(out_dir, run.subject) / f"{run.stem}{REPORT_SUFFIX}"
        said.unlink(missing_ok=True)
    pages, failures = [], []
    moved = False
    for subject in subjects:
        try:
            for run, issues in unmapped:
                if run.subject == subject:
                    write_unmapped(run, issues, out_dir)
            sessions = sorted(path.name[4:] for path in (out_dir / f"sub-{subject}").glob("ses-*"))
            own = [
                build_report(out_dir, subject, session=session, level=level)
                for session in (sessions if level == "session" and sessions else [None])
            ]
        except Exception as error:
            failures.append(_explained(f"The report of sub-{subject} could not be made", error))
            continue
        pages += own
        try:
            moved |= bool(remove_replaced(out_dir, subject, own))
        except OSError as error:
            moved = True
            what = f"The earlier report of sub-{subject} could not be removed"
            failures.append(_explained(what, error))
    try:
        if moved and (out_dir / "group.html").is_file():
            build_group_report(out_dir)  # its links lead to where the pages are now
    except Exception as error:
        failures.append(_explained("The group report could not be made", error))
    return pages, failures


def _explained(what: str, error: Exception) -> str:
    """Say why a page is not as it should be. It is made of what others wrote: maps are safe."""
    known = explain(error)
    LOGGER.debug("%s failed", what, exc_info=True)
    reason = str(known) if known else f"{type(error).__name__}: {error}"
    return f"{what}: {reason}"


def write_methods(
    folder: Path,
    *,
    models: Sequence[str],
    estimator: str,
    settings: Mapping[str, Any],
    preprocessed: bool,
) -> list[Path]:
    """Write the methods text and its references."""
    from bids_gmvae.report.boilerplate import write_boilerplate

    return write_boilerplate(
        folder,
        models=models,
        estimator=estimator,
        settings=settings,
        preprocessed=preprocessed,
    )


def write_group(out_dir: Path, atlases: Sequence[str], *, tables: bool) -> tuple[Path, list[str]]:
    """Write the tables over participants and their page.

    Returns
    -------
    page : Path
        The page.
    problems : list of str
        One sentence for each run or atlas that could not be used.
    """
    from bids_gmvae.report.group_page import build_group_report

    problems: list[str] = []
    if tables:
        from bids_gmvae.group import group_level

        problems = group_level(out_dir, atlases=atlases).problems
    return build_group_report(out_dir), problems


def finish(out_dir: Path, subjects: Sequence[str] = ()) -> None:
    """Tidy up, and write down what these participants and the dataset consist of."""
    from bids_gmvae.io.dataset import remove_unfinished, write_manifest

    remove_unfinished(out_dir, subjects)
    write_manifest(out_dir, subjects)


def examine(settings: RunSettings) -> Validation:
    """Compare the output dataset with what was written, and with its input."""
    from bids_gmvae.io.validation import validate

    if not any(settings.output_dir.glob("*")):
        raise NothingEligibleError(
            f"There is nothing to validate in {settings.output_dir}.",
            "Map the participants first, without --validate-outputs.",
        )
    main = {"raw": settings.bids_dir, "preprocessed": settings.bids_dir}
    return validate(settings.output_dir, {**main, **settings.selection.derivatives})


def start_dataset(out_dir: Path, settings: Any, datasets: Mapping[str, str]) -> None:
    """Write the dataset-level files."""
    from bids_gmvae.io.dataset import initialise

    initialise(out_dir, settings, {name: Path(root) for name, root in datasets.items()})
