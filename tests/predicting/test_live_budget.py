"""A job whose budget changes while it runs: each part is answered under what the file says as the part is begun."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt.data import open_inputs
from exeunt.policy import PolicySet
from exeunt.predicting import answering, predict_inputs
from exeunt.run.live_file import LiveFile
from exeunt.run.runner import load

FACTORY = "exeunt.zoo:digits"


@pytest.fixture
def policies(run, tmp_path):
    made = PolicySet.make(ex.eero, run.trace("fit"), run.trace("calibrate"), budgets=["50%", "60%", "90%"])
    run.save_policy_set(made)
    made.save(tmp_path / "policies.json")
    return run.policy_set


def test_each_part_is_answered_under_the_budget_of_its_time(run, policies, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "BLOCK", 128)
    live, said, out = LiveFile(tmp_path / "live.json"), [], tmp_path / "out.parquet"
    live.set_budget("55%")

    def change(text: str) -> None:
        said.append(text)
        if "inputs done" in text:
            live.set_budget("95%")

    inputs = open_inputs("sklearn:digits")
    # A part is begun before the one before it is answered, as long as rows may wait: here they may not.
    monkeypatch.setattr("exeunt.predicting.blocks._POOLS", 1)
    found = predict_inputs(run, inputs, out, live_file=live.path, trusted=FACTORY, say=change)
    rows = pq.read_table(out).to_pydict()
    low, high = policies.at("55%"), policies.at("95%")
    budgets = np.array(rows["budget"])
    assert budgets[0] == low.budget
    assert budgets[-1] == high.budget
    assert set(budgets) == {low.budget, high.budget}
    assert all(len(set(budgets[start : start + 128])) == 1 for start in range(0, 500, 128))
    assert found.budget == pytest.approx(budgets.mean())
    assert found.spend == pytest.approx(np.mean(rows["cost"]))
    assert [text for text in said if "budget is now" in text] == ["the budget is now 90%"]

    for policy in (low, high):
        mine = np.flatnonzero(budgets == policy.budget)
        chosen = inputs.take(mine)
        runner = load(run, policy=policy, trusted=FACTORY)
        answers = runner(runner.prepare(chosen.stack(np.arange(len(mine)))), id=chosen.content_keys())
        sure = ~answers.borderline
        np.testing.assert_array_equal(np.array(rows["label"])[mine][sure], answers.label[sure])
        np.testing.assert_array_equal(np.array(rows["exit"])[mine][sure], answers.exit[sure])


def test_a_file_that_cannot_be_used_is_told_and_changes_nothing(run, policies, tmp_path):
    from exeunt.predicting.live_budget import LiveBudget

    said, file = [], tmp_path / "live.json"
    live = LiveBudget(run, tmp_path / "policies.json", file, said.append)
    assert live.name == "90%"  # nobody has said anything
    for text, word in [
        ("{", "not complete JSON"),
        ('{"budget": "1%"}', "smallest budget"),
        ('{"x": 1}', "budget"),
    ]:
        file.write_text(text)
        assert live.name == "90%"
        assert "the budget stays 90%: " in said[-1]
        assert word in said[-1]
    file.write_text('{"budget": "60%"}')
    assert (live.name, live.policy.budget) == ("60%", policies.at("60%").budget)
    assert said[-1] == "the budget is now 60%"
    n = len(said)
    assert live.name == "60%"
    assert len(said) == n


def test_policies_alone_do_not_say_which(run, policies, tmp_path):
    inputs = open_inputs("sklearn:digits")
    with pytest.raises(ex.InputError, match="name a --live-file that says which"):
        predict_inputs(run, inputs, tmp_path / "o.parquet", policies=tmp_path / "policies.json")
    (tmp_path / "live.json").write_text('{"budget": "1%"}')
    with pytest.raises(ex.InputError, match="smallest budget"):
        predict_inputs(run, inputs, tmp_path / "o.parquet", live_file=tmp_path / "live.json")


def test_without_policies_of_several_budgets_there_is_no_live_budget(run, tmp_path):
    with pytest.raises(ex.InputError, match="no policies for several budgets yet"):
        predict_inputs(
            run, open_inputs("sklearn:digits"), tmp_path / "o.csv", live_file=tmp_path / "live.json"
        )
