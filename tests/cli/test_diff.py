"""`exeunt diff`: a table of what differs, a word on what does not, and the answers."""

from __future__ import annotations

import exeunt as ex
from made_runs import made_run

from .command import printed


def diff(*arguments: object) -> list[list[str]]:
    return [line.split() for line in printed("diff", *arguments).splitlines()]


def test_what_differs_what_does_not_and_the_answers(tmp_path):
    run = made_run(tmp_path / "run")
    made = [ex.eero(run.trace("fit"), run.trace("calibrate"), budget=budget) for budget in ("50%", "70%")]
    run.save_policy_set(ex.PolicySet(tuple(made)))
    lines = diff(f"{run.path}@50%", f"{run.path}@70%")
    assert ["policy:", "budget", "1.75", "MACs", "(50.0%)", "2.45", "MACs", "(70.0%)"] in lines
    assert "the same: network, heads, inputs, recipe, data, costs, versions" in map(" ".join, lines)
    results = [ex.evaluate(policy, run.trace("test")) for policy in made]
    for share, result in zip(("50%", "70%"), results, strict=True):
        told = [f"{run.path}@{share}", f"{result.accuracy:.2%}", f"{result.cost:.4g}", "MACs"]
        assert [*told, f"{result.cost / 3.5:.1%}"] in lines
    elsewhere = (results[0].exits != results[1].exits).mean()
    assert any(line[-4:] == [f"{elsewhere:.2%}", "at", "another", "exit"] for line in lines)


def test_equal_and_strange_runs(tmp_path):
    run, other = made_run(tmp_path / "run"), made_run(tmp_path / "other", 3)
    lines = diff(run.path, run.path)
    assert " ".join(lines[0]) == "the same: network, heads, inputs, recipe, data, costs, policy, versions"
    assert [str(run.path), "(full", "network:", "no", "policy)"] == lines[-1][:5]
    assert diff(run.path, other.path)[-1][:5] == ["no", "test", "input", "is", "recorded"]
