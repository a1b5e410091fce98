"""Settings of a run of the app: frozen, passed as arguments, written back as TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SelectionSettings:
    """Which runs of the dataset are mapped."""

    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    acq_label: tuple[str, ...] = ()
    run_id: tuple[str, ...] = ()
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    input_type: str = "auto"
    skip_bids_validation: bool = False


@dataclass(frozen=True)
class ModelSettings:
    """What is estimated, and how; the science of a run."""

    signal_model: tuple[str, ...] = ("auto",)
    estimator: str = "gmvae"
    recognition: str = "newton"
    n_components: int = 10
    free_water_anchor: bool = False
    noise_model: str = "rician"
    noise_map: str = "auto"
    min_b: float | None = None
    max_b: float | None = None
    b0_threshold: float = 100.0
    shell_tolerance: float = 0.05
    runs: str = "auto"
    mask: str = "auto"
    min_volumes: int = 6
    random_seed: int = 0
    reuse_fit: Path | None = None
    prior_from: Path | None = None
    posterior_samples: int = 0
    n_epochs: int = 100
    latent_size: int = 256
    kl_weight: float = 1e-3
    temperature: float = 1.0


@dataclass(frozen=True)
class ComputeSettings:
    """What the run may use."""

    device: str = "auto"
    nprocs: int = 1
    omp_nthreads: int = 1
    mem_mb: int | None = None
    use_plugin: Path | None = None


@dataclass(frozen=True)
class ExecutionSettings:
    """How the run proceeds."""

    work_dir: Path = Path("work")
    clean_workdir: bool = False
    stall_timeout: float = 60.0
    dry_run: str | None = None
    resource_monitor: bool = False
    write_graph: bool = False
    stop_on_first_crash: bool = False
    sloppy: bool = False
    debug: bool = False
    verbose: int = 0
    learn_prior: bool = False
    #: Options taken for drop-in use in existing pipelines that change nothing; the log says so.
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutputSettings:
    """What is written."""

    output_spaces: tuple[str, ...] = ()
    atlas: tuple[str, ...] = ()
    report_output_level: str = "root"
    reports_only: bool = False
    boilerplate_only: bool = False
    validate_outputs: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class RunSettings:
    """All settings of one call of the app."""

    bids_dir: Path
    output_dir: Path
    analysis_level: str
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def to_dict(self) -> dict[str, Any]:
        """Give nested plain values, ready for TOML; settings that are None are left out."""
        return _plain(asdict(self))

    @classmethod
    def sections(cls) -> dict[str, type]:
        """Give the section classes by name."""
        return {
            "selection": SelectionSettings,
            "model": ModelSettings,
            "compute": ComputeSettings,
            "execution": ExecutionSettings,
            "output": OutputSettings,
        }


def section_of(option: str) -> str:
    """Name the section that holds an option.

    Raises
    ------
    KeyError
        If no section does.

    Examples
    --------
    >>> section_of("n_components")
    'model'
    """
    for name, section in RunSettings.sections().items():
        if option in {item.name for item in fields(section)}:
            return name
    raise KeyError(option)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
