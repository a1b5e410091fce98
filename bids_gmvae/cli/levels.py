"""The analysis levels: all participants one by one, then all together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bids_gmvae.cli import reports
from bids_gmvae.cli.execution import Outcome, execute
from bids_gmvae.cli.failures import Failure
from bids_gmvae.cli.logs import LOG_FILE, say
from bids_gmvae.cli.plan import counted, make_plan, require_runs
from bids_gmvae.cli.workdir import claimed, claimed_outputs
from bids_gmvae.cli.workers import run_in_child
from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import ExitCode, NothingEligibleError
from bids_gmvae.io.sources import preprocessed_by_qsiprep
from bids_gmvae.workflows.dwi import estimation_settings
from bids_gmvae.workflows.plan import LeftOut, Plan

LOGGER = logging.getLogger(__name__)


def participant_level(settings: RunSettings, start_logs: Callable[[], Path]) -> ExitCode:
    """Map the runs of all participants, and report.

    Parameters
    ----------
    settings : RunSettings
        What the user asked for.
    start_logs : callable
        Creates the folder of this call; not before it is clear that there is work.
    """
    plan = run_in_child(make_plan, settings, execution=settings.execution)
    require_runs(plan, every=settings.execution.stop_on_first_crash)
    log_dir = start_logs()
    out_dir = settings.output_dir
    child = _child(settings, log_dir)
    if settings.output.boilerplate_only:
        written = child(reports.write_methods, out_dir / "logs", **_methods(plan))
        say(f"Methods text: {written[0]}")
        return ExitCode.OK
    invalid = [item for item in plan.left_out if item.invalid]
    for item in plan.left_out:
        level = logging.DEBUG if item.run is None else logging.WARNING
        level = logging.ERROR if item.invalid else level
        LOGGER.log(level, "%s: %s %s", item.path, item.reason, item.hint)
    for planned in plan.runs:
        for issue in planned.issues:
            level = logging.WARNING if issue["severity"] == "warning" else logging.DEBUG
            LOGGER.log(level, "%s: %s %s", planned.title, issue["text"], issue["hint"])
    child(reports.start_dataset, out_dir, settings, plan.datasets)
    n_runs = len({planned.run.stem for planned in plan.runs})
    of_whom = counted(len(plan.subjects), "participant")
    LOGGER.info("Mapping %s of %s.", counted(n_runs, "run"), of_whom)

    labels = [f"sub-{label}" for label in plan.subjects]
    with claimed(settings.execution.work_dir, labels), claimed_outputs(out_dir, labels):
        outcomes = execute(plan, settings, log_dir)
    for outcome in outcomes:
        for failure in outcome.failures:
            _tell_failure(outcome, failure)
    child(reports.write_methods, out_dir / "logs", **_methods(plan))
    subjects = _subjects(plan, invalid)
    pages, broken = child(
        reports.write_subject_reports,
        out_dir,
        subjects,
        level=settings.output.report_output_level,
        mapped=[outcome.planned.run for outcome in outcomes if outcome.mapped],
        unmapped=_unmapped(outcomes, invalid),
    )
    for sentence in broken:
        LOGGER.error("%s", sentence)
    child(reports.finish, out_dir, subjects)
    _summarise(outcomes, invalid, pages, log_dir)
    return exit_code(outcomes, invalid, reports_failed=bool(broken))


def reports_only(settings: RunSettings, start_logs: Callable[[], Path]) -> ExitCode:
    """Build the pages again from what is on disk."""
    subjects = reports.subjects_on_disk(settings.output_dir, settings.selection.participant_label)
    if not subjects:
        raise NothingEligibleError(
            f"There is nothing to report in {settings.output_dir}.",
            "Map the participants first, without --reports-only.",
        )
    child = _child(settings, start_logs())
    pages, broken = child(
        reports.write_subject_reports,
        settings.output_dir,
        subjects,
        level=settings.output.report_output_level,
    )
    for sentence in broken:
        LOGGER.error("%s", sentence)
    child(reports.finish, settings.output_dir, subjects)
    for page in pages:
        say(f"Report: {page}")
    return ExitCode.REPORT_FAILED if broken else ExitCode.OK


def group_level(settings: RunSettings, start_logs: Callable[[], Path]) -> ExitCode:
    """Tabulate all participants that are mapped."""
    if not any(settings.output_dir.glob("sub-*")):
        raise NothingEligibleError(
            f"No participant is mapped in {settings.output_dir}.",
            "Run the participant level first.",
        )
    child = _child(settings, start_logs())
    page, unused = child(
        reports.write_group,
        settings.output_dir,
        settings.output.atlas,
        tables=not settings.output.reports_only,
    )
    for problem in unused:
        LOGGER.warning("%s", problem)
    child(reports.finish, settings.output_dir)
    say(f"Report: {page}")
    return ExitCode.OK


def exit_code(
    outcomes: Sequence[Outcome], invalid: Sequence[LeftOut], *, reports_failed: bool
) -> ExitCode:
    """Sum up what became of all runs.

    If some are mapped, the others make it a partial failure; if none is, their reason counts.
    """
    codes = [outcome.exit_code for outcome in outcomes if not outcome.mapped]
    codes += [ExitCode.INVALID_INPUT] * len(invalid)
    if not any(outcome.mapped for outcome in outcomes):
        order = (ExitCode.NO_SPACE, ExitCode.DEVICE, ExitCode.INTERNAL, ExitCode.RUN_FAILED)
        return next((code for code in order if code in codes), ExitCode.INVALID_INPUT)
    incomplete = {outcome.exit_code for outcome in outcomes if outcome.mapped}
    if codes or ExitCode.RUN_FAILED in incomplete:
        return ExitCode.RUN_FAILED
    if reports_failed or ExitCode.REPORT_FAILED in incomplete:
        return ExitCode.REPORT_FAILED
    return ExitCode.OK


def _child(settings: RunSettings, log_dir: Path) -> Callable[..., Any]:
    """Give what calls a function in a child that writes to the log of this call."""
    return partial(run_in_child, log_file=log_dir / LOG_FILE, execution=settings.execution)


def _subjects(plan: Plan, invalid: Sequence[LeftOut]) -> list[str]:
    """List all participants with something to report: maps, or the reason why there are none."""
    broken = (item.run.subject for item in invalid if item.run is not None)
    return list(dict.fromkeys([*plan.subjects, *broken]))


def _methods(plan: Plan) -> dict[str, Any]:
    return {
        "models": list(dict.fromkeys(planned.signal_model for planned in plan.runs)),
        "estimator": plan.runs[0].estimator,
        "settings": estimation_settings(plan.model),
        "preprocessed": any(preprocessed_by_qsiprep(planned.run) for planned in plan.runs),
    }


def _unmapped(
    outcomes: Sequence[Outcome], invalid: Sequence[LeftOut]
) -> list[tuple[Any, list[dict[str, str]]]]:
    """Collect runs without maps and their findings, for the report."""
    found = [(item.run, [dict(issue) for issue in item.issues]) for item in invalid if item.run]
    for outcome in outcomes:
        if not outcome.mapped:
            reasons = [
                {"severity": "error", "code": "failed", "text": item.message, "hint": item.hint}
                for item in outcome.failures
            ]
            found.append((outcome.planned.run, [*map(dict, outcome.planned.issues), *reasons]))
    return found


def _tell_failure(outcome: Outcome, failure: Failure) -> None:
    crash = ""
    if failure.exit_code == ExitCode.INTERNAL and failure.crash_file is not None:
        crash = f"\n  Crash file: {failure.crash_file}"
    text = f"{failure.message} {failure.hint}".strip()
    LOGGER.error("%s: %s%s", outcome.planned.title, text, crash)


def _summarise(
    outcomes: Sequence[Outcome], invalid: Sequence[LeftOut], pages: Sequence[Path], log_dir: Path
) -> None:
    # A run counts as failed if one of its signal models did.
    stems = {outcome.planned.run.stem for outcome in outcomes}
    failed_stems = {outcome.planned.run.stem for outcome in outcomes if not outcome.mapped}
    n_mapped = len(stems - failed_stems)
    n_failed = len(failed_stems) + len({item.path for item in invalid})
    incomplete = {item.planned.run.stem for item in outcomes if item.mapped and item.failures}
    n_incomplete = len(incomplete - failed_stems)
    parts = [f"{counted(n_mapped, 'run')} mapped"]
    parts += [f"{n_incomplete} of them incomplete"] if n_incomplete else []
    parts += [f"{n_failed} failed"] if n_failed else []
    where = f" (see above and {log_dir})" if n_failed or n_incomplete else ""
    say(f"{', '.join(parts)}{where}.")
    for page in pages:
        say(f"Report: {page}")
