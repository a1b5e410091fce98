import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from bids_gmvae import __version__
from bids_gmvae.cli import options
from bids_gmvae.cli.configfile import write_config
from bids_gmvae.cli.parser import build_parser, parse_args
from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import ExitCode, InputError

HEAVY = ("torch", "nipype", "nibabel", "numpy", "bids", "dipy", "matplotlib")


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Parse a command line after the three positional arguments."""
    (tmp_path / "bids").mkdir()
    monkeypatch.chdir(tmp_path)

    def parse(*arguments, level="participant"):
        return parse_args(["bids", "out", level, *map(str, arguments)])

    return parse


def error_of(capsys, call, *arguments):
    with pytest.raises(SystemExit, match="2"):
        call(*arguments)
    return " ".join(capsys.readouterr().err.split())


def test_defaults_are_those_of_the_settings(call, tmp_path):
    settings = call()
    nprocs = options.available_cores()
    expected = RunSettings(tmp_path / "bids", tmp_path / "out", "participant")
    compute = replace(
        expected.compute, nprocs=nprocs, omp_nthreads=options.default_omp_nthreads(nprocs)
    )
    execution = replace(expected.execution, work_dir=tmp_path / "work")
    assert settings == replace(expected, compute=compute, execution=execution)


def test_every_setting_has_an_option_or_is_known_to_be_for_the_file_only():
    file_only = {"n_epochs", "latent_size", "kl_weight", "temperature", "ignored"}
    settings = {
        item.name for section in RunSettings.sections().values() for item in fields(section)
    }
    assert settings - {action.dest for action in build_parser()._actions} == file_only


def test_every_option_is_documented_with_its_default():
    for action in build_parser()._actions:
        assert action.help, action.option_strings
        section = next(
            (kind for kind in RunSettings.sections().values() if hasattr(kind, action.dest)), None
        )
        if section and getattr(section, action.dest) not in (None, False, 0, ()):
            assert "default:" in action.help, action.option_strings


@pytest.mark.parametrize("option", ["--min-b", "--max-b", "--b0-threshold"])
def test_help_names_the_unit_of_b_values(option):
    (action,) = (item for item in build_parser()._actions if option in item.option_strings)
    assert "s/mm^2" in action.help


@pytest.mark.parametrize("flag", ["--participant-label", "--participant_label"])
def test_participants_may_be_given_with_or_without_prefix(call, flag):
    assert call(flag, "sub-01", "02").selection.participant_label == ("01", "02")


@pytest.mark.parametrize("flag", ["--session-label", "--session-id"])
def test_sessions_may_be_given_with_or_without_prefix(call, flag):
    assert call(flag, "ses-pre", "post").selection.session_label == ("pre", "post")


def test_a_repeated_option_adds_to_its_list(call):
    settings = call("--participant-label", "01", "--participant_label", "02")
    assert settings.selection.participant_label == ("01", "02")


def test_derivatives_are_named_or_take_the_name_of_their_folder(call, tmp_path):
    (tmp_path / "qsiprep").mkdir()
    assert call("-d", "prep=qsiprep").selection.derivatives == {"prep": tmp_path / "qsiprep"}
    assert call("-d", "qsiprep").selection.derivatives == {"qsiprep": tmp_path / "qsiprep"}


def test_two_derivatives_of_one_name_are_refused(call, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    assert "the name q is given twice" in error_of(capsys, call, "-d", "q=a", "q=bids")


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [
        *(("2000", 2000), ("2000M", 2000), ("500000K", 500), ("8000000B", 8)),
        *(("1.5g", 1500), ("16G", 16_000), ("16GB", 16_000), ("1T", 1_000_000)),
    ],
)
def test_memory_is_in_megabytes_unless_it_has_a_suffix(call, text, megabytes):
    assert call("--mem", text).compute.mem_mb == megabytes
    assert call("--mem-mb", text).compute.mem_mb == megabytes


@pytest.mark.parametrize("flag", ["--nprocs", "--nthreads", "--n-cpus"])
def test_threads_of_a_process_follow_the_number_of_processes(call, flag):
    assert call(flag, 4).compute.omp_nthreads == 4
    assert call(flag, 4, "--omp-nthreads", 2).compute.omp_nthreads == 2


def test_dry_run_is_text_or_json(call):
    assert call().execution.dry_run is None
    assert call("--dry-run").execution.dry_run == "text"
    assert call("--dry-run=json").execution.dry_run == "json"


def test_options_of_other_apps_are_accepted_and_noted(call):
    settings = call("--notrack", "--fs-license-file", "license.txt", "--low-mem")
    assert settings.execution.ignored == ("--notrack", "--fs-license-file", "--low-mem")


def test_a_mistyped_name_is_answered_by_a_suggestion(call, capsys):
    message = error_of(capsys, call, "--signal-model", "mskdi")
    assert "Did you mean 'msdki'?" in message
    assert "Did you mean 'gmvae'?" in error_of(capsys, call, "--estimator", "gvmae")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--participant-label", "sub_01"), "is no BIDS label"),
        (("--mem", "much"), "is no amount of memory"),
        (("--device", "gpu"), "must be auto, cpu, cuda or cuda:N"),
        (("--n-components", "0"), "must be a whole number >= 1"),
        (("--shell-tolerance", "5"), "must be a number >= 0 and < 1"),
        (("--b0-threshold", "nan"), "must be a number >= 0"),
        (("--mask", "nowhere.nii.gz"), "the file nowhere.nii.gz does not exist"),
        (("--reuse-fit", "nowhere.pt"), "the file nowhere.pt does not exist"),
        (("-d", "q=nowhere"), "the folder nowhere does not exist"),
        (("-w", "bids/work"), "is inside BIDS_DIR"),
        (("-w", "out"), "must not be OUTPUT_DIR"),
        (("--min-b", "1000", "--max-b", "500"), "--min-b 1000 must be less than --max-b 500"),
        (("--signal-model", "auto", "ivim"), "either auto or names"),
        (("--learn-prior",), "--learn-prior is for the group level"),
        (("--prior-from", "nowhere.json"), "the file nowhere.json does not exist"),
        (("--output-spaces", "MNI:2mm"), "must be TEMPLATE or TEMPLATE:res-N"),
        (("--output-spaces", "MNI:res-native"), "must be TEMPLATE or TEMPLATE:res-N"),
        (("--particip", "01"), "unrecognized arguments"),
        (("--estimatr=lsq",), "--estimatr=lsq. Did you mean --estimator?"),
    ],
)
def test_a_bad_command_line_exits_with_2_and_says_why(call, capsys, arguments, message):
    assert message in error_of(capsys, call, *arguments)


def test_output_must_not_be_the_input(call, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_args(["bids", "bids", "participant"])
    assert "OUTPUT_DIR must not be BIDS_DIR" in capsys.readouterr().err


def test_output_must_not_be_among_the_data_of_a_participant(call, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_args(["bids", "bids/sub-01/out", "participant"])
    assert "is among the data of a participant" in capsys.readouterr().err
    assert parse_args(["bids", "bids/derivatives/gmvae", "participant"])


def test_a_missing_dataset_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_args([str(tmp_path / "absent"), str(tmp_path), "participant"])
    assert "absent does not exist" in capsys.readouterr().err


def test_an_atlas_needs_its_table(call, tmp_path, capsys):
    (tmp_path / "regions.nii.gz").touch()
    assert "needs its table of labels regions.tsv" in error_of(
        capsys, call, "--atlas", "regions.nii.gz"
    )
    (tmp_path / "regions.tsv").touch()
    atlases = call("--atlas", "regions.nii.gz", "Schaefer2018").output.atlas
    assert atlases == (str(tmp_path / "regions.nii.gz"), "Schaefer2018")


def test_written_settings_give_the_same_settings(call, tmp_path):
    (tmp_path / "prep").mkdir()
    (tmp_path / "mask.nii.gz").touch()
    arguments = (
        *("-d", "qsiprep=prep", "--participant-label", "01", "--session-id", "a", "b"),
        *("--signal-model", "msdki", "ivim", "--min-b", "5", "--mask", "mask.nii.gz"),
        *("--mem", "3G", "--nprocs", "3", "--sloppy", "-vv", "--dry-run=json"),
        *("--output-spaces", "MNI152NLin2009cAsym:res-2", "-w", "scratch", "--notrack"),
    )
    settings = call(*arguments)
    path = write_config(settings, tmp_path / "logs" / "config.toml")
    assert call("--config-file", path) == settings


def test_the_command_line_wins_over_the_file(call, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(
        '[model]\nn_components = 4\nestimator = "lsq"\nn_epochs = 7\n'
        '[selection]\nparticipant_label = "sub-01"\n[compute]\nmem_mb = "2G"\nnprocs = 3\n'
    )
    settings = call("--config-file", config, "--n-components", 6)
    assert (settings.model.n_components, settings.model.estimator) == (6, "lsq")
    assert settings.model.n_epochs == 7
    assert settings.selection.participant_label == ("01",)
    assert (settings.compute.mem_mb, settings.compute.omp_nthreads) == (2000, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model\n", "cannot be read"),
        ("[modle]\nestimator = 'lsq'\n", r"Unknown section 'modle'\. Did you mean 'model'"),
        ("n_components = 4\n", "Unknown section 'n_components'"),
        ("[model]\ncomponents = 4\n", r"Unknown setting 'components'\. .*Known: .*n_components"),
        ("[model]\nn_components = 0\n", "must be a whole number >= 1"),
        ("[model]\nn_epochs = 'many'\n", r"a number \(int\) is needed"),
        ("[model]\nestimator = 'best'\n", "Unknown estimator 'best'"),
        ("[model]\nruns = 'all'\n", "must be one of: separate, joint, auto"),
        ("[execution]\nsloppy = 'yes'\n", "true or false is needed"),
        ("[selection]\nderivatives = 'x'\n", "a table of name = path is needed"),
        ("[selection]\nbids_filter_file = 'absent.json'\n", "absent.json does not exist"),
    ],
)
def test_a_wrong_file_is_an_input_error_that_names_the_place(call, tmp_path, text, message):
    config = tmp_path / "c.toml"
    config.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        call("--config-file", config)
    assert caught.value.exit_code == ExitCode.INVALID_INPUT == 7


def test_names_of_models_and_estimators_equal_the_registries():
    from bids_gmvae.estimators import ESTIMATORS
    from bids_gmvae.signal_models import SIGNAL_MODELS

    assert set(options.SIGNAL_MODELS) == set(SIGNAL_MODELS)
    assert set(options.ESTIMATORS) == set(ESTIMATORS)


def test_every_exit_code_is_explained_in_help_and_readme():
    assert set(options.EXIT_CODES) == set(ExitCode)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", readme, flags=re.MULTILINE))
    assert {int(code): text for code, text in rows.items()} == options.EXIT_CODES


def test_help_and_version_are_cheap_and_offline():
    script = (
        "import sys, json, contextlib, io\n"
        "from bids_gmvae.cli.parser import build_parser\n"
        "for flag in ('--help', '--version'):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        build_parser().parse_args([flag])\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stderr) == []
    assert f"bids-gmvae {__version__}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 99


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--estimator", "lsq"), "needs --estimator gmvae; lsq has no such prior"),
        (("--reuse-fit", "prior.json"), "cannot go with --reuse-fit"),
        (("--n-components", "10"), "decides about the components"),
        (("--free-water-anchor",), "decides about the components"),
    ],
)
def test_a_given_prior_tolerates_nothing_that_it_decides(call, capsys, tmp_path, more, message):
    (tmp_path / "prior.json").touch()
    assert message in error_of(capsys, call, "--prior-from", "prior.json", *more)


def test_a_prior_is_given_to_participants_and_learnt_from_all(call, capsys, tmp_path):
    (tmp_path / "prior.json").touch()
    assert call("--learn-prior", level="group").execution.learn_prior
    with pytest.raises(SystemExit, match="2"):
        call("--prior-from", "prior.json", level="group")
    assert "for the participant level" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        call("--learn-prior", "--device", "cuda", level="group")
    assert "computes on the CPU" in capsys.readouterr().err


def test_a_call_with_a_prior_can_be_repeated_from_its_settings(call, tmp_path):
    (tmp_path / "prior.json").touch()
    first = call("--prior-from", "prior.json")
    again = call("--config-file", write_config(first, tmp_path / "config.toml"))
    assert again.model == first.model
