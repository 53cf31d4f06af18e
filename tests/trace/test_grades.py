"""Traces of graded answers: what is checked, what is kept, and answers that are missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from same_traces import same_trace

import exeunt as ex
from exeunt.policy.ensemble_answer import OwnAnswer
from exeunt.score.confidence import NO_ANSWER
from exeunt.trace.cascade_step import CascadeStep

COST = ex.CostModel([1.0, 3.0, 7.0], unit="usd")
RNG = np.random.default_rng(0)
SCORE, LOSS = RNG.random((40, 3)), RNG.random((40, 3))


def graded(loss=LOSS, score=SCORE, **options):
    return ex.ExitTrace.from_losses(score, loss, **{"cost": COST, **options})


def test_losses_qualities_and_labels_are_read_alike():
    losses = graded()
    assert losses.measure == "quality"
    assert np.allclose(losses.risk, LOSS.mean(axis=0))
    qualities = graded(1 - LOSS, better="higher", measure="IoU")
    assert qualities.measure == "IoU"
    assert np.array_equal(qualities.quality, 1 - qualities.grades.loss)
    assert np.allclose(qualities.risk, losses.risk)
    assert graded(measure="word errors").measure == "1 - word errors"
    assert "graded by IoU" in str(qualities)
    prediction, label = RNG.integers(0, 3, (40, 3)), RNG.integers(0, 3, 40)
    labelled = ex.ExitTrace.from_scores(SCORE, prediction, cost=COST, label=label)
    assert labelled.measure == "accuracy"
    assert np.array_equal(labelled.quality, prediction == label[:, None])
    unknown = ex.ExitTrace.from_scores(SCORE, prediction, cost=COST)
    assert not unknown.has_loss
    with pytest.raises(ex.InputError, match="from_losses where answers are graded"):
        _ = unknown.risk


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"loss": np.where(np.arange(40)[:, None] == [7, 50, 50], np.nan, LOSS)}, "got nan in row 7 of exit 0.*drop"),
        ({"loss": LOSS + (np.arange(40)[:, None] == [50, 9, 50])}, r"got 1\.\d+ in row 9 of exit 1 .*: divide by"),
        ({"loss": LOSS - 2 * (np.arange(40)[:, None] == 3)}, "losses must lie in .0, 1., got -1"),
        ({"loss": 1 + LOSS, "better": "higher"}, "qualities must lie"),
        ({"loss": LOSS[0]}, r"losses must have shape \(inputs, exits\), got \(3,\)"),
        ({"loss": [["good", "bad", "ugly"]] * 40}, "losses must be numbers"),
        ({"no_answer": np.ones((40, 3), bool), "score": [[0.5], [0.5, 1]]}, "score must be numbers"),
        ({"no_answer": np.ones((40, 3), bool), "score": SCORE[:, :2]}, r"score has shape \(40, 2\)"),
        ({"loss": LOSS[:9]}, r"score 'score' has shape \(40, 3\) but the answers have \(9, 3\)"),
        ({"prediction": np.zeros((9, 3), int)}, r"\(9, 3\)"),
        ({"better": "up"}, "better must be 'lower' for losses or 'higher'"),
        ({"measure": 5}, "a measure is named by a text such as 'IoU', got 5"),
        ({"no_answer": np.zeros(40, bool)}, "no_answer must be True or False for each input and exit"),
    ],
)  # fmt: skip
def test_what_is_no_loss_is_refused_by_its_place(options, shown):
    with pytest.raises(ex.InputError, match=shown):
        graded(**options)


def test_a_trace_has_labels_or_losses():
    with pytest.raises(ex.InputError, match="give a loss or a label, not both"):
        replace(graded(), label=np.zeros(40, int))


def test_grades_go_where_their_answers_go(tmp_path):
    trace = graded(id=np.arange(40), measure="judge", better="higher")
    rows = np.array([5, 2, 30])
    assert np.array_equal(trace.take(rows).quality, trace.quality[rows])
    assert np.array_equal(trace.exits(1, 3).quality, trace.quality[:, 1:])
    assert np.array_equal(trace.selected([0, 2]).quality, trace.quality[:, [0, 2]])
    halves = trace.take(slice(0, 10)), trace.take(slice(10, 40))
    assert np.array_equal(ex.trace.concatenate(halves).quality, trace.quality)
    with pytest.raises(ex.InputError, match="measured alike in all parts, got judge and quality"):
        ex.trace.concatenate([halves[0], graded(id=np.arange(40)).take(slice(10, 40))])
    trace.save(tmp_path / "trace.parquet")
    back = ex.ExitTrace.load(tmp_path / "trace.parquet")
    assert same_trace(back, trace)
    assert np.array_equal(back.grades.loss, trace.grades.loss)
    assert back.measure == "judge"
    stored = ex.StoredTrace.open(tmp_path)
    assert np.array_equal(next(iter(stored.chunks())).scores["score"], SCORE)


def test_models_of_a_cascade_are_graded_by_one_measure():
    """Answers that cannot be compared equal no other, also those of other models."""
    first, second = graded(id=np.arange(40)), graded(1 - LOSS, id=np.arange(40)).exits(0, 1)
    models = ex.CascadeTrace({"first": first, "second": second})
    whole = models.along([CascadeStep(name, models[name].n_exits) for name in models.names])
    assert np.array_equal(whole.quality, np.hstack([first.quality, second.quality]))
    assert len(np.unique(whole.prediction[0])) == 4
    assert np.allclose(np.sort(models.alone.risk), np.sort(whole.risk))
    assert len(np.unique(models.alone.prediction[0])) == 4
    with pytest.raises(ex.InputError, match="measured alike"):
        ex.CascadeTrace({"first": first, "second": graded(id=np.arange(40), measure="IoU", better="higher")})


def test_no_answer_has_loss_1_and_the_answer_before_it_is_given():
    silent = RNG.random((40, 3)) < 0.3
    silent[:2] = [[True, True, True], [False, True, True]]
    loss = np.where(silent, np.nan, LOSS)
    score = np.where(silent, np.nan, SCORE)
    trace = graded(loss, score, no_answer=silent)
    assert (trace.grades.loss[silent] == 1).all()
    assert (trace.scores["score"][silent] == -np.inf).all()
    given = OwnAnswer.for_(trace)
    answered = given.on(trace)
    for row in range(40):
        last = None
        for exit_ in range(3):
            last = last if silent[row, exit_] else exit_
            none = last is None
            assert answered.grades.loss[row, exit_] == (1.0 if none else LOSS[row, last])
            assert answered.prediction[row, exit_] == (NO_ANSWER if none else trace.prediction[row, last])
    assert OwnAnswer.for_(graded()).on(trace) is trace
    assert given.to_dict() == {"kind": "own", "carries": True}


@pytest.mark.parametrize("error", ["absolute", "squared"])
def test_numbers_lose_by_their_clipped_error(error):
    target = RNG.normal(0, 3, 40)
    prediction = target[:, None] + RNG.normal(0, 2, (40, 3))
    trace = numbers(prediction, target, worst=2.5, error=error)
    for row in range(40):
        for exit_ in range(3):
            share = min(abs(prediction[row, exit_] - target[row]) / 2.5, 1.0)
            assert trace.grades.loss[row, exit_] == pytest.approx(share if error == "absolute" else share**2)
    assert trace.measure == f"1 - {error} error / 2.5"
    assert numbers(measure="m").measure == "1 - m"
    with pytest.raises(TypeError, match="better"):  # errors are losses
        numbers(better="higher")


def numbers(prediction=LOSS, target=LOSS[:, 0], **options):
    return ex.ExitTrace.from_numbers(SCORE, prediction, target, **{"cost": COST, "worst": 1.0, **options})


SILENT = np.arange(40)[:, None] == [50, 3, 50]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"worst": 0}, "worst must be above 0"),
        ({"error": "cubic"}, "error must be 'absolute' or 'squared'"),
        ({"prediction": np.where(SILENT, np.inf, LOSS)}, "must be finite, got inf in row 3 of exit 1"),
        ({"target": LOSS[:5, 0]}, r"target must have shape \(40,\)"),
    ],
)
def test_bad_numbers_are_refused(options, shown):
    with pytest.raises(ex.InputError, match=shown):
        numbers(**options)
    assert numbers(np.where(SILENT, np.nan, LOSS), no_answer=SILENT).grades.loss[3, 1] == 1.0


def test_recorded_outputs_are_graded_afterwards(make_logit_trace):
    """They keep everything but their labels; losses that are the errors give the same qualities."""
    trace = make_logit_trace(50, 3)
    graded = trace.graded(~trace.correct, measure="errors")
    assert np.array_equal(graded.quality, trace.quality)
    assert graded.measure == "1 - errors"
    assert same_trace(replace(graded, grades=None), replace(trace, label=None))
    agrees = trace.prediction == trace.prediction[:, [-1]]
    assert trace.graded(agrees, better="higher", measure="agreement").risk[-1] == 0
