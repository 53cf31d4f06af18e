"""What drawn units show of a plan: a loop over the records that follows METHOD 16, and rows that are missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.made_records import CAP, MODELS, WITHOUT_FEATURES, keep, records, units, units_of

import exeunt as ex
from exeunt.gateway.evidence import OVER_CAP, evidence_of, own_settings, paid_for
from exeunt.gateway.folder import GatewayModels
from exeunt.gateway.proposals import values_of
from exeunt.policy.calibration import Thresholds
from exeunt.score.confidence import NO_ANSWER
from exeunt.stream.records import COMPARED, NOT_GRADED, Record, Said
from exeunt.stream.units import Unit

THREE = GatewayModels("large", {"small": 4e-5, "medium": 1e-4, "large": 4e-4})
NOT_ASKED = "not asked: the shadow's money is spent"


def cascade(*order, above):
    """Return a cascade that answers at a model where its score is above a number, at what was paid."""
    rng = np.random.default_rng(0)
    traces, hard = {}, rng.random((300, 1))
    for k, name in enumerate(order):
        paid = 10.0**k * rng.uniform(1e-5, 2e-5, (300, 1))
        cost = ex.CostModel(paid, unit="usd", source="paid", highest=10.0**k * 2e-5)
        right = hard < {"small": 0.5, "medium": 0.8, "large": 1.0}[name]
        sure = np.where(right, 0.6, 0.1) + 0.3 * rng.random((300, 1))
        traces[name] = ex.ExitTrace.from_losses(
            sure, right.astype(float), cost=cost, better="higher", measure="grade", id=np.arange(300)
        )  # fmt: skip
    fit, calibrate, _ = ex.CascadeTrace(traces).split()
    policy = ex.cascade(fit, calibrate, budget=0.2 * fit[order[-1]].cost.full, policy="eero", order=order)
    assert policy.models == order
    return replace(policy, limits=Thresholds.of([*[(above, -np.inf)] * (len(order) - 1), (-np.inf, -np.inf)]))


TWO_STEPS = cascade("small", "large", above=0.5)
THREE_STEPS = cascade("small", "medium", "large", above=0.5)


# -- a loop over the records --------------------------------------------------------------------------------------


def counted(inside, row):
    """Return the record that tells of a row: of a request and its retries the first that was compared; None without."""
    own = [record for record in inside if record.row == row]
    return next((record for record in own if record.compared == COMPARED), own[0] if own else None)


def is_known(record, models):
    """Return whether it is known who would answer a row: all models that take it were asked."""
    if record is None or OVER_CAP in record.refused or record.compared not in (COMPARED, NOT_GRADED):
        return False
    if models.features and record.features is None:
        return False
    asked = [record.said.get(model) for model in models.highest if model not in record.refused]
    reference = record.said.get(models.reference)
    told = all(said is not None and not said.failed.startswith("not asked") for said in asked)
    return told and reference is not None and not reference.failed


def outcome(record, policy, models, cap=CAP):
    """Return what a row loses and costs, and whether it is answered early: METHOD 16, sentence by sentence."""
    if record is None:
        return 1.0, cap, True
    reference = record.said.get(models.reference)
    if OVER_CAP in record.refused or any(model in record.refused for model in policy.models):
        # Always goes to the reference, at its cost.
        return 0.0, cap if reference is None else reference.cost, False
    if not is_known(record, models):
        return 1.0, cap, True
    best = 1.0 if reference.grade is None else reference.grade
    cost, given_by = 0.0, None
    for model in policy.models:
        said = record.said[model]
        cost += said.cost
        if model == models.reference:
            return 0.0, cost, False
        if said.failed:
            continue
        given_by = said
        if (said.score or 0.0) > 0.5:
            break
    return best - (given_by.grade or 0.0), cost, True


def some(rate):
    """Return whether something comes, one time in `rate`."""
    return st.integers(0, rate - 1).map(lambda k: k == 0)


SAID = st.builds(
    Said, st.sampled_from([1e-5, 2e-5, 7e-5]), st.sampled_from([None, 0.1, 0.49, 0.51, 0.9]),
    st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from(["", "", "", "", "timeout", NOT_ASKED]),
)  # fmt: skip
REFERENCE = st.builds(
    Said, st.sampled_from([0.0, 1e-4, 3e-4]), st.none(), st.sampled_from([None, 0.5, 1.0]),
    st.sampled_from(["", "", "", "", "", "timeout", NOT_ASKED]),
)  # fmt: skip


@st.composite
def compared_records(draw, row):
    """Return a request that was compared, or could not be."""
    said = {"small": draw(SAID), "medium": draw(SAID), "large": draw(REFERENCE)}
    refused = draw(st.sampled_from([*[()] * 4, ("small",), ("medium",), ("small", "medium"), (OVER_CAP,)]))
    said = {name: each for name, each in said.items() if name not in refused and not draw(some(12))}
    why = draw(st.sampled_from([*[COMPARED] * 3, NOT_GRADED, "no money", "the reference failed"]))
    if why != COMPARED:
        said = {name: replace(each, grade=None) for name, each in said.items()}
    return Record(
        draw(st.integers(1, 99)), 1.0, "shop", f"{draw(st.integers(0, 5)):x}", said, unit=1, row=row, is_open=True,
        answered=draw(st.sampled_from(["large", "large", ""])), refused=refused, compared=why,
        features=None if draw(some(8)) else (0.5,),
    )  # fmt: skip


@st.composite
def drawn_units(draw):
    """Return units with their records: of some rows none, of others retries."""
    made = []
    for number in range(draw(st.integers(0, 4))):
        rows = draw(st.integers(1, 4))
        tries = [row for row in range(rows) for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2])))]
        inside = [draw(compared_records(row)) for row in tries]
        probability = draw(st.sampled_from([0.1, 0.5, 1.0]))
        made.append((Unit(number, "shop", 0.0, 1.0, rows=rows, drawn=True, probability=probability), inside))
    return made


def check(made, most, policy):
    """Compare evidence with the loop, row by row."""
    evidence = evidence_of(made, THREE, CAP, most)
    lost, cost, early = evidence.outcomes(policy)
    k = 0
    for place, (unit, inside) in enumerate(made):
        assert evidence.weight[place] == 1 / unit.probability
        for row in range(min(unit.rows, most)):
            record = counted(inside, row)
            if record is not None and OVER_CAP in record.refused and not record.answered:
                continue  # nobody has an answer to it
            assert (evidence.unit[k], evidence.row[k]) == (place, row)
            assert evidence.records[k] is record
            *amounts, is_early = outcome(record, policy, THREE)
            assert (lost[k], cost[k]) == pytest.approx(tuple(amounts), abs=1e-9), record
            assert bool(early[k]) is is_early, record
            reference = None if record is None else record.said.get("large")
            assert evidence.reference_cost[k] == (CAP if reference is None else reference.cost)
            assert evidence.least_reference_cost[k] == (0.0 if reference is None else reference.cost)
            assert evidence.has_reference[k] == (reference is not None)
            assert evidence.graded[k] == (record is not None and record.compared == COMPARED)
            assert evidence.over_cap[k] == (record is not None and OVER_CAP in record.refused)
            assert (evidence.place[k] >= 0) == is_known(record, THREE)
            k += 1
    assert k == len(lost) == len(cost) == len(evidence.records)
    assert evidence.firsts(policy).tolist() == [
        evidence.place[k]
        for k in np.flatnonzero(evidence.row == 0)
        if evidence.place[k] >= 0 and not set(policy.models) & set(evidence.records[k].refused)
    ]
    assert np.all((lost >= -1) & (lost <= 1))


POLICIES = st.sampled_from([TWO_STEPS, THREE_STEPS])


@settings(max_examples=40)
@given(made=drawn_units(), most=st.integers(1, 4), policy=POLICIES)
def test_losses_and_costs_are_those_of_a_loop_over_the_records(made, most, policy):
    check(made, most, policy)


@pytest.mark.slow
@settings(max_examples=1000)
@given(made=drawn_units(), most=st.integers(1, 4), policy=POLICIES)
def test_losses_and_costs_are_those_of_a_loop_over_many_records(made, most, policy):
    check(made, most, policy)


@settings(max_examples=10)
@given(made=drawn_units(), which=st.lists(st.booleans(), min_size=4, max_size=4))
def test_of_some_units_evidence_shows_the_same_as_if_there_were_no_others(made, which):
    chosen = np.flatnonzero(which[: len(made)])
    some_units = evidence_of(made, THREE, CAP, 3).only(chosen)
    alone = evidence_of([made[k] for k in chosen], THREE, CAP, 3)
    assert some_units.units == alone.units
    assert some_units.records == alone.records
    for name in ("unit", "row", "place"):
        assert getattr(some_units, name).tolist() == getattr(alone, name).tolist()
    for one, other in zip(some_units.outcomes(TWO_STEPS), alone.outcomes(TWO_STEPS), strict=True):
        assert one.tolist() == other.tolist()
    assert (some_units.trace is None) == (alone.trace is None)


# -- one by one ---------------------------------------------------------------------------------------------------

SMALL, LARGE = Said(1e-5, 0.9, 0.25), Said(2e-4, None, 1.0)
UNSURE = replace(SMALL, score=0.2)


def of_unit(*inside, rows=1, most=None, models=WITHOUT_FEATURES, probability=1.0):
    """Return the evidence of a unit of so many rows with these records."""
    unit = Unit(1, "shop", 0.0, 0.0, rows=rows, drawn=True, probability=probability)
    return evidence_of([(unit, [*filter(None, inside)])], models, CAP, most or rows)


def shown(*inside, models=WITHOUT_FEATURES, policy=TWO_STEPS):
    """Return what one row loses and costs."""
    lost, cost, _ = of_unit(*inside, models=models).outcomes(policy)
    return lost[0], pytest.approx(cost[0])


def one(said=None, **fields):
    said = {"small": SMALL, "large": LARGE} if said is None else said
    told = {"unit": 1, "is_open": True, "compared": COMPARED, "answered": "large"}
    return Record(1, 0.0, "shop", "0", said, **{**told, **fields})


@pytest.mark.parametrize(
    ("record", "lost", "cost"),
    [
        (one(), 0.75, 1e-5),
        (one({"small": UNSURE, "large": LARGE}), 0.0, 2.1e-4),
        (one({"small": SMALL, "large": replace(LARGE, grade=0.0)}), -0.25, 1e-5),
        (one({"small": replace(SMALL, grade=None), "large": replace(LARGE, grade=None)}), 1.0, 1e-5),
        (one({"small": Said(0.0, failed=NOT_ASKED), "large": LARGE}), 1.0, CAP),
        (one(compared="the reference failed"), 1.0, CAP),
        (None, 1.0, CAP),
        (one({"large": LARGE}, refused=("small",), compared="no model takes it"), 0.0, 2e-4),
        (one(refused=(OVER_CAP,)), 0.0, 2e-4),
    ],
)
def test_what_a_row_loses_and_costs(record, lost, cost):
    assert shown(record) == (lost, cost)


def test_free_answers_cost_nothing_that_counts():
    lost, cost = shown(one({"small": replace(SMALL, cost=0.0), "large": LARGE}))
    assert lost == 0.75
    assert 0 <= cost.expected < 1e-14


@pytest.mark.parametrize(
    ("record", "value"),
    [
        (None, 1.0), (one(compared="no money"), (CAP - 0.4 * 2e-4) / CAP), (one({"small": SMALL}), 1.0),
        (one(), (1e-5 - 0.4 * 2e-4) / CAP), (one({"large": LARGE}, refused=("small",)), 0.6 * 2e-4 / CAP),
        (one({"large": LARGE}, refused=(OVER_CAP,)), 0.0),  # the reference answers it, whatever the plan
    ],
)  # fmt: skip
def test_a_cost_that_is_missing_counts_as_the_highest_beside_a_budget(record, value):
    """Nothing that the row could have cost, and the reference for it, is worse."""
    evidence = of_unit(record)
    outcomes = evidence.outcomes(TWO_STEPS)
    assert values_of("budget", "40%", 1.0, evidence, outcomes, 1)[0] == pytest.approx([value])
    assert values_of("budget", "40%", 1.0, evidence, outcomes, 2)[0] == pytest.approx([value / 2])


def test_the_values_of_a_loss_count_the_first_rows_alone():
    evidence = of_unit(*(one(row=row) for row in range(3)), rows=5)
    for rows, lost in ((1, 0.75), (2, 1.5), (3, 2.25), (4, 3.25), (5, 4.25), (8, 4.25)):
        values, highest = values_of("max_loss", 0.05, 0.8, evidence, evidence.outcomes(TWO_STEPS), rows)
        assert values == pytest.approx([(lost - 0.04 * min(rows, 5)) / rows])
        assert highest == 0.96


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_the_values_of_early_answers_and_of_the_tail_are_those_of_a_loop(rows):
    """Of early answers, first rows that are answered without the reference count; of the tail, those below the cap."""
    records = [
        one(row=0), one({"small": UNSURE, "large": LARGE}, row=1), one({"large": LARGE}, row=2, refused=("small",)),
        one({"large": LARGE}, row=3, refused=(OVER_CAP,)),
        one({"small": replace(SMALL, grade=1.0), "large": LARGE}, row=4),
    ]  # fmt: skip
    evidence = of_unit(*records, rows=6)  # of the last there is no record
    expected = {"max_early_loss": 0.0, "max_early_worse": 0.0, "max_tail": 0.0}
    for record, row in zip(evidence.records, evidence.row.tolist(), strict=True):
        if row >= rows:
            continue
        lost, cost, early = outcome(record, TWO_STEPS, WITHOUT_FEATURES)
        if early:
            expected["max_early_loss"] += lost - 0.8 * 0.05
            expected["max_early_worse"] += (lost > 0) - 0.8 * 0.05
        if record is None or OVER_CAP not in record.refused:
            expected["max_tail"] += (cost > 1e-4) - 0.8 * 0.05
    outcomes = evidence.outcomes(TWO_STEPS)
    for name, value in expected.items():
        limit = "0.05 above 0.0001 usd" if name == "max_tail" else 0.05
        values, highest = values_of(name, limit, 0.8, evidence, outcomes, rows)
        assert values == pytest.approx([value / rows]), name
        assert highest == pytest.approx(0.96)
        assert np.all(values <= highest)


def test_a_tail_may_be_a_share_of_what_the_reference_costs_for_the_request():
    evidence = of_unit(one(), one({"small": UNSURE, "large": LARGE}, row=1), rows=2)
    values, _ = values_of("max_tail", "0.05 above 100%", 1.0, evidence, evidence.outcomes(TWO_STEPS), 2)
    assert values == pytest.approx(
        [(0 + 1 - 2 * 0.05) / 2]
    )  # asking both costs more than the reference alone


def test_without_units_or_records_there_is_no_trace():
    for made, rows in (([], 0), ([(Unit(1, "shop", 0.0, 0.0, rows=2, drawn=True, probability=1.0), [])], 2)):
        evidence = evidence_of(made, WITHOUT_FEATURES, CAP, 5)
        lost, cost, _ = evidence.outcomes(TWO_STEPS)
        assert (evidence.trace, evidence.for_learning(), evidence.n_units) == (None, None, len(made))
        assert lost.tolist() == [1.0] * rows
        assert cost.tolist() == [CAP] * rows
        assert evidence.weight.shape == (len(made),)
        assert evidence.over_cap.shape == evidence.reference_cost.shape == (rows,)
        assert len(evidence.firsts(TWO_STEPS)) == 0
        assert evidence.only(np.arange(0)).n_units == 0


# -- traces, from which policies learn -----------------------------------------------------------------------------


def paid(trace, name):
    return trace[name].cost.of_inputs(trace.n)[:, 0].tolist()


def test_a_trace_has_what_was_recorded(tmp_path):
    kept = keep(tmp_path, units_of(records(20)))
    made = kept.read()
    evidence = evidence_of(kept.of_units(), MODELS, CAP, 20)
    kept.close()
    trace = evidence.trace
    assert trace.names == ("features", "small", "large")
    assert trace.unit == "usd"
    assert trace.groups is None
    assert trace["small"].measure == "grade"
    for name in ("small", "large"):
        said = [record.said[name] for record in made]
        assert trace[name].quality[:, 0].tolist() == [each.grade for each in said]
        assert trace[name].scores["score"][:, 0].tolist() == [each.score or 0.0 for each in said]
        assert paid(trace, name) == [each.cost for each in said]
        assert trace[name].cost.highest == MODELS.highest[name]
    assert np.array_equal(trace["features"].features[0], [record.features for record in made])
    assert evidence.for_learning().n == 20


def test_the_requests_of_a_unit_are_a_group():
    made = units(30, rows=4)
    evidence = evidence_of(made, WITHOUT_FEATURES, CAP, 3)
    groups = evidence.trace.groups.index
    assert groups.tolist() == np.unique(evidence.unit, return_inverse=True)[1].tolist()
    assert len(groups) < sum(unit.rows for unit, _ in made)


def test_no_answer_no_grade_of_the_reference_and_bills_that_are_too_high():
    made = records(4)
    made[0] = replace(made[0], said={"small": Said(1e-5, failed="timeout"), "large": Said(1e-4)})
    made[1] = replace(made[1], said={"small": Said(0.0, 0.5, 1.0), "large": Said(0.5, grade=0.25)})
    trace = evidence_of(units_of(made), MODELS, CAP, 20).trace
    small, large = trace["small"], trace["large"]
    assert small.prediction[0, 0] == NO_ANSWER
    assert small.quality[0, 0] == 0.0
    assert large.quality[:2, 0].tolist() == [1.0, 0.25]
    assert 0 < paid(trace, "small")[1] < 1e-9
    assert large.cost.highest == 0.5


def test_costs_are_those_that_were_paid_however_much_a_request_can_cost():
    made = records(4)
    models = replace(WITHOUT_FEATURES, highest={"small": 5.0, "large": 200.0})
    trace = evidence_of(units_of(made), models, CAP, 20).trace
    for name in ("small", "large"):
        assert paid(trace, name) == [record.said[name].cost for record in made]
    below = replace(TWO_STEPS, limits=Thresholds.of([(-np.inf, -np.inf), (-np.inf, -np.inf)]))
    assert paid_for(below, trace).tolist() == [record.said["small"].cost for record in made]


def test_policies_learn_from_rows_that_are_complete_and_that_all_models_take():
    made = records(10)
    made[0] = replace(made[0], refused=("small",), said={"large": made[0].said["large"]})
    made[1] = replace(made[1], refused=("medium",))
    made[2] = replace(made[2], compared="no money")
    made[3] = replace(made[3], refused=(OVER_CAP,))
    made[4] = replace(made[4], features=None)
    whole = evidence_of(units_of(made), MODELS, CAP, 20).for_learning()
    assert whole.n == 5
    assert paid(whole, "small") == [record.said["small"].cost for record in made[5:]]


def test_policies_learn_nothing_from_answers_that_were_not_graded_or_where_no_row_is_complete():
    made = records(6)
    made[0] = replace(made[0], compared=NOT_GRADED)
    evidence = evidence_of(units_of(made), WITHOUT_FEATURES, CAP, 20)
    assert evidence.trace.n == 6
    assert evidence.for_learning().n == 5
    for changed in ({"refused": ("medium",)}, {"compared": NOT_GRADED}):
        evidence = evidence_of(units_of(replace(one, **changed) for one in made), WITHOUT_FEATURES, CAP, 20)
        assert evidence.trace.n == 6
        assert evidence.for_learning() is None


# -- which records count ------------------------------------------------------------------------------------------


def settings_of(bodies, models):
    return own_settings({k: (0.0, body) for k, body in enumerate(bodies)}, models)


def test_records_of_other_models_or_another_grader_are_not_counted():
    models = replace(WITHOUT_FEATURES, identity={"small": "v2", "large": "v1"}, grader="judge expert")
    own = {"identity": {"small": "v2", "large": "v1"}, "grader": "judge expert"}
    others = [{**own, "identity": {"small": "v1", "large": "v1"}}, {**own, "grader": "match"}]
    before = {"identity": {}, "grader": ""}  # they were kept
    more, less = ({**own, "identity": one} for one in ({**own["identity"], "gone": "v1"}, {"small": "v2"}))
    assert settings_of([own, *others, before, more, less, {}], models) == [0, 3, 4, 6]


def test_a_model_that_is_new_makes_records_of_before_no_evidence_against_all_plans():
    """Their rows would count as lost, since it is not known what it would have answered."""
    before = {"identity": {"small": "v1", "large": "v1"}, "grader": "match"}
    models = replace(THREE, identity={"small": "v1", "medium": "v1", "large": "v1"}, grader="match")
    assert settings_of([before], models) == []


def test_features_that_are_new_make_records_of_before_no_evidence_against_all_plans():
    models = replace(MODELS, identity={"small": "v1", "large": "v1"}, grader="match")
    told = {"identity": dict(models.identity), "grader": "match"}
    bodies = [{**told, "features": ""}, {**told, "features": "features"}, told]
    assert settings_of(bodies, models) == [1, 2]
    assert settings_of(bodies, replace(models, features="")) == [0, 1, 2]
