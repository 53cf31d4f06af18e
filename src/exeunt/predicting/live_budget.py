"""Which policy a block is answered under: the run's own, or that of the budget which a watched file says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from exeunt.errors import ExeuntError, InputError
from exeunt.policy import Policy
from exeunt.run.folder import RunFolder
from exeunt.run.live_file import LiveFile
from exeunt.run.policies_by_budget import name_at, named_by_budget, policies_in

__all__ = ["LiveBudget"]


class LiveBudget:
    """The policies of a job, by name, and which of them is active.

    `policies`: a file of them, by default the run folder's. `live_file`: says the budget, as `exeunt serve` writes it;
    the largest is active until it does. Without it, the run's policy is. `say`: told of changes.

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
        self.policies: dict[str, Policy]
        if live_file is None:
            self.policies = {"": run.policy}
        else:
            found = run.policy_set if policies is None else policies_in(policies, run)
            self.policies = named_by_budget(found)
        self._name = next(reversed(self.policies))
        if self._live is not None:
            self._name = self._in_file()

    @property
    def is_watched(self) -> bool:
        """Whether a file says which policy is active, so that inputs may be answered under several."""
        return self._live is not None

    @property
    def name(self) -> str:
        """The active policy. A file that cannot be used is told, and changes nothing."""
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
        """The policy that was active when it was last asked for."""
        return self.policies[self._name]

    def _in_file(self) -> str:
        budget = None if self._live is None else self._live.read().budget
        if budget is None:
            return next(reversed(self.policies))
        return name_at(self.policies, budget)
