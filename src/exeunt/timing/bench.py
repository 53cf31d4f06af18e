"""Whether budgets save time: answering at several mixes of exits, timed against the original model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exeunt._arrays import Integers
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.timing.forced_exits import forced_exits
from exeunt.timing.interleaving import Spread, time_interleaved

__all__ = ["ExitMix", "TimedBudget", "time_budgets"]

_INPUTS = 32  # one measurement takes at least this many inputs, in batches of the size that is timed


@dataclass(frozen=True, eq=False)
class ExitMix:
    """Where inputs answer under a policy: `exits`, one per input, of any number of inputs.

    `macs_share`: their mean multiply-adds, as a share of the original model's. `budget`: what a table calls it.
    `accuracy`: in [0, 1], nan where it is not known.
    """

    policy: Policy
    exits: Integers
    macs_share: float
    budget: str = ""
    accuracy: float = math.nan

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


@dataclass(frozen=True)
class TimedBudget:
    """What a budget takes at a batch size, as shares of the original model on the same executor.

    `budget`: what a table calls it. `way`: how the network was run, such as "staged" or "planned". `macs_share`,
    `time_share`: shares of the original model's multiply-adds and time. `ms`, `original_ms`: milliseconds per input, and of
    the original model. `accuracy`: that of the mix.
    """

    budget: str
    way: str
    batch_size: int
    macs_share: float
    time_share: Spread
    ms: Spread
    original_ms: Spread
    accuracy: float

    @property
    def efficiency(self) -> float:
        """Share of multiply-adds over share of time: 1 where time falls as the multiply-adds do."""
        return self.macs_share / self.time_share.median


def time_budgets(
    original: Callable[[Any], Any],
    ways: Mapping[str, tuple[Executor, Plan | None]],
    mixes: Sequence[ExitMix],
    batch: Callable[[int], Any],
    *,
    batch_sizes: Sequence[int],
    repeats: int = 9,
    max_seconds: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[TimedBudget]:
    """Time mixes of exits, interleaved with the original model, at each batch size.

    `original`: runs the original model on a batch. `ways`: executors with their plans, by name. `batch(n)`: returns n
    inputs, whose values do not matter: the mix decides where they answer. `max_seconds`: for each batch size.

    Raises InputError for a batch size below 1, or none.
    """
    if min(batch_sizes, default=0) < 1:
        raise InputError(f"batch sizes must be at least 1, got {list(batch_sizes)}")
    timed: list[TimedBudget] = []
    for size in batch_sizes:
        timed += _time_size(
            original, ways, mixes, batch(size), size, repeats=repeats, max_seconds=max_seconds
        )
        progress(f"batch size {size} timed")
    return timed


def _time_size(
    original: Callable[[Any], Any],
    ways: Mapping[str, tuple[Executor, Plan | None]],
    mixes: Sequence[ExitMix],
    inputs: Any,
    size: int,
    *,
    repeats: int,
    max_seconds: float,
) -> list[TimedBudget]:
    count = max(1, _INPUTS // size)
    batches = [mix.batches(size, count) for mix in mixes]

    def run_original(_round: int) -> None:
        for _ in range(count):
            original(inputs)

    def answer_mix(way: str, i: int) -> Callable[[int], None]:
        executor, plan = ways[way]

        def call(_round: int) -> None:
            for exits in batches[i]:
                Engine(executor, forced_exits(mixes[i].policy, exits), plan).answer(inputs)

        return call

    pairs = [(way, i) for way in ways for i in range(len(mixes))]
    calls = {("original", -1): run_original, **{pair: answer_mix(*pair) for pair in pairs}}
    seconds = time_interleaved(calls, rounds=repeats, max_seconds=max_seconds)
    original_seconds = seconds["original", -1]
    return [
        TimedBudget(
            budget=mixes[i].budget,
            way=way,
            batch_size=size,
            macs_share=mixes[i].macs_share_of(batches[i]),
            time_share=Spread.of(seconds[way, i] / original_seconds),
            ms=Spread.of(seconds[way, i] * 1e3 / (size * count)),
            original_ms=Spread.of(original_seconds * 1e3 / (size * count)),
            accuracy=mixes[i].accuracy,
        )
        for way, i in pairs
    ]
