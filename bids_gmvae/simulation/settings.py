"""The settings of a simulated dataset; standard library only, like the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_gmvae.exceptions import InputError, UnknownNameError
from bids_gmvae.simulation.catalogue import DEFAULT_SCHEMES, FIELD_OF_VIEW, GENERATIONS, SCHEMES

LAYOUTS = ("raw", "qsiprep")

#: Letters of voxel axes, and the world axis each lies on.
WORLD_AXES = {"R": "R", "L": "R", "A": "A", "P": "A", "S": "S", "I": "S"}

IMAGE_TYPES = ("auto", "int16", "float32")


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Attributes
    ----------
    n_subjects : int
        Labelled 01, 02, ...
    sessions : int or sequence of str
        Number of sessions or their labels; 0 leaves the session level out. Sessions and runs of
        a subject differ in noise only.
    runs : int
        Runs per session; with 1 the names have no ``run``.
    scheme : str
        Key of `catalogue.SCHEMES`, or ``"auto"``: the one that suits the signal model.
    bval, bvec : Path, optional
        A scheme from files instead.
    jitter : bool
        Scatter the b-values by -5, 0 or +5 s/mm^2, as everyday scanners do.
    snr : float
        White matter's signal without weighting over the standard deviation of the noise.
    sigma_variation : float
        Highest over lowest noise within a slice; their geometric mean is what ``snr`` says.
    signal_model : str
        Key of `tissues.POPULATIONS`: a signal model, or a variant of one.
    voxel_size : float
        Isotropic, mm.
    n_slices : int, optional
        A slab through the ventricles; None is the whole brain.
    lesions : bool
        Sharp lesions in white matter, of tissue that occurs nowhere else.
    layout : {"raw", "qsiprep"}
        Raw BIDS, or QSIPrep derivatives alone.
    generation : str
        Key of `catalogue.GENERATIONS`.
    qsiprep_for : sequence of str
        Participants who get QSIPrep derivatives as well, under ``derivatives/qsiprep``.
    anatomy : bool
        Whether QSIPrep derivatives include ``anat/`` with the transform to MNI152.
    axes : str
        Where the voxel axes of raw images point to; QSIPrep's are always LPS.
    background : bool
        Noise outside the brain; QSIPrep derivatives are zero there.
    dtype : {"auto", "int16", "float32"}
        Of the images: int16 for raw data and float32 for derivatives by default.
    seed : int
        Of everything; equal settings give equal bytes.
    """

    n_subjects: int = 2
    sessions: int | Sequence[str] = 0
    runs: int = 1
    scheme: str = "auto"
    bval: Path | None = None
    bvec: Path | None = None
    jitter: bool = False
    snr: float = 30.0
    sigma_variation: float = 1.0
    signal_model: str = "msdki"
    voxel_size: float = 4.0
    n_slices: int | None = 10
    lesions: bool = False
    layout: str = "raw"
    generation: str = "1.0"
    qsiprep_for: Sequence[str] = ()
    anatomy: bool = True
    axes: str = "RAS"
    background: bool = True
    dtype: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high, unit in (
            ("n_subjects", 1, 9999, ""),
            ("runs", 1, 99, ""),
            ("snr", 1e-3, 1e6, ""),
            ("sigma_variation", 1.0, 100.0, ""),
            ("voxel_size", 1.0, 20.0, " mm"),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} must be {low:g} to {high:g}{unit}, not {value:g}.")
        bottom, top = FIELD_OF_VIEW[2]
        most = int((top - bottom) // self.voxel_size) + 1
        if self.n_slices is not None and not 1 <= self.n_slices <= most:
            raise InputError(
                f"The head has {most} slices of {self.voxel_size:g} mm, not {self.n_slices}."
            )
        for kind, name, known in (
            ("scheme", self.scheme, ("auto", *SCHEMES)),
            ("layout", self.layout, LAYOUTS),
            ("QSIPrep generation", self.generation, tuple(GENERATIONS)),
            ("image type", self.dtype, IMAGE_TYPES),
        ):
            if name not in known:
                raise UnknownNameError.of(kind, name, known)
        if sorted(WORLD_AXES.get(letter, "") for letter in self.axes) != ["A", "R", "S"]:
            raise InputError(f"axes must name three directions such as LPS, not '{self.axes}'.")
        if self.bvec is not None and self.bval is None:
            raise InputError("A bvec file needs its bval file, but none is given.")
        if len(set(self.session_labels)) < len(self.session_labels):
            raise InputError("Sessions must have different labels, but one is given twice.")
        for label in self.qsiprep_for:
            if label not in self.subjects:
                raise UnknownNameError.of("participant", label, self.subjects)

    @property
    def subjects(self) -> list[str]:
        """Participant labels."""
        return [f"{number:02d}" for number in range(1, self.n_subjects + 1)]

    @property
    def scheme_name(self) -> str:
        """Key of `catalogue.SCHEMES`."""
        if self.scheme == "auto":
            return DEFAULT_SCHEMES.get(self.signal_model, "multishell")
        return self.scheme

    @property
    def session_labels(self) -> list[str | None]:
        """Session labels; [None] without session level."""
        if isinstance(self.sessions, int):
            return [str(number + 1) for number in range(self.sessions)] or [None]
        return list(self.sessions) or [None]

    @property
    def run_labels(self) -> list[str | None]:
        """Run labels; [None] for a single run."""
        return [None] if self.runs == 1 else [f"{run + 1:02d}" for run in range(self.runs)]
