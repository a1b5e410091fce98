"""A run: one thing to be mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """One measurement to be mapped, with everything that belongs to it.

    Attributes
    ----------
    modality : str
        Name of the modality, e.g. ``"dwi"``.
    files : tuple of Path
        Image files; more than one for collections.
    entities : mapping
        BIDS entities of the image, by long name in BIDS order (subject, session, ...).
    metadata : mapping
        Merged sidecar, after inheritance.
    companions : mapping of str to Path
        Other files: ``bval``, ``bvec``, ``b`` (QSIPrep), ``mask``, ``reference``, ``to_template``,
        ``confounds``, ``image_qc``, whichever exist.
    dataset : str
        ``"raw"``, or the name of the derivative dataset: the key of its DatasetLinks entry.
    dataset_root : Path
        Root folder of that dataset.
    """

    modality: str
    files: tuple[Path, ...]
    entities: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    companions: Mapping[str, Path] = field(default_factory=dict)
    dataset: str = "raw"
    dataset_root: Path = Path()

    @property
    def image(self) -> Path:
        """The (first) image file."""
        return self.files[0]

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Images and companions."""
        return (*self.files, *self.companions.values())

    @property
    def subject(self) -> str:
        """Participant label without ``sub-``."""
        return self.entities["subject"]

    @property
    def session(self) -> str | None:
        """Session label without ``ses-``, if any."""
        return self.entities.get("session")

    @property
    def stem(self) -> str:
        """File name of the image up to its suffix, e.g. ``sub-01_ses-1_space-ACPC``, without desc.

        It identifies the run within the output dataset.
        """
        name = self.image.name.split(".")[0].rsplit("_", 1)[0]
        return "_".join(part for part in name.split("_") if not part.startswith("desc-"))

    def without_folders(self, issues: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
        """Name files in findings as the dataset does, for outputs.

        Files of the dataset are named from its root, others by their name alone, so that outputs
        do not depend on where the data lie.

        Parameters
        ----------
        issues : iterable of mapping
            Plain values, texts among them.
        """
        outside = [
            path for path in self.companions.values() if not path.is_relative_to(self.dataset_root)
        ]

        def shortened(text: str) -> str:
            for path in outside:
                text = text.replace(str(path), path.name)
            return text.replace(f"{self.dataset_root}{os.sep}", "")

        return [{key: shortened(text) for key, text in issue.items()} for issue in issues]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, paths as text: what goes through JSON and Nipype."""
        return json.loads(json.dumps(asdict(self), default=str))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Run:
        """Rebuild the run from what `to_dict` gave."""
        return cls(
            modality=values["modality"],
            files=tuple(Path(name) for name in values["files"]),
            entities=values["entities"],
            metadata=values["metadata"],
            companions={key: Path(name) for key, name in values["companions"].items()},
            dataset=values["dataset"],
            dataset_root=Path(values["dataset_root"]),
        )
