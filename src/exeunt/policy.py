"""A policy: which inputs answer at which exit. Frozen, serialisable, one decision rule written once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt import _arrays, _ties
from exeunt.calibration import NEVER, Thresholds, at_least
from exeunt.errors import InputError
from exeunt.scores import NamedScore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

    from exeunt._arrays import Booleans, Floats, Integers
    from exeunt.costs import CostModel
    from exeunt.law.spend_law import SpendLaw
    from exeunt.planning import Certificate
    from exeunt.scores import Score
    from exeunt.trace import ExitTrace

__all__ = ["Policy", "PolicyState", "as_score", "score_matrix"]


@dataclass(frozen=True)
class PolicyState:
    """What a policy remembers of the inputs still alive: their ties (rows,) and the score's memory."""

    tie: Any
    memory: dict[str, Any]

    def take(self, keep: Any) -> PolicyState:
        """Return the state of these rows only: a boolean mask or indices."""
        return PolicyState(self.tie[keep], {name: value[keep] for name, value in self.memory.items()})

    @staticmethod
    def joined(states: Sequence[PolicyState]) -> PolicyState:
        """Return the rows of several states, all before the same exit, in order (NumPy arrays)."""
        memory = {name: np.concatenate([s.memory[name] for s in states]) for name in states[0].memory}
        return PolicyState(np.concatenate([state.tie for state in states]), memory)


@dataclass(frozen=True, eq=False)
class Policy:
    """Score, thresholds and where they come from.

    `rates` (m,): planned shares. `limits`: per exit the least (score, tie) that answers; `thresholds` (m,) shows
    the scores of these pairs.
    `budget`: the mean cost per input asked for, in the unit of `cost`. `counts` (m,): calibration inputs
    released per exit (sequential calibration only). `certificate`: the promise made with `delta`, or None.
    `notes`: how it was made, by name of the rule, as JSON can hold it; what a note has "told" is shown with the policy.
    """

    name: str
    score: Score
    rates: Floats
    limits: Thresholds
    cost: CostModel
    budget: float
    calibration: str
    n_calibration: int
    seed: int = 0
    counts: Integers | None = None
    law: SpendLaw | None = None
    certificate: Certificate | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rates", "counts"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _arrays.frozen(value))

    @property
    def thresholds(self) -> Floats:
        """Least score that answers at each exit, (m,); +inf is never, -inf always. `limits` breaks its ties."""
        return self.limits.score

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self.cost.n_exits

    @property
    def active(self) -> Booleans:
        """Which exits can answer anything, (m,)."""
        return np.asarray(self.limits.tie < NEVER)

    @property
    def needs(self) -> Booleans:
        """Which exits' evidence decisions need, (m,): those where inputs can answer; all if the score remembers."""
        needed: Booleans = self.active | getattr(self.score, "remembers", True)
        needed[-1] = True
        return needed

    # -- the decision -----------------------------------------------------------------------------------

    def init(self, n: int, *, id: ArrayLike | None = None) -> PolicyState:  # noqa: A002
        """Return the state of n inputs before the first exit. `id` (n,): their keys, by default 0..n-1.

        The key breaks ties between equal scores. Give one per input wherever inputs come in several batches:
        by default the first of each batch is input 0 and ties are broken the same way again and again.
        Where the evidence is of another array type than NumPy's, turn `state.tie` into that type first.
        """
        keys = np.arange(n, dtype=np.uint64) if id is None else _arrays.keys(id, "id", n=n)
        return PolicyState(_ties.tie_breaks(keys, self.seed), self.score.init(n))

    def step(self, exit_: int, evidence: Mapping[str, Any], state: PolicyState) -> tuple[Any, PolicyState]:
        """Decide which rows answer at this exit: (leave (rows,) of booleans, state for the next exit).

        `evidence`: what this exit says of the rows of `state`, by name. Rows that leave are dropped by the
        caller from evidence and state alike. The last exit answers everything. Exits that the policy does not
        need (`needs`) may be left out.
        """
        leave, _, after = self.scored_step(exit_, evidence, state)
        return leave, after

    def scored_step(
        self, exit_: int, evidence: Mapping[str, Any], state: PolicyState
    ) -> tuple[Any, Any, PolicyState]:
        """Decide as `step` does, and show the score (rows,) too: (leave, score, state for the next exit)."""
        score, memory = self.score(exit_, evidence, state.memory)
        if exit_ == self.n_exits - 1:
            leave = state.tie >= 0  # every tie is: even a NaN score must be answered here
        else:
            leave = at_least(score, state.tie, float(self.limits.score[exit_]), float(self.limits.tie[exit_]))
        return leave, score, PolicyState(state.tie, memory)

    def route(self, trace: ExitTrace) -> Integers:
        """Return the exit that answers each input of a trace, (n,), 0 = first exit.

        The decision depends on scores alone, so the trace may have costs in another unit.
        """
        if trace.cost.n_exits != self.n_exits:
            raise InputError(f"the policy has {self.n_exits} exits but the trace has {trace.n_exits}")
        exits = np.full(trace.n, self.n_exits - 1, dtype=np.int64)
        alive, state = np.arange(trace.n), self.init(trace.n, id=trace.id)
        for exit_ in range(self.n_exits):
            leave, state = self.step(exit_, trace.evidence(exit_, alive), state)
            exits[alive[leave]] = exit_
            alive, state = alive[~leave], state.take(~leave)
        return exits

    # -- keeping and showing ----------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the policy as JSON, atomically; `load` gives it back to the last bit."""
        from exeunt.policy_file import save_policy

        save_policy(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy. Raises ArtefactError if the file is truncated, edited, foreign or newer."""
        from exeunt.policy_file import load_policy

        return load_policy(path)

    def __eq__(self, other: object) -> bool:
        from exeunt.policy_file import policy_to_dict

        return isinstance(other, Policy) and policy_to_dict(self) == policy_to_dict(other)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        from exeunt.display import policy_text

        return policy_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from exeunt.display import policy_html

        return policy_html(self)


def as_score(score: str | Score | None, trace: ExitTrace) -> Score:
    """Return the score of this name, checked to be in the trace; None is the trace's default score."""
    if score is None:
        return NamedScore(trace.default_score)
    if isinstance(score, str):
        if score not in trace.scores:
            raise InputError(f"there is no score {score!r} in this trace; it has {sorted(trace.scores)}")
        return NamedScore(score)
    if not callable(score):
        raise InputError(f"score must be a name, a score or None, got {score!r}")
    return score


def score_matrix(score: Score, trace: ExitTrace) -> Floats:
    """Return the scores (n, m) that a policy would see if every input ran to the end."""
    columns, memory = [], score.init(trace.n)
    for exit_ in range(trace.n_exits):
        column, memory = score(exit_, trace.evidence(exit_), memory)
        columns.append(column)
    # Exits are walked one after the other, so each one's scores are kept together in memory.
    return np.stack(columns).astype(np.float64, copy=False).T
