"""The policies of a run by their budgets, for those who change the budget while they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exeunt.errors import InputError
from exeunt.policy import Policy, PolicySet

if TYPE_CHECKING:
    from exeunt.run.folder import RunFolder

__all__ = ["name_at", "named_by_budget", "policies_in"]


def policies_in(file: Path, run: RunFolder) -> PolicySet:
    """Return the policies of a file.

    Raises InputError if there is none, ArtefactError if one was calibrated for another run than this.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}: policies are what `exeunt calibrate --budgets` writes")
    policies = PolicySet.load(file)
    for policy in policies:
        run.check_policy(policy, str(file))
    return policies


def named_by_budget(policies: Iterable[Policy]) -> dict[str, Policy]:
    """Name policies by their budgets, as "45%", in their order."""
    return {f"{100 * policy.cost.share(policy.budget):.6g}%": policy for policy in policies}


def name_at(policies: Mapping[str, Policy], budget: float | str) -> str:
    """Return the name of the policy of the largest budget that is not above this one.

    Raises InfeasibleBudget below the smallest, InputError for what is no budget.
    """
    found = PolicySet(tuple(policies.values())).at(budget)
    return next(name for name, policy in policies.items() if policy.budget == found.budget)
