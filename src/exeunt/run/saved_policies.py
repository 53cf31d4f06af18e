"""Saved policies: the run that each was calibrated for, elsewhere it means nothing; and their names by budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from exeunt.errors import ArtefactError
from exeunt.policy import Policy, PolicySet

if TYPE_CHECKING:
    from exeunt.costs import CostModel
    from exeunt.trace import CascadeTrace, ExitTrace


def check_made_for(policy: Policy, name: str, *, run: Path, digest: str, cost: CostModel | None) -> None:
    """Raise ArtefactError, starting with `name`, unless a policy was made for the run of this digest.

    One that names no run was made from traces alone: it must have this run's exits, and its costs if they are in the
    same unit. `cost`: of the exits that the policy runs; None if it cannot be a policy of this run.
    """
    if policy.run is None and cost is not None:
        same_costs = policy.cost.unit != cost.unit or policy.cost == cost
        if same_costs and policy.cost.n_exits == cost.n_exits:
            return
    elif policy.run == digest:
        return
    raise ArtefactError(
        f"{name} was calibrated for another network than that of {run}, where its thresholds and guarantees mean "
        f"nothing: {_calibrate_again(policy, run)}"
    )


def check_replayed(policy: Policy, file: Path, *, run: Path, calibrate: ExitTrace | CascadeTrace) -> None:
    """Raise ArtefactError unless each exit answers as many of the calibration inputs as the policy counted."""
    if not policy.was_calibrated_on(calibrate):
        raise ArtefactError(
            f"{file} does not say for which run it was calibrated, and replaying it on the calibration inputs of "
            f"{run} does not show that it was this one: {_calibrate_again(policy, run)}"
        )


def named_by_budget(policies: Iterable[Policy]) -> dict[str, Policy]:
    """Name policies by their budgets, as "45%", in their order."""
    return {f"{100 * policy.cost.share(policy.budget):.6g}%": policy for policy in policies}


def name_at(policies: Mapping[str, Policy], budget: float | str) -> str:
    """Return the name of the policy of the largest budget that is not above this one.

    Raises InfeasibleBudget below the smallest, InputError for what is no budget.
    """
    found = PolicySet(tuple(policies.values())).at(budget)
    return next(name for name, policy in policies.items() if policy.budget == found.budget)


def _calibrate_again(policy: Policy, run: Path) -> str:
    percent = 100 * policy.cost.share(policy.budget)
    return f"run `exeunt calibrate {quote(str(run))} --budget {percent:.4g}%` again"
