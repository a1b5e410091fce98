"""What is going to be done: plain values, made once and carried to graphs and users."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bids_gmvae.config import ModelSettings
from bids_gmvae.io.run import Run
from bids_gmvae.workflows.resources import fit_gb


@dataclass(frozen=True)
class PlannedRun:
    """A run that will be mapped with one signal model.

    Attributes
    ----------
    run : Run
        The run.
    signal_model, label : str
        Name of the model, and its label in file names.
    reason : str
        Why this model.
    directional : bool
        Whether the model uses gradient directions.
    estimator : str
        Name of the estimator.
    mask : str
        Where the mask will come from: a path, or ``median_otsu``.
    frame : str
        Where the gradient directions come from.
    shells, issues : tuple of mapping
        Findings of the header check, plain values.
    n_volumes : int
        Volumes that will be used.
    size_gb : float
        Memory that the image takes, GB.
    group : str
        Runs of one group are fitted together; part of a node's name.
    outputs : tuple of str
        Maps that will be written, relative to the output dataset.
    prior : mapping, optional
        Name and SHA-256 of the prior that is given.
    """

    run: Run
    signal_model: str
    label: str
    reason: str
    directional: bool
    estimator: str
    mask: str
    frame: str
    shells: tuple[Mapping[str, Any], ...]
    issues: tuple[Mapping[str, str], ...]
    n_volumes: int
    size_gb: float
    group: str
    outputs: tuple[str, ...]
    prior: Mapping[str, str] | None = None

    @property
    def key(self) -> str:
        """The run within its subject, as a part of node names."""
        return run_key(self.run)

    @property
    def title(self) -> str:
        """How the run is called to the user."""
        return f"{self.run.stem} ({self.signal_model})"


@dataclass(frozen=True)
class LeftOut:
    """An image that will not be mapped.

    Attributes
    ----------
    path : str
        The image.
    reason : str
        Why not.
    hint : str
        What to do about it.
    invalid : bool
        Whether it was selected but is broken, rather than not meant to be mapped.
    run : Run, optional
        The run, if it was one.
    issues : tuple of mapping
        Findings of the header check, plain values.
    """

    path: str
    reason: str
    hint: str = ""
    invalid: bool = False
    run: Run | None = None
    issues: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that one call of the app will do.

    Attributes
    ----------
    device : str
        ``cpu`` or ``cuda:N``.
    runs : tuple of PlannedRun
        What will be mapped, by subject.
    left_out : tuple of LeftOut
        What will not.
    datasets : mapping
        Folders of the input datasets by their ``DatasetLinks`` key.
    model : ModelSettings
        What is estimated and how, with what a given fit or prior decides.
    """

    device: str
    runs: tuple[PlannedRun, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    datasets: Mapping[str, str] = field(default_factory=dict)
    model: ModelSettings = field(default_factory=ModelSettings)

    @property
    def subjects(self) -> dict[str, tuple[PlannedRun, ...]]:
        """Planned runs by subject, in order."""
        labels = dict.fromkeys(planned.run.subject for planned in self.runs)
        return {
            label: tuple(planned for planned in self.runs if planned.run.subject == label)
            for label in labels
        }

    @property
    def largest_fit_gb(self) -> float:
        """Memory that the largest step takes, GB; 0 if there is none."""
        groups: dict[tuple[str, str], list[float]] = {}
        for planned in self.runs:
            groups.setdefault((planned.run.subject, planned.group), []).append(planned.size_gb)
        return max(map(fit_gb, groups.values()), default=0.0)


def run_key(run: Run) -> str:
    """Name a run within its subject with letters, digits and underscores only.

    Examples
    --------
    >>> from pathlib import Path
    >>> run_key(Run("dwi", (Path("sub-1_ses-2_space-T1w_dwi.nii.gz"),), {"subject": "1"}))
    'ses_2_space_T1w'
    """
    within = run.stem.removeprefix(f"sub-{run.subject}").strip("_")
    return node_name(within) or run.modality


def node_name(text: str) -> str:
    """Replace what Nipype does not allow in a name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)
