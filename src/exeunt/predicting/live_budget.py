"""Which policy a block is answered under: the run's own, or that of the budget which a watched file says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exeunt.errors import ExeuntError, InputError
from exeunt.policy import PolicySet
from exeunt.run.live_file import LiveFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exeunt.policy import Policy
    from exeunt.run.folder import RunFolder

__all__ = ["LiveBudget"]


class LiveBudget:
    """The policies of a job, by name, and which of them is in force.

    `policies`: a file of them, by default the run folder's. `live_file`: says the budget, as `exeunt serve` writes it;
    the largest is in force until it does. Without it, the run's policy is. `say`: told of changes.

    Raises InputError if there are no policies or a budget is below all of them, ArtefactError for those of another run.
    """

    def __init__(
        self, run: RunFolder, policies: Path | None, live_file: Path | None, say: Callable[[str], None]
    ) -> None:
        if policies is not None and live_file is None:
            raise InputError(
                f"{policies} holds policies of several budgets: name a --live-file that says which"
            )
        self._live = None if live_file is None else LiveFile(live_file)
        self._say = say
        self.policies: dict[str, Policy] = {"": run.policy} if live_file is None else _named(run, policies)
        self._name = next(reversed(self.policies))
        if self._live is not None:
            self._name = self._in_file()

    @property
    def name(self) -> str:
        """The policy in force. A file that cannot be used is told, and changes nothing."""
        if self._live is not None and self._live.changed():
            try:
                name = self._in_file()
            except ExeuntError as error:
                self._say(f"the budget stays {self._name}: {error}")
            else:
                if name != self._name:
                    self._say(f"the budget is now {name}")
                self._name = name
        return self._name

    @property
    def policy(self) -> Policy:
        """The policy that was in force when it was last asked for."""
        return self.policies[self._name]

    def _in_file(self) -> str:
        budget = None if self._live is None else self._live.read().budget
        if budget is None:
            return next(reversed(self.policies))
        found = PolicySet(tuple(self.policies.values())).at(budget)
        return next(name for name, policy in self.policies.items() if policy.budget == found.budget)


def _named(run: RunFolder, file: Path | None) -> dict[str, Policy]:
    """Return the policies of a file, or of the run folder, by their budgets such as "45%", the largest last."""
    if file is None:
        found = run.policy_set
    else:
        found = PolicySet.load(file)
        for policy in found:
            run.check_policy(policy, str(file))
    return {f"{100 * policy.cost.share(policy.budget):.6g}%": policy for policy in found}
