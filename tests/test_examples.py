"""Every example runs as it stands, is short, and prints what the page of examples shows."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
NEEDS = {"scikit_learn_cascade": ("sklearn", "matplotlib"), "early_exits": ("torch", "sklearn", "matplotlib")}


def form(text):
    """Lines of a text without its numbers and bars."""
    return [" ".join(re.sub(r"[-+]?\d[\d.,]*|█+", "#", line).split()) for line in text.strip().splitlines()]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of scikit-learn
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example, tmp_path, monkeypatch, capsys):
    for package in NEEDS.get(example.stem, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    section = PAGE.partition(f"../examples/{example.name}\n")[2].partition("\n## ")[0]
    shown = re.search(r"```text\n(.*?)```", section, re.S)[1]
    assert form(capsys.readouterr().out) == form(shown)
    for figure in re.findall(r"\]\((\S+\.png)\)", section):
        assert (ROOT / "docs" / figure).is_file()
        assert (tmp_path / Path(figure).name).stat().st_size > 10_000
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60
