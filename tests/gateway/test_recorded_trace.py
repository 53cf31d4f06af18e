"""Records as traces: which are complete, what is missing, and which belong together."""

from dataclasses import replace

import numpy as np
import pytest
from tests.gateway.made_records import MODELS, WITHOUT_FEATURES, records

from exeunt.errors import InputError
from exeunt.gateway.folder import GatewayModels
from exeunt.gateway.recorded_trace import groups_of, read_trace, trace_of
from exeunt.gateway.records import Records, Said
from exeunt.score.confidence import NO_ANSWER


def with_said(record, **said):
    return replace(record, said={**record.said, **said})


def test_a_trace_has_what_was_recorded(tmp_path):
    made = records(20)
    kept = Records(tmp_path)
    for one in made:
        kept.add(one)
    kept.add(replace(made[0], kind="live", said={"small": made[0].said["small"]}))
    kept.close()
    found = read_trace(tmp_path, MODELS)
    trace = found.trace
    assert found.notes == ()
    assert trace.names == ("features", "small", "large")
    assert trace.unit == "usd"
    assert trace.groups is None
    for name in ("small", "large"):
        said = [one.said[name] for one in made]
        assert trace[name].quality[:, 0].tolist() == [one.grade for one in said]
        assert trace[name].scores["score"][:, 0].tolist() == [one.score or 0.0 for one in said]
        assert np.array_equal(trace[name].cost.of_inputs(20)[:, 0], [one.cost for one in said])
        assert trace[name].cost.highest == MODELS.highest[name]
    assert np.array_equal(trace["features"].features[0], [one.features for one in made])


def test_records_that_are_not_complete_are_left_out_and_counted():
    made = records(10)
    made[0] = with_said(made[0], small=Said(0.0, failed="not asked: the shadow's money is spent"))
    made[1] = with_said(made[1], small=Said(1e-5, 0.5))
    made[2] = with_said(made[2], large=Said(1e-4, failed="timeout"))
    made[3] = replace(made[3], features=None)
    made[4] = replace(made[4], said={"large": made[4].said["large"]})
    found = trace_of(made, MODELS)
    assert found.trace.n == 5
    assert found.notes[0].startswith(
        "5 records were left out: not all models were asked, or not all answers graded."
    )
    assert trace_of(made, WITHOUT_FEATURES).trace.n == 6
    with pytest.raises(
        InputError,
        match="1 record of shadow requests or audits of these models, and in none did all of small, large",
    ):
        trace_of(made[:1], MODELS)


def test_no_answer_no_grade_of_the_reference_and_bills_that_are_too_high():
    made = records(4)
    made[0] = with_said(made[0], small=Said(1e-5, failed="timeout"), large=Said(1e-4))
    made[1] = with_said(made[1], small=Said(0.0, 0.5, 1.0), large=Said(0.5, grade=0.25))
    found = trace_of(made, MODELS)
    small, large = found.trace["small"], found.trace["large"]
    assert small.prediction[0, 0] == NO_ANSWER
    assert small.quality[0, 0] == 0.0
    assert large.quality[:2, 0].tolist() == [1.0, 0.25]
    assert 0 < small.cost.of_inputs(4)[1, 0] < 1e-9
    assert large.cost.highest == 0.5
    (note,) = found.notes
    assert note.startswith("1 request cost more at large than the 0.0004 usd that a request can cost")


def test_costs_are_those_that_were_paid_however_much_a_request_can_cost():
    made = records(4)
    found = trace_of(made, replace(WITHOUT_FEATURES, highest={"small": 5.0, "large": 200.0})).trace
    for name in ("small", "large"):
        assert found[name].cost.of_inputs(4)[:, 0].tolist() == [one.said[name].cost for one in made]


def test_records_of_other_models_or_another_grader_are_left_out():
    judged = replace(MODELS, identity={"small": "v2", "large": "v1"}, grader="judge expert")
    told = [
        ({"small": "v2", "large": "v1"}, "judge expert"),
        ({"small": "v1", "large": "v1"}, "judge expert"),
        ({"small": "v2", "large": "v1"}, "match"),
        ({}, ""),
    ]
    made = [replace(one, identity=of, grader=by) for one, (of, by) in zip(records(4), told, strict=True)]
    found = trace_of(made, judged)
    assert found.trace.n == 2
    assert found.notes == ("2 records were left out: models, or what grades answers, have changed.",)
    assert found.trace.measure == "grade by the judge expert"


@pytest.mark.parametrize(
    ("links", "groups"),
    [
        ([("a", ""), ("b", ""), ("c", "")], None),
        ([("a", ""), ("a", ""), ("c", "")], [0, 0, 1]),
        ([("a", "x"), ("b", "y"), ("c", "x")], [0, 1, 0]),
        ([("a", "x"), ("a", "y"), ("b", "y"), ("c", ""), ("d", "z")], [0, 0, 0, 1, 2]),
        ([("x", ""), ("a", "x"), ("b", "x")], [0, 1, 1]),
    ],
)
def test_requests_of_a_conversation_or_a_user_are_a_group(links, groups):
    made = [
        replace(one, conversation=conversation, user=user)
        for one, (conversation, user) in zip(records(len(links)), links, strict=True)
    ]
    found = groups_of(made)
    assert (None if found is None else found.index.tolist()) == groups


def test_groups_are_those_of_slow_merging():
    rng = np.random.default_rng(1)
    made = [
        replace(
            one,
            conversation=f"c{rng.integers(40)}",
            user=f"u{rng.integers(30)}" if rng.random() < 0.3 else "",
        )
        for one in records(60)
    ]
    group = list(range(60))
    for _ in range(60):
        for i, one in enumerate(made):
            for j, other in enumerate(made):
                if one.conversation == other.conversation or (one.user and one.user == other.user):
                    group[i] = group[j] = min(group[i], group[j])
    found = groups_of(made)
    assert found.index.tolist() == np.unique(group, return_inverse=True)[1].tolist()


def test_a_model_without_records_is_no_model_of_the_trace():
    more = GatewayModels("large", {**MODELS.highest, "new": 1.0})
    with pytest.raises(InputError, match="in none did all of small, large, new answer"):
        trace_of(records(3), more)
