"""The schemes and the generations of QSIPrep that can be simulated, by name.

Standard library only: the command line shows them before anything heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Field of view around the head, mm: right, anterior and superior from the origin.
FIELD_OF_VIEW = ((-80.0, 80.0), (-116.0, 84.0), (-72.0, 88.0))


@dataclass(frozen=True)
class Scheme:
    """A named scheme.

    Attributes
    ----------
    n_b0 : int
        Volumes without diffusion weighting.
    shells : tuple of (float, int)
        b-value (s/mm^2) and number of directions of each shell.
    echo_times : tuple of float
        The whole scheme is repeated at each, s.
    description : str
        One line for the help text.
    """

    n_b0: int
    shells: tuple[tuple[float, int], ...]
    echo_times: tuple[float, ...] = (0.09,)
    description: str = ""


def _hcp_like(n_b0: int, n_directions: int) -> Scheme:
    shells = tuple((b, n_directions) for b in (1000.0, 2000.0, 3000.0))
    text = f"{n_b0} b0 + {n_directions} directions each at 1000, 2000, 3000 s/mm^2"
    return Scheme(n_b0, shells, description=text)


SCHEMES: dict[str, Scheme] = {
    "hcp": _hcp_like(18, 90),
    "multishell": _hcp_like(6, 30),
    "short": _hcp_like(2, 10),
    "twoshell": Scheme(
        6,
        ((1000.0, 30), (2000.0, 30)),
        description="6 b0 + 30 directions each at 1000, 2000 s/mm^2",
    ),
    "singleshell": Scheme(3, ((1000.0, 32),), description="3 b0 + 32 directions at 1000 s/mm^2"),
    "ivim": Scheme(
        4,
        tuple((float(b), 4) for b in (10, 20, 40, 60, 80, 100, 200, 400, 800)),
        (0.065,),
        "4 b0 + 4 directions each at 10, 20, 40, 60, 80, 100, 200, 400, 800 s/mm^2",
    ),
    "t2adc": Scheme(
        1,
        ((500.0, 4), (1000.0, 4)),
        (0.06, 0.08, 0.1, 0.13, 0.16),
        "1 b0 + 4 directions each at 500, 1000 s/mm^2, at echo times 60, 80, 100, 130, 160 ms",
    ),
}

#: Schemes of signal models that multi-shell data cannot determine, or need not.
DEFAULT_SCHEMES = {"ivim": "ivim", "t2_adc": "t2adc", "ball_stick_tied": "singleshell"}


@dataclass(frozen=True)
class Generation:
    """How the files of some releases of QSIPrep are named.

    Attributes
    ----------
    version : str
        A release of that generation.
    space : str
        Label of the space of the images.
    nested : bool
        Whether the dataset lies in a folder ``qsiprep`` of the output folder.
    sidecars : bool
        Whether images have JSON sidecars.
    table : str
        Extension of the table for DSI Studio.
    confounds, image_qc, slice_qc, cnr : str
        Endings of file names; image QC, slice QC and CNR follow the space.
    """

    version: str
    space: str
    nested: bool
    sidecars: bool
    table: str
    confounds: str
    image_qc: str
    slice_qc: str
    cnr: str

    @property
    def anatomy(self) -> str:
        """What follows the participant in names of anatomical images."""
        return "" if self.space == "T1w" else f"_space-{self.space}"


_T1W = ("_confounds.tsv", "_desc-ImageQC_dwi.csv", "_desc-SliceQC_dwi.json", "_desc-eddy_cnr")
_CONFOUNDS = "_desc-confounds_timeseries.tsv"
_SLICE_QC = "_desc-slice_qc.json"
_CNR = "_model-eddy_stat-cnr_dwimap"
_ACPC = (_CONFOUNDS, "_desc-image_qc.tsv", _SLICE_QC, _CNR)

GENERATIONS: dict[str, Generation] = {
    "0.22": Generation("0.22.0", "T1w", True, False, ".txt", *_T1W),
    "0.23": Generation("0.23.0", "T1w", False, False, ".b_table.txt", *_T1W),
    "0.24": Generation(
        "0.24.0", "ACPC", False, True, ".b_table.txt",
        _CONFOUNDS, "_desc-image_qc.csv", _SLICE_QC, _CNR,
    ),
    "1.0": Generation("1.0.0", "ACPC", False, True, ".b_table.txt", *_ACPC),
    "26.0": Generation("26.0.0", "ACPC", False, True, ".b_table.txt", *_ACPC),
}  # fmt: skip
