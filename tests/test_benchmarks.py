"""What benchmarks say where they cannot start: one line, before anything is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("runs",),
            "runs is no run and holds no run resnet8-distilled: name a run with exits, or the folder",
        ),
        (("--single", "runs"), "runs is no run and holds no run"),
        (("--out", "pages"), "results.json, which keeps the numbers of"),
    ],
)
def test_a_folder_that_is_missing_is_told_in_one_line(tmp_path, options, says):
    places = [str(tmp_path / one) if one in ("runs", "pages") else one for one in options]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
