"""Budgets as people write them: what is likely a slip is refused or remarked upon."""

from __future__ import annotations

import pytest

import exeunt as ex

pytest.importorskip("typer")

from exeunt.cli.calibrate import _check_budget

MACS = ex.CostModel([1e6, 2e6, 4e6])
MS = ex.CostModel([0.25, 2.0], unit="ms")


@pytest.mark.parametrize(
    ("costs", "budget", "share"),
    [(MACS, "50", "50%"), (MACS, "0.5", "50%"), (MACS, "1", "100%"), (MS, "0.5", "50%"), (MS, "0.1", "10%")],
)
def test_a_bare_number_that_must_be_a_share_is_refused_with_the_share(costs, budget, share):
    with pytest.raises(
        ex.InputError, match=rf"write {share} for a share.* or {budget}(MACs|ms) for a quantity"
    ):
        _check_budget(costs, budget)


@pytest.mark.parametrize("budget", ["100%", "250%", "4 MMACs", "9000000"])
def test_a_budget_that_saves_nothing_is_remarked_upon(capsys, budget):
    _check_budget(MACS, budget)
    assert f"note: a budget of {budget} is all that the full network costs" in capsys.readouterr().err


@pytest.mark.parametrize(("costs", "budget"), [(MACS, "50%"), (MACS, "3000000"), (MS, "0.5ms"), (MS, "1.5")])
def test_other_budgets_pass_in_silence(capsys, costs, budget):
    _check_budget(costs, budget)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("budget", ["-5", "0", "101", "999999"])
def test_bare_numbers_that_are_no_share_either_are_told_as_quantities(budget):
    with pytest.raises(ex.InfeasibleBudget, match="below the cheapest exit"):
        _check_budget(MACS, budget)
