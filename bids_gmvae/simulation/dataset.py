"""A simulated BIDS dataset: raw data, QSIPrep derivatives, or both, and the truth beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import InputError
from bids_gmvae.simulation.catalogue import GENERATIONS
from bids_gmvae.simulation.phantom import make_phantom, noise_profile
from bids_gmvae.simulation.qsiprep import QSIPrepWriter
from bids_gmvae.simulation.raw import RawWriter
from bids_gmvae.simulation.scan import WHITE_MATTER, scan
from bids_gmvae.simulation.schemes import get_scheme, read_scheme
from bids_gmvae.simulation.settings import Simulation
from bids_gmvae.simulation.tissues import get_population
from bids_gmvae.simulation.truth import initialise_truth, write_truth

#: Told after each subject: number done, number of all, name.
Progress = Callable[[int, int, str], None]


def _no_progress(done: int, total: int, name: str) -> None:
    """Report nothing."""


def simulate_dataset(out_dir: Path, *, progress: Progress = _no_progress, **settings: Any) -> Path:
    """Write a simulated dataset.

    Parameters
    ----------
    out_dir : Path
        Dataset to write; must be empty or absent.
    progress : callable
        Called after each subject with (number done, number of all, name).
    **settings
        Fields of `Simulation`.

    Returns
    -------
    Path
        ``out_dir``.

    Raises
    ------
    InputError
        If a setting is impossible or the folder is not empty.
    AcquisitionError
        If the scheme cannot determine the signal model.
    """
    simulation = Simulation(**settings)
    population = get_population(simulation.signal_model)
    acquisition = _acquisition(simulation)
    population.model.check(acquisition)
    out_dir = Path(out_dir)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        raise InputError(f"{out_dir} cannot be made a folder.", "Choose another.") from None
    if any(out_dir.iterdir()):
        raise InputError(f"{out_dir} is not empty.", "Choose a new folder, or empty it first.")

    truth = out_dir / "derivatives" / "truth"
    initialise_truth(truth)
    datasets = _datasets(out_dir, simulation)
    for dataset, _ in datasets:
        dataset.initialise()
    for number, subject in enumerate(simulation.subjects, start=1):
        phantom = make_phantom(
            population,
            np.random.default_rng([simulation.seed, number]),
            voxel_size=simulation.voxel_size,
            n_slices=simulation.n_slices,
            lesions=simulation.lesions,
        )
        profile = noise_profile(phantom.mask.shape, simulation.sigma_variation)
        sigma = WHITE_MATTER / simulation.snr * profile
        mine = [dataset for dataset, subjects in datasets if subject in subjects]
        for dataset in mine:
            dataset.write_subject(subject, phantom)
        for folder, stem, generator in _runs(simulation, number, subject):
            images = scan(
                phantom,
                acquisition,
                sigma=sigma,
                generator=generator,
                background=simulation.background,
            )
            for dataset in mine:
                name = dataset.write_run(folder, stem, phantom, images, acquisition)
                write_truth(truth / folder, name, phantom, dataset.frame(phantom), sigma)
        progress(number, simulation.n_subjects, f"sub-{subject}")
    return out_dir


def _acquisition(simulation: Simulation) -> Acquisition:
    if simulation.bval is not None:
        return read_scheme(simulation.bval, simulation.bvec)
    return get_scheme(simulation.scheme_name, seed=simulation.seed, jitter=simulation.jitter)


def _datasets(
    out_dir: Path, simulation: Simulation
) -> list[tuple[RawWriter | QSIPrepWriter, Sequence[str]]]:
    """List what is written, and for whom."""
    generation = GENERATIONS[simulation.generation]
    dtype = simulation.dtype
    derivative = "float32" if dtype == "auto" else dtype
    if simulation.layout == "qsiprep":
        root = out_dir
        subjects: Sequence[str] = simulation.subjects
    else:
        root = out_dir / "derivatives" / "qsiprep"
        subjects = simulation.qsiprep_for
    datasets: list[tuple[RawWriter | QSIPrepWriter, Sequence[str]]] = []
    if simulation.layout == "raw":
        raw = RawWriter(
            out_dir,
            simulation.subjects,
            simulation.axes,
            "int16" if dtype == "auto" else dtype,
            _told(simulation),
        )
        datasets.append((raw, simulation.subjects))
    if subjects:
        preprocessed = QSIPrepWriter(root, generation, derivative, simulation.anatomy)
        datasets.append((preprocessed, subjects))
    return datasets


def _told(simulation: Simulation) -> dict[str, Any]:
    """Give the settings for the README: those that are set, and the scheme that auto chose."""
    told = {**asdict(simulation), "scheme": simulation.scheme_name}
    if simulation.bval is not None:
        told["scheme"] = "from files"
    return {name: value for name, value in told.items() if value not in (None, ())}


def _runs(
    simulation: Simulation, number: int, subject: str
) -> Iterator[tuple[Path, str, torch.Generator]]:
    """Give folder, name and noise source of each run of a subject."""
    for session_number, session in enumerate(simulation.session_labels):
        for run_number, run in enumerate(simulation.run_labels):
            entities = [f"sub-{subject}"]
            if session is not None:
                entities.append(f"ses-{session}")
            folder = Path(*entities, "dwi")
            if run is not None:
                entities.append(f"run-{run}")
            key = [simulation.seed, number, session_number, run_number]
            seed = int(np.random.SeedSequence(key).generate_state(1)[0])
            yield folder, "_".join(entities), torch.Generator().manual_seed(seed)
