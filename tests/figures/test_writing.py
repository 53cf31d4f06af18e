"""Files: both formats, whole or not at all, the same to the byte; all figures at once."""

from __future__ import annotations

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


def test_both_formats_are_written_and_the_svg_is_reproducible(trace, tmp_path):
    figure = plots.risk_per_exit(trace).figure
    laid_out_by, dpi = figure.get_layout_engine(), figure.dpi
    first = plots.save_figure(figure, tmp_path / "risk.png")
    assert (figure.get_layout_engine(), figure.dpi) == (laid_out_by, dpi)
    assert [path.name for path in first] == ["risk.png", "risk.svg"]
    assert first[0].read_bytes().startswith(PNG)
    again = plots.save_figure(plots.risk_per_exit(trace).figure, tmp_path / "again")
    assert first[1].read_bytes() == again[1].read_bytes()
    assert b"<dc:date>" not in first[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.png",
        "again.svg",
        "risk.png",
        "risk.svg",
    ]


def test_a_name_with_a_dot_is_kept(trace, tmp_path):
    paths = plots.save_figure(plots.risk_per_exit(trace).figure, tmp_path / "budget_0.5")
    assert [path.name for path in paths] == ["budget_0.5.png", "budget_0.5.svg"]


def test_a_failed_write_leaves_the_old_file_and_no_other(trace, tmp_path, monkeypatch):
    (tmp_path / "risk.png").write_bytes(b"old")

    def half(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    figure = plots.risk_per_exit(trace).figure
    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plots.save_figure(figure, tmp_path / "risk")
    assert [path.name for path in tmp_path.iterdir()] == ["risk.png"]
    assert (tmp_path / "risk.png").read_bytes() == b"old"


def test_a_missing_folder_is_named(trace, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        plots.save_figure(plots.risk_per_exit(trace).figure, tmp_path / "nowhere" / "risk")


@pytest.mark.slow
def test_all_figures_of_an_evaluation_are_written(policy, parts, tmp_path):
    steps: list[str] = []
    written = plots.draw_evaluation(
        policy, *parts, tmp_path / "new" / "figures", splits=2, n_budgets=4, progress=steps.append
    )
    names = [*FIGURES, *COMPARISONS]
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert all(path.stat().st_size > 1000 for path in written)
    assert sorted((tmp_path / "new" / "figures").iterdir()) == sorted(written)
    assert [step for step in steps if step in names] == names
    # So that a new policy takes them along.
    earlier = {
        f"figures/{name}.{kind}"
        for name in ("head_pairs", "inputs_by_exit", "rates_for_budgets", "spent_against_allowed")
        for kind in ("png", "svg")
    }
    assert {f"figures/{path.name}" for path in written} == set(EVALUATED) - {EVALUATION} - earlier


def test_the_rule_of_the_policy_is_compared_first(parts, tmp_path, monkeypatch):
    compared = {}
    monkeypatch.setattr(
        "exeunt.evaluation.figures.one_evaluation.frontier",
        lambda presets, *args, **options: compared.update(presets) or 1 / 0,
    )
    policy = ex.common_threshold(*parts[:2], budget="50%", answer="ensemble")
    with pytest.raises(ZeroDivisionError):
        plots.draw_evaluation(policy, *parts, tmp_path)
    (name, own), *others = compared.items()
    assert name == "common_threshold"
    assert own(*parts[:2], budget="50%") == policy
    assert [name for name, _ in others] == ["EERO, marginal (the paper)", "geometric (MSDNet)"]


def test_traces_whose_scores_have_no_default_use_the_policys(parts, tmp_path, drawn_once):
    kept = [
        ex.ExitTrace(
            each.prediction,
            {name: each.scores[name] for name in ("entropy", "max_probability")},
            each.cost,
            each.label,
            each.id,
        )
        for each in parts
    ]
    policy = baselines.msdnet(kept[0], kept[1], budget="60%", score="entropy")
    written = plots.draw_evaluation(policy, *kept, tmp_path, splits=1, n_budgets=2)
    assert {path.stem for path in written} == {*FIGURES, *COMPARISONS}


def test_without_labels_what_needs_none_is_drawn(policy, parts, tmp_path, drawn_once):
    fit, calibrate, test = parts
    blind = ex.ExitTrace(test.prediction, test.scores, test.cost, None, test.id)
    written = plots.draw_evaluation(policy, fit, calibrate, blind, tmp_path)
    assert [path.name for path in written if path.suffix == ".svg"] == ["rates_and_shares.svg", "watch.svg"]


def test_a_single_exit_has_figures_too(tmp_path, drawn_once):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 60)
    only = ex.ExitTrace.from_scores(
        rng.random((60, 1)), rng.integers(0, 2, (60, 1)), cost=ex.CostModel([2.0], unit="usd"), label=label
    )
    fit, calibrate, test = only.split(seed=0)
    policy = ex.eero(fit, calibrate, budget="100%")
    written = plots.draw_evaluation(policy, fit, calibrate, test, tmp_path, splits=1, n_budgets=2)
    assert {path.stem for path in written} == {*FIGURES, *COMPARISONS}
