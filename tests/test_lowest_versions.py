"""The lowest versions that pyproject.toml names for an extra pass its tests; those of the core: `make test-lowest`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOUNDS = re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
EXTRAS = {
    "cli": ("tests/cli/test_help.py", "tests/cli/test_budgets.py", "tests/cli/test_compare.py"),
    "plots": ("tests/plots",),
    "pandas": ("tests/comparison", "tests/trace"),
    "tfidf,cli": ("tests/cli/test_tfidf.py", "tests/test_estimator_executor.py", "tests/making"),
    "serve": ("tests/serve",),
    "onnx": ("tests/run",),
    "ray,remote": ("tests/cluster", "tests/data"),
    "torch": ("tests/pytorch", "tests/engine"),
    "export,cli": ("tests/one_file", "tests/pytorch/test_onnx_export.py", "tests/cli/test_making_runs.py"),
    "sklearn": ("tests/test_sklearn.py",),
    "timm": ("tests/pytorch/test_models.py",),
    "hf": ("tests/pytorch/test_texts.py", "tests/cli/test_texts.py"),
}
LOWEST = ("--resolution", "lowest-direct")
CLIENT = "httpx>=0.27"  # the tests of a server call it


def test_each_package_has_one_lowest_version():
    assert len({name for name, _ in BOUNDS}) == len({*BOUNDS})


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_passes_with_the_lowest_versions(extra, tmp_path):
    python, uv = tmp_path / "bin" / "python", tmp_path / "bin" / "uv"
    for command in (
        (sys.executable, "-m", "venv", tmp_path),
        (python, "-m", "pip", "install", "--quiet", "uv"),
        (uv, "pip", "install", "-p", tmp_path, "-q", *LOWEST, "-e", f"{ROOT}[{extra},test]", CLIENT),
        # Old packages warn of what new ones deprecate.
        (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *EXTRAS[extra]),
    ):
        done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
