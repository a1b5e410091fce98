import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bids_gmvae"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCIENCE = ("estimators", "nn", "priors", "signal_models")
SCIENCE_FILES = ("acquisition", "config", "exceptions", "likelihoods", "posterior")


def imported(path):
    """Give the top-level names of all packages that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def loaded_after(statements):
    """Give the names of the modules that are loaded after some statements, in a new process."""
    script = f"import sys\n{statements}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def module_id(path):
    return str(path.relative_to(ROOT))


def test_imports_point_down_the_layers():
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def science_modules():
    return [
        path
        for path in MODULES
        if (parts := path.relative_to(PACKAGE).parts)[0] in SCIENCE
        or (len(parts) == 1 and path.stem in SCIENCE_FILES)
    ]


@pytest.mark.parametrize("path", science_modules(), ids=module_id)
def test_science_imports_torch_and_the_standard_library_only(path):
    allowed = {"torch", "bids_gmvae", *sys.stdlib_module_names}
    if "compiled" in str(path):
        allowed.add("numba")
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_modules_say_what_they_are_for(path):
    assert path.stem not in {"utils", "helpers", "misc", "common"}
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_only_the_command_line_prints(path):
    if path.parent.name == "cli":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if getattr(call.func, "id", "") == "print"]


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_no_error_is_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
            empty = all(isinstance(item, ast.Pass) for item in node.body)
            assert not empty, f"an error is dropped without a word in line {node.lineno}"


def test_importing_the_package_loads_nothing_else():
    extra = loaded_after("import bids_gmvae") - loaded_after("")
    assert extra <= {"bids_gmvae", "__future__"}


def test_building_graphs_does_not_import_torch():
    names = [path.stem for path in (PACKAGE / "workflows").glob("*.py") if path.stem != "__init__"]
    statements = "\n".join(f"import bids_gmvae.workflows.{name}" for name in names)
    assert names
    assert loaded_after(statements).isdisjoint({"torch", "nilearn", "matplotlib"})


@pytest.mark.parametrize(
    ("folder", "registry"),
    [("signal_models", "SIGNAL_MODELS"), ("estimators", "ESTIMATORS")],
)
def test_every_module_that_defines_one_is_registered(folder, registry):
    from bids_gmvae.estimators.base import Estimator
    from bids_gmvae.signal_models.base import SignalModel

    base = {"signal_models": SignalModel, "estimators": Estimator}[folder]
    registered = set(getattr(importlib.import_module(f"bids_gmvae.{folder}"), registry).values())
    for path in (PACKAGE / folder).glob("*.py"):
        module = importlib.import_module(f"bids_gmvae.{folder}.{path.stem}")
        found = {
            item
            for item in vars(module).values()
            if isinstance(item, type)
            and issubclass(item, base)
            and "name" in vars(item)  # what only shares code among others has none
            and item.__module__ == module.__name__
        }
        assert found <= registered, f"{path.name} is not registered in {registry}"


def test_the_console_commands_exist():
    assert importlib.util.find_spec("bids_gmvae.cli.run")
    assert importlib.util.find_spec("bids_gmvae.cli.simulate")
