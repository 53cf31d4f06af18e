"""Members are matched by their inputs' ids, and a chain of them is a trace like any other."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import exeunt as ex
from exeunt.trace.links import Link


@pytest.fixture
def pair(make_logit_trace):
    """A network of three exits and one of two, on the same inputs."""
    small, large = make_logit_trace(50, 3), make_logit_trace(50, 2)
    return small, ex.ExitTrace(
        large.prediction, large.scores, large.cost, small.label, small.id, large.log_probability
    )


def test_inputs_are_matched_by_their_ids(pair):
    small, large = pair
    order = np.random.default_rng(0).permutation(50)
    chain = (Link("small", 3), Link("large", 2))
    matched = ex.Members({"small": small, "large": large.take(order)}).along(chain)
    expected = ex.Members({"small": small, "large": large}).along(chain)
    assert np.array_equal(matched.prediction, expected.prediction)
    assert np.array_equal(matched.log_probability, expected.log_probability)
    assert np.array_equal(matched.id, small.id)


@pytest.mark.parametrize("used", [(3, 2), (1, 2), (2, 1)])
def test_a_chain_has_the_exits_of_its_members_one_after_the_other(pair, used):
    small, large = pair
    chain = ex.Members({"small": small, "large": large}).along(
        (Link("large", used[1]), Link("small", used[0]))
    )
    columns = [(large, e) for e in range(used[1])] + [(small, e) for e in range(used[0])]
    for exit_, (member, own) in enumerate(columns):
        assert np.array_equal(chain.prediction[:, exit_], member.prediction[:, own])
        assert np.array_equal(chain.log_probability[:, exit_], member.log_probability[:, own])
        for name, values in chain.scores.items():
            assert np.array_equal(values[:, exit_], member.scores[name][:, own])
        before = large.cost.cumulative[used[1] - 1] if member is small else 0.0
        assert chain.cost.cumulative[exit_] == before + member.cost.cumulative[own]
    assert chain.cost.reference == max(small.cost.full, large.cost.full)


def test_shares_are_of_the_most_expensive_member_or_of_the_one_named(pair):
    members = ex.Members(dict(zip(("small", "large"), pair, strict=True)))
    full = {name: members[name].cost.full for name in members.names}
    assert members.most_expensive == max(full, key=full.get)
    assert members.budget("100%") == max(full.values())
    for name, cost in full.items():
        assert members.budget("90%", reference=name) == pytest.approx(0.9 * cost)
        trace_ = members.along((Link("small", 3),), reference=name)
        assert trace_.cost.budget("90%") == pytest.approx(min(0.9 * cost, full["small"]))
        assert trace_.cost.share(cost) == 1
    with pytest.raises(
        ex.InfeasibleBudget, match="is below the cheapest member, small, which costs 1 MACs: ask for"
    ):
        members.budget(0.5)
    with pytest.raises(ex.UnitError, match="'usd' but the costs are in 'MACs'"):
        members.budget("3 usd")


def test_scores_that_all_have_are_kept_or_else_the_usual_one_of_each(pair):
    small, large = pair
    plain = ex.ExitTrace.from_scores(
        large.scores["margin"], large.prediction, cost=large.cost, label=large.label, id=large.id, name="sure"
    )
    chain = ex.Members({"a": small, "b": plain}).along((Link("a", 3), Link("b", 2)))
    assert list(chain.scores) == ["confidence"]
    assert chain.log_probability is None
    assert np.array_equal(
        chain.scores["confidence"], np.hstack([small.scores["margin"], large.scores["margin"]])
    )


def test_parts_are_disjoint_and_the_same_for_all_members(pair):
    members = ex.Members(dict(zip(("small", "large"), pair, strict=True)))
    parts = members.split(fit=0.4, calibrate=0.2, test=0.4, seed=3)
    assert [part.n for part in parts] == [20, 10, 20]
    assert len(np.unique(np.concatenate([part.id for part in parts]))) == 50
    for part, own in zip(parts, pair[0].split(fit=0.4, calibrate=0.2, test=0.4, seed=3), strict=True):
        assert np.array_equal(part.id, part["large"].id)
        assert np.array_equal(part["small"].prediction, own.prediction)


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


def test_a_table_has_a_column_for_each_member_and_wrong_words_are_wrong_answers():
    members = ex.Members.from_table(TABLE, price={"B 2": 15, "A": 5}, price_per=10_000, unit="usd", **COLUMNS)
    assert members.names == ("B 2", "A")
    assert (members["A"].cost.full, members["B 2"].cost.full) == (0.0005, 0.0015)
    assert members.label.tolist() == [0, 1, 1, 2]
    # Labels are numbered first, in order of their text, then what is no label.
    assert members["A"].prediction[:, 0].tolist() == [0, 3, 1, 1]
    assert members["B 2"].prediction[:, 0].tolist() == [1, 1, 4, 2]
    assert members["A"].scores["confidence"][:, 0].tolist() == [0.0, 0.5, 1.0, 0.25]
    assert members.budget("5 usd per 10k") == pytest.approx(0.0005)
    assert "B 2 (1 exit, 0.0015 usd)" in repr(members)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda a, b: {}, "no members"),
        (lambda a, b: {"a": a, "b": 3}, "'b' must be an ExitTrace, got int"),
        (lambda a, b: {"a": a, "b": b.take(slice(1, None))}, "1 input is known of 'a' or 'b' alone"),
        (lambda a, b: {"a": a.take([0, 1, 1]), "b": b}, "drop copies"),
        (lambda a, b: {"a": a, "b": b.with_cost(ex.CostModel([1, 2], unit="ms"))}, "one unit"),
        (
            lambda a, b: {
                "a": a,
                "b": ex.ExitTrace(b.prediction, b.scores, b.cost, np.zeros(50, dtype=int), b.id),
            },
            "labels of 'a' and 'b' differ",
        ),
        (
            lambda a, b: {"a": a, "b": ex.ExitTrace(b.prediction, b.scores, b.cost, None, b.id)},
            "labels of 'a' and 'b' differ",
        ),
    ],
)
def test_members_that_do_not_belong_together_are_refused(pair, make, named):
    with pytest.raises(ex.InputError, match=named):
        ex.Members(make(*pair))


def test_mistakes_are_named(pair):
    members = ex.Members({"small": pair[0]})
    with pytest.raises(ex.InputError, match="no member 'tiny': choose one of small"):
        members["tiny"]
    with pytest.raises(ex.InputError, match="not for a chain of small"):
        members.along(())
    for chain in ((Link("small", 4),), (Link("small", 0),)):
        with pytest.raises(ex.InputError, match="some of the 3 exits of 'small'"):
            members.along(chain)
    with pytest.raises(ex.InputError, match=r"confidence must hold \{\}"):
        ex.Members.from_table(TABLE, price={"A": 5}, **COLUMNS | {"confidence": "sure"})
    with pytest.raises(ex.InputError, match="named by texts, got 1: write '1'"):
        ex.Members.from_table(TABLE, price={1: 5}, **COLUMNS)
    with pytest.raises(ex.InputError, match="no column sure_C, says_C"):
        ex.Members.from_table(TABLE, price={"C": 5}, **COLUMNS)
    with pytest.raises(ex.InputError, match=r"as \{name: trace\}"):
        ex.Members([pair[0]])
    for price_per in (0, -1, float("nan"), "10k"):
        with pytest.raises(ex.InputError, match="price_per"):
            ex.Members.from_table(TABLE, price={"A": 5}, price_per=price_per, **COLUMNS)
    with pytest.raises(ex.InputError, match="prices must be above 0, got 0: give what is free"):
        ex.Members.from_table(TABLE, price={"A": 0}, **COLUMNS)
    with pytest.raises(ex.InputError, match="price must be a number, got None"):
        ex.Members.from_table(TABLE, price={"A": None}, **COLUMNS)
    with pytest.raises(ex.InputError, match="got 0 in row 0 of column 'sure_A'"):
        ex.Members.from_table(TABLE, price={"A": "sure_A"}, **COLUMNS)
    with pytest.raises(ex.InputError, match="the table has no column cost_A"):
        ex.Members.from_table(TABLE, price={"A": "cost_A"}, **COLUMNS)
    for name in "AB":
        with pytest.raises(
            ex.InputError, match=rf"prices that are columns of the table, but names \['{name}'\]"
        ):
            ex.Members.from_table(TABLE, price={"A": 1}, highest={name: 2}, **COLUMNS)


def test_prices_may_be_a_column_and_chains_cost_what_each_input_pays():
    table = TABLE.append_column("fee", pa.array([10, 20, 30, 40]))
    members = ex.Members.from_table(
        table, price={"A": "fee", "B 2": 5}, price_per=10, highest={"A": 60}, **COLUMNS
    )
    assert members["A"].cost.of_inputs(4)[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert (members["A"].cost.full, members["A"].cost.highest) == (2.5, 6.0)
    chain = members.take([3, 0]).along((Link("B 2", 1), Link("A", 1)))
    assert chain.cost.of_inputs(2).tolist() == [[0.5, 4.5], [0.5, 1.5]]
    assert (chain.cost.highest, chain.cost.reference) == (6.5, 2.5)


def test_a_column_of_equal_prices_is_a_price():
    prices = {"price": {"A": 0.3, "B 2": "fee"}, "highest": {"B 2": 0.1}}
    members = ex.Members.from_table(TABLE.append_column("fee", pa.array([0.1] * 4)), **prices, **COLUMNS)
    by_number = ex.Members.from_table(TABLE, price={"A": 0.3, "B 2": 0.1}, **COLUMNS)
    chain = (Link("A", 1), Link("B 2", 1))
    assert members.along(chain).cost == by_number.along(chain).cost


def test_links_name_their_exits():
    assert Link("small", 2).exit_names == ("small", "small")
    assert Link("small", (0, 2)).exit_names == ("small exit 0", "small exit 2")
    assert Link("", (1, 4)).exit_names == ("exit 1", "exit 4")
    assert Link("", 2).exit_names == ("", "")
