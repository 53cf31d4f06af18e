"""Opening real runs to serve them: the answers are those of a runner for each policy, whatever the others use."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt.data import open_inputs
from exeunt.jobs.cascade_run import make_cascade
from exeunt.jobs.predict import predict_inputs
from exeunt.policy import PolicySet
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import load

pytest.importorskip("fastapi")

from exeunt.serve.image_decoding import MayTakeLong
from exeunt.serve.loaded_run import load_run
from exeunt.serve.prediction import answers_of
from exeunt.serve.settings import Settings

DATA = open_inputs("sklearn:digits")


def both(cascade, budget):
    """A policy that asks both models: `ex.cascade` would see that one is a copy of the other."""
    steps = tuple(entry.step for entry in cascade.cascade)
    fit, calibrate = (cascade.recorded(part).along(steps) for part in ("fit", "calibrate"))
    return replace(ex.eero(fit, calibrate, budget=budget), cascade=steps)


@pytest.fixture(scope="module")
def cascade(trained, exported, tmp_path_factory):
    folder, models = tmp_path_factory.mktemp("cascade") / "run", {"small": exported, "large": trained}
    made = make_cascade(folder, models, say=lambda _: None)
    alone = ex.cascade(*(made.recorded(part) for part in ("fit", "calibrate")), budget="60%")
    assert len(alone.models) == 1  # the other is skipped
    made.save_policy_set(PolicySet((alone, both(made, "110%"), both(made, "130%"))))
    return made


def ticket_of(opened, rows, policy):
    ticket = opened.engine.submit(rows.inputs, 0.0, policy=policy, id=rows.keys)
    while opened.engine.rows:
        opened.engine.step(0.0, force=True)
    return ticket


def answered_alike(run, policy, opened, images, rows, name):
    """Check that rows get the answers of a runner; return both, and which are no borderline cases."""
    runner = load(run, policy=policy)
    wanted, found = runner(runner.prepare(images), id=rows.keys), ticket_of(opened, rows, name).answers
    sure = ~(wanted.borderline | found.borderline)
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(found.label[sure], wanted.label[sure])
    np.testing.assert_allclose(found.cost[sure], wanted.cost[sure])
    return wanted, found, sure


def same_as_a_runner(run, opened):
    images = [DATA.content(i) for i in range(100)]
    rows = opened.reader.images(images)
    assert rows.errors == [None] * 100
    np.testing.assert_array_equal(rows.keys, DATA.content_keys(range(100)))
    at_once = opened.reader.pixels(np.stack(images))
    assert at_once.errors == rows.errors
    for name in ("inputs", "keys", "places"):
        np.testing.assert_array_equal(getattr(at_once, name), getattr(rows, name))
    with pytest.raises(MayTakeLong):
        opened.reader.for_little.pixels(np.stack(images))
    for (name, policy), own in zip(opened.policies.items(), run.policy_set, strict=True):
        assert policy == own
        wanted, found, sure = answered_alike(run, own, opened, images, rows, name)
        places = np.array(opened.shared.places)[found.exit]
        np.testing.assert_array_equal(places[sure], np.array(opened.places(name))[wanted.exit[sure]])


def test_a_cascade_whose_policies_ask_different_models(cascade):
    opened = load_run(Settings(run=cascade.path))
    same_as_a_runner(cascade, opened)
    assert opened.exit_names == [*cascade.manifest["network"]["exits"], "large: last exit"]
    alone, *others = opened.policies
    models = [{place // 3 for place in opened.places(name)} for name in opened.policies]
    assert [len(one) for one in models] == [1, 2, 2]
    for name in opened.policies:
        reach = opened.reach(name)
        policy = opened.policies[name]
        assert len(reach) == len(opened.shared.executor.segments) == len(opened.seconds[1])
        shares = policy.counts / policy.counts.sum()
        for (first, last), share in zip(opened.shared.executor.segments, reach, strict=True):
            exits = opened.shared.exits[name]
            if any(first <= exit_ <= last for exit_ in exits):
                assert share == pytest.approx(sum(shares[own] for own, e in enumerate(exits) if e >= first))
    reached = {name: np.count_nonzero(opened.reach(name)) for name in opened.policies}
    assert reached[alone] < min(reached[name] for name in others)
    assert opened.at("115%") == list(opened.policies)[1]
    fit = cascade.recorded("fit")
    for name, policy in opened.policies.items():
        assert opened.accuracy[name] == ex.evaluate(policy, fit.along(policy.cascade)).accuracy


def test_predict_and_serve_number_exits_alike(cascade, tmp_path):
    """Those of all models in a row, although the policy asks the second model alone."""
    steps = (cascade.cascade[1].step,)
    fit, calibrate = (cascade.recorded(part).along(steps) for part in ("fit", "calibrate"))
    policy = replace(ex.eero(fit, calibrate, budget="80%"), cascade=steps)
    run = RunFolder.open(shutil.copytree(cascade.path, cascade.path.with_name("second")))
    run.save_policy(policy)
    predict_inputs(run, DATA, tmp_path / "answers.parquet", say=lambda _: None)
    written = pq.read_table(tmp_path / "answers.parquet").slice(0, 100)
    opened = load_run(Settings(run=run.path))
    rows = opened.reader.images([DATA.content(i) for i in range(100)])
    (name,) = opened.policies
    ticket = ticket_of(opened, rows, name)
    told = answers_of(rows, [(rows.places, ticket)], opened.class_names, opened.shared.places)
    columns = ("exit", "label", "borderline")
    served = {column: np.array([getattr(one, column) for one in told]) for column in columns}
    sure = ~(served["borderline"] | np.array(written["borderline"].to_pylist()))
    first = cascade.cascade[0].n_exits
    assert len(set(served["exit"].tolist())) > 1
    assert served["exit"].min() >= first
    for column in ("exit", "label"):
        np.testing.assert_array_equal(np.array(written[column])[sure], served[column][sure])
    cost = policy.cost.cumulative[np.array(written["exit"]) - first]
    np.testing.assert_allclose(np.array(written["cost"]), cost)


def test_images_of_other_sizes_are_brought_to_one_before_they_wait(cascade):
    images = [np.kron(DATA.content(i), np.ones((1 + i % 3, 2, 1), dtype=np.uint8)) for i in range(60)]
    assert len({image.shape for image in images}) == 3
    opened = load_run(Settings(run=cascade.path))
    rows = opened.reader.images(images)
    assert (rows.inputs.shape, rows.inputs.dtype) == ((60, 8, 8, 3), np.uint8)
    name = list(opened.policies)[-1]
    answered_alike(cascade, opened.policies[name], opened, images, rows, name)


def test_an_exported_run_and_the_same_in_pytorch(exported, trained):
    fit, calibrate = (exported.trace(part) for part in ("fit", "calibrate"))
    for run in (exported, trained):
        run.save_policy_set(PolicySet.make(ex.eero, fit, calibrate, budgets=["60%", "80%"]))
        opened = load_run(Settings(run=run.path, budget="70%", tiers={"most": "80%"}))
        same_as_a_runner(run, opened)
        assert opened.reader.size == (8, 8)
        assert (min(opened.seconds), max(opened.seconds)) == (1, 64)
        assert all((seconds > 0).all() for seconds in opened.seconds.values())
    exported.save_policy(ex.eero(fit, calibrate, budget="60%"))
    assert list(load_run(Settings(run=exported.path)).policies) == ["60%"]  # its one policy
    with pytest.raises(ex.InfeasibleBudget, match="smallest budget"):
        load_run(Settings(run=exported.path, budget="30%"))
