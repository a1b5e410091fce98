"""What a call of the app will do, found out before anything is computed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bids_gmvae import __version__
from bids_gmvae.cli.plan_settings import (
    complete_settings,
    template_names,
    warn_of_fit,
    warn_of_spaces,
)
from bids_gmvae.config import ComputeSettings, ModelSettings, RunSettings
from bids_gmvae.exceptions import AcquisitionError, InputError, NothingEligibleError
from bids_gmvae.io.run import Run
from bids_gmvae.workflows.plan import LeftOut, Plan, PlannedRun, node_name, run_key
from bids_gmvae.workflows.resources import APP_GB

if TYPE_CHECKING:
    from bids_gmvae.estimators import Fit
    from bids_gmvae.modalities.dwi import CheckedRun
    from bids_gmvae.signal_models import SignalModel

#: What is kept of a sidecar. The rest may identify a person, and would enter crash files.
METADATA = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "PhaseEncodingDirection")

#: What differs among the maps of one parameter, or of one kind.
_VARYING = re.compile(
    r"(?<=_desc-)(mean|std|priorinfluence|samples|lsq)(?=_)|(?<=_label-)C\d+(?=_)"
)

#: What each estimator says of a parameter, by the ``desc-`` of its maps.
STATISTICS: Mapping[str, tuple[str, ...]] = {
    "gmvae": ("mean", "std", "priorinfluence"),
    "lsq": ("mean", "std"),
    "mlp": ("mean",),
    "vae_unig": ("mean", "std"),
    "vae_gmm": ("mean", "std"),
}

#: Estimators that tell tissues apart.
MIXTURES = ("gmvae", "vae_gmm")

#: Errors of runs that are sound but not meant to be mapped, as b0s of reversed phase encoding.
NOT_MEANT = {"no_weighting", "too_few_volumes"}

#: Images left out that are listed when nothing is left.
N_REASONS = 20


def make_plan(settings: RunSettings) -> Plan:
    """Find the runs, check their headers, choose models, and group what is fitted together.

    Parameters
    ----------
    settings : RunSettings
        What the user asked for.

    Returns
    -------
    Plan
        Plain values. Runs that cannot be mapped are among ``left_out``.

    Raises
    ------
    InputError
        If the dataset or a fit cannot be read, or a participant does not exist.
    DeviceError
        If the device is not there.
    """
    from bids_gmvae.estimators import load_fit
    from bids_gmvae.modalities.base import raise_errors
    from bids_gmvae.modalities.dwi import check, find_runs

    device = _device(settings.compute)
    saved = settings.model.reuse_fit
    fit = None if saved is None else load_fit(saved)
    model = complete_settings(settings.model, fit)
    spaces = template_names(settings.output.output_spaces)
    runs, skipped = find_runs(settings)
    left_out = [LeftOut(str(item.path), item.reason, invalid=item.invalid) for item in skipped]
    planned: list[PlannedRun] = []
    for found in runs:
        kept = {key: found.metadata[key] for key in METADATA if key in found.metadata}
        run = replace(found, metadata=kept)
        checked = check(run, model)
        try:
            raise_errors(checked.issues)
            for name in model.signal_model:
                item = _plan_run(run, checked, name, model, fit)
                planned.append(warn_of_spaces(item, spaces))
        except InputError as error:
            errors = {issue.code for issue in checked.issues if issue.severity == "error"}
            invalid = not errors or not errors <= NOT_MEANT
            issues = tuple(issue.to_dict() for issue in checked.issues)
            left_out.append(
                LeftOut(str(run.image), error.message, error.hint, invalid, run, issues)
            )
    datasets = {item.run.dataset: str(item.run.dataset_root) for item in planned}
    grouped = _group(_without_duplicates(planned), settings)
    return Plan(device, tuple(grouped), tuple(left_out), datasets, model)


def require_runs(plan: Plan, *, every: bool = False) -> None:
    """Raise if nothing is left to map.

    Parameters
    ----------
    plan : Plan
        What was found.
    every : bool
        Require all selected runs to be valid, rather than one.

    Raises
    ------
    InputError
        If runs were selected, but none is valid.
    NothingEligibleError
        If no run was selected.
    """
    invalid = [item for item in plan.left_out if item.invalid]
    if plan.runs and not (every and invalid):
        return
    listed = invalid or list(plan.left_out)
    reasons = "".join(f"\n  {_left_out_line(item)}" for item in listed[:N_REASONS])
    if len(listed) > N_REASONS:
        reasons += f"\n  ... and {len(listed) - N_REASONS} more"
    if plan.runs:
        raise InputError(
            f"Nothing was started, since some runs cannot be mapped:{reasons}",
            "\nLeave out --stop-on-first-crash to map the others.",
        )
    if invalid:
        raise InputError(f"No run can be mapped; each has an error:{reasons}")
    raise NothingEligibleError(
        f"No run is left to map.{reasons}",
        "\nCheck the selection options; `--dry-run` shows what is found.",
    )


def describe(plan: Plan) -> str:
    """Write the plan for people, one block per run."""
    blocks = []
    for planned in plan.runs:
        # Groups are named within their participant.
        members = plan.subjects[planned.run.subject]
        together = [other.run.stem for other in members if other.group == planned.group]
        lines = {
            "image": f"{planned.run.image} [{planned.run.dataset}]",
            "volumes": f"{planned.n_volumes} used; shells {_shells(planned.shells)}",
            "gradients": planned.frame,
            "mask": planned.mask,
            "model": f"{planned.signal_model} ({planned.reason})",
            "estimator": f"{planned.estimator} on {plan.device}",
            "prior": _prior(planned),
            "fitted with": ", ".join(stem for stem in together if stem != planned.run.stem),
            "outputs": "\n              ".join(_folded(planned.outputs)),
        }
        block = [planned.run.stem]
        block += [f"  {name + ':':<11} {text}" for name, text in lines.items() if text]
        block += [
            f"  {issue['severity'] + ':':<11} {issue['text']} {issue['hint']}".rstrip()
            for issue in planned.issues
        ]
        blocks.append("\n".join(block))
    for title, invalid in (("Cannot be mapped:", True), ("Not mapped:", False)):
        lines_out = [_left_out_line(item) for item in plan.left_out if item.invalid == invalid]
        if lines_out:
            blocks.append("\n".join([title, *(f"  {line}" for line in lines_out)]))
    n_runs = len({planned.run.stem for planned in plan.runs})
    of_whom = counted(len(plan.subjects), "participant")
    blocks.append(f"{counted(n_runs, 'run')} of {of_whom} would be mapped.")
    return "\n\n".join(blocks)


def counted(number: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> counted(1, "run"), counted(2, "run")
    ('1 run', '2 runs')
    """
    return f"{number} {noun}{'s' if number != 1 else ''}"


def to_json(plan: Plan) -> str:
    """Write the plan for programs; keys are only ever added."""
    content = {
        "version": __version__,
        "device": plan.device,
        "participants": list(plan.subjects),
        "memory_gb": math.ceil(APP_GB + plan.largest_fit_gb),
        "runs": [
            {
                "participant": planned.run.subject,
                "session": planned.run.session,
                "name": planned.run.stem,
                "image": str(planned.run.image),
                "dataset": planned.run.dataset,
                "n_volumes": planned.n_volumes,
                "shells": list(planned.shells),
                "gradients": planned.frame,
                "mask": planned.mask,
                "signal_model": planned.signal_model,
                "reason": planned.reason,
                "estimator": planned.estimator,
                "prior": planned.prior,
                "group": f"sub-{planned.run.subject}_{planned.group}",
                "issues": list(planned.issues),
                "outputs": list(planned.outputs),
            }
            for planned in plan.runs
        ],
        "invalid": [_left_out_json(item) for item in plan.left_out if item.invalid],
        "skipped": [_left_out_json(item) for item in plan.left_out if not item.invalid],
    }
    return json.dumps(content, indent=2)


def _device(settings: ComputeSettings) -> str:
    """Find the device, which must be here unless a plugin may compute elsewhere."""
    from bids_gmvae.estimators.device import resolve_device

    if settings.use_plugin is not None and settings.device.startswith("cuda"):
        return settings.device if ":" in settings.device else "cuda:0"
    return resolve_device(settings.device)


def _plan_run(
    run: Run, checked: CheckedRun, name: str, settings: ModelSettings, fit: Fit | None
) -> PlannedRun:
    import torch

    from bids_gmvae.acquisition import find_shells
    from bids_gmvae.estimators.saved_prior import identity
    from bids_gmvae.signal_models import choose_signal_model
    from bids_gmvae.voxels import load_image

    if checked.acquisition is None:
        raise AcquisitionError(f"The acquisition of {run.image} is not known.")
    acquisition = checked.acquisition.select(torch.from_numpy(checked.selected))
    shells = find_shells(
        acquisition,
        b0_threshold=settings.b0_threshold,
        shell_tolerance=settings.shell_tolerance,
    )
    model, reason = choose_signal_model(name, acquisition, shells)
    issues = [*checked.issues]
    if fit is not None and settings.reuse_fit is not None:
        issues += warn_of_fit(fit, settings.reuse_fit, run, acquisition)
    mask = settings.mask
    if mask == "auto":
        mask = str(run.companions.get("mask", "median_otsu"))
    return PlannedRun(
        run=run,
        signal_model=model.name,
        label=model.label,
        reason=reason,
        directional=model.directional,
        estimator=settings.estimator,
        mask=mask,
        frame=checked.frame,
        shells=tuple(checked.shells),
        issues=tuple(issue.to_dict() for issue in issues),
        n_volumes=len(acquisition),
        size_gb=math.prod(load_image(run.image).shape) * 4 / 1e9,
        group="",
        outputs=tuple(_outputs(run, model, settings)),
        prior=None if settings.prior_from is None else identity(settings.prior_from),
    )


def _outputs(run: Run, model: SignalModel, settings: ModelSettings) -> Iterable[str]:
    """Name every image that will be written in the space of the run."""
    import torch

    from bids_gmvae.io.derivatives import map_path, parameter_path

    estimator, label = settings.estimator, model.label
    name = partial(map_path, run, model=label)
    of_parameters = (*STATISTICS[estimator], *(["samples"] if settings.posterior_samples else []))
    # The voxelwise fit does not know how sure it is of what follows from its parameters.
    of_derived = STATISTICS[estimator][: 1 if estimator == "lsq" else 2]
    compared = () if estimator == "lsq" else ("lsq",)
    centers = torch.tensor([parameter.center for parameter in model.parameters])
    for parameter in (*model.parameters, *model.derived(centers)):
        known = of_parameters if parameter in model.parameters else of_derived
        for statistic in (*known, *compared):
            yield parameter_path(run, label, parameter, statistic).as_posix()
    paths = [name(suffix="dwimap", param="s0", desc="mean")]
    if model.directional:
        paths.append(name(suffix="dwimap", param="vector", desc="mean"))
    if estimator in MIXTURES:
        for k in range(1, settings.n_components + 1):
            paths.append(name(suffix="probseg", label=f"C{k}", desc="component"))
    if estimator == "gmvae":
        paths.append(name(suffix="probseg", desc="unexpected"))
    paths += [name(suffix="dwimap", desc=desc) for desc in ("residual", "noise")]
    paths += [name(suffix="dseg", desc="status"), map_path(run, suffix="mask", desc="gmvae")]
    yield from (path.as_posix() for path in paths)


def _folded(outputs: Sequence[str]) -> list[str]:
    """Write names that differ in their statistic or component only as one, as shells do."""
    alike: dict[str, list[str]] = {}
    for name in outputs:
        varying = _VARYING.search(name)
        alike.setdefault(_VARYING.sub("*", name), []).append(varying[0] if varying else "")
    return [
        name.replace("*", f"{{{','.join(words)}}}" if len(words) > 1 else words[0])
        for name, words in alike.items()
    ]


def _without_duplicates(planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Keep one of each run and model: two requested names may resolve to one model."""
    return list({(item.run.stem, item.signal_model): item for item in planned}.values())


def _group(planned: Sequence[PlannedRun], settings: RunSettings) -> list[PlannedRun]:
    """Say which runs are fitted together; the first run of a group gives it its name."""
    how = settings.model.runs
    tolerance = settings.model.shell_tolerance
    leaders: list[PlannedRun] = []
    grouped = []
    for item in planned:
        leader = next(
            (
                other
                for other in leaders
                if how != "separate"
                and other.signal_model == item.signal_model
                and other.run.subject == item.run.subject
                and (how == "joint" or _agree(other, item, tolerance))
            ),
            None,
        )
        if leader is None:
            leader = replace(item, group=node_name(f"{run_key(item.run)}_{item.label}"))
            leaders.append(leader)
        grouped.append(replace(item, group=leader.group))
    return grouped


def _agree(one: PlannedRun, other: PlannedRun, tolerance: float) -> bool:
    """Tell whether two runs of a session have the same shells."""
    if one.run.session != other.run.session or len(one.shells) != len(other.shells):
        return False
    return all(
        a["is_b0"] == b["is_b0"]
        and (a["is_b0"] or math.isclose(a["b_value"], b["b_value"], rel_tol=tolerance))
        and a["n_volumes"] == b["n_volumes"]
        and a.get("echo_time") == b.get("echo_time")
        for a, b in zip(one.shells, other.shells, strict=True)
    )


def _shells(shells: Sequence[Mapping[str, Any]]) -> str:
    """Write shells as ``6 x b0, 30 x 1000, 30 x 2000 s/mm^2``."""
    parts = []
    for is_b0, members in groupby(shells, key=lambda shell: bool(shell["is_b0"])):
        if is_b0:
            parts.append(f"{sum(shell['n_volumes'] for shell in members)} x b0")
        else:
            parts += [f"{shell['n_volumes']} x {shell['b_value']:.0f}" for shell in members]
    return ", ".join(parts) + " s/mm^2"


def _prior(planned: PlannedRun) -> str:
    """Write which prior is given, if one is."""
    if planned.prior is None:
        return ""
    return f"{planned.prior['File']} (SHA-256 {planned.prior['SHA256'][:12]}…)"


def _left_out_line(item: LeftOut) -> str:
    text = f"{item.reason} {item.hint}".rstrip()
    return text if item.path in text else f"{item.path}: {text}"


def _left_out_json(item: LeftOut) -> dict[str, str]:
    return {"path": item.path, "reason": item.reason, "hint": item.hint}
