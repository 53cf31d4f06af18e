"""Costs and budgets: what is refused, what converts, what round-trips."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exeunt as ex
from exeunt.costs.budget_text import budget_grid
from exeunt.errors import ExeuntWarning, UnitError

MODEL = ex.CostModel([2.7, 9.9, 15.3], unit="MMACs", source="measured")
ROWS = np.array([[1.0, 4.0], [2.0, 6.0], [3.0, 11.0]])
NO_UNIT = "which is no unit of these costs: write"


@pytest.mark.parametrize(
    ("costs", "options", "shown"),
    [
        ([1.0, 3.0, 2.5], {}, "2.5"),
        ([1.0, 1.0], {}, "got 1 at exit 1"),
        ([1.0, np.inf], {}, "inf"),
        ([0.0, 1.0], {}, "got 0 at exit 0"),
        ([], {}, "empty"),
        ([[1.0, 2.0], [3.0, 2.5]], {}, r"\[3\.  2\.5\] in row 1"),
        ([[1.0, 2.0], [0.0, 2.5]], {}, "in row 1"),
        (np.ones((0, 2)), {}, r"\(0, 2\)"),
        (np.ones((1, 2, 2)), {}, r"1 or 2 dimension\(s\), got shape \(1, 2, 2\)"),
        ([[1.0, 2.0], [3.0]], {}, "must be numbers"),
        (ROWS, {"highest": 10.0}, "got 10, but one costs 11"),
        ([1.0, 5.0], {"heads": [0.0, 4.5]}, "head of exit 1 .* got 4.5"),
        ([1.0, 5.0], {"heads": [-1.0, 0.0]}, "head of exit 0"),
        ([1.0, 5.0], {"heads": [0.0]}, "2"),
    ],
)
def test_costs_that_make_no_sense_are_refused_by_value(costs, options, shown):
    with pytest.raises(ex.InputError, match=shown) as caught:
        ex.CostModel(costs, **options)
    assert isinstance(caught.value, ValueError)


AS_ASKED = {"50%": 7.65, 2.7: 2.7, 2.7 * (1 - 1e-14): 2.7, "250%": 15.3, 1e9: 15.3}
OF_EXIT_1 = ["9900 kMACs", "9.9 MMACs", "0.0099GMACs", "9.9e6 MACs", " 9.9 ", 9.9]


@pytest.mark.parametrize(("asked", "budget"), [*AS_ASKED.items(), *((asked, 9.9) for asked in OF_EXIT_1)])
def test_budgets_are_understood(asked, budget):
    assert MODEL.budget(asked) == pytest.approx(budget, rel=1e-14)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (
            40,
            r"a budget of 40 is 40 MMACs, more than .* costs \(15.3 MMACs\), so nothing is saved: for 40% write '40%'",
        ),
        ("40", "for 40% write '40%'"),
        (5000, "ask for less"),
        ("500%", "a budget of 500% is 76.5 MMACs, .*: ask for less"),
    ],
)
def test_a_budget_above_every_cost_is_told(asked, shown):
    with pytest.warns(ExeuntWarning, match=shown):
        assert MODEL.budget(asked, warn=True) == 15.3


def test_units_of_time_energy_and_money_convert():
    assert ex.CostModel([1, 2], unit="ms").budget("1500 us") == pytest.approx(1.5)
    assert ex.CostModel([1, 2], unit="mJ").budget("0.0015 J") == pytest.approx(1.5)
    assert ex.CostModel([0.01, 0.02], unit="usd").budget("1.5 cent") == pytest.approx(0.015)
    assert ex.CostModel([1, 2], unit="tokens").budget("1.5 tokens") == 1.5


@pytest.mark.parametrize(
    ("model", "asked", "says"),
    [
        *((MODEL, f"4 {unit}", unit) for unit in ("ms", "J", "bananas", "macs")),
        *(
            (MODEL, asked, f"{NO_UNIT} MACs, kMACs, MMACs, GMACs, or a share")
            for asked in ("60MMAC", "60 mmacs")
        ),
        (MODEL, "3 potatoes", f"{NO_UNIT} MACs, kMACs, MMACs, GMACs, or a share"),
        (ex.CostModel([1, 2], unit="calls"), "3 potatoes", f"{NO_UNIT} calls, or a share"),
        (ex.CostModel([1, 2], unit="calls"), "4ms", "or measure the costs in the unit of the budget"),
    ],
)
def test_units_do_not_mix_and_those_that_there_are_are_told(model, asked, says):
    with pytest.raises(UnitError, match=says):
        model.budget(asked)


@pytest.mark.parametrize("asked", [1.5, "10%", "-3 MMACs", 0, -1.0])
def test_a_budget_below_the_first_exit_names_the_smallest(asked):
    with pytest.raises(ex.InfeasibleBudget, match=r"2\.7 MMACs") as caught:
        MODEL.budget(asked)
    assert caught.value.smallest_budget == 2.7


@pytest.mark.parametrize("asked", [np.nan, np.inf, "much", "", "1 2 3", "50%%", None, [3], 10**400])
def test_what_is_no_budget_is_refused(asked):
    told = "budget must be finite, got 1000" if asked == 10**400 else "budget"
    with pytest.raises(ex.InputError, match=told):
        MODEL.budget(asked)


@given(st.lists(st.floats(1e-6, 1e15), min_size=1, max_size=30, unique=True))
def test_costs_round_trip_through_json_to_the_last_bit(values):
    model = ex.CostModel(sorted(values), unit="J", source="metered")
    back = ex.CostModel.from_dict(json.loads(json.dumps(model.to_dict())))
    assert back == model
    assert (back.unit, back.source) == ("J", "metered")
    assert back.cumulative.tobytes() == model.cumulative.tobytes()


def test_a_cost_model_cannot_be_changed_from_outside():
    given_costs = np.array([1.0, 2.0])
    model = ex.CostModel(given_costs)
    given_costs[0] = 99
    assert model.first == 1.0
    with pytest.raises(ValueError, match="read-only"):
        model.cumulative[0] = 5


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("50%", ["50%"]),
        ("20%:95%:5%", [f"{share}%" for share in range(20, 100, 5)]),
        ("20:30:5%", ["20%", "25%", "30%"]),
        ("1.5ms:2.5ms:0.25ms", ["1.5ms", "1.75ms", "2ms", "2.25ms", "2.5ms"]),
        ("50%,30%,50%", ["50%", "30%"]),
        ("1e3 kMACs, 20%:30%:10%, 7", ["1000kMACs", "20%", "30%", 7.0]),
    ],
)
def test_budgets_of_a_grid(text, budgets):
    assert budget_grid(text) == budgets


@pytest.mark.parametrize(
    "text",
    ["", "half", "20%:95%", "20%:95%:5%:1%", "95%:20%:5%", "20%:95%:0%", "20%:4ms:1", "-5%", "20%,,30%",
     "1:5000:1", "20%:95%:-5%"],
)  # fmt: skip
def test_grids_that_make_no_sense_are_refused(text):
    with pytest.raises(ex.InputError):
        budget_grid(text)


def test_costs_of_a_network_that_runs_whole_are_the_full_cost_everywhere():
    cost = ex.CostModel([1.0, 2.0, 4.0], unit="J", source="counted")
    whole = cost.run_whole("a loop over rows")
    assert (cost.saves_nothing, whole.saves_nothing) == (False, True)
    assert whole.full == whole.budget("100%") == 4.0
    assert whole.cumulative == pytest.approx([4.0, 4.0, 4.0], rel=1e-8)
    assert ex.CostModel.from_dict(whole.to_dict()) == whole
    nothing = r"no exit saves anything \(counted; runs whole: a loop over rows\)"
    for model, budget, says in ((whole, "99%", nothing), (cost, "10%", "add an earlier exit")):
        with pytest.raises(ex.InfeasibleBudget, match=says):
            model.budget(budget)


def test_costs_per_input_have_means_and_their_rows_can_be_taken():
    cost = ex.CostModel(ROWS, unit="usd", highest=20.0)
    assert cost.varies
    assert (cost.cumulative.tolist(), cost.full, cost.reference) == ([2.0, 7.0], 7.0, 7.0)
    assert cost.budget("50%") == 3.5
    some = cost.take([2, 0])
    assert some.of_inputs(2).tolist() == [[3.0, 11.0], [1.0, 4.0]]
    assert (some.cumulative.tolist(), some.reference) == ([2.0, 7.5], 7.0)
    assert cost.take([]).cumulative.tolist() == [2.0, 7.0]
    assert cost.joined([cost.take([1]), some]).of_inputs(3).tolist() == [[2.0, 6.0], [3.0, 11.0], [1.0, 4.0]]
    assert MODEL.take([1]) is MODEL
    assert not MODEL.varies
    assert MODEL.of_inputs(2).tolist() == [[2.7, 9.9, 15.3]] * 2


def test_costs_per_input_are_those_of_the_same_exits_whatever_the_inputs():
    cost = ex.CostModel(ROWS, unit="usd", highest=20.0)
    assert cost == cost.take([0]) == cost.means
    assert cost != ex.CostModel(ROWS, unit="usd", highest=21.0)
    assert cost != ex.CostModel(ROWS, unit="eur", highest=20.0)
    assert cost != ex.CostModel(cost.cumulative, unit="usd")
    assert ex.CostModel(ROWS) == ex.CostModel(2 * ROWS)
    assert ex.CostModel(ROWS).highest == np.inf


@pytest.mark.parametrize("highest", [None, 20.0])
def test_costs_per_input_are_kept_in_json_as_means(highest):
    cost = ex.CostModel(ROWS, unit="usd", highest=highest)
    kept = ex.CostModel.from_dict(json.loads(json.dumps(cost.to_dict(), allow_nan=False)))
    assert kept == cost
    assert (kept.highest, kept.per_input) == (cost.highest, None)
    assert kept.cumulative.tolist() == cost.cumulative.tolist()


def test_models_in_a_row_cost_what_was_run_before_too():
    first, second = ex.CostModel(ROWS, highest=20.0), ex.CostModel([5.0, 8.0, 9.0])
    both = ex.CostModel.in_a_row([second.selected([0, 1]), first], n=3, reference=9.0)
    assert both.of_inputs(3).tolist() == [[5.0, 8.0, 8 + a, 8 + b] for a, b in ROWS]
    assert (both.highest, both.reference) == (28.0, 9.0)
    one = ex.CostModel.in_a_row([second, second.selected([0])], n=3, reference=9.0)
    assert one.cumulative.tolist() == [5.0, 8.0, 9.0, 14.0]
    assert not one.varies


def test_inputs_that_all_cost_the_most_that_any_can_do_not_differ():
    alike = ex.CostModel(np.full((7, 1), 0.1), highest=0.1)
    assert not alike.varies
    assert alike.cumulative.tolist() == [0.1]  # the mean of seven is a rounding less
    rare = ex.CostModel(np.array([[0.1]] * 7 + [[0.05]]), highest=0.1)
    some, other = rare.take(slice(0, 7)), ex.CostModel([0.3])
    assert some.varies
    row = [ex.CostModel.in_a_row([other, part], n=n, reference=1.0) for part, n in ((some, 7), (rare, 8))]
    assert row[0] == row[1]
    assert row[0].of_inputs(7).tolist() == [[0.3, 0.4]] * 7
    assert row[0].take([2]).cumulative.tolist() == [0.3, 0.4]


def test_what_heads_cost_is_saved_with_the_exits_that_are_left_out():
    cost = ex.CostModel([3.0, 5.0, 9.0, 10.0], heads=[1.0, 0.5, 2.0, 0.0], reference=20.0)
    some, alone = cost.selected([1, 3]), cost.exits(1, 3)
    assert some.cumulative.tolist() == [4.0, 7.0]  # without the head of exit 0, and that of exit 2
    assert (some.heads.tolist(), some.reference) == ([0.5, 0.0], 20.0)
    assert (alone.cumulative.tolist(), alone.heads.tolist()) == ([2.0, 6.0], [0.5, 2.0])
    bare = ex.CostModel([3.0, 5.0, 9.0]).selected([0, 2])
    assert bare.cumulative.tolist() == [3.0, 9.0]  # nothing known of heads
    assert cost.selected(range(4)).cumulative.tolist() == cost.cumulative.tolist()
    row = ex.CostModel.in_a_row([some, ex.CostModel([1.0, 2.0])], n=3, reference=9.0)
    assert row.heads.tolist() == [0.5, 0.0, 0.0, 0.0]
    assert ex.CostModel.from_dict(cost.to_dict()).heads.tolist() == cost.heads.tolist()
    last = ex.CostModel(ROWS, highest=20.0, heads=[0.5, 0.25]).selected([1])
    assert last.of_inputs(3).tolist() == [[b - 0.5] for _, b in ROWS]
    assert last.highest == 19.5


@pytest.mark.parametrize(
    ("costs", "asked", "tried"),
    [([1, 4], 0.3, 0.3), ([1, 4], 0.25, 0.625), ([3, 4], 0.5, 0.875), ([4], 0.5, 1)],
)
def test_a_share_to_try_is_one_that_a_budget_can_be(costs, asked, tried):
    cost = ex.CostModel(costs)
    assert cost.share_to_try(asked) == tried
    assert cost.budget(f"{tried:.0%}") > cost.first or len(costs) == 1


def test_small_sums_of_money_are_shown_for_a_million_inputs():
    cost = ex.CostModel([1e-7, 1.1e-6], unit="usd")
    assert cost.show(1e-7) == "0.1 usd per 1M"
    assert cost.budget(cost.show(4e-7)) == pytest.approx(4e-7)
    assert cost.scale == (1e-6, "usd per 1M")
    assert ex.CostModel([0.0002, 0.003], unit="usd").show(0.0002) == "0.0002 usd"
    assert ex.CostModel([1e-7], unit="J").show(1e-7) == "1e-07 J"
