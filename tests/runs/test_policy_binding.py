"""A policy answers for the run that it was calibrated for, and for no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

import exeunt as ex
from exeunt.runs import runner
from exeunt.runs.folder import RunFolder
from made_runs import made_run


@pytest.fixture
def here(tmp_path) -> RunFolder:
    return made_run(tmp_path / "here", 0)


@pytest.fixture
def other(tmp_path) -> RunFolder:
    """A run of the same exits and costs, with other weights and other inputs."""
    return made_run(tmp_path / "other", 1)


def calibrated(run: RunFolder, budget: str = "60%", **options) -> ex.Policy:
    return ex.eero(run.trace("fit"), run.trace("calibrate"), budget=budget, **options)


SAVED = {
    "policy.json": lambda run: run.save_policy(calibrated(run)),
    "policies.json": lambda run: run.save_policy_set(
        ex.PolicySet((calibrated(run, "50%"), calibrated(run, "70%")))
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_policy_is_moved_with_its_run_and_that_of_another_is_refused(here, other, tmp_path, name):
    SAVED[name](other)
    moved = RunFolder.open(shutil.copytree(other.path, tmp_path / "moved"))
    assert moved.policies == other.policies
    shutil.copy(other.path / name, here.path)
    with pytest.raises(ex.ArtefactError, match=rf"{name} was calibrated for another.*exeunt calibrate"):
        _ = here.policies


def test_a_policy_cannot_be_rebound_by_saving_it_in_another_run(here, other):
    other.save_policy(calibrated(other))
    with pytest.raises(ex.ArtefactError, match="another network"):
        here.save_policy(other.policy)
    with pytest.raises(ex.ArtefactError, match="another network"):
        here.save_policy_set(ex.PolicySet((other.policy,)))
    assert not here.has_policy


def test_a_policy_made_from_traces_has_no_run_nor_has_its_file(here, tmp_path):
    policy = calibrated(here)
    policy.save(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["policy"].get("run") is None
    assert ex.Policy.load(tmp_path / "p.json") == policy
    assert policy.run is None
    assert ex.evaluate(policy, here.trace("test")).n == here.trace("test").n


def test_a_file_that_names_no_run_is_replayed(here, other):
    """As `Policy.save` in Python writes it."""
    policy = calibrated(here)
    for name, made in (("policy.json", policy), ("policies.json", ex.PolicySet((policy,)))):
        for run in (here, other):
            made.save(run.path / name)
        assert here.policy == policy
        with pytest.raises(ex.ArtefactError, match=r"does not say.*exeunt calibrate \S+ --budget 60%"):
            _ = other.policy


def test_a_file_that_names_no_run_and_cannot_be_replayed_is_refused(here):
    """Early versions kept no counts in marginal calibration; a certificate of a loss has half of the inputs."""
    for policy in (
        replace(calibrated(here, calibration="marginal"), counts=None),
        ex.cheapest(here.trace("fit"), here.trace("calibrate"), max_loss=0.9, budget="100%", policy="eero"),
    ):
        policy.save(here.path / "policy.json")
        with pytest.raises(ex.ArtefactError, match="does not say for which run"):
            _ = here.policy
        here.save_policy(policy)
        assert here.policy.run == here.digest


class _Executor:
    """Answers nothing: `load` refuses before."""

    n_exits, segments, name, restarts = 3, ((0, 0), (1, 1), (2, 2)), "none", ()
    border, mask_scale = 1e-5, 1


def test_load_refuses_a_policy_of_another_run_and_takes_one_of_traces(here, other, monkeypatch):
    monkeypatch.setattr(runner, "chosen_executor", lambda *_: "none")
    monkeypatch.setattr(runner, "open_executor", lambda *_, **__: _Executor())
    monkeypatch.setattr(runner, "executor_device", lambda _: "cpu")
    other.save_policy(calibrated(other))
    shutil.copy(other.path / "policy.json", here.path)
    for options in ({}, {"policy": other.policy}):
        with pytest.raises(ex.ArtefactError, match="calibrated for another"):
            runner.load(here.path, **options)
    assert runner.load(here.path, policy=calibrated(here)).policy == calibrated(here)
    dearer = here.trace("fit").with_cost(ex.CostModel([1.0, 2.0, 4.0]))
    foreign = ex.eero(dearer, here.trace("calibrate").with_cost(dearer.cost), budget="60%")
    with pytest.raises(ex.ArtefactError, match="the policy was calibrated for another"):
        runner.load(here.path, policy=foreign)
    in_ms = [here.trace(part).with_cost(ex.CostModel([1, 2, 4], unit="ms")) for part in ("fit", "calibrate")]
    assert runner.load(here.path, policy=ex.eero(*in_ms, budget="60%")).policy.cost.unit == "ms"
