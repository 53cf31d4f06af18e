"""Costs in milliseconds: what an answer at each exit takes on this machine, at a given mix of exits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

from exeunt._support.arrays import Floats, Integers
from exeunt.costs.cost_model import LEAST_RISE, CostModel
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor, looks_once
from exeunt.engine.plan import Plan
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.policy.calibration import Thresholds
from exeunt.timing.bench import all_heads_policy, forced_exits, last_head_policy, whole_network
from exeunt.timing.timing_tools import seconds_of, waiting_clock

_FEWEST_BATCHES, _FEWEST_INPUTS = 20, 200  # both are reached, small batches are therefore timed more often
_TURN = 5  # passes in a row: in turns of one, each would find the other's weights in the caches
_MOST_ITERATIONS = 5
_TOLERANCE = 0.02  # relative change of a mix's mean cost below which the iteration has converged


def measured_cost(
    executor: Executor,
    inputs: Any,
    *,
    policy: Policy | None = None,
    exits: Integers | None = None,
    plan: Plan | None = None,
    repeats: int = 20,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    otherwise: CostModel | None = None,
    original: Callable[[Any], Any] | None = None,
) -> CostModel:
    """Return cumulative milliseconds per input (m,), measured over the whole loop: heads, decisions and copies too.

    `inputs`: a batch of the size that will be used; its values do not matter. `exits` (any number,): where inputs
    answer under `policy`; the batches cycle through them in random order. By default every input runs through all
    heads to the end. Few rows cost more per row than many, so the cost of a segment depends on how many reach it.
    The result is the mean of `repeats` batches without the fastest and the slowest tenth. Its `source` says how far
    they spread (10% to 90%). Other load on the machine is included. `otherwise`: milliseconds measured before, for
    segments that no input reaches. `original`: what a user would run instead, called with the inputs between the
    passes; shares of the cost are then of its time, whatever else the machine does meanwhile.
    """
    n = len(executor.start(inputs)[1])
    policy = all_heads_policy(executor.n_exits) if policy is None else policy
    all_exits = np.full(1, policy.n_exits - 1) if exits is None or not len(exits) else np.asarray(exits)
    batches = _random_batches(all_exits, n)
    now = waiting_clock(executor, clock)
    timed = _TimedExecutor(executor, now)
    passes: list[tuple[Floats, Floats]] = []
    alone: list[float] = []
    while len(passes) < warmup + repeats:
        turn = range(min(_TURN, warmup + repeats - len(passes)))
        passes += [timed.time_batch(policy, next(batches), inputs, plan) for _ in turn]
        alone += [seconds_of(original, inputs, now) for _ in turn if original is not None]
    seconds, rows = (np.array(table) for table in zip(*passes[warmup:], strict=True))
    up_to = _up_to(executor, seconds, rows, otherwise)
    per_input = seconds.sum(axis=1) * 1e3 / n
    low, high = np.quantile(per_input, [0.1, 0.9])
    return CostModel(
        up_to * (1 + LEAST_RISE * np.arange(policy.n_exits)),
        unit="ms",
        reference=None if original is None else float(trim_mean(alone[warmup:], 0.1)) * 1e3 / n,
        source=f"{executor.name} on {executor.device}, timed here at batch {n}, {repeats} passes: "
        f"{per_input.mean():.4g} ms per input (10% to 90%: {low:.4g} to {high:.4g})",
    )


def stage_and_head_cost(
    executor: Executor,
    original_network: Executor,
    inputs: Any,
    *,
    repeats: int = 20,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> CostModel:
    """Return cumulative milliseconds per input (m,), with the time of each head apart (see `CostModel.heads`).

    `executor`: has a segment for each exit. `original_network`: the same network in one segment; shares of the cost
    are of its time. The time of a head is all that a cut with a head adds: the head itself, the call and the decision.
    Passes with all heads, with the last head alone and of the whole network are timed in turns; the result comes from
    their medians. Every input runs to the end: fewer rows would take longer per row.

    Raises InputError if the executor does not have a segment for each exit.
    """
    m = executor.n_exits
    if executor.segments != tuple((i, i) for i in range(m)):
        raise InputError(
            f"heads are timed with a segment for each exit, the network runs in {executor.segments}"
        )
    n = len(executor.start(inputs)[1])
    timed, ticks = (
        _TimedExecutor(executor, waiting_clock(executor, clock)),
        waiting_clock(original_network, clock),
    )
    to_end = np.full(n, m - 1)

    def seconds(policy: Policy) -> Floats:
        return timed.time_batch(policy, to_end, inputs, None)[0]

    heads, last = all_heads_policy(m), last_head_policy(m)
    original = whole_network(original_network)
    passes = [
        (seconds(heads), seconds(last), seconds_of(original, inputs, ticks)) for _ in range(warmup + repeats)
    ][warmup:]
    with_heads, bare, alone = (np.median([timed_pass[i] for timed_pass in passes], axis=0) for i in range(3))
    stage = bare / bare.sum() * alone
    added = np.maximum(with_heads - stage, 0.0)
    added[-1] = 0.0
    ms = 1e3 / n
    return CostModel(
        np.cumsum(stage + added) * ms,
        unit="ms",
        heads=added * ms,
        reference=float(alone * ms),
        source=f"{executor.name} on {executor.device}, every stage and head timed here at batch {n}",
    )


def self_consistent_cost(
    executor: Executor,
    inputs: Any,
    choose: Callable[[CostModel], Policy],
    route: Callable[[Policy], Integers],
    *,
    repeats: int | None = None,
    guess: CostModel | None = None,
    **options: Any,
) -> CostModel:
    """Return the costs measured at the mix of exits of the policy that is calibrated to these same costs.

    They are found by iteration: costs, policy, its mix of exits, costs at this mix, and so on.
    `choose`: calibrates a policy to costs. `route`: returns where inputs answer under a policy. `inputs`: a batch of
    the size that will be used. `repeats`: batches; by default 20, and as many as hold 200 inputs. `guess`: costs to
    begin with, for policies that look once: these are then measured with as many inputs at each exit. `options`: plan,
    clock and whole, see `measured_cost`.
    """
    n = max(len(executor.start(inputs)[1]), 1)
    repeats = max(_FEWEST_BATCHES, _FEWEST_INPUTS // n) if repeats is None else repeats
    begin: dict[str, Any] = {}
    if guess is not None:
        everywhere = np.arange(guess.n_exits)
        begin = {"policy": _answering_anywhere(choose(guess)), "exits": everywhere}
    cost = measured_cost(executor, inputs, repeats=min(repeats, _FEWEST_BATCHES), **begin, **options)
    for _ in range(_MOST_ITERATIONS):
        policy = choose(cost)
        exits = route(policy)
        before = cost.cumulative[exits].mean()
        cost = measured_cost(
            executor, inputs, policy=policy, exits=exits, repeats=repeats, otherwise=cost, **options
        )
        if abs(cost.cumulative[exits].mean() / before - 1) < _TOLERANCE:
            break
    return cost


def _answering_anywhere(policy: Policy) -> Policy:
    """Return a policy that may answer at every exit, as a base for `forced_exits`."""
    return replace(policy, limits=Thresholds(*[np.zeros(policy.n_exits)] * 2))


def _up_to(executor: Executor, seconds: Floats, rows: Floats, otherwise: CostModel | None) -> Floats:
    """Return the milliseconds per input (m,) up to each exit, of passes (r, s); see `measured_cost`."""
    if looks_once(executor):  # the gate, and then the segment of the exit alone
        unknown = None if otherwise is None else np.array([0.0, *otherwise.cumulative]) / 1e3
        gate, *exits = _seconds_per_input(seconds, rows, unknown)
        reached = rows[:, 1:].sum(axis=0) > 0
        alone: Floats = np.array(exits) + gate * (reached | (otherwise is None))
        return np.maximum.accumulate(alone) * 1e3
    ends = [last for _, last in executor.segments]
    unreached = None if otherwise is None else np.diff(otherwise.cumulative[ends], prepend=0.0) / 1e3
    up_to = np.cumsum(_seconds_per_input(seconds, rows, unreached)) * 1e3
    return np.repeat(up_to, [last - first + 1 for first, last in executor.segments])


def _random_batches(exits: Integers, n: int) -> Iterator[Integers]:
    """Yield n exits at a time without end, in a new random order on each pass through `exits`."""
    rng = np.random.default_rng(0)
    rest = rng.permutation(exits)
    while True:
        while len(rest) < n:
            rest = np.concatenate([rest, rng.permutation(exits)])
        yield rest[:n]
        rest = rest[n:]


class _TimedExecutor:
    """Wraps an executor and measures the time from the start of one segment to the start of the next.

    This includes everything that the loop does: copies, heads, decisions.
    """

    def __init__(self, executor: Executor, clock: Callable[[], float]) -> None:
        self._executor, self._clock = executor, clock
        self._began, self._segment, self._seconds = 0.0, 0, np.zeros(0)

    def time_batch(
        self, policy: Policy, exits: Integers, inputs: Any, plan: Plan | None
    ) -> tuple[Floats, Floats]:
        """Answer a batch at these exits; returns each segment's seconds (s,), and how many inputs reach it (s,)."""
        self._seconds = np.zeros(len(self.segments))
        forced = forced_exits(policy, exits)
        self._segment, self._began = 0, self._clock()
        Engine(cast("Executor", self), forced, plan).answer(inputs)
        self._enter(0)
        if looks_once(self._executor):
            reached = [len(exits), *np.bincount(exits, minlength=policy.n_exits)]
            return self._seconds, np.array(reached, dtype=np.float64)
        firsts = np.array([first for first, _ in self.segments])
        return self._seconds, (exits[:, None] >= firsts).sum(axis=0).astype(np.float64)

    def _enter(self, segment: int) -> None:
        now = self._clock()
        self._seconds[self._segment] += now - self._began
        self._began, self._segment = now, segment

    def run(self, segment: int, state: Any, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Any]:
        if segment != self._segment:
            self._enter(segment)
        return self._executor.run(segment, state, wanted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


def _seconds_per_input(seconds: Floats, rows: Floats, unreached: Floats | None) -> Floats:
    """Return seconds per input that reaches each segment, (s,), of passes (r, s), without the outermost tenths.

    The time of a segment is divided evenly among all inputs that reach it. A segment that no input reaches gets its
    value in `unreached`, or else that of the segment before it.
    """
    order, cut = np.argsort(seconds.sum(axis=1), kind="stable"), len(seconds) // 10
    inner = order[cut : len(order) - cut]
    total, count = seconds[inner].sum(axis=0), rows[inner].sum(axis=0)
    per_input: Floats = np.zeros(len(total)) if unreached is None else unreached.copy()
    np.divide(total, count, out=per_input, where=count > 0)
    for segment in np.flatnonzero(count == 0) if unreached is None else ():
        per_input[segment] = per_input[segment - 1]
    return per_input
