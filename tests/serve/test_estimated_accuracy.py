"""What the server says of the accuracy of its answers, against a replay of the very rows."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from exeunt.serve.events import _accuracy_now, _accuracy_without_load
from exeunt.serve.loaded_run import lost_by_stopping
from exeunt.serve.metrics import Counts, Metrics
from exeunt.serve.prediction import Answer


@pytest.fixture(params=["own", "ensemble"])
def case(request, make_trace):
    """A policy, and the labelled inputs that it was fitted on."""
    trace = make_trace(600, 4)
    rng = np.random.default_rng(3)
    logits = 2.0 * np.eye(10)[trace.prediction] + rng.normal(size=(600, 4, 10))
    trace = ex.ExitTrace.from_logits(logits, cost=trace.cost, label=trace.label, id=trace.id)
    fit, calibrate, _ = trace.split(fit=0.4, calibrate=0.3, test=0.3, seed=0)
    return ex.eero(fit, calibrate, budget="60%", answer=request.param), fit


def answered(policy, exits, cut):
    costs = policy.cost.cumulative
    answers = [Answer(label=exit_, exit=exit_, cost=costs[exit_], policy="it") for exit_ in exits.tolist()]
    for which, name in ((cut[::2], "degraded"), (cut[1::2], "expired")):
        for i in which:
            setattr(answers[i], name, True)
    return answers


@pytest.mark.parametrize("last", range(4))
def test_rows_that_end_early_are_estimated_to_lose_what_they_lose(case, last):
    """All that would go on beyond an exit are answered there."""
    policy, fit = case
    planned = policy.route(fit)
    exits = np.minimum(planned, last)
    predicted = policy.answer.on(fit).prediction
    right = np.mean([predicted[i, exit_] == fit.label[i] for i, exit_ in enumerate(exits)])
    metrics = Metrics()
    metrics.answered(answered(policy, exits, np.flatnonzero(planned > last)), 0.01)
    counts, _ = metrics.last_seconds(1.0)
    lost = {("it", exit_): value for exit_, value in enumerate(lost_by_stopping(policy, fit))}
    loaded = SimpleNamespace(accuracy={"it": ex.evaluate(policy, fit).accuracy}, lost_at=lost)
    assert _accuracy_now(SimpleNamespace(loaded=loaded), counts) == pytest.approx(right)


def test_what_rows_lose_that_name_a_policy_is_no_price_of_the_load():
    """Thirty of them ask for the cheap one, twenty get it as the load has put it active."""
    loaded = SimpleNamespace(accuracy={"cheap": 0.7, "dear": 0.9, "unknown": None}, lost_at={})
    served = SimpleNamespace(loaded=loaded, policy_without_load="dear")
    counts = Counts(exits=Counter({("cheap", 0): 50, ("dear", 1): 50}), own_answered=Counter(cheap=30))
    assert _accuracy_without_load(served, counts) == pytest.approx((30 * 0.7 + 70 * 0.9) / 100)
    assert _accuracy_now(served, counts) == pytest.approx(0.8)
    assert _accuracy_without_load(served, Counts()) == 0.9
    only = Counts(exits=Counter({("cheap", 0): 5}), own_answered=Counter(cheap=5))
    assert _accuracy_without_load(served, only) == pytest.approx(0.7)
    assert _accuracy_without_load(SimpleNamespace(loaded=loaded, policy_without_load="unknown"), only) is None
    assert _accuracy_now(served, Counts(exits=Counter({("unknown", 0): 5}))) is None  # without labels
