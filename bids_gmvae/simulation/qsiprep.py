"""What QSIPrep would have made of simulated heads, under the names of each generation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.io.atomic import write_image, write_json, write_text, write_tsv
from bids_gmvae.simulation.catalogue import Generation
from bids_gmvae.simulation.phantom import Phantom
from bids_gmvae.simulation.raw import REPETITION_TIME, sidecar, write_gradients
from bids_gmvae.simulation.scan import Frame


@dataclass(frozen=True)
class QSIPrepWriter:
    """Writes a derivative dataset as QSIPrep does.

    Attributes
    ----------
    output : Path
        QSIPrep's output folder.
    generation : Generation
        Whose names to use.
    dtype : {"int16", "float32"}
        Of the images.
    with_anatomy : bool
        Whether to write ``anat/``.
    """

    output: Path
    generation: Generation
    dtype: str
    with_anatomy: bool

    @property
    def root(self) -> Path:
        """The derivative dataset."""
        return self.output / "qsiprep" if self.generation.nested else self.output

    def frame(self, phantom: Phantom) -> Frame:
        """Give the axes of the images: left, posterior, superior."""
        return Frame("LPS", phantom.affine)

    def initialise(self) -> None:
        """Write the dataset description of the generation."""
        source: dict[str, Any] = {
            "Name": "qsiprep",
            "Version": self.generation.version,
            "CodeURL": f"https://github.com/PennLINC/qsiprep/archive/{self.generation.version}.tar.gz",
        }
        description: dict[str, Any] = {"Name": "qsiprep output", "BIDSVersion": "1.1.1"}
        if self.generation.sidecars:
            description |= {"DatasetType": "derivative", "GeneratedBy": [source]}
        description |= {
            "PipelineDescription": source,
            "HowToAcknowledge": "Simulated by bids-gmvae-simulate; QSIPrep was not run.",
        }
        write_json(self.root / "dataset_description.json", description)

    def write_subject(self, subject: str, phantom: Phantom) -> None:
        """Write the anatomy of a subject and its transforms to and from MNI152."""
        if not self.with_anatomy:
            return
        space = self.generation.space
        folder = self.root / f"sub-{subject}" / "anat"
        stem = f"sub-{subject}{self.generation.anatomy}"
        # QSIPrep's order of classes: grey matter, white matter, cerebrospinal fluid.
        classes = np.array([0, 2, 1, 3, 2, 2], dtype=np.uint8)[phantom.labels]
        for ending, data in (
            ("desc-preproc_T1w", phantom.t1w),
            ("desc-brain_mask", phantom.mask.astype(np.uint8)),
            ("dseg", classes),
        ):
            write_image(folder / f"{stem}_{ending}.nii.gz", self.frame(phantom).image(data))
        if self.generation.sidecars:
            write_json(folder / f"{stem}_desc-preproc_T1w.json", {"SkullStripped": False})
        for source, target, write in (
            (space, "MNI152NLin2009cAsym", phantom.warp.write),
            ("MNI152NLin2009cAsym", space, phantom.warp.write_inverse),
        ):
            name = f"sub-{subject}_from-{source}_to-{target}_mode-image_xfm.h5"
            write(folder / name)

    def write_run(
        self,
        folder: Path,
        stem: str,
        phantom: Phantom,
        images: NDArray[np.float32],
        acquisition: Acquisition,
    ) -> str:
        """Write a run with its companions; parameters as in `RawWriter.write_run`."""
        frame = self.frame(phantom)
        name = f"{stem}_space-{self.generation.space}"
        base = self.root / folder / name
        images = np.where(phantom.mask[..., None], images, 0)
        image = frame.image(
            images if self.dtype == "float32" else np.rint(images).astype(np.int16),
            repetition_time=REPETITION_TIME,
        )
        preprocessed = base.with_name(f"{name}_desc-preproc_dwi")
        write_image(preprocessed.with_suffix(".nii.gz"), image)
        if self.generation.sidecars:
            content = {**sidecar(acquisition), "SkullStripped": True}
            write_json(preprocessed.with_suffix(".json"), content)
        self._write_gradients(preprocessed, frame, acquisition)

        reference = images[..., (acquisition.bvals < 50).numpy()].mean(axis=-1)
        mask = phantom.mask.astype(np.uint8)
        residual = np.maximum(images.std(axis=-1), 1.0)
        for ending, data in (
            ("_desc-brain_mask", mask),
            ("_dwiref", reference.astype(np.float32)),
            (self.generation.cnr, (reference / residual).astype(np.float32)),
        ):
            write_image(base.with_name(f"{name}{ending}.nii.gz"), frame.image(data))
        self._write_quality(base.parent, stem, image.shape, acquisition)
        return name

    def _write_gradients(self, path: Path, frame: Frame, acquisition: Acquisition) -> None:
        """Write .bval and .bvec along the image axes, .b along those of the world."""
        bvals = acquisition.bvals.numpy()
        if "bvecs" not in acquisition:
            write_gradients(path, bvals, None)
            return
        world = acquisition.bvecs.numpy()
        # Unlike FSL's, QSIPrep's .bvec is not flipped where the affine's determinant is positive.
        image = frame.vectors(world)
        write_gradients(path, bvals, image)
        write_text(path.with_suffix(".b"), _table(np.column_stack([world, bvals])))
        table = path.with_name(f"{path.name}{self.generation.table}")
        write_text(table, _table(np.column_stack([bvals, image])))

    def _write_quality(
        self, folder: Path, stem: str, shape: tuple[int, ...], acquisition: Acquisition
    ) -> None:
        """Write confounds and quality measures of a head that did not move."""
        motion = dict.fromkeys(("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"), 0.0)
        volumes = [
            {
                "framewise_displacement": 0.0 if index else None,
                **motion,
                "original_file": f"{stem}_dwi.nii.gz",
                "original_bval": b,
            }
            for index, b in enumerate(acquisition.bvals.tolist())
        ]
        write_tsv(folder / f"{stem}{self.generation.confounds}", volumes)
        name = f"{stem}_space-{self.generation.space}"
        labels = dict(entity.split("-", 1) for entity in stem.split("_"))
        quality: dict[str, Any] = {
            "file_name": f"{stem}_dwi",
            "subject_id": labels["sub"],
            "session_id": labels.get("ses", "n/a"),
            **{f"t1_dimension_{axis}": n for axis, n in zip("xyz", shape, strict=False)},
            "t1_max_b": float(acquisition.bvals.max()),
            "t1_num_directions": int((acquisition.bvals > 50).sum()),
            "t1_num_bad_slices": 0,
            "mean_fd": 0.0,
            "max_fd": 0.0,
        }
        path = folder / f"{name}{self.generation.image_qc}"
        if path.suffix == ".csv":
            cells = [",".join(quality), ",".join(str(value) for value in quality.values())]
            write_text(path, "\n".join(cells) + "\n")
        else:
            write_tsv(path, [quality])
        write_json(folder / f"{name}{self.generation.slice_qc}", {"n_bad_slices": 0})


def _table(rows: NDArray[np.float64]) -> str:
    return "".join(" ".join(f"{value:.8g}" for value in row) + "\n" for row in rows)
