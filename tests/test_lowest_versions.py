"""The lowest versions that pyproject.toml names pass all tests; `make test-lowest` alone runs those of the core."""

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
    command = ("make", "test-lowest", "EXTRA=dev", f"LOWEST={tmp_path}", f"PYTHON={sys.executable}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
