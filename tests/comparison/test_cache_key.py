"""Results are found again only while every source file that decided them stays the same."""

from __future__ import annotations

import inspect
import shutil
import sys
from pathlib import Path

import pytest

import exeunt
from exeunt.comparison.cache import code_digest, imported_files
from exeunt.comparison.one_split import Settings, measure_split
from exeunt.policies.auto import auto
from exeunt.policies.catalogue import PRESETS, preset

PACKAGE = Path(exeunt.__file__).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package's sources, to change."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "exeunt", ignore=shutil.ignore_patterns("__pycache__")))


def test_every_file_that_runs_while_a_split_is_measured_is_in_the_key(make_trace):
    settings = Settings(tuple(PRESETS), (2.0, 4.0), seed=0, fit=0.3, calibrate=0.2, test=0.5, delta=0.5)
    trace, ran = make_trace(120), set()
    sys.setprofile(lambda frame, event, _: ran.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        measure_split(trace, settings, 1)
    finally:
        sys.setprofile(None)
    ours = {Path(file) for file in ran if Path(file).is_relative_to(PACKAGE)}
    assert {Path(inspect.getfile(make)) for make in PRESETS.values()} <= ours
    assert ours <= set(imported_files(PACKAGE, "comparison.one_split").values())


def test_a_change_in_any_folder_of_the_core_changes_the_key(copy):
    folders = {file.parent: file for file in imported_files(copy, "comparison.one_split").values()}
    assert {copy / "policies", copy / "comparison", copy} <= set(folders)
    digests = {code_digest(copy)}
    for file in folders.values():
        file.write_text(file.read_text() + "# changed\n")
        code_digest.cache_clear()
        digests.add(code_digest(copy))
    assert len(digests) == len(folders) + 1


def test_a_file_that_moves_deeper_stays_in_the_key(copy):
    files = (Path(inspect.getfile(inspect.unwrap(what))) for what in (preset, auto))
    importer, module = (copy / file.relative_to(PACKAGE) for file in files)
    deeper = module.parent / "much" / "deeper"
    deeper.mkdir(parents=True)
    module.rename(deeper / module.name)
    name = f"{auto.__module__.rpartition('.')[0]}.much.deeper.{module.stem}"
    importer.write_text(importer.read_text().replace(f"from {auto.__module__} import", f"from {name} import"))
    assert imported_files(copy, "comparison.one_split")[name] == deeper / module.name


def test_what_decides_no_result_is_not_in_the_key(copy):
    before = code_digest(copy)
    for name in (
        "cli/compare.py",
        "plots/style.py",
        "comparison/summary.py",
        "comparison/report/controls.js",
    ):
        file = copy / name
        file.write_text(file.read_text() + "\n")
    code_digest.cache_clear()
    assert code_digest(copy) == before


@pytest.mark.parametrize(
    "statement",
    [
        "from exeunt.deep import leaf", "from exeunt.deep.leaf import value", "import exeunt.deep.leaf",
        "def later():\n    from exeunt.deep import (\n        leaf,\n    )", "from . import leaf",
        "from .leaf import value", "from ..deep import leaf",
    ],
)  # fmt: skip
def test_every_way_to_import_is_followed(tmp_path, statement):
    folder = tmp_path / "exeunt" / "deep"
    folder.mkdir(parents=True)
    (folder / "root.py").write_text(statement + "\n")
    (folder / "leaf.py").write_text("import numpy\nvalue = 1\n")
    found = imported_files(tmp_path / "exeunt", "deep.root")
    assert found == {f"exeunt.deep.{name}": folder / f"{name}.py" for name in ("root", "leaf")}


def test_what_a_package_hands_on_is_found_through_its_init(tmp_path):
    folder = tmp_path / "exeunt" / "deep"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from .leaf import value\n")
    (folder / "leaf.py").write_text("value = 1\n")
    (tmp_path / "exeunt" / "root.py").write_text("from exeunt.deep import value\n")
    assert set(imported_files(tmp_path / "exeunt", "root")) == {
        "exeunt.root",
        "exeunt.deep",
        "exeunt.deep.leaf",
    }
