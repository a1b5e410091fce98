"""Errors that a user can cause, each with the exit code it leads to."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line, as documented in the README."""

    OK = 0
    RUN_FAILED = 1
    BAD_COMMAND_LINE = 2
    NOTHING_ELIGIBLE = 3
    REPORT_FAILED = 5
    DEVICE = 6
    INVALID_INPUT = 7
    INVALID_OUTPUT = 8
    INTERNAL = 70
    NO_SPACE = 75


class GMVAEError(Exception):
    """Base of all errors that are shown to the user without a traceback.

    Parameters
    ----------
    message : str
        What was required and what was found.
    hint : str, optional
        What to do about it.
    """

    exit_code: ExitCode = ExitCode.RUN_FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[type[GMVAEError], tuple[str, str]]:
        # Errors cross process borders (Nipype workers), so both parts must survive pickling.
        return type(self), (self.message, self.hint)


class InputError(GMVAEError, ValueError):
    """A file, dataset or table that cannot be used as given."""

    exit_code = ExitCode.INVALID_INPUT


class AcquisitionError(InputError):
    """An acquisition that lacks what a signal model needs."""


class NothingEligibleError(GMVAEError, ValueError):
    """No run is left after selection and checks."""

    exit_code = ExitCode.NOTHING_ELIGIBLE


class DeviceError(GMVAEError, RuntimeError):
    """The requested device is missing or ran out of memory."""

    exit_code = ExitCode.DEVICE


class StorageError(GMVAEError, RuntimeError):
    """No space, quota or permission on the output or work directory."""

    exit_code = ExitCode.NO_SPACE


class UnknownNameError(InputError):
    """A name that is in no registry; the message lists what there is."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Build the error for ``name``, suggesting the closest known one.

        Parameters
        ----------
        kind : str
            What is named, e.g. ``"signal model"``.
        name : str
            The name that was given.
        known : iterable of str
            The names that exist.

        Examples
        --------
        >>> print(UnknownNameError.of("signal model", "mskdi", ["ivim", "msdki"]))
        Unknown signal model 'mskdi'. Did you mean 'msdki'? Known: ivim, msdki.
        """
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        suggestion = f"Did you mean '{close[0]}'? " if close else ""
        return cls(f"Unknown {kind} '{name}'.", f"{suggestion}Known: {', '.join(names)}.")


#: Errors of the operating system about room and permission.
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def explain(error: BaseException) -> GMVAEError | None:
    """Put an error of the machine into the app's words.

    Parameters
    ----------
    error : BaseException
        Anything that was raised.

    Returns
    -------
    GMVAEError or None
        The error itself if it is one already; None if it is a defect, which has a traceback.

    Examples
    --------
    >>> print(explain(OSError(28, "No space left on device", "/out/map.nii.gz")))
    No space left on device: /out/map.nii.gz. Free space or choose other directories, then repeat.
    >>> explain(KeyError("x")) is None
    True
    """
    if isinstance(error, GMVAEError):
        return error
    if isinstance(error, MemoryError):
        return GMVAEError("There is not enough memory.", "Give more, or use fewer --nprocs.")
    # Known by name, so that this module stays free of torch.
    if type(error).__name__ == "OutOfMemoryError":
        return DeviceError(
            "The device ran out of memory.", "Use --device cpu, or a device with more memory."
        )
    if isinstance(error, OSError) and error.errno in _STORAGE:
        where = f": {error.filename}" if error.filename else ""
        return StorageError(
            f"{error.strerror}{where}.", "Free space or choose other directories, then repeat."
        )
    return None


def why_unreadable(error: Exception) -> str:
    """Say why a file of text cannot be read, where the error itself talks of its own workings.

    Examples
    --------
    >>> why_unreadable(RecursionError("maximum recursion depth exceeded"))
    'it is nested too deeply'
    >>> why_unreadable(ValueError("line 3: a comma is missing"))
    'line 3: a comma is missing'
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8"
    return str(error)
