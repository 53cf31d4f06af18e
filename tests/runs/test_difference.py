"""What differs between two runs or two policies, and what they answer."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from exeunt.jobs.difference import Difference, Side, compare_answers, differences, open_sides
from exeunt.runs.folder import RunFolder
from made_runs import ABOUT, made_run, made_trace


def policy_of(run: RunFolder, budget: str = "60%", **options) -> ex.Policy:
    return ex.eero(run.trace("fit"), run.trace("calibrate"), budget=budget, **options)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    made = made_run(tmp_path / "a")
    made.save_policy_set(ex.PolicySet(tuple(policy_of(made, budget) for budget in ("50%", "70%", "90%"))))
    return made


def differing(first: Side, second: Side) -> dict[str, list[Difference]]:
    return {subject: found for subject, found in differences(first, second).items() if found}


def test_a_run_does_not_differ_from_its_copy(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    first, second = open_sides(str(run.path), str(copy))
    assert not differing(first, second)
    answers = compare_answers(first, second)
    assert (answers.n, answers.answered_differently, answers.left_elsewhere) == (24, 0, 0)
    assert answers.results[0].to_dict() == answers.results[1].to_dict()


CHANGES = {
    "network": ("model", {"spec": "mine:net"}, Difference("spec", "torchvision:resnet18", "mine:net")),
    "heads": ("network", {"head": "paper"}, Difference("head", "grid", "paper")),
    "recipe": ("training", {"epochs": 3}, Difference("epochs", "-", "3")),
    "data": ("data", {"fingerprint": "1"}, Difference("fingerprint", "0", "1")),
    "inputs": ("inputs", {"mean": 0.25}, Difference("mean", "-", "0.25")),
    "versions": ("provenance", {"python": "2.7"}, None),
}  # fmt: skip


@pytest.mark.parametrize("subject", CHANGES)
def test_what_was_made_otherwise_is_named_and_nothing_else(subject, run):
    entry, change, expected = CHANGES[subject]
    other = RunFolder(run.path, {**run.manifest, entry: {**run.manifest[entry], **change}})
    (found,) = differing(Side("a", run, None), Side("b", other, None)).items()
    assert found[0] == subject
    (one,) = found[1]
    assert one.second == "2.7" if expected is None else one == expected


def test_exits_classes_costs_and_digests_are_told_one_by_one(run, tmp_path):
    other = made_run(tmp_path / "b", 1)
    (other.path / "costs.json").unlink()
    network = {**ABOUT["network"], "exits": ["layer1"]}
    about = {**ABOUT, "network": network, "class_names": ["ant", "bee", "cow", "emu"]}
    trace = made_trace(1).exits(0, 2).with_cost(ex.CostModel([1.0, 2.5], unit="ms"))
    parts = dict(zip(("fit", "calibrate", "test"), trace.split(), strict=True))
    other = RunFolder.create(other.path, cost=trace.cost, traces=parts, about=about)
    found = differing(Side("a", run, None), Side("b", other, None))
    assert [one[:3] for one in found["network"]][:2] == [
        ("exit 1", "layer2", "(own classifier)"),
        ("exit 2", "(own classifier)", "-"),
    ]
    assert found["network"][2].what == "weights"
    assert found["inputs"] == [Difference("class 3", "dog", "emu")]
    assert Difference("exit 1", "2", "2.5") in found["costs"]
    assert Difference("unit", "MACs", "ms") in found["costs"]
    assert set(found) == {"network", "inputs", "costs"}


def test_policies_of_a_run_by_budget_and_by_file(run, tmp_path):
    file = tmp_path / "kept.json"
    replace(policy_of(run, "70%", delta=0.3), run=run.digest).save(file)
    first, second = open_sides(f"{run.path}@50%", str(file))
    assert (first.run.path, second.run.path) == (run.path, run.path)
    found = differing(first, second)
    assert set(found) == {"policy"}
    told = {one.what: (one.first, one.second) for one in found["policy"]}
    assert told["budget"] == ("1.75 MACs (50.0%)", "2.45 MACs (70.0%)")
    assert told["budget kept with probability"] == ("-", "0.7")
    assert told["exit 0"][0].startswith(f"{first.policy.rates[0]:.1%} planned, score >= ")
    assert not {"rule", "score", "calibration", "details"} & set(told)
    run.save_policy(policy_of(run))
    same = open_sides(str(run.path / "policy.json"), str(run.path))
    assert not differing(*same)


def test_what_only_the_details_tell_apart(run):
    policy = run.policy
    other = replace(policy, notes={"by": {"text": "hand"}})
    (one,) = differing(Side("a", run, policy), Side("b", run, other))["policy"]
    assert one.what == "details"


def test_answers_are_those_of_a_replay_on_the_common_inputs(run, tmp_path):
    """An oracle by loops, with half of the inputs in common, in another order."""
    trace = run.trace("test")
    order, outputs = np.random.default_rng(5).permutation(trace.n)[:12], made_trace(7, 12)
    common = replace(outputs, label=trace.label[order], id=trace.id[order])
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"x")
    parts = {"fit": made_trace(8), "calibrate": made_trace(9), "test": common}
    other = RunFolder.create(folder, cost=common.cost, traces=parts, about=ABOUT)
    policy = policy_of(run)
    found = compare_answers(Side("a", run, policy), Side("b", other, None))
    exits = policy.route(trace)
    different, elsewhere, right, spent = 0, 0, 0, 0.0
    for i, row in enumerate(order):
        mine, theirs = trace.prediction[row, exits[row]], common.prediction[i, 2]
        different += mine != theirs
        elsewhere += exits[row] != 2
        right += mine == trace.label[row]
        spent += trace.cost.cumulative[exits[row]]
    first, second = found.results
    assert (found.n, found.answered_differently, found.left_elsewhere) == (12, different / 12, elsewhere / 12)
    assert (first.accuracy, first.cost) == (right / 12, pytest.approx(spent / 12))
    assert second.cost == common.cost.full
    assert 0 < different < 12


def test_pooled_answers_are_compared_as_they_are_given(run):
    policies = [policy_of(run, answer=answer) for answer in ("own", "ensemble")]
    sides = [Side(policy.answer.name, run, policy) for policy in policies]
    found, test = compare_answers(*sides), run.trace("test")
    assert [one.accuracy for one in found.results] == [
        ex.evaluate(policy, test).accuracy for policy in policies
    ]
    own, ensemble = (policy.answers(test) for policy in policies)
    assert found.answered_differently == (own != ensemble).mean() > 0
    assert "answer" in {one.what for one in differing(*sides)["policy"]}


def test_classes_are_compared_by_name(run):
    names = run.manifest["class_names"]
    renamed = RunFolder(run.path, {**run.manifest, "class_names": names[1:] + names[:1]})
    found = compare_answers(Side("a", run, run.policy), Side("b", renamed, run.policy))
    assert (found.answered_differently, found.left_elsewhere) == (1.0, 0.0)


def test_runs_without_common_inputs_have_no_answers_to_compare(run, tmp_path):
    other = made_run(tmp_path / "b", 3)
    found = compare_answers(*open_sides(str(run.path), str(other.path)))
    assert (found.n, found.results) == (0, None)


def test_what_is_no_side_is_refused(run, tmp_path):
    lone, foreign, other = tmp_path / "lone.json", tmp_path / "foreign.json", made_run(tmp_path / "b", 3)
    policy_of(run).save(lone)
    replace(policy_of(other), run=other.digest).save(foreign)
    for first, second, error, told in (
        (lone, lone, ex.InputError, "lies in no run"),
        (run.path, tmp_path / "nowhere", ex.InputError, "does not exist"),
        (f"{run.path}@40%", run.path, ex.InfeasibleBudget, "smallest budget of this set"),
        (run.path, foreign, ex.ArtefactError, r"foreign\.json was calibrated for another"),
    ):
        with pytest.raises(error, match=told):
            open_sides(str(first), str(second))
