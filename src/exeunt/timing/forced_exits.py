"""A policy that answers where it is told: to time a mix of exits without inputs that bring it about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from exeunt.calibration import Thresholds
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.score.confidence import NamedScore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exeunt._arrays import Integers
    from exeunt.score.kinds import Score

__all__ = ["every_head", "scripted"]

_EXIT = "scripted_exit"


@dataclass(frozen=True, eq=False)
class _Script:
    """Does the work of a score, then lets the input answer at its exit in `exits` (n,)."""

    own: Score
    exits: Integers

    @property
    def name(self) -> str:
        return self.own.name

    @property
    def remembers(self) -> bool:
        return self.own.remembers

    def init(self, n: int) -> dict[str, Any]:
        if n != len(self.exits):
            raise InputError(f"the script is for {len(self.exits)} inputs, got {n}")
        return {**self.own.init(n), _EXIT: self.exits}

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        exits = memory[_EXIT]
        _, after = self.own(exit_, evidence, {name: memory[name] for name in memory if name != _EXIT})
        return np.where(exits == exit_, 1.0, -1.0), {**after, _EXIT: exits}

    def to_dict(self) -> NoReturn:
        raise InputError("a scripted policy serves to take times and cannot be kept")


def scripted(policy: Policy, exits: Integers) -> Policy:
    """Return a policy that runs the heads that `policy` needs and answers input i at `exits[i]` (n,).

    It is for one batch of n inputs. Raises InputError for an exit at which the policy answers nothing.
    """
    told = np.asarray(exits, dtype=np.int64)
    if len(told) and not (told.min() >= 0 and told.max() < policy.n_exits and policy.needs[told].all()):
        raise InputError(f"exits must be among those where the policy can answer, got {np.unique(told)}")
    limits = Thresholds(np.where(policy.active, 0.0, policy.limits.score), policy.limits.tie)
    return replace(policy, score=_Script(policy.score, told), limits=limits, law=None, certificate=None)


def every_head(n_exits: int) -> Policy:
    """Return a policy of n_exits exits that needs all of them, to be told where its inputs answer."""
    return Policy(
        name="every head",
        score=NamedScore("margin"),
        rates=np.full(n_exits, 1 / n_exits),
        limits=Thresholds(np.zeros(n_exits), np.zeros(n_exits)),
        cost=CostModel(np.arange(1.0, n_exits + 1), unit="exits"),
        budget=float(n_exits),
        calibration="none",
        n_calibration=0,
    )
