"""`--help` is read on a screen: its groups fit one each, and no name is cut off."""

from __future__ import annotations

import re

import pytest
import typer

from exeunt._support.text import echo
from exeunt.cli.app import app
from exeunt.rules.catalogue import PRESETS

from .command import called

VERBS = sorted(typer.main.get_command(app).commands)


def _groups(text: str) -> dict[str, int]:
    """Return the number of lines of each group, with its border, by title."""
    lines = text.splitlines()
    first = [i for i, line in enumerate(lines) if line.startswith("╭")]
    last = [i for i, line in enumerate(lines) if line.startswith("╰")]
    return {lines[i].strip("╭─╮ "): j - i + 1 for i, j in zip(first, last, strict=True)}


@pytest.mark.parametrize(("columns", "rows"), [(80, 40), (120, 50)])
@pytest.mark.parametrize("verb", VERBS)
def test_groups_fit_a_screen(monkeypatch, verb, columns, rows):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = called(verb, "--help")
    groups = _groups(done.out)
    assert groups
    if verb == "train":  # what most people set comes first, and the other options are many
        assert groups.pop("More options") > groups["Options"]
        rows *= 2 if columns == 80 else 1
    assert max(groups.values()) < rows
    assert "…" not in done.out  # rich cuts off what has no room


@pytest.mark.parametrize("verb", VERBS)
def test_budgets_and_prices_have_an_example(verb):
    words = {"budget", "budgets", "spend", "price", "cost", "total"}
    for option in typer.main.get_command(app).commands[verb].params:
        if words & {*option.name.split("_")} and option.name != "cost_is":
            assert re.search(r"\d", option.help), f"{verb} {option.opts}: {option.help}"


def test_options_of_a_training_are_grouped():
    groups = _groups(called("train", "--help").out)
    assert list(groups) == ["Options", "More options"]


def test_policies_are_told_in_the_order_of_the_catalogue():
    text = " ".join(called("calibrate", "--help").out.replace("│", " ").split())
    places = [text.index(f" {name}") for name in PRESETS if name != "auto"]
    assert text.index("Kind of policy: auto") < min(places)
    assert places == sorted(places)
    assert text.index("stopping") < text.index("baselines of the literature: ") < text.index("msdnet")


def test_lines_are_broken_between_words_on_a_terminal_alone(monkeypatch, capsys):
    guarantee = "Guarantee: with probability 95% the long-run mean cost is at most 298.5 kMACs."
    row = f"exit  cost  share  {40 * 'x'}"
    text = f"{guarantee}\n{row}"
    echo(text)
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for width in (40, 60):
        monkeypatch.setenv("COLUMNS", str(width))
        echo(text)
        *prose, table = capsys.readouterr().out.splitlines()
        assert (" ".join(prose), table) == (guarantee, row)
        assert width - 12 < len(prose[0]) <= width
