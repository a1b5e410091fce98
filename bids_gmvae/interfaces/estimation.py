"""Fit runs together, and estimate each."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import File, InputMultiObject, OutputMultiObject, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, RunInterface
from bids_gmvae.interfaces.progress import fit_progress

if TYPE_CHECKING:
    from bids_gmvae.config import ModelSettings
    from bids_gmvae.estimators import Fit, Measurements
    from bids_gmvae.estimators.problem import Problem
    from bids_gmvae.io.measured import MeasuredRun
    from bids_gmvae.io.result import RunResult
    from bids_gmvae.signal_models import SignalModel

LOGGER = logging.getLogger(__name__)


class FitRunsInputSpec(InputSpec):
    """Inputs of `FitRuns`."""

    voxels = InputMultiObject(File(exists=True), mandatory=True, desc="MeasuredRun of each run")
    signal_model = traits.Str(mandatory=True, desc="name of the signal model")
    reasons = traits.List(traits.Str, desc="why this model, by run")
    estimator = traits.Str(mandatory=True, desc="name of the estimator")
    settings = traits.Dict(desc="fields of ModelSettings")
    reuse_fit = File(exists=True, desc="saved fit to apply instead of fitting")
    prior_from = File(exists=True, desc="prior of the settings: its content counts, not its path")
    device = traits.Str("cpu", usedefault=True, desc="cpu or cuda:N")
    label = traits.Str("", usedefault=True, nohash=True, desc="what the progress bar says")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="tells Nipype to take a GPU")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads of torch")


class FitRunsOutputSpec(TraitedSpec):
    """Outputs of `FitRuns`."""

    results = OutputMultiObject(File(exists=True), desc="RunResult of each run, in their order")
    fit = File(exists=True, desc="the saved fit")


class FitRuns(RunInterface):
    """Fit the chosen estimator and the voxelwise baseline to all runs of a group."""

    input_spec = FitRunsInputSpec
    output_spec = FitRunsOutputSpec

    def _compute(self, folder: Path) -> None:
        import torch

        from bids_gmvae.config import ModelSettings
        from bids_gmvae.estimators import get_estimator
        from bids_gmvae.estimators.device import resolve_device
        from bids_gmvae.io.atomic import atomic_write
        from bids_gmvae.io.measured import MeasuredRun
        from bids_gmvae.signal_models import get_signal_model

        start = time.monotonic()
        device = resolve_device(self.inputs.device)
        torch.set_num_threads(self.inputs.n_threads)
        runs = [MeasuredRun.load(Path(path)) for path in self.inputs.voxels]
        objective = get_estimator(self.inputs.estimator).objective
        with fit_progress(self.inputs.label, objective) as progress:
            fit, results = fit_runs(
                runs,
                get_signal_model(self.inputs.signal_model),
                self.inputs.reasons,
                ModelSettings(**self.inputs.settings),
                estimator=self.inputs.estimator,
                reuse_fit=Path(self.inputs.reuse_fit) if self.inputs.reuse_fit else None,
                device=device,
                progress=progress,
            )
        # Times go into the log only: outputs of equal inputs have equal bytes.
        LOGGER.info(
            "%s, %s: %d voxels in %.1f s on %s",
            self.inputs.label or self.inputs.signal_model,
            fit.estimator,
            sum(len(run.measurements) for run in runs),
            time.monotonic() - start,
            self.inputs.device,
        )
        with atomic_write(folder / "fit.pt") as temporary:
            fit.save(temporary)
        paths = [folder / f"result{index}.pt" for index in range(len(results))]
        for path, result in zip(paths, results, strict=True):
            result.save(path)
        self._results.update(fit=str(folder / "fit.pt"), results=[str(path) for path in paths])


def fit_runs(
    runs: Sequence[MeasuredRun],
    signal_model: SignalModel,
    reasons: Sequence[str],
    settings: ModelSettings,
    *,
    estimator: str,
    device: str,
    progress: Any,
    reuse_fit: Path | None = None,
) -> tuple[Fit, list[RunResult]]:
    """Fit once to all runs, then estimate each of them, and by least squares for comparison.

    Parameters
    ----------
    runs : sequence of MeasuredRun
        The runs of a group.
    signal_model : SignalModel
        The physics.
    reasons : sequence of str
        Why this model was chosen, by run.
    settings : ModelSettings
        Of the estimator.
    estimator : str
        Its name.
    device : str
        ``cpu`` or ``cuda:N``.
    progress : callable
        Told about each step.
    reuse_fit : Path, optional
        A saved fit to apply instead.

    Raises
    ------
    InputError
        If the saved fit is for another signal model or cannot be applied to these acquisitions,
        or the data do not support the model.
    """
    from bids_gmvae.estimators import get_estimator

    measured = [run.measurements for run in runs]
    if reuse_fit is None:
        chosen = get_estimator(estimator)
        fit = chosen(signal_model, settings, device=device, progress=progress).fit(*measured)
    else:
        fit = saved_fit(reuse_fit, signal_model, device, settings.posterior_samples)
        for item in measured:
            fit.require_suitable(item.acquisition)
    baseline = None
    if fit.estimator != "lsq":
        baseline = get_estimator("lsq")(signal_model, settings, device=device).fit(*measured)
    training = fit.training or (None,) * len(runs)
    results = [
        estimate(run, fit, baseline, reason, device, voxels)
        for run, reason, voxels in zip(runs, reasons, training, strict=True)
    ]
    return fit, results


def saved_fit(
    path: Path, signal_model: SignalModel, device: str, posterior_samples: int = 0
) -> Fit:
    """Load a fit that must be for ``signal_model``, and place it on ``device``."""
    from bids_gmvae.estimators import load_fit
    from bids_gmvae.exceptions import InputError

    fit = load_fit(path)
    if fit.signal_model.name != signal_model.name:
        raise InputError(
            f"The fit {path} is for the signal model {fit.signal_model.name}, "
            f"but the run is mapped with {signal_model.name}.",
            f"Use --signal-model {fit.signal_model.name}, or fit again without --reuse-fit.",
        )
    settings = replace(fit.settings, posterior_samples=posterior_samples)
    return replace(fit, settings=settings, summary={**fit.summary, "device": device})


def estimate(
    run: MeasuredRun,
    fit: Fit,
    baseline: Fit | None,
    reason: str,
    device: str,
    training: Problem | None,
) -> RunResult:
    """Apply a fit, and the baseline if any, to one run; keep the voxels it was learnt from."""
    from bids_gmvae.io.result import RunResult

    measured: Measurements = run.measurements
    info = {
        **run.info,
        "fit": {
            "estimator": fit.estimator,
            "settings": {
                key: value if not isinstance(value, Path) else str(value)
                for key, value in asdict(fit.settings).items()
            },
            "history": list(fit.history),
            "summary": dict(fit.summary),
            "device": device,
        },
        "signal_model": fit.signal_model.name,
        "reason": reason,
    }
    return RunResult(
        run=run.run,
        grid=run.grid,
        mask=run.mask,
        removed=run.removed,
        reference=run.reference,
        sigma=measured.sigma.numpy(),
        acquisition=measured.acquisition,
        posterior=fit.posterior(measured),
        lsq=None if baseline is None else baseline.posterior(measured),
        info=info,
        training=training,
    )
