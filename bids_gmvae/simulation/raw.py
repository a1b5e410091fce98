"""Raw BIDS data of simulated heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_gmvae import __version__
from bids_gmvae.acquisition import Acquisition
from bids_gmvae.io.atomic import write_image, write_json, write_text, write_tsv
from bids_gmvae.simulation.phantom import Phantom
from bids_gmvae.simulation.scan import Frame

REPETITION_TIME = 4.0

README = """\
# Simulated diffusion MRI

Written by `bids-gmvae-simulate` {version} from the MNI152 tissue maps that ship with nilearn.
Heads, fibres, tissue parameters and noise are simulated; nobody was scanned. The true value of
every map is in `derivatives/truth`.

| setting | value |
|---|---|
{settings}
"""


@dataclass(frozen=True)
class RawWriter:
    """Writes raw BIDS.

    Attributes
    ----------
    root : Path
        The dataset.
    subjects : sequence of str
        Participant labels.
    axes : str
        Where the voxel axes point to.
    dtype : {"int16", "float32"}
        Of the images.
    settings : mapping
        What was simulated, for the README.
    """

    root: Path
    subjects: Sequence[str]
    axes: str
    dtype: str
    settings: Mapping[str, Any]

    def frame(self, phantom: Phantom) -> Frame:
        """Give the axes of the images."""
        return Frame(self.axes, phantom.affine)

    def initialise(self) -> None:
        """Write the files that belong to no subject."""
        description = {
            "Name": "Simulated diffusion MRI",
            "BIDSVersion": "1.11.1",
            "DatasetType": "raw",
            "License": "CC0",
            "Authors": ["bids-gmvae-simulate"],
            "GeneratedBy": [{"Name": "bids-gmvae-simulate", "Version": __version__}],
        }
        write_json(self.root / "dataset_description.json", description)
        rows = [f"| {name} | {value} |" for name, value in self.settings.items()]
        text = README.format(version=__version__, settings="\n".join(rows))
        write_text(self.root / "README.md", text)
        participants = [{"participant_id": f"sub-{name}"} for name in self.subjects]
        write_tsv(self.root / "participants.tsv", participants)

    def write_subject(self, subject: str, phantom: Phantom) -> None:
        """Write nothing: raw data come by run only."""

    def write_run(
        self,
        folder: Path,
        stem: str,
        phantom: Phantom,
        images: NDArray[np.float32],
        acquisition: Acquisition,
    ) -> str:
        """Write a run.

        Parameters
        ----------
        folder : Path
            The ``dwi`` folder, relative to the dataset.
        stem : str
            Subject, session and run.
        phantom : Phantom
            The head.
        images : array of shape (x, y, z, n_measurements)
            Magnitudes on the phantom's grid.
        acquisition : Acquisition
            Settings; directions in world axes.

        Returns
        -------
        str
            Name of the image without suffix and extension.
        """
        base = self.root / folder / f"{stem}_dwi"
        data = images if self.dtype == "float32" else np.rint(images).astype(np.int16)
        image = self.frame(phantom).image(data, repetition_time=REPETITION_TIME)
        write_image(base.with_suffix(".nii.gz"), image)
        bvecs = None
        if "bvecs" in acquisition:
            bvecs = self.frame(phantom).vectors(acquisition.bvecs.numpy())
            if np.linalg.det(image.affine) > 0:
                bvecs = bvecs * np.array([-1.0, 1.0, 1.0]) + 0.0  # FSL's convention
        write_gradients(base, acquisition.bvals.numpy(), bvecs)
        write_json(base.with_suffix(".json"), sidecar(acquisition))
        return stem


def write_gradients(
    base: Path, bvals: NDArray[np.float64], bvecs: NDArray[np.float64] | None
) -> None:
    """Write ``.bval`` and, if there are directions (n_volumes, 3), ``.bvec`` files."""
    write_text(base.with_suffix(".bval"), " ".join(f"{b:g}" for b in bvals) + "\n")
    if bvecs is not None:
        rows = [" ".join(f"{component:.8f}" for component in row) for row in bvecs.T]
        write_text(base.with_suffix(".bvec"), "\n".join(rows) + "\n")


def sidecar(acquisition: Acquisition) -> dict[str, Any]:
    """Give the metadata of a run; several echo times are listed by volume."""
    echo_times: list[float] = [0.09]
    if "echo_times" in acquisition:
        echo_times = acquisition.echo_times.tolist()
    return {
        "Manufacturer": "Simulated",
        "MagneticFieldStrength": 3,
        "EchoTime": echo_times[0] if len(set(echo_times)) == 1 else echo_times,
        "RepetitionTime": REPETITION_TIME,
        "FlipAngle": 90,
        "PhaseEncodingDirection": "j-",
        "TotalReadoutTime": 0.05,
    }
