"""What a user would run instead, timed in turns: each way's accuracy, and its time as a share of the first one's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import TYPE_CHECKING, Any

from exeunt._arrays import Integers
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor
from exeunt.timing.forced_exits import forced_exits
from exeunt.timing.interleaving import Spread, time_interleaved

if TYPE_CHECKING:
    from exeunt.timing.bench import ExitMix

__all__ = ["Alternative", "TimedAlternative", "policy_alternative", "time_alternatives", "whole_network"]

_INPUTS = 32  # one measurement takes at least this many inputs, in batches of the size that is timed


@dataclass(frozen=True)
class Alternative:
    """A way to answer: its accuracy in [0, 1], and what answers a batch. `on_line`: one of a series by budget."""

    name: str
    accuracy: float
    answer: Callable[[Any], Any]
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


def whole_network(
    executor: Executor, prepare: Callable[[Any], Any] = lambda inputs: inputs
) -> Callable[[Any], Any]:
    """Return what runs a network original, with its last head alone.

    `executor`: of one segment. `prepare`: makes its inputs of what is given.
    """
    last = [executor.n_exits - 1]
    return lambda given: executor.run(0, executor.start(prepare(given))[0], last)


def policy_alternative(
    name: str, accuracy: float, executor: Executor, mix: ExitMix, *, on_line: bool
) -> Alternative:
    """Return a policy as an alternative, under which inputs of any values answer at the exits of `mix`."""

    @cache  # to draw them takes some 0.2 ms
    def exits_in_turn(n: int) -> Iterator[Integers]:
        return cycle(mix.batches(n, max(1, _INPUTS // n)))

    def answer(inputs: Any) -> None:
        exits = next(exits_in_turn(len(executor.start(inputs)[1])))
        Engine(executor, forced_exits(mix.policy, exits)).answer(inputs)

    return Alternative(name, accuracy, answer, on_line=on_line)


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
        count = max(1, _INPUTS // size)

        def call(way: Alternative, inputs: Any = inputs, count: int = count) -> Callable[[int], None]:
            def answer(_round: int) -> None:
                for _ in range(count):
                    way.answer(inputs)

            return answer

        calls = {way.name: call(way) for way in ways}
        seconds = time_interleaved(calls, rounds=repeats, max_seconds=max_seconds)
        first = seconds[ways[0].name]
        timed += [
            TimedAlternative(
                way.name, way.accuracy, way.on_line, size,
                Spread.of(seconds[way.name] * 1e3 / (size * count)), Spread.of(seconds[way.name] / first),
            )
            for way in ways
        ]  # fmt: skip
        progress(f"batch size {size} timed")
    return timed
