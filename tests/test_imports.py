"""`import exeunt` stays light; the layers hold."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent

import pytest
from tests.made_runs import made_run

import exeunt as ex
from exeunt.errors import MissingExtra, UnitError, require

HEAVY = {
    "torch", "torchvision", "PIL", "matplotlib", "onnxruntime", "typer", "rich", "sklearn", "pandas", "fastapi",
    "starlette", "uvicorn",
}  # fmt: skip

SERVERS = ("msgspec", "fastapi", "starlette", "uvicorn", "prometheus_client", "httpx", "openai", "psycopg")


def loaded_by(code: str) -> set[str]:
    """Return the packages that a new process has imported after this code."""
    code = f"import json, sys\ntry:\n{indent(code, ' ')}\nfinally: print(json.dumps([*sys.modules]), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert "exeunt" in loaded
    return loaded


def test_importing_and_using_the_core_imports_nothing_heavy():
    code = """
import numpy as np
import exeunt as ex
rng = np.random.default_rng(0)
trace = ex.ExitTrace.from_scores(rng.random((90, 3)), rng.integers(0, 2, (90, 3)),
                                 cost=ex.CostModel([1, 2, 3]), label=rng.integers(0, 2, 90))
fit, calibrate, test = trace.split()
ex.evaluate(ex.eero(fit, calibrate, budget="70%"), test).saved
"""
    assert not loaded_by(code) & HEAVY


def test_every_public_name_exists_and_is_documented():
    for name in ex.__all__:
        assert getattr(ex, name).__doc__, name


def test_public_names_are_the_same_for_users_type_checkers_and_the_import():
    tree = ast.parse(Path(ex.__file__).read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {alias.name: node.module for node in typed.body for alias in node.names}
    assert set(homes) == set(ex.__all__) == {name for name in dir(ex) if not name.startswith("__")}
    offered = {name: getattr(ex, name) for name in ex.__all__}  # which imports their modules
    assert {name: sys.modules[module].__dict__[name] for name, module in homes.items()} == offered
    with pytest.raises(AttributeError, match="'exeunt' has no attribute 'eeroo'"):
        _ = ex.eeroo


def test_no_module_hides_a_public_name():
    """An imported module becomes an attribute of its package: none may have the name of a function."""
    assert not {module.name for module in pkgutil.iter_modules(ex.__path__)} & set(ex.__all__)


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [(["--help"], {"typer"}), (["--version"], {"typer"}), (["train", "--help"], {"typer", "rich"})],
)
def test_help_imports_nothing_heavy(arguments, allowed):
    """Seconds would depend on the machine."""
    pytest.importorskip("typer")
    loaded = loaded_by(f'from exeunt.cli.main import main\nsys.argv = ["exeunt", *{arguments}]\nmain()')
    assert not loaded & ((HEAVY | {"numpy", "scipy", "pyarrow"}) - allowed)


def test_runs_are_calibrated_and_evaluated_without_what_servers_need(tmp_path):
    """As where `exeunt[torch,cli]` is installed, which `make dist` tries."""
    pytest.importorskip("typer")
    made_run(tmp_path / "run")
    code = f"""
import sys
for name in {SERVERS}:
    sys.modules[name] = None  # "import name" fails
from exeunt.cli.app import run
for words in (["calibrate", "run", "--budget", "70%"], ["evaluate", "run", "--no-figures"]):
    assert not run(words), words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_names_its_extra_and_a_broken_one_is_not_hidden(tmp_path, monkeypatch):
    with pytest.raises(MissingExtra, match=r"exeunt\[torch\]"):
        require("no_such_package_at_all", extra="torch")
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        require("half_installed", extra="torch")
    assert not isinstance(caught.value, MissingExtra)


def test_all_errors_are_of_one_tree_and_input_errors_are_value_errors():
    for error in (ex.InputError, UnitError, ex.InfeasibleBudget):
        assert issubclass(error, ex.ExeuntError)
        assert issubclass(error, ValueError)
    assert issubclass(ex.ArtefactError, ex.ExeuntError)
    assert issubclass(MissingExtra, ImportError)


def test_scripts_import_each_other_without_circles():
    """import-linter sees the package alone."""
    imports = {}
    for file in [one for one in SCRIPTS if one.parts[0] != "examples"]:
        found = imports_of(file)
        named = {f"{node.module}.{one.name}" for node in found for one in node.names}
        imports[".".join(file.with_suffix("").parts)] = named | {node.module for node in found}
    assert any(names & imports.keys() for names in imports.values())
    TopologicalSorter(imports).prepare()  # raises CycleError


ROOT = Path(__file__).parents[1]
FOLDERS = ("experiments", "benchmarks", "examples")
SCRIPTS = [file.relative_to(ROOT) for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]


def imports_of(script):
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_every_script_finds_what_it_imports():
    pytest.importorskip("torch")
    for file in SCRIPTS:
        for node in imports_of(file):
            if (node.module or "").partition(".")[0] in ("exeunt", "experiments"):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    found = hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")
                    assert found, f"{file.name} imports {alias.name} from {node.module}"
