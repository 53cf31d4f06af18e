"""What benchmarks say where they cannot start: one line, before anything is measured."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("runs", "runs is no run and holds no run resnet8-distilled: name a run with exits, or the folder"),
        ("--single runs", "runs is no run and holds no run"),
        ("--out pages", "results.json, which keeps the numbers of"),
    ],
)
def test_a_folder_that_is_missing_is_told_in_one_line(tmp_path, monkeypatch, options, says):
    *words, place = options.split()
    monkeypatch.setattr(sys, "argv", ["serving", *words, str(tmp_path / place)])
    with pytest.raises(SystemExit) as stopped:
        import_module("benchmarks.serving.__main__").main()
    assert isinstance(stopped.value.code, str)  # which Python prints, and exits with 1
    assert "\n" not in stopped.value.code
    assert says in stopped.value.code
