"""What budgets are worth on the clock: the time of the loop at several mixes of exits, against the uncut network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.engine.flow import answer
from exeunt.errors import InputError
from exeunt.timing.forced_exits import scripted
from exeunt.timing.measurement import Spread, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exeunt._arrays import Floats, Integers
    from exeunt.engine.executor import Executor
    from exeunt.engine.plan import Plan
    from exeunt.policy import Policy

__all__ = ["Mix", "TimedBudget", "time_budgets"]

_INPUTS = 32  # a turn has at least so many, in batches of the size that is timed


@dataclass(frozen=True, eq=False)
class Mix:
    """A policy, where inputs answer under it (any number,), and the share of the uncut network's cost left."""

    policy: Policy
    exits: Integers
    macs_share: float

    def batches(self, size: int, count: int) -> list[Integers]:
        """Return where the inputs of `count` batches answer: together as near as can be to all of `exits`."""
        wanted = size * count
        ordered = np.sort(self.exits)
        places = (np.arange(wanted) + 0.5) * len(ordered) / wanted
        told = np.random.default_rng(0).permutation(ordered[places.astype(np.int64)])
        return [told[i : i + size] for i in range(0, wanted, size)]

    def share_of(self, batches: Sequence[Integers]) -> float:
        """Return the share of the uncut network's cost that these batches leave."""
        cost = self.policy.cost.cumulative
        return self.macs_share * float(np.mean(cost[np.concatenate(batches)]) / np.mean(cost[self.exits]))


@dataclass(frozen=True)
class TimedBudget:
    """What a budget takes at a batch size, as shares of the uncut network on the same executor.

    `way`: how it was run, such as "staged" or "planned". `uncut_ms`: milliseconds per input of the uncut network.
    """

    way: str
    batch_size: int
    macs_share: float
    time_share: Spread
    uncut_ms: Spread

    @property
    def efficiency(self) -> float:
        """Share of multiply-adds left over share of time left: 1 where time falls as they do."""
        return self.macs_share / self.time_share.median


def time_budgets(
    uncut: Callable[[Any], Any],
    ways: Mapping[str, tuple[Executor, Plan | None]],
    mixes: Sequence[Mix],
    batch: Callable[[int], Any],
    *,
    batch_sizes: Sequence[int],
    repeats: int = 9,
    max_seconds: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[TimedBudget]:
    """Time mixes of exits in turns with the uncut network, at each batch size.

    `uncut`: runs the uncut network on a batch. `ways`: executors with their plans, by name. `batch(n)`: n inputs;
    their values do not matter, since inputs answer where they are told. `max_seconds`: for each batch size.

    Raises InputError for a batch size below 1.
    """
    if min(batch_sizes, default=0) < 1:
        raise InputError(f"batch sizes must be at least 1, got {list(batch_sizes)}")
    timed: list[TimedBudget] = []
    for size in batch_sizes:
        timed += _at_size(uncut, ways, mixes, batch(size), size, repeats=repeats, max_seconds=max_seconds)
        progress(f"batch size {size} timed")
    return timed


def _at_size(
    uncut: Callable[[Any], Any],
    ways: Mapping[str, tuple[Executor, Plan | None]],
    mixes: Sequence[Mix],
    inputs: Any,
    size: int,
    *,
    repeats: int,
    max_seconds: float,
) -> list[TimedBudget]:
    count = max(1, _INPUTS // size)
    calls: dict[str, Callable[[int], Any]] = {"uncut": _repeated(lambda _: uncut(inputs), [None] * count)}
    told = {f"{way} {i}": mix.batches(size, count) for way in ways for i, mix in enumerate(mixes)}
    for way, (executor, plan) in ways.items():
        for i, mix in enumerate(mixes):
            calls[f"{way} {i}"] = _repeated(
                _answering(executor, mix.policy, inputs, plan), told[f"{way} {i}"]
            )
    seconds = in_turns(calls, rounds=repeats, max_seconds=max_seconds)
    uncut_ms = Spread.of(seconds["uncut"] * 1e3 / (size * count))
    return [
        TimedBudget(way, size, mix.share_of(told[f"{way} {i}"]), _ratio(seconds, f"{way} {i}"), uncut_ms)
        for way in ways
        for i, mix in enumerate(mixes)
    ]


def _repeated(call: Callable[[Any], Any], arguments: Sequence[Any]) -> Callable[[int], None]:
    def turn(_number: int) -> None:
        for argument in arguments:
            call(argument)

    return turn


def _answering(
    executor: Executor, policy: Policy, inputs: Any, plan: Plan | None
) -> Callable[[Integers], Any]:
    return lambda exits: answer(executor, scripted(policy, exits), inputs, plan=plan)


def _ratio(seconds: Mapping[str, Floats], name: str) -> Spread:
    return Spread.of(seconds[name] / seconds["uncut"])
