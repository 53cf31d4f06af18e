from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from made_traces import parts, trace

import exeunt as ex
from exeunt.rules.catalogue import PRESETS
from exeunt.trace.derived import cached_on_trace


def test_it_learns_once_per_trace_and_options():
    asked = []

    @cached_on_trace
    def learn(data, power, *, seed=0):
        asked.append((data.n, power, seed))
        return [power]

    first, second = trace(10), trace(10)
    assert learn(first, 2) is learn(first, 2)
    assert learn(second, 2) is not learn(first, 2)
    learn(first, 3)
    learn(first, 2, seed=1)
    learn(first, 2, seed=1)
    assert asked == [(10, 2, 0), (10, 2, 0), (10, 3, 0), (10, 2, 1)]


def test_no_policy_keeps_the_traces_alive_that_it_was_made_of():
    """All at once, since collecting takes long where much is imported."""
    policies, gone = {}, {}
    for name, make in PRESETS.items():
        fit, calibrate, _ = parts(150)
        policies[name] = make(fit, calibrate, budget="60%")
        gone[name] = [weakref.ref(fit), weakref.ref(calibrate)]
    del fit, calibrate
    gc.collect()
    assert [name for name, refs in gone.items() if any(ref() is not None for ref in refs)] == []
    assert all(isinstance(policy, ex.Policy) for policy in policies.values())


def test_models_are_freed_at_once_after_a_cascade_was_made_of_them():
    """Their arrays are large, and the collector of cycles counts objects, not bytes."""
    made = parts(300)
    fit, calibrate, test = (ex.CascadeTrace({"a": t.exits(0, 1), "b": t.exits(1, t.n_exits)}) for t in made)
    gone = [weakref.ref(one) for one in (fit, calibrate, test)]
    gc.collect()
    gc.disable()
    try:
        ex.evaluate(ex.cascade(fit, calibrate, budget="60%"), test)
        del fit, calibrate, test
        assert [ref() for ref in gone] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("of", ["answering", "without"])
def test_models_that_answer_keep_their_order(of):
    """What a few rows cost does not change which model is the first."""
    whole = trace(10)
    prices = [np.where(np.arange(10) < 2, 3.0, 1.0), np.full(10, 2.0)]
    models = {
        name: whole.exits(i, i + 1).with_cost(ex.CostModel(price[:, None], highest=4.0))
        for i, (name, price) in enumerate(zip("ab", prices, strict=True))
    }
    rows = ex.CascadeTrace(models).with_features("told", np.zeros((10, 1)), cost=0.1).take([0, 1])
    found = rows.answering if of == "answering" else rows.without(["told"])
    assert found.exit_names == ("a", "b")
