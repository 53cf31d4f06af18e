"""The decisions of one policy about rows in the engine: which rows leave at an exit, and their answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from exeunt._support.arrays import Booleans, Floats
from exeunt._support.text import counted
from exeunt.engine.executor import BORDER, Segments
from exeunt.errors import InputError
from exeunt.policy import Policy, PolicyState
from exeunt.score.confidence import LOG_PROBABILITY, Evidence
from exeunt.score.mask_confidence import MASK, evidence_of
from exeunt.score.router_score import NEXT
from exeunt.trace.cascade_step import is_tree


class Decisions(NamedTuple):
    """Decisions about rows at an exit: which leave (rows,), their answers, which are borderline, the next memory.

    `score` (rows,): what the policy decided by. `watched`: whether the watch is told of it for the rows that leave;
    `first`: whether also for all rows, as that of the first exit that can answer.
    """

    leave: Booleans
    answer: Mapping[str, Any]
    borderline: Booleans
    memory: PolicyState
    score: Floats
    watched: bool
    first: bool


class Decider:
    """Applies a policy to the rows of an engine.

    `exits`: which exits of the network the policy's own are, ascending, without its gate; by default they are the same
    ones. `number`:
    of the policy in the table's entries. `border`, `mask_scale`: see `Executor`. An input that leaves within a segment
    has run through all of it, and that is its cost. Segments of cascade models that the policy skips do not run for
    its rows.

    Raises InputError if policy and network have different numbers of exits, and for a router.
    """

    def __init__(
        self,
        policy: Policy,
        segments: Segments,
        *,
        models: Sequence[int] = (0,),
        exits: Sequence[int] | None = None,
        number: int = 0,
        border: float = BORDER,
        mask_scale: int = 1,
    ) -> None:
        exits = _exits_of(policy, segments[-1][1] + 1, exits)
        self.policy, self.number, self._border, self._mask_scale = policy, number, border, mask_scale
        self._own = {exit_: own for own, exit_ in enumerate(exits)}
        inside = [
            [own for exit_, own in self._own.items() if first <= exit_ <= last] for first, last in segments
        ]
        self.gates = int(policy.looks_once)
        """Exits of the executor that are none of the network's: a gate, as exit 0, if the policy looks once."""
        needs = policy.needs
        self.wanted = [[exits[own] for own in owns if needs[own]] for owns in inside]
        """Exits whose logits the policy needs, per segment."""
        if self.gates:
            self.wanted[0] = [0]
        self.all_wanted = frozenset(exit_ for exits_ in self.wanted for exit_ in exits_)
        """Exits of the network whose logits the policy needs."""
        cost = policy.cost.cumulative
        ends = [owns[-1] for owns in inside for _ in owns]
        self.cost_at: dict[int, float] = dict(zip(exits, cost[ends].tolist(), strict=True))
        """By exit of the network, the cost of a row that has come to it."""
        if self.gates:
            self.cost_at[0] = float(cost[0])
        self.cost_without_output = [
            None if wants or not owns else float(cost[owns[-1]])
            for wants, owns in zip(self.wanted, inside, strict=True)
        ]
        """Per segment, the cost of a row after it; None if the segment has a wanted exit, or none of the policy's."""
        self.runs = [
            segment
            for first, end in itertools.pairwise([*models, len(segments)])
            for segment in range(first, max((k + 1 for k in range(first, end) if inside[k]), default=first))
        ]
        """Segments that the policy's rows run, in order: of each model, up to the policy's last exit in it."""
        self.after = list(range(1, len(segments) + 1))
        """Per segment, the one that the policy's rows run next. `after[-1]` is the first to run."""
        for before, segment in itertools.pairwise(self.runs):
            self.after[before] = segment
        self.after[-1] = self.runs[0]
        self._remembers = bool(getattr(policy.score, "remembers", True))
        # Arithmetic does not move whole numbers: many inputs are exactly at a threshold, and their ties decide.
        in_steps = bool(getattr(policy.score, "in_steps", False))
        self._limits = [
            None if in_steps or not math.isfinite(limit) else limit
            for limit in policy.limits.score.tolist()[:-1]
        ] + [None]

    def decide(self, exit_: int, logits: Floats, memory: PolicyState) -> Decisions:
        """Decide which rows leave at an exit of the network. `logits` (rows, k) or (rows, k, h, w): finite."""
        if exit_ < self.gates:
            return self._look(logits, memory)
        own = self._own[exit_]
        leave, score, answer, after = self.policy.decide(own, evidence_of(logits, self._mask_scale), memory)
        # Rows that the arithmetic of another batch might answer at another exit, or with another class. A score with a
        # memory may depend on the class at every exit, any other answer on the class where it is given.
        borderline: Booleans = answer["margin"] <= self._border
        if not self._remembers:
            borderline &= leave
        if (threshold := self._limits[own]) is not None:
            borderline |= abs(score - threshold) <= self._border
        cells = self.policy.watched
        first = cells is not None and own == cells.first
        return Decisions(leave, answer, borderline, after, score, cells is not None, first)

    def _look(self, features: Floats, memory: PolicyState) -> Decisions:
        """Choose the exits of rows by the features (rows, d) of the gate. None leaves there."""
        exits, after = self.policy.look(features, memory)
        cells, borderline = self.policy.watched, np.zeros(len(features), dtype=np.bool_)
        for own, threshold in enumerate(self._limits):
            if threshold is not None:
                borderline |= abs(self.policy.score(own, {}, after.memory)[0] - threshold) <= self._border
        score = self.policy.score(0 if cells is None else cells.first, {}, after.memory)[0]
        after.memory[NEXT] = exits
        leave = np.zeros(len(features), dtype=np.bool_)
        return Decisions(leave, {}, borderline, after, score, watched=False, first=cells is not None)

    def following(self, segment: int, memory: PolicyState) -> Any:
        """Return the segment that rows run after this one, one for all or (rows,)."""
        return memory.memory[NEXT] + 1 if segment < self.gates else self.after[segment]


def detail_of(answer: Mapping[str, Any], rows: Any) -> Any:
    """Return what is kept of some rows' answers beside class and confidence: class probabilities, or masks."""
    if isinstance(answer, Evidence):
        return answer.detail(rows)
    return (answer[MASK] if MASK in answer else class_probabilities(answer))[rows]


def class_probabilities(answer: Mapping[str, Any]) -> Floats:
    """Return the probabilities (n, k) of all classes that an answer holds."""
    return answer.probabilities if isinstance(answer, Evidence) else np.exp(answer[LOG_PROBABILITY])


def _exits_of(policy: Policy, n_exits: int, exits: Sequence[int] | None) -> Sequence[int]:
    """Return the exits of the network that the policy uses, all by default. Raises InputError if it has others."""
    if is_tree(policy.cascade):
        raise InputError(
            "a router is for services and functions, which LiveCascade asks: the engine of networks runs all "
            "models of a cascade in a row; take cascade"
        )
    n_exits -= (gates := int(policy.looks_once))
    if exits is None and policy.n_exits != n_exits:
        raise InputError(f"the policy has {counted(policy.n_exits, 'exit')}, the network {n_exits}")
    exits = range(n_exits) if exits is None else exits
    if len(exits) != policy.n_exits:
        raise InputError(f"the policy has {counted(policy.n_exits, 'exit')}, of the network's: {list(exits)}")
    return [gates + exit_ for exit_ in exits]
