"""Whether early exits save time: policies timed in turns with the original model, and with what else a user would run.

Each is timed as a share of the first one's time, and has the accuracy that it is known to have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle
from typing import Any

import numpy as np

from exeunt._arrays import Integers
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.timing.forced_exits import forced_exits
from exeunt.timing.measuring import Spread, time_interleaved

__all__ = [
    "Alternative",
    "ExitMix",
    "TimedAlternative",
    "TimedBudget",
    "policy_alternative",
    "time_alternatives",
    "time_budgets",
    "whole_network",
]

_INPUTS = 32  # one measurement takes at least this many inputs, in batches of the size that is timed


@dataclass(frozen=True)
class Alternative:
    """A way to answer: its accuracy in [0, 1], and a function of (inputs, n) that answers a batch of n inputs.

    `on_line`: one of a series by budget.
    """

    name: str
    accuracy: float
    answer: Callable[[Any, int], Any]
    on_line: bool = False


@dataclass(frozen=True)
class TimedAlternative:
    """An alternative at a batch size: milliseconds per input, and its time as a share of the first one's."""

    name: str
    accuracy: float
    on_line: bool
    batch_size: int
    ms: Spread
    share: Spread


@dataclass(frozen=True)
class TimedBudget(TimedAlternative):
    """A policy timed against the original model on the same executor.

    `way`: how the network was run, such as "staged" or "planned". `macs_share`: share of the original model's
    multiply-adds. `original_ms`: milliseconds per input of the original model.
    """

    way: str
    macs_share: float
    original_ms: Spread

    @property
    def efficiency(self) -> float:
        """Share of multiply-adds over share of time: 1 where time falls as the multiply-adds do."""
        return self.macs_share / self.share.median


@dataclass(frozen=True, eq=False)
class ExitMix:
    """Where inputs answer under a policy: `exits`, one per input, of any number of inputs.

    `macs_share`: their mean multiply-adds, as a share of the original model's. `name`: what a table calls it.
    `accuracy`: in [0, 1], nan where it is not known. `on_line`: one of a series by budget.
    """

    policy: Policy
    exits: Integers
    macs_share: float
    name: str = ""
    accuracy: float = math.nan
    on_line: bool = True

    def batches(self, size: int, count: int) -> list[Integers]:
        """Return exits for `count` batches of `size` inputs, which together follow the distribution of `exits`."""
        total = size * count
        ordered = np.sort(self.exits)
        places = (np.arange(total) + 0.5) * len(ordered) / total
        shuffled = np.random.default_rng(0).permutation(ordered[places.astype(np.int64)])
        return [shuffled[i : i + size] for i in range(0, total, size)]

    def macs_share_of(self, batches: Sequence[Integers]) -> float:
        """Return the mean multiply-adds of these batches, as a share of the original model's."""
        cost = self.policy.cost.cumulative
        return self.macs_share * float(np.mean(cost[np.concatenate(batches)]) / np.mean(cost[self.exits]))


def whole_network(
    executor: Executor, prepare: Callable[[Any], Any] = lambda inputs: inputs
) -> Callable[[Any], Any]:
    """Return a function that runs a whole network, with its last head alone.

    `executor`: of one segment. `prepare`: makes the executor's inputs from the arguments of the function.
    """
    last = [executor.n_exits - 1]
    return lambda given: executor.run(0, executor.start(prepare(given))[0], last)


def policy_alternative(executor: Executor, mix: ExitMix, plan: Plan | None = None) -> Alternative:
    """Return a policy as an alternative, under which inputs of any values answer at the exits of `mix`."""

    @cache  # to draw them takes some 0.2 ms
    def exits_in_turn(n: int) -> Iterator[Integers]:
        return cycle(mix.batches(n, _batches_of(n)))

    def answer(inputs: Any, n: int) -> None:
        Engine(executor, forced_exits(mix.policy, next(exits_in_turn(n))), plan).answer(inputs)

    return Alternative(mix.name, mix.accuracy, answer, on_line=mix.on_line)


def time_alternatives(
    ways: Sequence[Alternative],
    batches: Mapping[int, Any],
    *,
    repeats: int = 9,
    max_seconds: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[TimedAlternative]:
    """Time all ways in turns on each of the batches, inputs by batch size; shares are of the first way.

    `max_seconds`: for each batch size.
    """
    timed = []
    for size, inputs in batches.items():
        count = _batches_of(size)

        def call(
            _round: int, way: Alternative, inputs: Any = inputs, size: int = size, count: int = count
        ) -> None:
            for _ in range(count):
                way.answer(inputs, size)

        calls = {place: partial(call, way=way) for place, way in enumerate(ways)}
        seconds = time_interleaved(calls, rounds=repeats, max_seconds=max_seconds)
        timed += [
            TimedAlternative(
                way.name, way.accuracy, way.on_line, size,
                Spread.of(seconds[place] * 1e3 / (size * count)), Spread.of(seconds[place] / seconds[0]),
            )
            for place, way in enumerate(ways)
        ]  # fmt: skip
        progress(f"batch size {size} timed")
    return timed


def time_budgets(
    original: Callable[[Any], Any],
    ways: Mapping[str, tuple[Executor, Plan | None]],
    mixes: Sequence[ExitMix],
    batch: Callable[[int], Any],
    *,
    batch_sizes: Sequence[int],
    **limits: Any,
) -> list[TimedBudget]:
    """Time mixes of exits, interleaved with the original model, at each batch size.

    `original`: runs the original model on a batch. `ways`: executors with their plans, by name. `batch(n)`: returns n
    inputs, whose values do not matter: the mix decides where they answer. `limits`: see `time_alternatives`.

    Raises InputError for a batch size below 1, or none.
    """
    if min(batch_sizes, default=0) < 1:
        raise InputError(f"batch sizes must be at least 1, got {list(batch_sizes)}")
    pairs = [(way, mix) for way in ways for mix in mixes]
    budgets = []
    for size in batch_sizes:
        alternatives = [
            Alternative("original model", math.nan, lambda inputs, _: original(inputs)),
            *(policy_alternative(ways[way][0], mix, ways[way][1]) for way, mix in pairs),
        ]
        alone, *timed = time_alternatives(alternatives, {size: batch(size)}, **limits)
        budgets += [
            TimedBudget(
                **vars(one), way=way, original_ms=alone.ms,
                macs_share=mix.macs_share_of(mix.batches(size, _batches_of(size))),
            )
            for (way, mix), one in zip(pairs, timed, strict=True)
        ]  # fmt: skip
    return budgets


def _batches_of(size: int) -> int:
    """Return how many batches of this size one measurement takes."""
    return max(1, _INPUTS // size)
