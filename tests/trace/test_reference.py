"""Traces without labels, measured by their agreement with what an exit or a model says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex


@pytest.fixture
def trace(make_trace):
    return make_trace(400, 4, labelled=False)


def test_the_labels_are_the_predictions_of_the_reference(trace):
    said = trace.with_reference()
    assert (said.reference, said.measure, said.risk[-1]) == ("the full network", "agreement", 0.0)
    assert said.risk == pytest.approx((trace.prediction != trace.prediction[:, [3]]).mean(axis=0))
    assert "agreement with the full network" in repr(said)
    other = trace.with_reference(1, "small")
    assert (other.reference, other.risk[1]) == ("small", 0.0)
    assert trace.with_reference(1).reference == "exit 1"
    assert said.graded(np.zeros((400, 4))).reference == ""
    for place in (4, -5, "large"):
        with pytest.raises(ex.InputError, match=f"one of the exits 0 to 3, got {place!r}"):
            trace.with_reference(place)
    with pytest.raises(ex.InputError, match=r"trace.with_reference\(\)"):
        trace.risk  # noqa: B018


def test_a_reference_stays_with_parts_and_copies(trace, tmp_path):
    said = trace.with_reference()
    said.save(tmp_path / "said.parquet")
    parts = [*said.split(), said.selected([0, 1]), said.exits(1, 3), said.with_cost(said.cost)]
    for part in (*parts, ex.ExitTrace.load(tmp_path / "said.parquet")):
        assert part.reference == "the full network"
    assert np.array_equal(said.selected([0, 1]).label, trace.prediction[:, -1])  # that of all exits
    trace.save(tmp_path / "plain.parquet")
    assert ex.ExitTrace.load(tmp_path / "plain.parquet").measure == "accuracy"


def test_policies_learn_from_what_the_reference_says_as_from_labels(trace):
    labelled = replace(trace, label=trace.prediction[:, -1])
    made = [ex.stopping(*one.split()[:2], budget="60%") for one in (labelled, trace.with_reference())]
    assert made[0].thresholds.tolist() == made[1].thresholds.tolist()


def test_a_reference_answers_every_input_with_a_class(trace):
    """Where it gave no answer, or none that can be compared, there is no agreement to measure."""
    silent = np.zeros((400, 4), dtype=bool)
    silent[[3, 5], 3] = True
    fields = {"cost": trace.cost, "id": trace.id}
    some = ex.ExitTrace.from_scores(trace.scores["score"], trace.prediction, no_answer=silent, **fields)
    graded = ex.ExitTrace.from_losses(None, np.full((400, 4), 0.5), **fields)
    negative = replace(trace, prediction=trace.prediction - 1, log_probability=None)
    for part, told in (
        (some, "the full network gave no answer to 2 inputs, the first in row 3: drop these inputs"),
        (graded, "it is not known which answers equal those of the full network: give predictions"),
        (negative, "classes must be 0 or above, got -1 from the full network in row "),
    ):
        for one, name in ((part, "the full network"), (ex.CascadeTrace({"all": part}), "all")):
            with pytest.raises(ex.InputError, match=told.replace("the full network", name)):
                one.with_reference()
    assert some.with_reference(0).risk[0] == 0.0


def test_models_agree_with_the_most_expensive_one(make_trace):
    traces = {
        name: replace(make_trace(50, seed=seed), label=None, cost=ex.CostModel(np.arange(1, 5) * price))
        for seed, (name, price) in enumerate([("small", 1.0), ("large", 5.0), ("same", 5.0)])
    }
    ids = traces["small"].id
    models = ex.CascadeTrace({name: replace(one, id=ids) for name, one in traces.items()})
    said = models.with_reference()
    assert (said.reference, said.measure, said["same"].risk[-1]) == ("same", "agreement", 0.0)
    assert models.with_reference("large")["large"].risk[-1] == 0.0
    assert said.alone.reference == "same"
