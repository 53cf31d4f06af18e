"""Policies whose exits are given in advance, to time a mix of exits with any inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from exeunt._arrays import Floats, Integers
from exeunt._text import counted
from exeunt.calibration import NEVER, Thresholds
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.score.confidence import NamedScore
from exeunt.score.kinds import Score

_EXIT = "forced_exit"


@dataclass(frozen=True, eq=False)
class ForcedExits:
    """A score that computes `score`, ignores its values, and makes input i answer at `exits[i]` (n,).

    The engine splits a large batch into parts and begins them in order: `begun` counts the inputs so far.
    """

    score: Score
    exits: Integers
    begun: list[int] = field(default_factory=lambda: [0])

    @property
    def name(self) -> str:
        """Name of the score that is computed."""
        return self.score.name

    @property
    def remembers(self) -> bool:
        """Whether that score has a memory."""
        return self.score.remembers

    def init(self, n: int) -> dict[str, Any]:
        """Return the memory of the next n inputs before the first exit; after the last input the first comes again.

        Raises InputError for more inputs than exits.
        """
        start = self.begun[0] % max(1, len(self.exits))
        if start + n > len(self.exits):
            raise InputError(f"exits are given for {counted(len(self.exits), 'input')}, got {start + n}")
        self.begun[0] = start + n
        return {**self.score.init(n), _EXIT: self.exits[start : start + n]}

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return 1 for inputs that answer at this exit and -1 for others, with the memory after it."""
        exits = memory[_EXIT]
        _, after = self.score(exit_, evidence, {name: memory[name] for name in memory if name != _EXIT})
        return np.where(exits == exit_, 1.0, -1.0), {**after, _EXIT: exits}

    def to_dict(self) -> NoReturn:
        """Raise InputError: there is no file form."""
        raise InputError("a policy with forced exits serves to measure times and cannot be saved")


def forced_exits(policy: Policy, exits: Integers) -> Policy:
    """Return a policy that runs the heads that `policy` needs and answers input i at `exits[i]` (n,).

    It serves for batches of n inputs. Raises InputError for an exit at which `policy` answers no input.
    """
    exits = np.asarray(exits, dtype=np.int64)
    if len(exits) and not (exits.min() >= 0 and exits.max() < policy.n_exits and policy.needs[exits].all()):
        raise InputError(f"exits must be among those where the policy can answer, got {np.unique(exits)}")
    limits = Thresholds(np.where(policy.active, 0.0, policy.limits.score), policy.limits.tie)
    return replace(
        policy, score=ForcedExits(policy.score, exits), limits=limits, distribution=None, certificate=None
    )


def all_heads_policy(n_exits: int) -> Policy:
    """Return a policy of `n_exits` exits that needs all heads, as a base for `forced_exits`."""
    return _policy_of_rates(np.full(n_exits, 1 / n_exits))


def last_head_policy(n_exits: int) -> Policy:
    """Return a policy of `n_exits` exits that needs the last head alone: all inputs answer there."""
    return _policy_of_rates(np.eye(n_exits)[-1])


def _policy_of_rates(rates: Floats) -> Policy:
    return Policy(
        name="forced exits",
        score=NamedScore("margin"),
        rates=rates,
        limits=Thresholds(*[np.where(rates > 0, 0.0, NEVER)] * 2),
        cost=CostModel(np.arange(1.0, len(rates) + 1), unit="exits"),
        budget=float(len(rates)),
        calibration="none",
        n_calibration=0,
    )
