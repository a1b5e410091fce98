"""Bad datasets, options and settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

from bids_gmvae.exceptions import ExitCode
from tests.bids_tree import RAW
from tests.faults.bench import Case, Place

BAD_LINE, NONE, NO_SPACE = (
    ExitCode.BAD_COMMAND_LINE, ExitCode.NOTHING_ELIGIBLE, ExitCode.NO_SPACE,
)  # fmt: skip


def given(*arguments: object) -> Callable[[Place], tuple[object, ...]]:
    """Give arguments that are wrong by themselves."""
    return lambda place: arguments


def described(content: str) -> Callable[[Place], None]:
    """Write another dataset_description.json."""

    def spoil(place: Place) -> None:
        (place.bids / "dataset_description.json").write_text(content)

    return spoil


def option(name: str, file: str, content: str) -> Callable[[Place], list[object]]:
    """Give a file to an option."""
    return lambda place: [name, place.file(file, content)]


def no_description(place: Place) -> None:
    (place.bids / "dataset_description.json").unlink()


def no_subjects(place: Place) -> list[str]:
    for name in ("sub-01", "sub-02"):
        shutil.rmtree(place.bids / name)
    return ["--participant-label", "02"]


def no_series(place: Place) -> None:
    shutil.rmtree(place.bids / "sub-02" / "dwi")


def renamed(name: str) -> Callable[[Place], None]:
    """Give the run another name."""

    def spoil(place: Place) -> None:
        for extension in (".nii.gz", ".bval", ".bvec", ".json"):
            place.run(extension).rename(place.run().with_name(f"{name}_dwi{extension}"))

    return spoil


def plugin_of_bytes(place: Place) -> list[object]:
    path = place.root / "plugin.yml"
    path.write_bytes(b"\xff\xfe\x00")
    return ["--use-plugin", path]


def file_as_work_dir(place: Place) -> list[object]:
    return ["-w", place.file("occupied") / "work"]


def another_index(place: Place) -> list[object]:
    folder = place.root / "index"
    folder.mkdir()
    (folder / "layout_index.sqlite").write_text("no database")
    return ["--bids-database-dir", folder]


def foreign_output(content: str) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        place.out.mkdir(exist_ok=True)
        (place.out / "dataset_description.json").write_text(content)

    return spoil


CASES = [
    Case("no participant", "bids has no sub-<label> folder", no_subjects),
    Case(
        "no dataset_description.json", "needs dataset_description.json, but bids", no_description
    ),
    Case(
        "a broken dataset_description.json",
        "dataset_description.json must be a JSON",
        described("{"),
    ),
    Case(
        "a dataset_description.json that is a list",
        "dataset_description.json must hold",
        described("[]"),
    ),
    Case(
        "a participant without diffusion", "bids/sub-02: no diffusion series", no_series, code=NONE
    ),
    Case("an unknown participant", "Participants 99", given("--participant-label", "99")),
    Case(
        "a participant label that climbs",
        r"'\.\./\.\./etc' is no BIDS label",
        given("--participant-label", "../../etc"),
        code=BAD_LINE,
    ),
    Case(
        "a label with a blank in a file name",
        "acquisition 'a b' must be letters",
        renamed("sub-02_acq-a b"),
    ),
    Case(
        "a label with dots in a file name",
        "only its extension may hold dots",
        renamed("sub-02_acq-.."),
        code=NONE,
    ),
    Case(
        "a file name without participant",
        "task-x_dwi.* must be of sub-02",
        renamed("task-x"),
        code=NONE,
    ),
    Case(
        "a file of another participant",
        "sub-03_dwi.* must be of sub-02",
        renamed("sub-03"),
        code=NONE,
    ),
    Case(
        "an unknown option",
        "--dry-runn. Did you mean --dry-run",
        given("--dry-runn"),
        code=BAD_LINE,
    ),
    Case(
        "an unknown signal model",
        "'mskdi'. Did you mean 'msdki'",
        given("--signal-model", "mskdi"),
        code=BAD_LINE,
    ),
    Case(
        "an unknown estimator",
        "'gmva'. Did you mean 'gmvae'",
        given("--estimator", "gmva"),
        code=BAD_LINE,
    ),
    Case(
        "no component",
        "'0' must be a whole number >= 1",
        given("--n-components", "0"),
        code=BAD_LINE,
    ),
    Case(
        "b-value limits the wrong way round",
        "--min-b 900 must be less than --max-b 500",
        given("--min-b", "900", "--max-b", "500"),
        code=BAD_LINE,
    ),
    Case(
        "a threshold nan",
        "'nan' must be a number >= 0",
        given("--b0-threshold", "nan"),
        code=BAD_LINE,
    ),
    Case(
        "a threshold inf", "'inf' must be a number", given("--b0-threshold", "inf"), code=BAD_LINE
    ),
    Case("no such memory", "'lots' is no amount of memory", given("--mem", "lots"), code=BAD_LINE),
    Case(
        "a device that does not exist",
        "'gpu9' must be auto",
        given("--device", "gpu9"),
        code=BAD_LINE,
    ),
    Case(
        "draws from an estimator that has none",
        "the estimator lsq cannot draw",
        given("--posterior-samples", "2"),
    ),
    Case(
        "free water as the only component",
        "--n-components is 1",
        given("--estimator", "gmvae", "--free-water-anchor", "--n-components", "1"),
    ),
    Case(
        "an output space that does not exist",
        "'MNI152NLin2009xAsym'. Did you mean",
        given("--output-spaces", "MNI152NLin2009xAsym"),
    ),
    Case(
        "an output space without transform",
        "no transform from sub-02_dwi",
        given("--output-spaces", "MNI152NLin2009cAsym"),
        code=ExitCode.OK,
    ),
    Case(
        "an output space of bad form",
        "'a/b' must be TEMPLATE",
        given("--output-spaces", "a/b"),
        code=BAD_LINE,
    ),
    Case(
        "a derivative that does not exist",
        "the folder /nowhere does not exist",
        given("-d", "qsiprep=/nowhere"),
        code=BAD_LINE,
    ),
    Case(
        "a derivative named raw",
        "'raw', which is reserved",
        lambda p: ["-d", f"raw={p.bids}/derivatives/masks"],
    ),
    Case(
        "QSIPrep where there is none",
        "--input-type qsiprep needs",
        lambda p: (shutil.rmtree(p.bids / "derivatives"), ["--input-type", "qsiprep"])[1],
    ),
    Case(
        "a work directory in the data",
        "is inside BIDS_DIR",
        lambda p: ["-w", p.bids / "work"],
        code=BAD_LINE,
    ),
    Case(
        "a work directory that cannot be made",
        "occupied/work cannot be used: Not a directory",
        file_as_work_dir,
        code=NO_SPACE,
        maps=True,
    ),
    Case(
        "another dataset in the output",
        "out holds a dataset that is no derivative",
        foreign_output(json.dumps(RAW)),
        maps=True,
    ),
    Case(
        "a broken description of the output",
        "dataset_description.json is not JSON",
        foreign_output("{"),
        maps=True,
    ),
    Case(
        "a config file that is no TOML",
        "settings.toml cannot be read",
        option("--config-file", "settings.toml", "= 1"),
    ),
    Case(
        "an unknown setting",
        "Unknown setting 'n_component'. Did you mean 'n_components'",
        option("--config-file", "settings.toml", "[model]\nn_component = 3"),
    ),
    Case(
        "an unknown section",
        "Unknown section 'modle'",
        option("--config-file", "settings.toml", "[modle]\na = 1"),
    ),
    Case(
        "a setting of the wrong kind",
        "n_components = 'many'",
        option("--config-file", "settings.toml", "[model]\nn_components = 'many'"),
    ),
    Case(
        "a filter file that is no JSON",
        "filter.json must be a JSON",
        option("--bids-filter-file", "filter.json", "{dwi"),
    ),
    Case(
        "a filter of an unknown entity",
        "'acquisitoin'. Did you mean 'acquisition'",
        option("--bids-filter-file", "filter.json", '{"dwi": {"acquisitoin": "a"}}'),
    ),
    Case(
        "a filter that is a list",
        "query 'dwi' must be an object",
        option("--bids-filter-file", "filter.json", '{"dwi": ["a"]}'),
    ),
    Case(
        "a plugin that does not exist",
        "names the plugin MultiPrc",
        option("--use-plugin", "plugin.yml", "plugin: MultiPrc"),
        maps=True,
    ),
    Case(
        "a plugin file that is no YAML",
        "plugin.yml cannot be read: line 1: ",
        option("--use-plugin", "plugin.yml", "[1, 2"),
        maps=True,
    ),
    Case(
        "a plugin file of bytes",
        "plugin.yml cannot be read: byte 0 is no UTF-8",
        plugin_of_bytes,
        maps=True,
    ),
    Case(
        "a plugin file with code",
        "plugin.yml cannot be read: line 1: .*os.system",
        option("--use-plugin", "plugin.yml", "!!python/object/apply:os.system ['touch pwned']"),
        maps=True,
    ),
    Case(
        "a config file nested without end",
        "settings.toml cannot be read",
        option("--config-file", "settings.toml", "a = " + "[" * 10**5),
    ),
    Case(
        "a filter that climbs",
        "bids/sub-02: no diffusion series",
        option("--bids-filter-file", "filter.json", '{"dwi": {"subject": "../../etc"}}'),
        code=NONE,
    ),
    Case("a broken index", "index must hold an index of pybids", another_index),
]
