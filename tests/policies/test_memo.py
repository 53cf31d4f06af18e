from __future__ import annotations

import gc
import weakref

from made_traces import parts, trace

import exeunt as ex
from exeunt.policies.catalogue import PRESETS
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
        fit, calibrate, _ = parts(300)
        policies[name] = make(fit, calibrate, budget="60%")
        gone[name] = [weakref.ref(fit), weakref.ref(calibrate)]
    del fit, calibrate
    gc.collect()
    assert [name for name, refs in gone.items() if any(ref() is not None for ref in refs)] == []
    assert all(isinstance(policy, ex.Policy) for policy in policies.values())
