"""`exeunt demo`: what the README shows of it is what it prints, and what it leaves."""

import re
from pathlib import Path

import pytest

from .command import exeunt, refusal

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, exeunt("demo", cwd=folder).stdout


def test_it_prints_what_the_readme_shows(demo: tuple[Path, str]) -> None:
    shown = re.search(r"\$ exeunt demo.*?\n(.*?)```", README, re.S)
    assert shown
    printed = " ".join(demo[1].split())
    for part in shown[1].split("...\n"):
        assert " ".join(part.split()) in printed


def test_every_budget_is_kept_and_the_report_is_there(demo: tuple[Path, str]) -> None:
    folder, said = demo
    for share in (20, 40, 60):
        row = re.search(rf"^{share}% +auto +([\d.]+)% +([\d.]+) usd +([\d.]+)%", said, re.M)
        assert row
        accuracy, cost, mixture = map(float, row.groups())
        assert cost <= share / 100 * 0.0015
        assert accuracy > mixture
    assert (folder / "exeunt-demo" / "report.html").stat().st_size > 50_000
    assert (folder / "exeunt-demo" / "LICENSE").is_file()


def test_it_begins_anew_and_spares_other_files(demo: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    assert "is not empty: name another folder with --out" in refusal("demo --out .", cwd=tmp_path)
