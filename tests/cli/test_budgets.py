"""Budgets as people write them: what is likely a slip is refused or remarked upon."""

from __future__ import annotations

import re

import numpy as np
import pytest

import exeunt as ex
from exeunt._support.files import read_json
from exeunt.cli.calibrate import _check_budget, _coinciding
from exeunt.runs.file_digests import EVALUATED
from exeunt.runs.folder import RunFolder
from made_runs import made_run

from .command import called

MACS = ex.CostModel([1e6, 2e6, 4e6])
MS = ex.CostModel([0.25, 2.0], unit="ms")


SHARES = [
    (MACS, "50", "50%"),
    (MACS, "0.5", "50%"),
    (MACS, "1", "100%"),
    (MS, "0.5", "50%"),
    (MS, "0.1", "10%"),
]
AS_SHARES = [(costs, one, rf"write {share} for a share.* or {one}(MACs|ms)") for costs, one, share in SHARES]
TOO_LARGE = [
    (MACS, one, "is too large: the full network costs 4 MMACs") for one in ("1e400", "1e400%", "9e999 MMACs")
]


@pytest.mark.parametrize(("costs", "budget", "told"), AS_SHARES + TOO_LARGE)
def test_a_bare_number_that_must_be_a_share_and_one_beyond_all_are_refused(costs, budget, told):
    with pytest.raises(ex.InputError, match=told):
        _check_budget(costs, budget)


NOTED = [(MACS, budget) for budget in ("100%", "4 MMACs")]
SILENT = [(MACS, "250%"), (MACS, "9000000"), (MACS, "50%"), (MACS, "3000000"), (MS, "0.5ms"), (MS, "1.5")]


@pytest.mark.parametrize(("costs", "budget"), [*NOTED, *SILENT])
def test_a_budget_that_saves_nothing_is_remarked_upon_and_others_pass_in_silence(capsys, costs, budget):
    _check_budget(costs, budget)
    note = f"note: a budget of {budget} is all that the full network costs"
    err = capsys.readouterr().err
    assert err.startswith(note) if (costs, budget) in NOTED else err == ""


def test_budgets_that_coincide_are_told(run):
    """Under `auto` more is not spent than helps, so that large budgets have one policy."""
    options = "--budgets 40%,90%,95%,100% --policy auto --answer own --delta none"
    out = called(f"calibrate {run.path} {options}").out
    kept = {f"{policy.budget / policy.cost.full:.0%}" for policy in run.policy_set}
    others = {"40%", "90%", "95%", "100%"} - kept
    assert others
    told = ", ".join(re.findall("also serves ([^:]*):", out)).split(", ")
    assert sorted(told) == sorted(others)
    assert "serves" not in called(f"calibrate {run.path} --budgets 40%,60% --policy msdnet").out


def test_a_cascade_of_more_models_is_not_taken_for_one_of_fewer():
    """The smallest budget's cascade ends below the larger budgets, and none of its costs are theirs."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 900)

    def model(skill, costs):
        logits = rng.normal(size=(900, len(costs), 3))
        logits[np.arange(900), :, label] += np.array(skill)
        return ex.ExitTrace.from_logits(logits, cost=ex.CostModel(costs), label=label, id=np.arange(900))

    models = ex.CascadeTrace({"small": model([0.5, 1.0], [5, 10]), "large": model([4.0], [100])})
    fit, calibrate, _ = models.split(fit=0.4, calibrate=0.4, test=0.2, seed=0)
    budgets = ["10%", "40%", "70%"]
    policies = ex.cascades(fit, calibrate, budgets=budgets)
    assert [policy.models for policy in policies][:2] == [("small",), ("small", "large")]
    assert [policy.budget for policy in policies] == [10, 40, 70]
    assert _coinciding(policies, budgets) == []


def test_what_was_evaluated_goes_with_its_policy(run):
    calibrate = ("calibrate --policy eero", run.path, "--budget")
    assert called(*calibrate, "60%").status == 0
    assert called("evaluate --no-figures", run.path).status == 0
    (run.path / "figures").mkdir()
    for file in (*EVALUATED[1:], "figures/mine.png"):
        (run.path / file).write_text("drawn")
    assert called(*calibrate, "70%").status == 0
    assert not (run.path / "evaluation.json").exists()
    assert [file.name for file in (run.path / "figures").iterdir()] == ["mine.png"]


def test_the_latest_calibration_counts_and_says_what_it_removed(run):
    calibrate = ("calibrate --policy eero", run.path)
    assert "removed" not in called(*calibrate, "--budget", "60%").out
    called("evaluate", run.path, "--no-figures")
    done = called(*calibrate, "--budgets", "40%,50%,80%")
    assert "removed, because they come from an earlier calibration: policy.json, evaluation.json" in done.out
    assert f"active: the policy for 80%; for another give {run.path}@40% as the run" in done.out
    assert run.policy == run.policy_set.at("80%")
    done = called(*calibrate, "--budget", "70%")
    assert "removed, because they come from an earlier calibration: policies.json" in done.out
    assert run.policy.budget == 0.7 * run.cost.full
    assert not run.has_policy_set


def test_of_several_policies_the_largest_is_active_unless_one_is_named(run):
    calibrate = f"calibrate {run.path} --policy eero"
    assert called(f"{calibrate} --budgets 40%,60%,80%").status == 0
    for path, share in ((run.path, 0.8), (f"{run.path}@60%", 0.6), (f"{run.path}@2.9 MMACs", 0.6)):
        policy = RunFolder.open(path).policy
        assert policy.budget == pytest.approx(share * run.cost.full)
        evaluated = called("evaluate", path, "--no-figures").out
        shown = called("show", path).out
        assert policy.guarantee in evaluated
        assert policy.guarantee in shown
        assert str(policy).splitlines()[0] in shown
        several = share == 0.8
        assert ("the policy for 60%, the largest within" in evaluated) != several
        assert ("policies for several budgets" in evaluated) == several
        assert ("active: the policy for 80%" in shown) == several
        found = read_json(run.path / "evaluation.json")
        assert found["budget"] == policy.budget
        assert ("budgets" in found) == several
    for line, told in (
        (f"evaluate {run.path}@20% --no-figures", "the smallest budget of this set is 1.6 MMACs"),
        (f"calibrate {run.path}@60% --budget 60%", f"calibrate makes all anew: give {run.path}"),
    ):
        done = called(line)
        assert done.status == 2
        assert told in done.err
    called(f"{calibrate} --budget 60%")
    done = called(f"evaluate {run.path}@60%")
    assert done.status == 2
    assert "has no policies for several budgets yet" in done.err


def test_the_least_budgets_that_cannot_be_kept_are_left_out(run):
    """The first exit costs 25%; 26% leaves too little room for a certificate."""
    done = called(f"calibrate {run.path} --budgets 10%,20%,25.01%,50%,80% --policy stopping")
    assert done.status == 0, done.err
    assert "left out, since no policy can keep so little: 10%, 20%, 25.01%" in done.out.splitlines()
    assert [round(policy.budget / run.cost.full, 3) for policy in run.policy_set] == [0.5, 0.8]


def test_a_file_in_place_of_the_figures_does_not_matter(run):
    (run.path / "figures").write_text("no folder")
    assert called("calibrate", run.path, "--budget", "60%", "--policy", "eero").status == 0


EXECUTORS = "choose one of cascade, sklearn, live, onnx, object, eager"
LOSES_NOTHING = "The full network loses nothing, at its full cost: it is what max_loss=0 (--max-loss 0) gives"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        *((f"--budget={budget}", ["below the cheapest exit"]) for budget in ("-5", "0", "101", "999999")),
        ("--budgets 10%,20%", ["is below the cheapest exit"]),
        ("--max-loss 0.01% --policy eero", ["that at most 0.01% is lost", LOSES_NOTHING]),
        ("--budget 60% --answer voted", ["--answer must be own, best, ensemble or auto, got 'voted'"]),
        ("--budget 60% --executor nope", [f"there is no executor 'nope': {EXECUTORS}"]),
    ],
)
def test_what_cannot_be_kept_or_is_not_there_is_refused(run, options, told):
    done = called(f"calibrate {run.path} {options}")
    assert done.status == 2
    assert all(text in done.err for text in told)
    assert not run.has_policy


@pytest.mark.parametrize("asked", ["--budget 60%", "--budgets 60%,80%", "--max-loss 3%"])
@pytest.mark.parametrize("answer", ["own", "ensemble"])
def test_the_answer_is_a_choice(run, asked, answer):
    done = called(f"calibrate {run.path} {asked} --policy eero --answer {answer}")
    assert done.status == 0, done.err
    assert {policy.answer.name for policy in run.policies} == {answer}


def test_the_command_that_a_message_names_can_be_run_as_it_stands(tmp_path):
    folder = tmp_path / "my runs" / "it's"
    folder.parent.mkdir()
    made_run(folder)
    found = re.search(r"run `exeunt (.*)` first", called("evaluate", folder).err)
    assert called(found[1]).status == 0
    assert called("evaluate", folder, "--no-figures").status == 0


def test_a_server_begins_with_the_policy_that_is_named(run, monkeypatch):
    pytest.importorskip("fastapi")
    served = []
    monkeypatch.setattr("exeunt.serve.server.serve", lambda settings, *_, **__: served.append(settings))
    called("calibrate", run.path, "--budgets", "40%,80%", "--policy", "eero")
    for path, options, budget in (
        (run.path, [], None),
        (f"{run.path}@40%", [], "40%"),
        (f"{run.path}@40%", ["--budget", "80%"], "80%"),
    ):
        assert called("serve", path, *options).status == 0
        assert (served[-1].run, served[-1].budget) == (run.path, budget)
