"""Models are matched by their inputs' ids, and a cascade of them is a trace like any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import exeunt as ex
from exeunt.errors import UnitError
from exeunt.trace.cascade_step import CascadeStep, check_steps


@pytest.fixture
def pair(make_logit_trace):
    """A network of three exits and one of two, on the same inputs."""
    small, large = make_logit_trace(50, 3), make_logit_trace(50, 2)
    return small, replace(large, label=small.label, id=small.id, row=None)


@pytest.fixture
def models(pair):
    return ex.CascadeTrace(dict(zip(("small", "large"), pair, strict=True)))


WHOLE = (CascadeStep("small", 3), CascadeStep("large", 2))
SEVENTH = r"1 input is known .* such as id \d+: record all models on the same inputs, with the same ids"


@pytest.mark.parametrize("shuffled", [False, True])
def test_copies_are_matched_in_the_order_in_which_they_came(pair, shuffled):
    """A query log of which each model has every row: the k-th copy of a content is the k-th of the other model's."""
    id_ = np.random.default_rng(1).integers(0, 12, 50)
    small, large = (replace(model, id=id_, label=id_ % 5, row=None) for model in pair)
    order = np.random.default_rng(0).permutation(50) if shuffled else np.arange(50)
    moved = replace(large.take(order), row=None)
    models = ex.CascadeTrace({"small": small, "large": moved})
    cascade = models.along(WHOLE)
    # By hand: the places of the copies of each content, in the order of the rows.
    expected = np.empty(50, dtype=int)
    for content in range(12):
        expected[np.flatnonzero(small.id == content)] = np.flatnonzero(moved.id == content)
    assert np.array_equal(cascade.prediction, np.hstack([small.prediction, moved.prediction[expected]]))
    assert np.array_equal(cascade.id, small.id)
    assert np.array_equal(cascade.row, small.row)
    parts = models.split(fit=0.4, calibrate=0.2, test=0.4, seed=3)
    assert [part.n for part in parts] == [20, 10, 20]
    assert len(np.unique(np.concatenate([part["small"].row for part in parts]))) == 50
    assert len(np.intersect1d(parts[0].id, parts[2].id)) > 3
    again = parts[0].along(WHOLE)
    rows = np.flatnonzero(np.isin(small.row, again.row))
    assert np.array_equal(again.prediction, cascade.prediction[rows])
    taken = models.take([3, 3, 9])
    assert np.array_equal(taken["large"].prediction, moved.prediction[expected[[3, 3, 9]]])


@pytest.mark.parametrize("used", [(3, 2), (1, 2), (2, 1)])
def test_a_cascade_has_the_exits_of_its_models_one_after_the_other(pair, models, used):
    small, large = pair
    cascade = models.along((CascadeStep("large", used[1]), CascadeStep("small", used[0])))
    columns = [(large, e) for e in range(used[1])] + [(small, e) for e in range(used[0])]
    for exit_, (model, own) in enumerate(columns):
        assert np.array_equal(cascade.prediction[:, exit_], model.prediction[:, own])
        assert np.array_equal(cascade.log_probability[:, exit_], model.log_probability[:, own])
        for name, values in cascade.scores.items():
            assert np.array_equal(values[:, exit_], model.scores[name][:, own])
        before = large.cost.cumulative[used[1] - 1] if model is small else 0.0
        assert cascade.cost.cumulative[exit_] == before + model.cost.cumulative[own]
    assert cascade.cost.reference == max(small.cost.full, large.cost.full)


def test_shares_are_of_the_most_expensive_model_or_of_the_one_named(models):
    full = {name: models[name].cost.full for name in models.names}
    assert models.most_expensive == max(full, key=full.get)
    assert models.budget("100%") == max(full.values())
    for name, cost in full.items():
        assert models.budget("90%", reference=name) == pytest.approx(0.9 * cost)
        of_small = models.along(WHOLE[:1], reference=name).cost
        assert of_small.budget("90%") == pytest.approx(min(0.9 * cost, full["small"]))
        assert of_small.share(cost) == 1


def test_scores_that_all_have_are_kept_or_else_the_usual_one_of_each(pair):
    small, large = pair
    plain = replace(large, scores={"sure": large.scores["margin"]}, log_probability=None)
    cascade = ex.CascadeTrace({"small": small, "large": plain}).along(WHOLE)
    assert list(cascade.scores) == ["confidence"]
    assert cascade.log_probability is None
    margins = np.hstack([small.scores["margin"], large.scores["margin"]])
    assert np.array_equal(cascade.scores["confidence"], margins)


TABLE = pa.table(
    {
        "true": ["cat", "dog", "dog", "emu"],
        "says_A": ["cat", "10", "dog", "dog"],
        "says_B 2": ["dog", "dog", "axe", "emu"],
        "sure_A": [0.0, 0.5, 1.0, 0.25],
        "sure_B 2": [0.5, 1.0, 1.0, 1.0],
    }
)
COLUMNS = {"prediction": "says_{}", "confidence": "sure_{}", "label": "true"}


def read(table=TABLE, **options):
    return ex.CascadeTrace.from_table(table, **{**COLUMNS, **options})


def test_a_table_has_a_column_for_each_model_and_wrong_words_are_wrong_answers():
    models = read(price={"B 2": 15, "A": 5}, price_per=10_000, unit="usd")
    assert models.names == ("B 2", "A")
    assert (models["A"].cost.full, models["B 2"].cost.full) == (0.0005, 0.0015)
    assert models.label.tolist() == [0, 1, 1, 2]
    # Labels are numbered first, in order of their text, then what is no label.
    assert models["A"].prediction[:, 0].tolist() == [0, 3, 1, 1]
    assert models["B 2"].prediction[:, 0].tolist() == [1, 1, 4, 2]
    assert models["A"].scores["confidence"][:, 0].tolist() == [0.0, 0.5, 1.0, 0.25]
    assert models.budget("5 usd per 10k") == pytest.approx(0.0005)
    assert "B 2 (1 exit, 0.0015 usd)" in repr(models)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda a, b: {}, "no models"),
        (lambda a, b: {"a": a, "b": 3}, "'b' must be an ExitTrace, got int"),
        (lambda a, b: {"a": a, "b": b.take(slice(1, None))}, "1 input is known of 'a' or 'b' alone"),
        (
            lambda a, b: {"a": a, "b": replace(b, id=b.id + 10**6)},
            r"none of the 50 inputs of 'a' .* id=range\(n\)",
        ),
        (lambda a, b: {"a": a.take([0, 1, 1]), "b": b}, r"49 inputs are known of 'a' or 'b' alone"),
        (lambda a, b: {"a": a.take([*range(50), 7]), "b": b}, SEVENTH),
        (lambda a, b: {"a": a, "b": b.take([*range(50), 7])}, SEVENTH),
        (lambda a, b: {"a": a, "b": b.with_cost(ex.CostModel([1, 2], unit="ms"))}, "one unit"),
        (lambda a, b: {"a": a, "b": replace(b, label=np.zeros(50, int))}, "labels of 'a' and 'b' differ"),
        (lambda a, b: {"a": a, "b": replace(b, label=None)}, "labels of 'a' and 'b' differ"),
        (lambda a, b: [a], r"as \{name: trace\}"),
    ],
)
def test_models_that_do_not_belong_together_are_refused(pair, make, named):
    with pytest.raises(ex.InputError, match=named):
        ex.CascadeTrace(make(*pair))


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda models: models["tiny"], "no model 'tiny': choose one of small, large"),
        (lambda models: models.along(()), "not for a cascade of small"),
        (lambda models: models.along((CascadeStep("small", 4),)), "some of the 3 exits of 'small'"),
        (lambda models: models.along((CascadeStep("small", 0),)), "some of the 3 exits of 'small'"),
        (
            lambda models: ex.CascadeTrace.of(models["small"], (CascadeStep("small", 2),)),
            "another number of exits",
        ),
        (lambda _: check_steps((CascadeStep("a", (1, 0)),), 2), r"ascending numbers, got \(1, 0\) of 'a'"),
        (
            lambda _: check_steps((CascadeStep("a", (0,), 3),), 1),
            "step 0 of a cascade comes after an earlier one",
        ),
    ],
)
def test_what_models_do_not_have_is_named(models, ask, named):
    with pytest.raises(ex.InputError, match=named):
        ask(models)


@pytest.mark.parametrize(
    ("asked", "error", "named"),
    [
        (0.5, ex.InfeasibleBudget, "is below the cheapest model, small, which costs 1 MACs: ask for"),
        ("3 usd", UnitError, "'usd', which is no unit of these costs: write MACs, kMACs"),
    ],
)
def test_budgets_that_cannot_be_are_refused(models, asked, error, named):
    with pytest.raises(error, match=named):
        models.budget(asked)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"confidence": "sure"}, r"confidence must hold \{\}"),
        ({"price": {1: 5}}, "named by texts, got 1: write '1'"),
        ({"price": {"C": 5}}, "no column sure_C, says_C"),
        ({"price": {"A": "sure_AA"}}, r"the table has no column sure_AA \(did you mean sure_A\?\); it has "),
        *(({"price_per": wrong}, "price_per") for wrong in (0, -1, float("nan"), "10k")),
        ({"price": {"A": 0}}, "prices must be above 0, got 0: a millionth of the highest price"),
        ({"price": {"A": None}}, "price must be a number, got None"),
        ({"price": {"A": "sure_A"}}, "got 0 in row 0 of column 'sure_A'"),
        ({"price": {"A": "cost_A"}}, "the table has no column cost_A"),
        ({"highest": {"A": 2}}, r"prices that are columns of the table, but names \['A'\]"),
    ],
)
def test_mistakes_are_named(options, named):
    with pytest.raises(ex.InputError, match=named):
        read(**{"price": {"A": 5}, **options})


def test_prices_may_be_a_column_and_cascades_cost_what_each_input_pays():
    table = TABLE.append_column("fee", pa.array([10, 20, 30, 40]))
    models = read(table, price={"A": "fee", "B 2": 5}, price_per=10, highest={"A": 60})
    assert models["A"].cost.of_inputs(4)[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert (models["A"].cost.full, models["A"].cost.highest) == (2.5, 6.0)
    cascade = models.take([3, 0]).along((CascadeStep("B 2", 1), CascadeStep("A", 1)))
    assert cascade.cost.of_inputs(2).tolist() == [[0.5, 4.5], [0.5, 1.5]]
    assert (cascade.cost.highest, cascade.cost.reference) == (6.5, 2.5)


def test_a_column_of_equal_prices_is_a_price():
    prices = {"price": {"A": 0.3, "B 2": "fee"}, "highest": {"B 2": 0.1}}
    models = read(TABLE.append_column("fee", pa.array([0.1] * 4)), **prices)
    by_number = read(price={"A": 0.3, "B 2": 0.1})
    cascade = (CascadeStep("A", 1), CascadeStep("B 2", 1))
    assert models.along(cascade).cost == by_number.along(cascade).cost


def test_links_name_their_exits():
    assert CascadeStep("small", 2).exit_names == ("small exit 0", "small exit 1")
    assert CascadeStep("small", (0, 2)).exit_names == ("small exit 0", "small exit 2")
    assert CascadeStep("", (1, 4)).exit_names == ("1", "4")


def test_ids_that_come_again_are_matched_by_occurrence_and_named_as_given():
    cost = ex.CostModel([1.0])

    def model(ids, predictions):
        columns = {"id": ids, "p": predictions, "c": [0.5] * len(ids), "label": [0, 1] * (len(ids) // 2)}
        names = {"prediction": ["p"], "confidence": ["c"], "label": "label", "id": "id"}
        return ex.ExitTrace.from_table(pa.table(columns), **names, cost=cost)

    one = model(["q1", "q1", "q2", "q1"], [0, 1, 0, 0])
    two = model(["q1", "q1", "q2", "q1"], [1, 1, 0, 1])
    both = ex.CascadeTrace({"one": one, "two": two.take([0, 1, 3, 2])})
    assert both["two"].prediction[:, 0].tolist() == [1, 1, 0, 1]
    assert one.take([2]).id_text.tolist() == ["q2"]
    with pytest.raises(ex.InputError, match="2 inputs are known of 'one' or 'two' alone, such as id q3:"):
        ex.CascadeTrace({"one": one, "two": model(["q1", "q1", "q3", "q1"], [1, 1, 0, 1])})
    with pytest.raises(ex.InputError, match="such as id 7:"):
        ex.CascadeTrace({"one": model([1, 2], [0, 1]), "two": model([1, 7], [0, 1])})
    named = ex.ExitTrace.from_scores([[0.5], [0.5]], [[0], [1]], cost=cost, id=["a", "b"])
    assert named.id.tolist() == model(["a", "b"], [0, 1]).id.tolist()


def test_a_table_of_services_may_have_ids_that_come_again():
    columns = {"id": ["q1", "q1", "q2", "q2"], "label": [0, 1, 0, 1]}
    for name in "ab":
        columns |= {f"prediction_{name}": [0, 1, 1, 0], f"confidence_{name}": [0.1, 0.2, 0.3, 0.4]}
    names = {"prediction": "prediction_{}", "confidence": "confidence_{}", "label": "label", "id": "id"}
    models = read(pa.table(columns), **names, price={"a": 1, "b": 2})
    assert len(np.unique(models.id)) == 2
    assert models["b"].prediction[:, 0].tolist() == [0, 1, 1, 0]
