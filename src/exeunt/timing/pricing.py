"""Milliseconds as the unit of cost: what an answer at each exit takes in the loop, at the mix of exits of use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.costs import CostModel
from exeunt.engine.flow import answer
from exeunt.errors import InputError
from exeunt.timing.forced_exits import every_head, scripted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from numpy.typing import NDArray

    from exeunt._arrays import Booleans, Floats, Integers
    from exeunt.engine.executor import Executor, Segments
    from exeunt.engine.plan import Plan
    from exeunt.policy import Policy

__all__ = ["measured_cost", "settled_cost"]

_FEWEST, _INPUTS = 20, 200  # batches timed: so many, or as many as hold so many inputs
_MOST_MIXES = 5  # so many times at most prices are measured anew at the mix that the last ones led to
_SETTLED = 0.02  # and no more once the mean cost of a mix changes by less than this share
_STEP = 1e-9  # costs must rise, also between exits that one segment runs together


def measured_cost(
    executor: Executor,
    inputs: Any,
    *,
    policy: Policy | None = None,
    exits: Integers | None = None,
    plan: Plan | None = None,
    repeats: int = 20,
    warmup: int = 3,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> CostModel:
    """Return cumulative milliseconds per input (m,): loop, heads, decisions and dropped rows included.

    `inputs`: a batch of the size that will be used; its values do not matter. `exits` (any number,): where inputs
    answer under `policy`; the timed batches go through these again and again, shuffled. Without them everything
    runs through all heads to the end. Fewer rows are dearer per row, so the price of a segment depends on how many
    get there.
    Of `repeats` batches the mean counts, without the longest and the shortest tenth; their spread (10 % to 90 %)
    is told in the model's `source`. Load on the machine counts.

    Raises InputError for an empty batch or fewer than one repeat.
    """
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    n = len(executor.start(inputs)[1])
    if n == 0:
        raise InputError("timing needs a batch of at least one input")
    rule = every_head(executor.n_exits) if policy is None else policy
    drawn = np.full(1, executor.n_exits - 1) if exits is None or not len(exits) else np.asarray(exits)
    told_in_turn = _dealt(drawn, n, np.random.default_rng(seed))
    watch, laps = _Stopwatch(executor, clock), []
    for _ in range(warmup + repeats):
        told = next(told_in_turn)
        laps.append(watch.time(scripted(rule, told), told, inputs, plan))
    seconds, rows = (np.array(table) for table in zip(*laps[warmup:], strict=True))
    per_input = seconds.sum(axis=1) * 1e3 / n
    low, high = np.quantile(per_input, [0.1, 0.9])
    return CostModel(
        _cumulative(executor.segments, _prices(seconds, rows)),
        unit="ms",
        source=f"{executor.name}, timed here at batch {n}, {repeats} passes: {per_input.mean():.4g} ms per input "
        f"(10 % to 90 %: {low:.4g} to {high:.4g})",
    )


def settled_cost(
    executor: Executor,
    inputs: Any,
    choose: Callable[[CostModel], Policy],
    route: Callable[[Policy], Integers],
    *,
    plan: Plan | None = None,
    repeats: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> CostModel:
    """Return costs measured at the mix of exits that a policy calibrated to just these costs brings about.

    `choose`: calibrates a policy to costs. `route`: where inputs answer under a policy. `inputs`: a batch of the
    size that will be used. `repeats`: by default 20 batches, and more of small ones.
    """
    n = max(len(executor.start(inputs)[1]), 1)
    repeats = max(_FEWEST, _INPUTS // n) if repeats is None else repeats
    cost = measured_cost(executor, inputs, plan=plan, repeats=min(repeats, _FEWEST), clock=clock)
    for _ in range(_MOST_MIXES):
        policy = choose(cost)
        exits = route(policy)
        before = cost.cumulative[exits].mean()
        cost = measured_cost(
            executor, inputs, policy=policy, exits=exits, plan=plan, repeats=repeats, clock=clock
        )
        if abs(cost.cumulative[exits].mean() / before - 1) < _SETTLED:
            break
    return cost


def _dealt(exits: Integers, n: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Yield n exits at a time, for ever: all of them are dealt before any comes again."""
    hand = rng.permutation(exits)
    while True:
        while len(hand) < n:
            hand = np.concatenate([hand, rng.permutation(exits)])
        yield hand[:n]
        hand = hand[n:]


class _Stopwatch:
    """An executor that takes the time from the start of a batch to the second segment, to the third, ..., to its end.

    So nothing of the loop is left out: copies, heads, decisions.
    """

    def __init__(self, executor: Executor, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._clock = clock
        self._since = 0.0
        self._at = 0
        self._seconds = np.zeros(len(executor.segments))

    def time(self, policy: Policy, exits: Integers, inputs: Any, plan: Plan | None) -> tuple[Floats, Floats]:
        """Return the seconds of each segment (s,), and how many of the batch's inputs reach it (s,)."""
        self._seconds = np.zeros(len(self.segments))
        self._at, self._since = 0, self._clock()
        answer(self, policy, inputs, plan=plan)
        self._lap(0)
        firsts = np.array([first for first, _ in self.segments])
        return self._seconds, (exits[:, None] >= firsts).sum(axis=0).astype(np.float64)

    def _lap(self, segment: int) -> None:
        now = self._clock()
        self._seconds[self._at] += now - self._since
        self._since, self._at = now, segment

    @property
    def name(self) -> str:
        return self._executor.name

    @property
    def n_exits(self) -> int:
        return self._executor.n_exits

    @property
    def segments(self) -> Segments:
        return self._executor.segments

    def start(self, inputs: Any) -> tuple[Any, Booleans]:
        return self._executor.start(inputs)

    def signature(self, state: Any) -> Hashable:
        return self._executor.signature(state)

    def run(self, segment: int, state: Any, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Any]:
        if segment != self._at:
            self._lap(segment)
        return self._executor.run(segment, state, wanted)

    def gather(self, parts: Sequence[tuple[Any, Integers | slice | None]]) -> Any:
        return self._executor.gather(parts)

    def compact(self, state: Any, rows: Integers) -> tuple[Any, Integers]:
        return self._executor.compact(state, rows)


def _prices(seconds: Floats, rows: Floats) -> Floats:
    """Return seconds per input that reaches each segment, (s,), of passes (r, s), the outermost tenths left out.

    All the time of a segment is shared out over all the inputs that got there, few or many per pass. Where none
    got to, the price is that of the segment before: it makes no difference to the mean.
    """
    cut = len(seconds) // 10
    inner = np.argsort(seconds.sum(axis=1), kind="stable")[cut : len(seconds) - cut]
    total, count = seconds[inner].sum(axis=0), rows[inner].sum(axis=0)
    prices = np.zeros(len(total))
    for segment in range(len(total)):
        reached = count[segment] > 0
        prices[segment] = total[segment] / count[segment] if reached else prices[segment - 1]
    return prices


def _cumulative(segments: Segments, prices: Floats) -> Floats:
    """Return milliseconds up to each exit, (m,), rising by a trifle between exits of one segment."""
    upto = np.cumsum(prices) * 1e3
    exits = [segment for segment, (first, last) in enumerate(segments) for _ in range(first, last + 1)]
    return np.asarray(upto[exits] * (1 + _STEP * np.arange(len(exits))))
