"""The documentation is true: commands parse, code runs, tables are those of the code."""

import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.cli import options, simulate
from bids_gmvae.cli.parser import EPILOG, build_parser
from bids_gmvae.cli.reference import build_page
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import ESTIMATORS, Measurements
from bids_gmvae.signal_models import SIGNAL_MODELS
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "workflows").rglob("*.md"),
]
RECIPES = [
    path
    for path in (ROOT / "workflows").rglob("*")
    if path.suffix in (".sh", ".sbatch", ".py", ".yaml")
]

#: The app's name on a command line, in or out of a container.
APP = re.compile(r"(?:^|[\s/(`])(bids-gmvae(?:-simulate)?|bids_gmvae(?::\w+|\.sif))\s+(.+)")

#: Options of container engines and of QSIPrep.
OF_OTHERS = {"--gpus", "--nv", "--read-only", "--userns", "--no-b0-harmonization"}

#: Followed by something else than arguments: building, naming and talking about the app.
NOT_A_CALL = re.compile(
    r"\{participant|\[options\]|…|docker (?:build|tag)|apptainer build|docker-daemon"
)


def commands(path):
    """Give (program, arguments) of every command line of the app in a file."""
    text = path.read_text().replace("\\\n", " ")
    if path.suffix == ".md":
        blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        inline = re.findall(r"`(bids-gmvae[^`]*)`", prose.replace("\n", " "))
        lines = [*"\n".join(blocks).splitlines(), *inline]
    else:
        lines = text.splitlines()
    for line in lines:
        found = APP.search(line)
        if found and not NOT_A_CALL.search(line) and not line.lstrip().startswith(("#", "print")):
            arguments = shlex.split(found[2], comments=True)
            if len(arguments) > 1 or found[1] == "bids-gmvae-simulate":
                yield found[1], arguments


@pytest.fixture
def any_paths(monkeypatch):
    """Let paths of the documentation pass as if they were there."""
    for name in ("existing_dir", "existing_file"):
        monkeypatch.setattr(options, name, options.any_path)


CALLS = [
    pytest.param(program, arguments, id=f"{path.relative_to(ROOT)}:{' '.join(arguments)}")
    for path in (*PAGES, *RECIPES)
    for program, arguments in commands(path)
    # Shell variables are expanded in tests/test_recipes.py.
    if not any("$" in argument or "{" in argument for argument in arguments)
]


def test_there_are_commands_to_check():
    assert len(CALLS) >= 10


@pytest.mark.parametrize(("program", "arguments"), CALLS)
@pytest.mark.usefixtures("any_paths")
def test_commands_of_the_documentation_are_understood(program, arguments):
    parser = simulate.build_parser() if program.endswith("-simulate") else build_parser()
    parser.parse_args(arguments)


@pytest.mark.usefixtures("any_paths")
def test_the_examples_of_the_help_are_understood():
    examples = re.findall(r"^  bids-gmvae (.+)$", EPILOG, flags=re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        build_parser().parse_args(shlex.split(example))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_documents_name_every_option_that_they_explain():
    known = {flag for action in build_parser()._actions for flag in action.option_strings}
    known |= set(simulate.build_parser()._option_string_actions)
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`(--[a-z][a-z0-9-]*)[^`]*`", prose):
            if code not in OF_OTHERS:
                assert code in known, f"{path.name}: {code}"


def test_the_table_of_parameters_is_that_of_the_models():
    rows = []
    for model in (kind() for kind in SIGNAL_MODELS.values()):
        centres = torch.tensor([parameter.center for parameter in model.parameters])
        for parameter in (*model.parameters, *model.derived(centres)):
            suffix = parameter.bids.get("suffix")
            label = f"(`{suffix}`)" if suffix else f"`{parameter.bids['param']}`"
            rows.append(
                f"| `{model.name}` | `{model.label}` | {label}: {parameter.description} "
                f"| {parameter.unit or '1'} |"
            )
    page = (ROOT / "docs/reference/outputs.md").read_text()
    assert "\n".join(rows) in page


def test_the_page_about_the_command_line_is_that_of_the_parsers():
    assert (ROOT / "docs/reference/command_line.md").read_text() == build_page()


def test_the_readme_names_models_and_estimators_that_exist():
    readme = (ROOT / "README.md").read_text()
    for option, known in (("--signal-model", SIGNAL_MODELS), ("--estimator", ESTIMATORS)):
        (row,) = re.findall(rf"^\| `{option}` \|.*$", readme, flags=re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) - {"auto"} <= set(known)


@pytest.fixture
def new_model(monkeypatch):
    """The signal model of the how-to, registered as it says."""
    page = (ROOT / "docs/how-to/add_a_signal_model.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    module = types.ModuleType("bids_gmvae.signal_models.adc")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "adc.py", "exec"), module.__dict__)
    monkeypatch.setitem(SIGNAL_MODELS, "adc", module.ADC)
    return module.ADC


def test_the_how_to_is_one_page():
    page = (ROOT / "docs/how-to/add_a_signal_model.md").read_text()
    assert len(page.splitlines()) <= 90


@pytest.mark.parametrize("estimator", ["lsq", "gmvae"])
def test_the_model_of_the_how_to_recovers_what_was_put_in(new_model, estimator):
    model = new_model()
    bvals = torch.tensor([0.0, *[500.0] * 4, *[1000.0] * 4], dtype=torch.float64)
    acquisition = Acquisition(bvals=bvals)
    truth = torch.linspace(5e-4, 2.5e-3, 60, dtype=torch.float64)[:, None]
    noise = 2.0 * torch.randn(60, len(bvals), dtype=torch.float64)
    run = Measurements(
        1000 * model(truth, acquisition) + noise, torch.full((60,), 2.0), acquisition
    )
    settings = ModelSettings(n_components=2, noise_model="gaussian")
    posterior = ESTIMATORS[estimator](model, settings).fit(run).posterior(run)
    torch.testing.assert_close(posterior.mean.double(), truth, rtol=0.02, atol=0)


def test_the_estimator_of_the_how_to_comes_near_the_truth(monkeypatch):
    page = (ROOT / "docs/how-to/add_an_estimator.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    module = types.ModuleType("bids_gmvae.estimators.grid")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "grid.py", "exec"), module.__dict__)
    model = SIGNAL_MODELS["msdki"]()
    acquisition = get_scheme("hcp")
    truth = torch.tensor([[0.8e-3, 1.1], [1.0e-3, 0.6], [1.5e-3, 0.4]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    signals = simulate_signals(model, acquisition, truth, sigma=0.02, generator=generator)
    run = Measurements(signals, torch.full((3,), 0.02, dtype=torch.float64), acquisition)
    posterior = module.Grid(model).fit(run).posterior(run)
    assert (posterior.status == 1).all()
    assert ((posterior.mean - truth).abs() < 4 * posterior.std + 1e-6).all()
    assert (posterior.std / truth < 0.1).all()
