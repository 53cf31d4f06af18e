"""What was saved and lost: as in the provider's books where nothing is estimated, and within intervals elsewhere."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from exeunt.stream.bill import Bill, Span, loss_of
from exeunt.stream.ratios import FEWEST, Interval
from exeunt.stream.records import COMPARED, Record, Said
from exeunt.stream.units import Unit

SMALL, LARGE = Said(0.001, 0.5, 0.75), Said(0.01, None, 1.0)


def record(said=None, *, number=1, **fields):
    """Return a request that the policy asked small for, in a unit that was not drawn."""
    said = {"small": replace(SMALL, grade=None)} if said is None else said
    told = {"policy": "p1", "answered": "small", "asked": ("small",), "is_open": True, "input_cost": 0.004}
    told |= {"cost": sum(said[name].cost for name in fields.get("asked", ("small",)) if name in said)}
    return Record(number, 1.0, "shop", "0", said, **{**told, **fields})


def audited(said=None, **fields):
    """Return a request that was compared with the reference afterwards."""
    return record(said or {"small": SMALL, "large": LARGE}, compared=COMPARED, **fields)


def escalated(**fields):
    """Return a request that small could not answer, so that large was asked for the answer."""
    said = {"small": replace(SMALL, grade=None), "large": replace(LARGE, grade=None)}
    return record(said, answered="large", asked=("small", "large"), decided="score", **fields)


def by_reference(why="", **fields):
    """Return a request that the reference answered alone."""
    told = {"policy": "", "answered": "large", "asked": ("large",), "decided": why, **fields}
    return record({"large": replace(LARGE, grade=None)}, **told)


def unit(rows=1, *, number=1, probability=0.2, opened=0.0):
    return Unit(number, "shop", opened, opened, rows=rows, closed=1.0, probability=probability, drawn=True)


def audited_units(n=20, **fields):
    """Return units of a request each, which was compared."""
    return [(unit(number=k), [audited(**fields)]) for k in range(n)]


def span(records, *, compared=0.0, units=()):
    one = Span("p1", compared=compared)
    for each in records:
        one.add(each, "large", opted_out=False)
    for each, inside in units:
        one.add_unit(each, inside, "large")
    return one


# -- what a request loses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "lost"),
    [
        (audited(), 0.25),
        (by_reference(compared=COMPARED), 0.0),
        (escalated(compared=COMPARED), 0.0),
        (audited(policy=""), 0.0),  # in shadow the reference answers
        (record({"small": SMALL, "large": Said(0.01, None, 0.5)}, compared=COMPARED), -0.25),
        (record({"small": SMALL, "large": Said(0.01)}, compared=COMPARED), 0.25),  # agrees with itself
        (record({"small": SMALL, "large": Said(0.01, failed="timeout")}, compared=COMPARED), None),
        (record({"small": Said(0.001), "large": LARGE}, compared="the grader failed"), None),
        (record({"small": Said(0.001)}, compared="no money"), None),
        (record({"small": Said(0.001, failed="timeout")}, answered="", compared="no answer"), None),
        (record({}, answered="small", compared=COMPARED), None),
        (record({"small": SMALL}, compared=COMPARED), None),
    ],
)
def test_what_a_request_has_lost_and_that_a_missing_grade_counts_as_asked(made, lost):
    assert loss_of(made, "large") == (1.0 if lost is None else lost)
    assert loss_of(made, "large", missing=-1.0) == (-1.0 if lost is None else lost)


# -- counts -------------------------------------------------------------------------------------------------------


def test_who_answered_and_why_are_counted_and_who_opted_out_counts_nowhere_else():
    made = [escalated(), escalated(), record(), by_reference("unit", is_open=False), record(retry=True),
            record(guessed=True), record(answered="", decided="failure")]  # fmt: skip
    one = span(made)
    assert (one.answered, one.decided) == ({"large": 3, "small": 3}, {"score": 2, "unit": 1})
    assert (one.requests, one.in_units, one.by_policy, one.retries, one.guessed) == (6, 5, 5, 1, 1)
    assert (one.estimated, one.opted_out) == (3, 0)
    assert one.cost == pytest.approx(span(made[:-1]).cost + made[-1].cost)  # what has no answer has a cost
    before = one.to_dict()
    one.add(replace(by_reference(), answered=""), "large", opted_out=False)  # it costs the policy nothing
    one.add(audited(), "large", opted_out=True)
    assert one.to_dict() == {**before, "opted_out": 1}


# -- what was saved -----------------------------------------------------------------------------------------------

KINDS = st.lists(st.sampled_from(["reference", "escalated", "late"]), max_size=30)


@given(kinds=KINDS, compared=st.floats(0, 10), before=st.floats(0, 10))
def test_where_nothing_is_estimated_what_is_saved_is_what_the_books_say(kinds, compared, before):
    """The books: what the reference would have cost, less all that was paid, comparisons among them."""
    late = by_reference("unit", is_open=False)
    made = {"reference": by_reference(), "escalated": escalated(), "late": late}
    records = [made[kind] for kind in kinds]
    paid = sum(one.cost for one in records) + compared
    reference_alone = sum(0.01 for _ in records)
    one = span(records, compared=before)
    assert one.saved(before + compared) == pytest.approx((reference_alone - paid,) * 3)
    bill = Bill([one])
    assert bill.saved_in_all(before + compared) == pytest.approx((reference_alone - paid - before,) * 3)


def test_with_too_few_drawn_units_nothing_is_said_of_what_was_not_asked():
    units = audited_units(FEWEST)
    one = span([record()] * 20, units=units[:-1])
    assert one.saved(0.0) is None
    assert one.lost is None
    assert Bill([one]).saved_in_all(0.0) is None
    one.add_unit(*units[-1], "large")
    # Each request: .004 is known of the input, .006 are estimated, and .001 was paid.
    assert one.saved(0.05) == pytest.approx((20 * 0.009 - 0.05,) * 3)
    assert one.lost is not None


def test_where_the_input_is_not_known_all_of_the_cost_is_estimated():
    units = audited_units(input_cost=None)
    assert span([record(input_cost=None)] * 5, units=units).saved(0.0) == pytest.approx((5 * 0.009,) * 3)


def test_what_the_reference_costs_is_learned_where_it_was_not_asked_for_the_answer():
    """A request that was escalated is known, and says nothing of the others."""
    dear = escalated(compared=COMPARED)
    dear = replace(dear, said={**dear.said, "large": Said(0.9, None, 1.0)}, cost=0.901)
    units = [(unit(2, number=k), [replace(dear, row=0), audited(row=1)]) for k in range(20)]
    one = span([dear, record()], units=units)
    assert one.saved(0.0) == pytest.approx((0.9 - 0.901 + 0.009,) * 3)
    failed = replace(audited(), compared="the reference failed", said={"small": SMALL, "large": Said(0.7)})
    one.add_unit(unit(number=99), [failed], "large")
    assert one.saved(0.0)[0] == pytest.approx(0.9 - 0.901 + 0.009)


def test_the_interval_of_what_was_saved_covers_the_truth():
    """Long conversations cost more at the reference; a fifth of the units is drawn, half of the time a twentieth."""
    rng, runs, covered, mean_error = np.random.default_rng(0), 50, 0, []
    for _ in range(runs):
        one, truth, compared = Span("p1"), 0.0, 0.0
        for number in range(200):
            probability = 0.4 if number % 2 else 0.2
            rows, drawn = int(rng.integers(1, 5)), rng.random() < probability
            outputs = rng.gamma(2.0, 0.001 * rows, rows)
            records = []
            for row, output in enumerate(outputs.tolist()):
                large = Said(0.004 + output, None, 1.0)
                made = audited if drawn else record
                one.add(kept := made(row=row), "large", opted_out=False)
                truth += large.cost - 0.001
                if drawn:
                    records.append(replace(kept, said={"small": SMALL, "large": large}))
                    compared += large.cost
            if drawn:
                one.add_unit(unit(rows, number=number, probability=probability), records, "large")
        mean, low, high = one.saved(compared)
        covered += low <= truth - compared <= high
        mean_error.append(mean - truth + compared)
    assert covered >= binom.ppf(1e-6, runs, 0.93)
    assert abs(np.mean(mean_error)) < 5 * np.std(mean_error) / runs**0.5


def test_spans_add_up_and_comparisons_are_subtracted_once():
    first = span([by_reference()] * 10, compared=0.0)
    second = span([escalated()] * 10, compared=1.0)
    units = audited_units()
    third = span([record()] * 100, compared=1.5, units=units)
    bill = Bill([first, second, third])
    assert bill.saved_in_all(2.0) == pytest.approx((-10 * 0.001 + 100 * 0.009 - 2.0,) * 3)
    parts = [first.saved(1.0), second.saved(1.5), third.saved(2.0)]
    assert bill.saved_in_all(2.0).mean == pytest.approx(sum(part.mean for part in parts))
    assert bill.now is third


def test_a_span_with_few_units_is_estimated_by_all_spans_together():
    units = audited_units()
    bill = Bill([span([record()] * 100, units=units), span([record()] * 7)])
    assert bill.now.saved(0.0) is None
    assert bill.saved_in_all(0.0) == pytest.approx((107 * 0.009,) * 3)


# -- break-even ---------------------------------------------------------------------------------------------------


# -- what was lost ------------------------------------------------------------------------------------------------


def test_what_was_lost_is_over_all_requests_of_which_late_ones_lose_nothing():
    """Units of 4 rows, of which the policy answered 2, and each lost a quarter; as many requests came late again."""
    inside = [audited(row=0), audited(row=1), by_reference("unit", row=2, compared=COMPARED),
              by_reference("unit", row=3, compared=COMPARED)]  # fmt: skip
    late = [by_reference("unit", is_open=False)] * 4
    one = span((inside + late) * 50, units=[(unit(4, number=k), inside) for k in range(50)])
    assert one.lost.mean == pytest.approx(0.25 * 2 / 8)
    assert one.lost_answered.mean == pytest.approx(0.25)
    assert one.lost.low < one.lost.mean < one.lost.high


def test_heavy_units_count_by_their_requests_and_rare_draws_by_their_probability():
    bad = [audited({"small": Said(0.001, 0.5, 0.0), "large": LARGE}, row=row) for row in range(9)]
    good = [audited({"small": Said(0.001, 0.5, 1.0), "large": LARGE})]
    units = [(unit(9, number=k, probability=0.1), bad) for k in range(10)]
    units += [(unit(1, number=k, probability=0.5), good) for k in range(10, 40)]
    one = span([record()], units=units)
    assert one.lost.mean == pytest.approx(10 * 9 / 0.1 / (10 * 9 / 0.1 + 30 / 0.5))
    assert one.lost_answered.mean == one.lost.mean


def test_a_request_and_its_retries_lose_once():
    """The first one failed, which lost all; the retry that was compared tells what the row has lost."""
    failed = record({"small": Said(0.0, failed="timeout")}, answered="", compared="no answer")
    retried = audited(retry=True)
    for inside in ([failed, retried], [retried, failed], [failed, retried, retried]):
        one = span([], units=[(unit(number=k), inside) for k in range(20)])
        one.requests = one.in_units = 20
        assert (one.lost.mean, one.lost_answered.mean) == (pytest.approx(0.25), pytest.approx(0.25))
    alone = span([record()] * 20, units=[(unit(number=k), [failed]) for k in range(20)])
    assert alone.lost.mean == 1.0


def test_the_interval_of_the_loss_is_a_careful_one():
    one = span([record()] * 3 + [by_reference("unit", is_open=False)], units=audited_units())
    assert one.lost == pytest.approx([0.75 * end for end in one.loss.ratio((-1.0, 1.0))])
    assert one.lost_answered == pytest.approx(one.loss_answered.ratio((-1.0, 1.0)))
    assert one.lost_answered.high > 0.26
    few = span([record()], units=audited_units(9))
    assert few.lost is None
    assert few.lost_answered is None
    before = span([], units=audited_units())  # of requests of another span
    assert before.lost == (0.0, 0.0, 0.0)


def test_a_unit_of_which_something_is_missing_counts_all_the_same():
    """A row that could not be paid has lost, and tells nothing of what the reference costs."""
    unpaid = record({"small": SMALL}, compared="no money")
    one = span([record()], units=[(unit(number=k), [unpaid if k % 2 else audited()]) for k in range(40)])
    assert one.lost.mean == pytest.approx((1.0 + 0.25) / 2)
    assert one.saved(0.0).mean == pytest.approx(0.009)
    # Units of before there were periods have no weight.
    weightless, whole = ([(unit(probability=p), [audited()])] * 20 for p in (0.0, 1.0))
    assert span([record()], units=weightless).loss == span([record()], units=whole).loss


def test_the_interval_of_the_loss_covers_it():
    rng, runs, covered = np.random.default_rng(0), 120, 0
    for _ in range(runs):
        one = Span("p1", requests=100, in_units=80)
        for number in np.flatnonzero(rng.random(400) < 0.2).tolist():
            rows = int(rng.integers(1, 4))
            grades = [float(rng.random() >= 0.05) for _ in range(rows)]
            said = [{"small": Said(0.0, None, grade), "large": LARGE} for grade in grades]
            inside = [audited(each, row=row) for row, each in enumerate(said)]
            one.add_unit(unit(rows, number=number), inside, "large")
        _, low, high = one.lost
        covered += low <= 0.8 * 0.05 <= high
    assert covered >= binom.ppf(1e-6, runs, 0.93)


# -- spans --------------------------------------------------------------------------------------------------------


def test_a_bill_is_kept_as_json_and_goes_on():
    units = audited_units(12)
    bill = Bill([span([by_reference("unit"), escalated()], compared=0.1)])
    bill.begin("p2", 7.0, 0.3)
    for made in (record(), audited(guessed=True)):
        bill.now.add(made, "large", opted_out=False)
    for each in units:
        bill.now.add_unit(*each, "large")
    again = Bill([Span.from_dict(body) for body in json.loads(json.dumps(bill.to_dict()))])
    assert again.to_dict() == bill.to_dict()
    for one in (bill, again):
        one.now.add(escalated(), "large", opted_out=False)
        one.now.add_unit(unit(number=50), [audited()], "large")
        one.begin("p3", 9.0, 0.4)
    assert (again.spans, again.saved_in_all(1.0)) == (bill.spans, bill.saved_in_all(1.0))
    assert isinstance(again.saved_in_all(1.0), Interval)
    assert again.spans[0].decided.most_common(1) == [("unit", 1)]  # still a counter


def test_a_span_in_which_nothing_came_is_left_out():
    bill = Bill()
    for begun, opted_out in (("reference", False), ("p1", True), ("p2", False)):
        bill.begin(begun, 1.0, 0.5)
        if opted_out:
            bill.now.add(record(), "large", opted_out=True)
    assert [(one.policy, one.since, one.compared) for one in bill.spans] == [
        ("p1", 1.0, 0.5),
        ("p2", 1.0, 0.5),
    ]


def test_a_unit_counts_where_it_began():
    bill = Bill([Span("a", since=10.0), Span("b", since=20.0), Span("c", since=20.0)])
    found = [bill.of(unit(opened=now)).policy for now in (5.0, 10.0, 19.9, 20.0, 1e9)]
    assert found == [*"aaacc"]
