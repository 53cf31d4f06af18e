"""One network, or one cascade, opened for several policies: answers are those of each policy's own replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from digits_run import Brightness
from exeunt.data import open_inputs
from exeunt.engine.engine import Engine
from exeunt.jobs.cascade_run import make_cascade
from exeunt.runs.runner import load, open_shared
from exeunt.trace.cascade_step import CascadeStep


def calibrated(run, steps, budget):
    made = ex.eero(*(run.recorded(part).along(steps) for part in ("fit", "calibrate")), budget=budget)
    return replace(made, cascade=tuple(steps))


def answered(run, policies, names):
    """Answer 120 inputs under policies in turn, and check each against its replay. Returns the shared executor."""
    data = open_inputs("sklearn:digits")
    keys = data.content_keys(range(120))
    shared = open_shared(run, policies)
    engine = Engine(shared.executor, policies, shared.plan, exits=shared.exits)
    runner = load(run, policy=policies[names[0]])
    parts = zip(np.array_split(np.arange(120), 2 * len(names)), 2 * names, strict=True)
    tickets = []
    for rows, name in parts:
        inputs = runner.prepare([data.content(i) for i in rows])
        tickets.append((engine.submit(inputs, policy=name, id=keys[rows]), name, rows))
    engine.drain()
    trace = run.recorded("test")
    for ticket, name, rows in tickets:
        policy, answers = policies[name], ticket.answers
        along = trace.along(policy.cascade) if policy.cascade else trace
        at = [int(np.flatnonzero(along.id == key)[0]) for key in keys[rows]]
        sure = ~answers.borderline
        exits = policy.route(along)[at]
        np.testing.assert_array_equal(answers.exit[sure], np.array(shared.exits[name])[exits][sure])
        np.testing.assert_array_equal(answers.label[sure], along.prediction[at, exits][sure])
        np.testing.assert_array_equal(answers.cost[sure], policy.cost.cumulative[exits][sure])
    return shared


def test_policies_of_a_network_share_its_exits(exported):
    parts = [exported.recorded(part) for part in ("fit", "calibrate")]
    policies = {budget: ex.eero(*parts, budget=budget) for budget in ("55%", "90%")}
    shared = answered(exported, policies, list(policies))
    assert shared.places == tuple(range(exported.cost.n_exits))
    assert set(map(tuple, shared.exits.values())) == {shared.places}


def test_policies_of_a_cascade_skip_models_and_use_other_exits(exported, tmp_path):
    models, price = {"mine": Brightness(), "large": exported}, {"mine": 0.1 * exported.cost.first}
    cascade = make_cascade(tmp_path / "run", models, price=price, say=lambda _: None)
    cascade = replace(cascade, objects={"mine": Brightness()})
    last = exported.cost.n_exits - 1
    mine = CascadeStep("mine", 1)
    policies = {
        "all": calibrated(cascade, [entry.step for entry in cascade.cascade], "60%"),
        "large alone": calibrated(cascade, [CascadeStep("large", (0, last))], "80%"),
        "ends": calibrated(cascade, [mine, CascadeStep("large", (last,))], "70%"),
    }
    shared = answered(cascade, policies, list(policies))
    assert shared.places == tuple(range(1 + exported.cost.n_exits))
    assert shared.exits["large alone"] == [1, 1 + last]
    fewer = answered(cascade, {"ends": policies["ends"]}, ["ends"])
    assert fewer.places == (0, 1 + last)
    assert fewer.executor.n_exits == 2
    turned = calibrated(cascade, [CascadeStep("large", (0,)), mine], "48%")
    with pytest.raises(ex.InputError, match="must ask their models in one order"):
        open_shared(cascade, {"all": policies["all"], "turned": turned})
