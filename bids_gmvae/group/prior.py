"""One mixture prior for many participants, learnt by exact expectation-maximisation over shards.

Every participant's run left a sample of its voxels. In each round every shard, a few of these
files, sums what its voxels contribute to the next prior under exact posteriors; the sums of all
files are added in the order of their names. The prior therefore does not depend on how the files
are dealt out to shards, on the order of these, or on interruptions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch

from bids_gmvae import __version__
from bids_gmvae.config import ModelSettings, SelectionSettings
from bids_gmvae.estimators.gmvae import free_water_anchor
from bids_gmvae.estimators.inference import expect
from bids_gmvae.estimators.learning import learn_prior
from bids_gmvae.estimators.recognition import get_recognition
from bids_gmvae.estimators.saved_prior import prior_content, prior_from_content
from bids_gmvae.exceptions import InputError, NothingEligibleError
from bids_gmvae.io.atomic import write_json
from bids_gmvae.io.manifest import checksum
from bids_gmvae.io.training import DESC, SUFFIX, read_training
from bids_gmvae.priors import GaussianMixturePrior, Statistics
from bids_gmvae.signal_models import SIGNAL_MODELS, get_signal_model

#: Voxels of all files together from which learning starts.
N_START = 20_000
#: Most rounds, and the gain at which learning ends, nats per voxel.
N_ROUNDS, TOLERANCE = 50, 1e-4
#: Its potentials are those of every participant, whatever their own fits used.
RECOGNITION = "newton"


@dataclass(frozen=True)
class Task:
    """A prior that can be learnt.

    Attributes
    ----------
    signal_model, label : str
        Name of the model, and its label in file names.
    voxels : tuple of Path
        Files to learn from, by name.
    digest : str
        Of everything that decides about the result.
    """

    signal_model: str
    label: str
    voxels: tuple[Path, ...]
    digest: str


@dataclass(frozen=True, eq=False)
class Learning:
    """How far the learning of a prior has come.

    Attributes
    ----------
    signal_model : str
        Whose tissue it is about.
    prior : GaussianMixturePrior
        The best so far.
    history : tuple of float
        Evidence of the priors before it, nats per voxel; of its own too once it is finished.
    n_voxels : int
        Voxels that contributed to the last round.
    finished : bool
        Whether another round would change nothing.
    """

    signal_model: str
    prior: GaussianMixturePrior
    history: tuple[float, ...] = ()
    n_voxels: int = 0
    finished: bool = False

    def after(self, statistics: Mapping[str, Statistics]) -> Learning:
        """Take the step that the contributions of all files lead to."""
        total = reduce(add, [statistics[name] for name in sorted(statistics)])
        history = (*self.history, float(total.log_evidence) / total.n_voxels)
        converged = len(history) > 1 and abs(history[-1] - history[-2]) < TOLERANCE
        finished = converged or len(history) == N_ROUNDS
        prior = self.prior if finished else self.prior.update(total)
        return replace(
            self, prior=prior, history=history, n_voxels=total.n_voxels, finished=finished
        )

    def write(self, path: Path) -> Path:
        """Write to a file; JSON gives every number back as it was."""
        content = prior_content(
            self.prior, get_signal_model(self.signal_model),
            Evidence=list(self.history), Voxels=self.n_voxels, Finished=self.finished,
        )  # fmt: skip
        return write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> Learning:
        """Read what `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            signal_model=content["SignalModel"],
            prior=prior_from_content(content),
            history=tuple(content["Evidence"]),
            n_voxels=content["Voxels"],
            finished=content["Finished"],
        )


def find_tasks(out_dir: Path, selection: SelectionSettings, settings: ModelSettings) -> list[Task]:
    """Find what participants left to learn from, by signal model.

    Parameters
    ----------
    out_dir : Path
        Output dataset of the participants.
    selection : SelectionSettings
        Participants and sessions to learn from; all by default.
    settings : ModelSettings
        Signal models; number of components, anchor and seed of the prior.

    Raises
    ------
    InputError
        If a participant that is asked for left nothing.
    NothingEligibleError
        If nobody did.
    """
    pattern = f"sub-*_desc-{DESC}_{SUFFIX}.pt"
    found = [path for path in out_dir.glob("sub-*/**/*.pt") if path.match(pattern)]
    if not found:
        raise NothingEligibleError(
            f"Nothing to learn a prior from is found in {out_dir}.",
            "Map the participants first, with the estimator gmvae and this OUTPUT_DIR.",
        )
    missing = set(selection.participant_label) - {_entity(path, "sub") for path in found}
    if missing:
        raise InputError(
            f"Nothing to learn from is found of sub-{', sub-'.join(sorted(missing))}.",
            "Map them first with the estimator gmvae.",
        )
    wanted = settings.signal_model
    tasks = []
    for name, model in SIGNAL_MODELS.items():
        of_model = [path for path in found if _entity(path, "model") == model.label]
        voxels = sorted(_selected(of_model, selection), key=lambda path: path.name)
        if voxels and (name in wanted or "auto" in wanted):
            tasks.append(Task(name, model.label, tuple(voxels), _digest(voxels, settings)))
    if not tasks:
        raise NothingEligibleError(
            "Nothing to learn a prior from is left after selection.",
            "Check --session-label and --signal-model.",
        )
    return tasks


def start(voxels: Sequence[Path], settings: ModelSettings) -> Learning:
    """Learn a first prior, as participants do, from a few voxels of every file."""
    share = -(-N_START // len(voxels))
    problems = []
    for path in sorted(voxels, key=lambda path: path.name):
        problem = read_training(path)
        rows = torch.linspace(0, len(problem) - 1, min(share, len(problem))).round().long()
        problems.append(problem.select(rows))
    model = problems[0].signal_model
    prior, _ = learn_prior(
        problems,
        get_recognition(RECOGNITION),
        n_components=settings.n_components,
        anchor=free_water_anchor(model, settings, problems[0].data),
        generator=torch.Generator().manual_seed(settings.random_seed),
        progress=lambda *step: None,
    )
    return Learning(model.name, prior)


def contributions(voxels: Sequence[Path], learning: Learning) -> dict[str, Statistics]:
    """Sum what the voxels of each file contribute to the next prior, by its name."""
    recognition = get_recognition(RECOGNITION)
    return {path.name: expect(read_training(path), recognition, learning.prior) for path in voxels}


def save_contributions(statistics: Mapping[str, Statistics], path: Path) -> None:
    """Write the sums of a shard; no code is pickled."""
    torch.save({name: vars(item) for name, item in statistics.items()}, path)


def load_contributions(paths: Sequence[Path]) -> dict[str, Statistics]:
    """Read the sums of all shards."""
    parts = [torch.load(path, weights_only=True) for path in paths]
    return {name: Statistics(**item) for part in parts for name, item in part.items()}


def write_group_prior(task: Task, learning: Learning, out_dir: Path) -> Path:
    """Write the finished prior into the output dataset, for people and for ``--prior-from``."""
    model = get_signal_model(task.signal_model)
    about = {
        "Participants": len({_entity(path, "sub") for path in task.voxels}),
        "Runs": len(task.voxels),
        "Voxels": learning.n_voxels,
        "Evidence": list(learning.history),
        "GeneratedBy": [{"Name": "bids_gmvae", "Version": __version__}],
        "Sources": [f"bids::{path.relative_to(out_dir).as_posix()}" for path in task.voxels],
    }
    content = prior_content(learning.prior.sorted(), model, **about)
    return write_json(out_dir / f"group_model-{task.label}_desc-gmvae_prior.json", content)


def _selected(paths: Sequence[Path], selection: SelectionSettings) -> list[Path]:
    asked = {"sub": selection.participant_label, "ses": selection.session_label}
    return [
        path
        for path in paths
        if all(not labels or _entity(path, key) in labels for key, labels in asked.items())
    ]


def _entity(path: Path, key: str) -> str | None:
    entities = dict(part.split("-", 1) for part in path.name.split("_") if "-" in part)
    return entities.get(key)


def _digest(voxels: Sequence[Path], settings: ModelSettings) -> str:
    deciding: dict[str, Any] = {
        "version": __version__,
        "n_components": settings.n_components,
        "free_water_anchor": settings.free_water_anchor,
        "random_seed": settings.random_seed,
        "voxels": [(path.name, *checksum(path)) for path in voxels],
    }
    return hashlib.sha256(json.dumps(deciding).encode()).hexdigest()
