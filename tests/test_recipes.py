"""The recipes run as they stand; the engines and the app are replaced by recorders."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from bids_gmvae import __version__
from bids_gmvae.cli import options
from bids_gmvae.cli.parser import parse_args
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.workflows.resources import APP_GB
from tests.test_boutiques import bosh

WORKFLOWS = Path(__file__).parents[1] / "workflows"

#: Writes down how it was called, and answers a request for the plan.
RECORDER = """#!/bin/bash
printf '%s\\0' "$(basename "$0")" "$@" >>"$RECORD"
printf '\\n' >>"$RECORD"
if [[ " $* " == *" --dry-run=json "* ]]; then
    echo '{"participants": ["01", "02"], "invalid": [], "memory_gb": 3}'
fi
[[ " $* " == *" participant "* ]] && exit "${STATUS:-0}"
exit 0
"""

#: Runs what it is given at once, each task of an array in turn, as SLURM would.
SBATCH = """#!/bin/bash
tasks=1
while [[ $1 == --* ]]; do
    [[ $1 == --mem=* ]] && memory=${1#--mem=} && export SLURM_MEM_PER_NODE=${memory%M}
    [[ $1 == --array=* ]] && tasks=${1#--array=1-} && tasks=${tasks%%%*}
    shift
done
for ((task = 1; task <= tasks; task++)); do
    SLURM_ARRAY_TASK_ID=$task SLURM_CPUS_PER_TASK=4 bash "$@" >&2
done
echo 4711
"""

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Run a recipe; give the calls of all programs that it runs, by program."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bids-gmvae", "docker", "podman", "apptainer", "qsiprep"):
        write_program(programs / name, RECORDER)
    write_program(programs / "sbatch", SBATCH)
    (tmp_path / "bids").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("existing_dir", "existing_file"):
        monkeypatch.setattr(options, name, options.any_path)

    def run(script, *arguments, **variables):
        record = tmp_path / "record"
        environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "RECORD": str(record),
            **variables,
        }
        subprocess.run([WORKFLOWS / script, *arguments], env=environment, check=True, timeout=60)
        return calls_in(record)

    return run


def calls_in(record):
    """Read what the recorders wrote down: (program, arguments) of each call."""
    calls = [line.split("\0")[:-1] for line in record.read_text().splitlines()]
    return [(call[0], call[1:]) for call in calls]


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def settings_of(program, arguments, image=None):
    """Parse what reaches the app."""
    if program != "bids-gmvae":
        arguments = arguments[arguments.index(image) + 1 :]
    return parse_args(arguments)


def test_docker_maps_then_tabulates(recipe):
    calls = recipe("docker/run.sh", "bids", "out", "--signal-model", "msdki")
    first, second = (settings_of(*call, image="bids_gmvae:cpu") for call in calls)
    assert (first.analysis_level, second.analysis_level) == ("participant", "group")
    assert first.model.signal_model == ("msdki",)
    assert first.execution.work_dir == Path("/work")
    assert "--gpus" not in calls[0][1]


def test_docker_gives_gpus_to_the_cuda_image(recipe):
    calls = recipe("docker/run.sh", "bids", "out", GPU="1")
    assert all("--gpus" in arguments for _, arguments in calls)
    assert all("bids_gmvae:cuda" in arguments for _, arguments in calls)


def test_podman_names_gpus_in_its_own_way(recipe):
    calls = recipe("docker/run.sh", "bids", "out", ENGINE="podman", GPU="1")
    assert [program for program, _ in calls] == ["podman", "podman"]
    for _, arguments in calls:
        assert arguments[arguments.index("--device") + 1] == "nvidia.com/gpu=all"
        assert "--gpus" not in arguments


def test_slurm_gets_one_job_per_participant_of_the_plan(recipe, tmp_path):
    calls = recipe(
        "apptainer_slurm/submit.sh", "bids", "out", "--estimator", "lsq", IMAGE="app.sif"
    )
    assert {program for program, _ in calls} == {"apptainer"}
    plan, first, second, group = (settings_of(*call, image="app.sif") for call in calls)
    assert plan.execution.dry_run == "json"
    labels = [settings.selection.participant_label for settings in (first, second)]
    assert labels == [("01",), ("02",)]
    assert first.model.estimator == "lsq"
    assert group.analysis_level == "group"
    assert f"{tmp_path}/work/sub-01:/work" in calls[1][1]
    assert f"{tmp_path}/work/sub-02:/work" in calls[2][1]


def test_steps_share_the_memory_of_a_job_with_the_app(recipe):
    calls = recipe("apptainer_slurm/submit.sh", "bids", "out", IMAGE="")
    assert settings_of(*calls[1]).compute.mem_mb == 2000
    calls = recipe("apptainer_slurm/submit.sh", "bids", "out", IMAGE="", MEM="9000M")
    assert settings_of(*calls[-2]).compute.mem_mb == 8000


def test_a_job_that_gets_a_gpu_uses_it(recipe):
    calls = recipe("apptainer_slurm/submit.sh", "bids", "out", IMAGE="app.sif", GPU="1")
    plan, first, *_ = (settings_of(*call, image="app.sif") for call in calls)
    assert (plan.compute.device, first.compute.device) == ("cpu", "cuda")
    assert ["--nv" in arguments for _, arguments in calls] == [False, True, True, False]


def test_slurm_runs_without_a_container_too(recipe):
    calls = recipe("apptainer_slurm/submit.sh", "bids", "out", IMAGE="", LABELS="01 02")
    assert {program for program, _ in calls} == {"bids-gmvae"}
    plan, first, *_ = (settings_of(*call) for call in calls)
    assert plan.selection.participant_label == ("01", "02")
    assert first.selection.participant_label == ("01",)


def test_slurm_refuses_participants_that_every_job_would_get(recipe):
    with pytest.raises(subprocess.CalledProcessError, match="exit status 2"):
        recipe("apptainer_slurm/submit.sh", "bids", "out", "--participant-label", "01")


def test_qsiprep_runs_first(recipe, tmp_path):
    calls = recipe("after_qsiprep/run.sh", "bids", "derivatives")
    assert [program for program, _ in calls] == ["qsiprep", "bids-gmvae", "bids-gmvae"]
    first, second = (settings_of(*call) for call in calls[1:])
    assert first.bids_dir == tmp_path / "derivatives" / "qsiprep"
    assert (first.analysis_level, second.analysis_level) == ("participant", "group")


@pytest.mark.parametrize("where", ["qsiprep", "qsiprep/qsiprep"])
def test_qsiprep_is_skipped_where_its_output_exists(recipe, tmp_path, where):
    preprocessed = tmp_path / "derivatives" / where
    preprocessed.mkdir(parents=True)
    (preprocessed / "dataset_description.json").write_text("{}")
    calls = recipe("after_qsiprep/run.sh", "bids", "derivatives", "--device", "cpu")
    assert [program for program, _ in calls] == ["bids-gmvae", "bids-gmvae"]
    settings = settings_of(*calls[0])
    assert settings.bids_dir == preprocessed
    assert settings.compute.device == "cpu"


@pytest.mark.parametrize(
    ("status", "levels"),
    [
        (ExitCode.RUN_FAILED, ["participant", "group"]),
        (ExitCode.REPORT_FAILED, ["participant", "group"]),
        (ExitCode.INVALID_INPUT, ["participant"]),
    ],
)
def test_tables_follow_if_some_are_mapped(recipe, tmp_path, status, levels):
    (tmp_path / "derivatives/qsiprep").mkdir(parents=True)
    (tmp_path / "derivatives/qsiprep/dataset_description.json").write_text("{}")
    with pytest.raises(subprocess.CalledProcessError, match=f"exit status {status}"):
        recipe("after_qsiprep/run.sh", "bids", "derivatives", STATUS=str(int(status)))
    assert [settings_of(*call).analysis_level for call in calls_in(tmp_path / "record")] == levels


def test_without_arguments_a_recipe_explains_itself(recipe):
    for script in ("docker/run.sh", "apptainer_slurm/submit.sh", "after_qsiprep/run.sh"):
        done = subprocess.run([WORKFLOWS / script], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"{Path(script).name} BIDS_DIR" in done.stderr


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck")
def test_shell_scripts_are_clean():
    scripts = [
        *WORKFLOWS.rglob("*.sh"),
        *WORKFLOWS.rglob("*.sbatch"),
        WORKFLOWS.parent / ".ci/run",
    ]
    subprocess.run(["shellcheck", *scripts], check=True, timeout=60)


@pytest.mark.skipif(not shutil.which("hadolint"), reason="no hadolint")
def test_the_dockerfile_is_clean():
    subprocess.run(["hadolint", WORKFLOWS.parent / "Dockerfile"], check=True, timeout=60)


def test_the_image_is_labelled_with_the_version_of_the_package():
    assert f"ARG VERSION={__version__}\n" in (WORKFLOWS.parent / "Dockerfile").read_text()


def test_babs_passes_options_that_exist():
    config = yaml.safe_load((WORKFLOWS / "babs" / "config.yaml").read_text())
    words = []
    for flag, value in config["bids_app_args"].items():
        name = value if flag.startswith("$") else flag
        words += [name, "sub-01"] if flag.startswith("$") else [name, *filter(None, [value])]
    settings = parse_args([str(WORKFLOWS), "out", "participant", *words])
    assert settings.selection.participant_label == ("01",)
    memory_mb = 1000 * int(config["cluster_resources"]["hard_memory_limit"].removesuffix("G"))
    assert settings.compute.mem_mb == memory_mb - 1000 * APP_GB
    assert config["cluster_resources"]["number_of_cpus"] == str(settings.compute.nprocs)


def test_nipoppy_makes_a_command_line_that_the_parser_takes(tmp_path):
    pytest.importorskip("boutiques")
    (tmp_path / "qsiprep").mkdir()
    text = (WORKFLOWS / "nipoppy" / "invocation.json").read_text()
    for placeholder, value in {
        "[[QSIPREP_DIR]]": tmp_path / "qsiprep",
        "[[NIPOPPY_DPATH_PIPELINE_OUTPUT]]": tmp_path / "out",
        "[[NIPOPPY_DPATH_PIPELINE_WORK]]": tmp_path / "work",
        "[[NIPOPPY_PARTICIPANT_ID]]": "01",
        "[[NIPOPPY_SESSION_ID]]": "pre",
    }.items():
        text = text.replace(placeholder, str(value))
    path = tmp_path / "invocation.json"
    path.write_text(text)
    done = bosh("exec", "simulate", "-i", path, WORKFLOWS.parent / "boutiques.json")
    settings = parse_args(done.stdout.strip().splitlines()[-1].split("bids-gmvae ")[1].split())
    assert "[[" not in text
    assert settings.selection.session_label == ("pre",)
    assert settings.output_dir == tmp_path / "out"


def test_versions_of_the_recipes_are_that_of_the_package():
    dashed = __version__.replace(".", "-")
    babs = (WORKFLOWS / "babs" / "config.yaml").read_text()
    assert f"--container_name bids-gmvae-{dashed} " in babs
    assert yaml.safe_load(babs)["zip_foldernames"] == {"bids_gmvae": dashed}
    assert f"bids-gmvae-{dashed}`" in (WORKFLOWS / "babs" / "README.md").read_text()
    nipoppy = json.loads((WORKFLOWS / "nipoppy" / "config.json").read_text())
    assert nipoppy["VERSION"] == __version__
