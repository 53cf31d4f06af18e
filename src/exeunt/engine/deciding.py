"""What a policy decides of rows at an exit of the network that an engine runs, and what is entered of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Booleans, Floats, Integers
from exeunt._text import counted
from exeunt.engine.executor import BORDER, Segments
from exeunt.errors import InputError
from exeunt.score.confidence import LOG_PROBABILITY, Evidence, softmax

if TYPE_CHECKING:
    from exeunt.engine.row_table import RowTable
    from exeunt.policy import Policy, PolicyState

__all__ = ["Decided", "Decider", "class_probabilities"]


class Decided(NamedTuple):
    """What was decided about rows at an exit: who leaves (rows,), what is answered, who is borderline, what is kept."""

    leave: Booleans
    answer: Mapping[str, Any]
    close: Booleans
    memory: PolicyState


class Decider:
    """A policy in an engine.

    `exits`: which exits of the network the policy's own are, ascending; by default they are the same ones. `place`: of
    the policy in the table's entries. `border`: see `Executor.border`. An input that answers within a segment has gone
    through all of it, and that is what it costs. Segments of cascade models that the policy skips are not run for its
    rows.

    Raises InputError if policy and network have different numbers of exits.
    """

    def __init__(
        self,
        policy: Policy,
        segments: Segments,
        *,
        models: Sequence[int] = (0,),
        exits: Sequence[int] | None = None,
        place: int = 0,
        border: float = BORDER,
    ) -> None:
        n_exits = segments[-1][1] + 1
        if exits is None and policy.n_exits != n_exits:
            raise InputError(
                f"the policy has {counted(policy.n_exits, 'exit')} but the network has {n_exits}"
            )
        exits = range(n_exits) if exits is None else exits
        if len(exits) != policy.n_exits:
            raise InputError(
                f"the policy has {counted(policy.n_exits, 'exit')}, of the network's: {list(exits)}"
            )
        self.policy, self.place, self._border = policy, place, border
        self._own = {exit_: own for own, exit_ in enumerate(exits)}
        inside = [
            [own for exit_, own in self._own.items() if first <= exit_ <= last] for first, last in segments
        ]
        needs = policy.needs
        self.wanted = [[exits[own] for own in owns if needs[own]] for owns in inside]
        """Exits whose logits are needed, per segment."""
        self._asked = frozenset(exit_ for exits_ in self.wanted for exit_ in exits_)
        cost = policy.cost.cumulative
        ends = [inside[k][-1] for k in range(len(segments)) for _ in inside[k]]
        self._cost: list[float] = cost[ends].tolist()
        self.spent_unasked = [
            None if wants or not owns else float(cost[owns[-1]])
            for wants, owns in zip(self.wanted, inside, strict=True)
        ]
        """Per segment, what rows that went through it have cost; None where `wanted` exits say it, or it has none."""
        self.after = _route(inside, models)
        """Per segment, the one that rows of the policy go to next. The first to be run is `after[-1]`."""
        self._remembers = bool(getattr(policy.score, "remembers", True))
        # Whole numbers are not moved by arithmetic: many inputs are at a threshold, and their ties decide.
        in_steps = bool(getattr(policy.score, "in_steps", False))
        self._limits = [
            None if in_steps or not math.isfinite(limit) else limit
            for limit in policy.limits.score.tolist()[:-1]
        ] + [None]

    def asks(self, exit_: int) -> bool:
        """Whether the policy needs what an exit of the network says."""
        return exit_ in self._asked

    def cost_at(self, exit_: int) -> float:
        """Return what was spent on a row that has come to an exit of the network."""
        return self._cost[self._own[exit_]]

    def decide(self, exit_: int, logits: Floats, memory: PolicyState) -> Decided:
        """Decide which rows leave at an exit of the network. `logits` (rows, k): finite."""
        own = self._own[exit_]
        leave, score, answer, after = self.policy.decide(own, Evidence(softmax(logits)), memory)
        return Decided(leave, answer, self._close(own, score, answer, leave), after)

    def _close(self, own: int, score: Any, answer: Mapping[str, Any], leave: Booleans) -> Booleans:
        """Return the rows that the arithmetic of another batch might answer at another exit, or with another class."""
        # A score with a memory may depend on the class at every exit, any other answer on that where it is given.
        close: Booleans = answer["margin"] <= self._border
        if not self._remembers:
            close &= leave
        if (threshold := self._limits[own]) is not None:
            close |= abs(score - threshold) <= self._border
        return close

    def enter(
        self, exit_: int, found: Decided, rows: Integers, table: RowTable, *, stays: bool, probabilities: bool
    ) -> None:
        """Enter what was decided. `stays`: what is said of rows that stay, too; `probabilities`: of all classes."""
        leave, answer = found.leave, found.answer
        if np.count_nonzero(found.close):
            table.note_borderline(rows[found.close])
        some = np.count_nonzero(leave)
        if not some and not stays:
            return
        told = slice(None) if stays or some == len(leave) else leave
        kept = class_probabilities(answer)[told] if probabilities else None
        table.say(
            rows[told], answer["prediction"][told], answer["max_probability"][told], exit_, self.cost_at(exit_),
            self.place, kept,
        )  # fmt: skip
        if some:
            table.settle(rows if some == len(leave) else rows[leave], valid=True)


def _route(inside: Sequence[Sequence[int]], models: Sequence[int]) -> list[int]:
    """Return per segment which is next: after the policy's last exit in a model, the next model that it asks."""
    firsts = [*models, len(inside)]
    used = [
        range(first, max((k + 1 for k in range(first, end) if inside[k]), default=first))
        for first, end in itertools.pairwise(firsts)
    ]
    run = [segment for part in used for segment in part]
    after = list(range(1, len(inside) + 1))
    for before, segment in itertools.pairwise(run):
        after[before] = segment
    after[-1] = run[0]
    return after


def class_probabilities(answer: Mapping[str, Any]) -> Floats:
    """Return the probabilities (n, k) of all classes that an answer holds."""
    kept: NDArray[Any] = (
        answer.probabilities if isinstance(answer, Evidence) else np.exp(answer[LOG_PROBABILITY])
    )
    return kept
