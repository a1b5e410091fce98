"""The command ``bids-gmvae``: from a command line to an exit code."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from bids_gmvae.cli.logs import LOG_FILE, configure_logging, new_run_uuid, say
from bids_gmvae.cli.parser import parse_args
from bids_gmvae.cli.signals import REQUESTS, Stopped, held, ignore_requests, stoppable
from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import ExitCode, GMVAEError, StorageError, explain

LOGGER = logging.getLogger(__name__)

#: Added to the number of a signal, as shells do.
SIGNALLED = 128

#: What ``--sloppy`` limits.
SLOPPY_EPOCHS = 10
SLOPPY_COMPONENTS = 4


def entry() -> NoReturn:
    """Be the command: run the app, and end."""
    code = main()
    ignore_requests()
    if "bids_gmvae.cli.workers" in sys.modules:
        _end_descendants()  # all is done; left alone, their server takes a second to end
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name.

    Returns
    -------
    int
        An `ExitCode`, or 128 + the number of the signal that ended the run. In the latter case the
        process is about to end, and ignores further ones.
    """
    try:
        with stoppable():
            return int(_run(argv))
    except Stopped as stop:
        _end_descendants()
        LOGGER.error("Stopped. The same command goes on where this one ended.")
        return SIGNALLED + stop.number


def _end_descendants() -> None:
    from bids_gmvae.cli.watchdog import end_descendants

    end_descendants()


def _run(argv: Sequence[str] | None) -> int:
    """Read the command line, and do what it asks for."""
    try:
        settings = parse_args(argv)
    except SystemExit as end:  # after --help, --version or a wrong command line
        return int(end.code or 0)
    except GMVAEError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if settings.execution.debug:
        settings = replace(settings, execution=replace(settings.execution, verbose=2))
    configure_logging(None, verbose=settings.execution.verbose)
    try:
        with _environment(settings):
            code = _dispatch(_effective(settings))
            if code == ExitCode.OK and settings.execution.clean_workdir:
                _clean_up(settings.execution.work_dir)
            return code
    except Exception as error:
        return _tell(error, debug=settings.execution.debug)


def _dispatch(settings: RunSettings) -> ExitCode:
    """Do what was asked for; imports wait until caches and threads are set."""
    from bids_gmvae.cli.workers import start_server

    without_maps = settings.execution.dry_run is not None or settings.output.validate_outputs
    start_server(reports=not without_maps)
    with held(*REQUESTS):
        # Half imported, Nipype would complain when Python ends.
        importlib.import_module("bids_gmvae.cli.pool")
    if settings.execution.dry_run is not None:
        return _dry_run(settings)
    if settings.output.validate_outputs:
        return _validate_outputs(settings)
    from bids_gmvae.cli.levels import group_level, participant_level, reports_only

    # The folder of the call is made once it is clear that there is work.
    start_logs = partial(_start_logs, settings)
    if settings.execution.learn_prior:
        from bids_gmvae.cli.prior import learn_priors

        return learn_priors(settings, start_logs)
    if settings.analysis_level == "group":
        return group_level(settings, start_logs)
    if settings.output.reports_only:
        return reports_only(settings, start_logs)
    return participant_level(settings, start_logs)


def _dry_run(settings: RunSettings) -> ExitCode:
    from bids_gmvae.cli.plan import describe, make_plan, require_runs, to_json
    from bids_gmvae.cli.workers import run_in_child

    plan = run_in_child(make_plan, settings, execution=settings.execution)
    if settings.execution.dry_run == "json":
        # Programs get the reasons as JSON too; the exit code says that nothing is left.
        say(to_json(plan))
        require_runs(plan)
    else:
        require_runs(plan)
        say(describe(plan))
    return ExitCode.OK


def _validate_outputs(settings: RunSettings) -> ExitCode:
    from bids_gmvae.cli.plan import counted
    from bids_gmvae.cli.reports import examine
    from bids_gmvae.cli.workers import run_in_child

    found = run_in_child(examine, settings, execution=settings.execution)
    if found.problems:
        say("\n".join(found.problems))
        LOGGER.error("%s in %s", counted(len(found.problems), "problem"), settings.output_dir)
        return ExitCode.INVALID_OUTPUT
    if found.unreachable:
        LOGGER.warning(
            "Not found: %s, such as %s. Grids were compared with masks instead.",
            counted(len(found.unreachable), "input image"),
            found.unreachable[0],
        )
    say(f"Valid: {counted(found.n_files, 'file')} as written.")
    return ExitCode.OK


def _start_logs(settings: RunSettings) -> Path:
    """Create the folder of this call, with its settings and its log."""
    from bids_gmvae.cli.configfile import write_config

    log_dir = settings.output_dir / "logs" / new_run_uuid()
    with _usable(settings.output_dir):
        log_dir.mkdir(parents=True)
        write_config(settings, log_dir / "config.toml")
    configure_logging(log_dir / LOG_FILE, verbose=settings.execution.verbose)
    for option in settings.execution.ignored:
        LOGGER.info("%s has no effect here.", option)
    return log_dir


def _effective(settings: RunSettings) -> RunSettings:
    """Make paths absolute, and settings fast if they may be sloppy."""
    settings = replace(
        settings,
        bids_dir=settings.bids_dir.absolute(),
        output_dir=settings.output_dir.absolute(),
        execution=replace(settings.execution, work_dir=settings.execution.work_dir.absolute()),
    )
    if not settings.execution.sloppy:
        return settings
    model = settings.model
    return replace(
        settings,
        model=replace(
            model,
            n_epochs=min(model.n_epochs, SLOPPY_EPOCHS),
            n_components=min(model.n_components, SLOPPY_COMPONENTS),
        ),
    )


@contextmanager
def _environment(settings: RunSettings) -> Iterator[None]:
    """Set up caches, in the work directory or, if nothing shall be written, elsewhere."""
    from bids_gmvae.cli.environment import CACHE, prepare_environment

    work_dir = settings.execution.work_dir
    if settings.execution.dry_run is not None or settings.output.validate_outputs:
        with _usable(Path(os.environ.get("TMPDIR", "/tmp"))):
            temporary = tempfile.TemporaryDirectory(prefix="bids-gmvae-")
        with temporary as cache:
            prepare_environment(settings, Path(cache))
            yield
        return
    with _usable(work_dir):
        prepare_environment(settings, work_dir / CACHE)
        if settings.execution.clean_workdir:
            from bids_gmvae.cli.workdir import clean

            clean(work_dir)
    yield


def _clean_up(work_dir: Path) -> None:
    """Empty the work directory at the end, unless others still compute there."""
    from bids_gmvae.cli.environment import CACHE
    from bids_gmvae.cli.workdir import clean

    try:
        clean(work_dir, CACHE)
    except (StorageError, OSError) as error:
        LOGGER.warning("The work directory could not be emptied: %s", error)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Say it in plain words if a folder cannot be made or written."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The folder {folder} cannot be used: {error.strerror}.",
            "Choose another one that can be written, and has room.",
        ) from error


def _tell(error: Exception, *, debug: bool) -> ExitCode:
    """Say what went wrong, in plain words where they are known."""
    known = explain(error)
    if debug:
        traceback.print_exception(error)
    LOGGER.debug("The run ended with an error", exc_info=error)
    if known is not None:
        LOGGER.error("%s", known)
        return known.exit_code
    LOGGER.error(
        "Internal error: %s: %s\nPlease report it with the output of --debug.",
        type(error).__name__, error,
    )  # fmt: skip
    return ExitCode.INTERNAL
