"""Whether early exits save time: policies timed in turns with the original model and its other precisions.

Times are shares of the time of the first alternative. Accuracies are not measured here: they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import cycle
from typing import Any, NoReturn

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt._support.text import counted
from exeunt.costs.cost_model import CostModel
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.score.confidence import NamedScore
from exeunt.score.kinds import Score
from exeunt.timing.timing_tools import Spread, time_interleaved

_INPUTS = 32  # one measurement takes at least this many inputs, in batches of the size that is timed
_EXIT = "forced_exit"


@dataclass(frozen=True)
class Alternative:
    """A way to answer: its accuracy in [0, 1], and a function of (inputs, n) that answers a batch of n inputs.

    `macs_share`: of the batch size, its multiply-adds as a share of the first way's. `on_line`: one of a series by
    budget.
    """

    name: str
    accuracy: float
    answer: Callable[[Any, int], Any]
    macs_share: Callable[[int], float] = lambda _: 1.0
    on_line: bool = False


@dataclass(frozen=True)
class TimedAlternative:
    """An alternative at a batch size: its milliseconds per input, time and multiply-adds as shares of the first's."""

    name: str
    accuracy: float
    on_line: bool
    batch_size: int
    macs_share: float
    ms: Spread
    share: Spread

    @property
    def efficiency(self) -> float:
        """Share of multiply-adds over share of time: 1 where time falls as the multiply-adds do."""
        return self.macs_share / self.share.median


@dataclass(frozen=True, eq=False)
class ExitMix:
    """Where inputs answer under a policy: `exits`, one per input, of any number of inputs.

    `macs_share` (m,): multiply-adds of an answer at each exit, as shares of the original model's. `name`: what a table
    calls it. `accuracy`: in [0, 1]. `on_line`: one of a series by budget.
    """

    policy: Policy
    exits: Integers
    macs_share: Floats
    name: str
    accuracy: float
    on_line: bool = True

    def batches(self, size: int) -> list[Integers]:
        """Return exits for batches of `size` inputs, which together follow the distribution of `exits`."""
        total = size * _batches_of(size)
        ordered = np.sort(self.exits)
        places = (np.arange(total) + 0.5) * len(ordered) / total
        shuffled = np.random.default_rng(0).permutation(ordered[places.astype(np.int64)])
        return [shuffled[i : i + size] for i in range(0, total, size)]

    def mean_macs_share(self, size: int) -> float:
        """Return the mean share of multiply-adds in batches of `size` inputs."""
        return float(self.macs_share[np.concatenate(self.batches(size))].mean())


def whole_network(
    executor: Executor, prepare: Callable[[Any], Any] = lambda inputs: inputs
) -> Callable[[Any], Any]:
    """Return a function that runs a whole network, with its last head alone.

    `executor`: of one segment. `prepare`: makes the executor's inputs from the arguments of the function.
    """
    last = [executor.n_exits - 1]
    return lambda inputs: executor.run(0, executor.start(prepare(inputs))[0], last)


def policy_alternative(executor: Executor, mix: ExitMix, plan: Plan | None = None) -> Alternative:
    """Return a policy as an alternative; whatever the inputs are, they answer at the exits of `mix`."""

    @cache  # drawing them takes some 0.2 ms
    def exits_in_turn(n: int) -> Iterator[Integers]:
        return cycle(mix.batches(n))

    def answer(inputs: Any, n: int) -> None:
        Engine(executor, forced_exits(mix.policy, next(exits_in_turn(n))), plan).answer(inputs)

    return Alternative(mix.name, mix.accuracy, answer, mix.mean_macs_share, mix.on_line)


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
        calls = {place: partial(_answer, way, inputs, size) for place, way in enumerate(ways)}
        seconds = time_interleaved(calls, rounds=repeats, max_seconds=max_seconds)
        timed += [
            TimedAlternative(
                way.name,
                way.accuracy,
                way.on_line,
                size,
                way.macs_share(size),
                Spread.of(seconds[place] * 1e3 / (size * count)),
                Spread.of(seconds[place] / seconds[0]),
            )
            for place, way in enumerate(ways)
        ]
        progress(f"batch size {size} timed")
    return timed


def _answer(way: Alternative, inputs: Any, size: int, _round: int) -> None:
    for _ in range(_batches_of(size)):
        way.answer(inputs, size)


def _batches_of(size: int) -> int:
    """Return how many batches of this size one measurement takes."""
    return max(1, _INPUTS // size)


# -- exits given in advance -----------------------------------------------------------------------------------


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

    @property
    def looks_once(self) -> bool:
        """Whether that score is known at the gate."""
        return getattr(self.score, "looks_once", False)

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


def heads_policy(n_exits: int, exits: Sequence[int]) -> Policy:
    """Return a policy of `n_exits` exits that needs the heads of these and the last one, as `all_heads_policy`."""
    needed = np.isin(np.arange(n_exits), [*exits, n_exits - 1])
    return _policy_of_rates(needed / needed.sum())


def last_head_policy(n_exits: int) -> Policy:
    """Return a policy of `n_exits` exits that needs the last head alone: all inputs answer there."""
    return heads_policy(n_exits, ())


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
