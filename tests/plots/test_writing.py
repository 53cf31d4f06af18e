"""Files: both formats, whole or not at all, the same to the byte; the image sheet; all figures at once."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import exeunt as ex
from exeunt import baselines, plots
from exeunt.errors import InputError
from exeunt.run.file_digests import EVALUATED, EVALUATION

PNG, FIGURES = b"\x89PNG", ("rates_and_shares", "risk_per_exit")
COMPARISONS = ("accuracy_against_budget", "cost_against_budget")


def picture(i):
    return np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.fixture
def drawn_once(monkeypatch):
    """Figures are laid out and drawn, but not encoded and written in two formats."""

    def drawn(figure, path):
        figure = figure.get_figure(root=True)
        figure.draw_without_rendering()
        return [path.with_suffix(kind) for kind in (".png", ".svg")]

    monkeypatch.setattr("exeunt.plots.evaluation.save_figure", drawn)


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


def test_picked_inputs_leave_where_they_are_shown_surest_first(policy, parts):
    test = parts[2]
    exits, margin = policy.route(test), test.scores["margin"]
    picked = plots.pick_inputs(policy, test, per_exit=5)
    assert [pick.exit_ for pick in picked] == np.unique(exits).tolist()
    assert [pick.hardest for pick in picked] == [False] * (len(picked) - 1) + [True]
    for pick in picked:
        here = np.flatnonzero(exits == pick.exit_)
        ranked = sorted(here, key=lambda i: margin[i, pick.exit_], reverse=not pick.hardest)
        np.testing.assert_array_equal(pick.inputs, ranked[:5])
        assert pick.share == len(here) / test.n


def test_of_many_exits_the_first_the_last_and_the_busiest_are_kept(policy, parts):
    picked = plots.pick_inputs(policy, parts[2], max_rows=2)
    used, answered = np.unique(policy.route(parts[2]), return_counts=True)
    assert [pick.exit_ for pick in picked] == [used[0], used[-1]]
    busiest = used[1:-1][answered[1:-1].argmax()]
    picked = plots.pick_inputs(policy, parts[2], max_rows=3)
    assert [pick.exit_ for pick in picked] == [used[0], busiest, used[-1]]
    with pytest.raises(InputError, match="max_rows >= 2"):
        plots.pick_inputs(policy, parts[2], max_rows=1)
    with pytest.raises(InputError, match="empty"):
        plots.pick_inputs(policy, parts[2].take([]))


def test_captions_say_the_answer_and_where_wrong_the_truth(policy, parts):
    test, names = parts[2], ["ant", "bee", "cow", "dog", "a very long name of an eel"]
    asked = []

    def fetch(i):
        asked.append(i)
        return picture(i)

    picked = plots.pick_inputs(policy, test, per_exit=6)
    rows = plots.sheet_rows(picked, test, fetch, class_names=names)
    assert asked == [i for pick in picked for i in pick.inputs]
    short, short_below = [*names[:4], "a very lo…"], [*names[:4], "a very lon…"]
    below = set()
    for pick, row in zip(picked, rows, strict=True):
        for i, caption, right in zip(pick.inputs, row.captions, row.right, strict=True):
            answer, truth, first = (
                test.prediction[i, pick.exit_],
                test.label[i],
                test.prediction[i, picked[0].exit_],
            )
            assert right == (answer == truth)
            line, *rest = caption.split("\n")
            assert line == f"{short[answer]} ({test.scores['max_probability'][i, pick.exit_]:.0%})"
            if not right:
                assert rest == [f"true: {short_below[truth]}"]
            else:
                assert rest == ([] if first == answer else [f"exit {picked[0].exit_}: {names[first]}"[:17]])
            below |= {text.split(":")[0] for text in rest}
    assert below == {"true", f"exit {picked[0].exit_}"}


def test_without_labels_or_names_captions_are_the_class_numbers(policy, parts):
    test = parts[2]
    blind = ex.ExitTrace(test.prediction, test.scores, test.cost, None, test.id)
    picked = plots.pick_inputs(policy, blind, per_exit=2)
    (row, *_) = plots.sheet_rows(picked, blind, picture)
    assert [caption.split()[0] for caption in row.captions] == [
        str(test.prediction[i, picked[0].exit_]) for i in picked[0].inputs
    ]
    assert row.right == [None] * len(picked[0].inputs)


def test_the_sheet_shows_the_pixels_and_tells_wrong_from_right_without_colour(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = tmp_path / "large.png"
    Image.fromarray(np.zeros((200, 300), dtype=np.uint8)).save(file)
    row = plots.SheetRow("row", [picture(0), colour, file], ["a", "b", "c"], [True, False, None])
    figure = plots.image_sheet([row, plots.SheetRow("short", [picture(1)], ["d"], [True])])
    shown = [ax.images[0] for ax in figure.axes]
    assert len(shown) == 4
    np.testing.assert_array_equal(shown[0].get_array()[..., 0], picture(0))
    np.testing.assert_array_equal(shown[1].get_array(), colour)
    assert [each.get_interpolation() for each in shown[:2]] == ["nearest", "bicubic"]
    frames = [ax.spines["left"].get_linestyle() for ax in figure.axes]
    assert frames == ["-", "--", "-", "-"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["a", "b", "c", "d"]
    with pytest.raises(InputError, match="no image"):
        plots.image_sheet([])


@pytest.mark.slow
def test_all_figures_of_an_evaluation_are_written(policy, parts, tmp_path):
    steps: list[str] = []
    written = plots.draw_evaluation(
        policy,
        *parts,
        tmp_path / "new" / "figures",
        image=picture,
        splits=2,
        n_budgets=4,
        progress=steps.append,
    )
    names = [*FIGURES, "inputs_by_exit", *COMPARISONS]
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert all(path.stat().st_size > 1000 for path in written)
    assert sorted((tmp_path / "new" / "figures").iterdir()) == sorted(written)
    assert [step for step in steps if step in names] == names
    # So that a new policy takes them along.
    earlier = {
        f"figures/{name}.{kind}"
        for name in ("head_pairs", "rates_for_budgets", "spent_against_allowed")
        for kind in ("png", "svg")
    }
    assert {f"figures/{path.name}" for path in written} == set(EVALUATED) - {EVALUATION} - earlier


def test_the_rule_of_the_policy_is_compared_first(parts, tmp_path, monkeypatch):
    compared = {}
    monkeypatch.setattr(
        "exeunt.plots.evaluation.frontier",
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
    assert [path.name for path in written if path.suffix == ".svg"] == ["rates_and_shares.svg"]


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
