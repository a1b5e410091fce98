"""What a modality provides, and the findings of its checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from bids_gmvae.exceptions import InputError


@dataclass(frozen=True)
class Issue:
    """One finding about a run.

    Attributes
    ----------
    severity : {"error", "warning", "info"}
        An error keeps the run from being mapped.
    code : str
        Short stable identifier, e.g. ``"volume_count"``.
    text : str
        What was required and what was found, naming file and value.
    hint : str
        What to do.
    """

    severity: Literal["error", "warning", "info"]
    code: str
    text: str
    hint: str = ""

    def to_dict(self) -> Mapping[str, str]:
        """Give plain values for JSON."""
        return asdict(self)


def raise_errors(issues: Iterable[Issue]) -> None:
    """Raise the errors among ``issues`` as one.

    Raises
    ------
    InputError
        With every text, and the hint of the first.
    """
    errors = [issue for issue in issues if issue.severity == "error"]
    if errors:
        raise InputError(" ".join(issue.text for issue in errors), errors[0].hint)
