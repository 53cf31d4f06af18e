"""The lowest versions that pyproject.toml names pass all tests; `make test-lowest` runs those of the core alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOUNDS = re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)', (ROOT / "pyproject.toml").read_text())


def test_each_package_has_one_lowest_version():
    assert len({name for name, _ in BOUNDS}) == len({*BOUNDS})


@pytest.mark.slow
def test_the_lowest_versions_pass(tmp_path):
    python = tmp_path / "bin" / "python"
    at_lowest = ("--resolution", "lowest-direct", "--editable", f"{ROOT}[dev]")
    # Old packages warn of what new ones deprecate.
    options = ("-p", "no:cacheprovider", "-W", "default", "-n", "auto", "--dist", "loadfile")
    for command in (
        (sys.executable, "-m", "venv", tmp_path),
        (python, "-m", "pip", "install", "--quiet", "uv"),
        (python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *at_lowest),
        (python, "-m", "pytest", "-q", *options),
    ):
        done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
