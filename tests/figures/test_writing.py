"""Files: both formats, whole or not at all, the same to the byte; all figures at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

import exeunt as ex
from exeunt.errors import InputError
from exeunt.evaluation import figures as plots
from exeunt.rules import baselines
from exeunt.runs.file_digests import EVALUATED, EVALUATION

PNG, FIGURES = b"\x89PNG", ("rates_and_shares", "watch", "risk_per_exit")
COMPARISONS = ("accuracy_against_budget", "cost_against_budget")


@pytest.fixture
def drawn_once(monkeypatch):
    """Figures are laid out and drawn, but not encoded and written in two formats."""

    def drawn(figure, path):
        figure = figure.get_figure(root=True) or figure
        figure.draw_without_rendering()
        return [path.with_suffix(kind) for kind in (".png", ".svg")]

    monkeypatch.setattr("exeunt.evaluation.figures.style.save_figure", drawn)


def names(paths):
    return [path.name for path in paths]


def test_both_formats_are_written_under_names_with_dots_too_and_the_svg_is_reproducible(trace, tmp_path):
    figure = plots.risk_per_exit(trace).figure
    laid_out_by, dpi = figure.get_layout_engine(), figure.dpi
    first = plots.save_figure(figure, tmp_path / "risk.png")
    assert (figure.get_layout_engine(), figure.dpi) == (laid_out_by, dpi)
    assert names(first) == ["risk.png", "risk.svg"]
    assert first[0].read_bytes().startswith(PNG)
    again = plots.save_figure(plots.risk_per_exit(trace).figure, tmp_path / "again_0.5")
    assert first[1].read_bytes() == again[1].read_bytes()
    assert b"<dc:date>" not in first[1].read_bytes()
    assert names(again) == ["again_0.5.png", "again_0.5.svg"]
    assert sorted(tmp_path.iterdir()) == sorted([*first, *again])


def test_a_failed_write_leaves_the_old_file_and_no_other_and_a_missing_folder_is_named(
    trace, tmp_path, monkeypatch
):
    (tmp_path / "risk.png").write_bytes(b"old")

    def half(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    figure = plots.risk_per_exit(trace).figure
    with pytest.raises(InputError, match="nowhere"):
        plots.save_figure(figure, tmp_path / "nowhere" / "risk")
    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plots.save_figure(figure, tmp_path / "risk")
    assert names(tmp_path.iterdir()) == ["risk.png"]
    assert (tmp_path / "risk.png").read_bytes() == b"old"


@pytest.mark.slow
def test_all_figures_of_an_evaluation_are_written(policy, parts, tmp_path):
    steps: list[str] = []
    folder, expected = tmp_path / "new" / "figures", [*FIGURES, *COMPARISONS]
    written = plots.draw_evaluation(policy, *parts, folder, splits=2, n_budgets=4, progress=steps.append)
    assert names(written) == [f"{name}.{kind}" for name in expected for kind in ("png", "svg")]
    assert all(path.stat().st_size > 1000 for path in written)
    assert sorted(folder.iterdir()) == sorted(written)
    assert [step for step in steps if step in expected] == expected
    # So that a new policy takes them along.
    earlier = ("head_pairs", "inputs_by_exit", "rates_for_budgets", "spent_against_allowed")
    known = {f"figures/{name}.{kind}" for name in earlier for kind in ("png", "svg")}
    assert {f"figures/{path.name}" for path in written} == set(EVALUATED) - {EVALUATION} - known


def test_the_rule_of_the_policy_is_compared_first(parts, tmp_path, monkeypatch, drawn_once):
    compared = {}

    def frontier(presets, *args, **options):
        compared.update(presets)
        raise ZeroDivisionError

    monkeypatch.setattr("exeunt.evaluation.figures.one_evaluation.frontier", frontier)
    parts = [part.selected([0, 3]).take(slice(80)) for part in parts]
    policy = ex.common_threshold(*parts[:2], budget="70%", answer="ensemble")
    with pytest.raises(ZeroDivisionError):
        plots.draw_evaluation(policy, *parts, tmp_path)
    (name, own), *others = compared.items()
    assert name == "common_threshold"
    assert own(*parts[:2], budget="70%") == policy
    assert [name for name, _ in others] == ["EERO, marginal (the paper)", "geometric (MSDNet)"]


def test_traces_whose_scores_have_no_default_use_the_policys(parts, tmp_path, drawn_once):
    kept = [
        replace(part, scores={name: part.scores[name] for name in ("entropy", "max_probability")})
        for part in parts
    ]
    policy = baselines.msdnet(kept[0], kept[1], budget="60%", score="entropy")
    written = plots.draw_evaluation(policy, *kept, tmp_path, splits=1, n_budgets=2)
    assert {path.stem for path in written} == {*FIGURES, *COMPARISONS}


def test_without_labels_what_needs_none_is_drawn(policy, parts, tmp_path, drawn_once):
    fit, calibrate, test = parts
    blind = replace(test, label=None)
    written = plots.draw_evaluation(policy, fit, calibrate, blind, tmp_path)
    assert names(written)[1::2] == ["rates_and_shares.svg", "watch.svg"]


def test_a_single_exit_has_figures_too(tmp_path, drawn_once):
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 2, 60), rng.integers(0, 2, (60, 1))
    cost = ex.CostModel([2.0], unit="usd")
    only = ex.ExitTrace.from_scores(rng.random((60, 1)), prediction, cost=cost, label=label)
    fit, calibrate, test = only.split(seed=0)
    policy = ex.eero(fit, calibrate, budget="100%")
    written = plots.draw_evaluation(policy, fit, calibrate, test, tmp_path, splits=1, n_budgets=2)
    assert {path.stem for path in written} == {*FIGURES, *COMPARISONS}
