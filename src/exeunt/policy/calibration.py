"""From rates to thresholds: how sure an input must be to leave, so that the planned shares leave.

Inputs are ordered by (score, tie) at each exit, where the tie is a seeded uniform number per key. So an exit whose
score is the same for all inputs still releases its exact share. A threshold is therefore a pair, and an input answers
if its own pair is at least the threshold. Inputs with equal keys, such as copies, have equal pairs and leave together.

Three ways: `sequential_thresholds` counts the inputs that are still here at each exit, `marginal_thresholds` takes
quantiles over all inputs as the paper does, and `route_batch` meets the shares inside one batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers
from exeunt.errors import InputError
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import ExitTrace
from exeunt.trace.derived import score_matrix

if TYPE_CHECKING:
    from exeunt.score.kinds import Score

Calibration: TypeAlias = Literal["sequential", "marginal"]
Slack: TypeAlias = "float | Literal['paper'] | None"

NEVER, ALWAYS = math.inf, -math.inf
WORDS = {NEVER: "never", ALWAYS: "always"}
"""What stands for infinite thresholds: JSON has none."""
_NUMBERS = {word: number for number, word in WORDS.items()}


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Per exit, the least (score, tie) that answers. (inf, inf): never; (-inf, -inf): always.

    `score` (m,), `tie` (m,). The last exit always answers.
    """

    score: Floats
    tie: Floats

    def to_dict(self) -> dict[str, list[float | str]]:
        """Return a JSON-able form, with words for the infinities, which JSON lacks."""
        return {"score": _words(self.score), "tie": _words(self.tie)}

    @classmethod
    def from_dict(cls, body: dict[str, list[float | str]]) -> Thresholds:
        """Rebuild thresholds from `to_dict`."""
        return cls(_numbers(body["score"]), _numbers(body["tie"]))

    @classmethod
    def of(cls, pairs: list[tuple[float, float]]) -> Thresholds:
        """Make thresholds of one (score, tie) pair per exit."""
        score, tie = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        return cls(arrays.frozen(score), arrays.frozen(tie))


def checked_rates(rates: ArrayLike, n_exits: int) -> Floats:
    """Return rates (m,) if they are shares of 1: 0 or above, adding up to 1 (to 1e-9)."""
    values = arrays.floats(rates, "rates", ndim=1)
    arrays.check_length(values, "rates", n_exits)
    if (values < 0).any() or abs(values.sum() - 1) > 1e-9:
        raise InputError(f"rates must be 0 or above and sum to 1, got {values} (sum {values.sum():g})")
    return values


def last_exit(rates: Floats) -> int:
    """Return the exit that answers everything which reaches it: the last with a rate above 0."""
    return int(np.flatnonzero(rates > 0)[-1])


def of_those_left(shares: Floats) -> tuple[Floats, Floats]:
    """Return the share of inputs that come to each exit, (m,), and of these the share that leaves there, (m,).

    `shares` (m,): of all inputs, of each exit. Where no input comes, all leave.

    >>> of_those_left(np.array([0.5, 0.25, 0.25]))
    (array([1.  , 0.5 , 0.25]), array([0.5, 0.5, 1. ]))
    """
    coming: Floats = np.cumsum(shares[::-1])[::-1]
    return coming, np.divide(shares, coming, out=np.ones(len(shares)), where=coming > 0)


def planned_counts(rates: Floats, n: int) -> Integers:
    """Return how many of n inputs leave at each exit, (m,) summing to n, rounded towards safety.

    Fractions of an input leave at the earlier exit, so the counts never cost more than the rates, and less
    by at most one input per exit. Exits with rate 0 keep 0.
    """
    reached = np.cumsum(rates) * n
    # Rounding errors of the sum (some 1e-13) must not move a whole input.
    up = np.minimum(np.ceil(reached - 1e-9 * max(n, 1) ** 0.5), n).astype(np.int64)
    up[last_exit(rates) :] = n
    counts: Integers = up.copy()
    counts[1:] -= up[:-1]  # `np.diff` with `prepend` takes several times as long for a few exits
    return counts


def release(score: Floats, tie: Floats, count: int) -> tuple[float, float]:
    """Return the (score, tie) of the `count`-th surest of these inputs: that many are at least as sure.

    `count` 0 gives the threshold that releases nobody.
    """
    if count <= 0:
        return NEVER, NEVER
    n = len(score)
    lowest = np.partition(score, n - count)[n - count]
    tied = tie[score == lowest]
    wanted = count - int(np.count_nonzero(score > lowest))
    # + 0.0: of 0 and -0, which are equal, always the former.
    return float(lowest) + 0.0, float(np.partition(tied, len(tied) - wanted)[len(tied) - wanted])


class Ranked(Protocol):
    """Calibration inputs by how sure they are at each of m exits, whether in memory or in files."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of inputs n, and of exits m."""

    def release(self, exit_: int, count: int) -> tuple[float, float]:
        """Return the (score, tie) of the `count`-th surest of all inputs at an exit."""

    def leave(self, exit_: int, reached: int) -> tuple[float, float]:
        """Let the surest inputs here leave until `reached` of all have left; return the last one's (score, tie).

        Inputs as sure as the last one leave, too. If that many had left before, none leaves.
        """

    def counts(self, limits: Thresholds) -> Integers:
        """Return how many of all inputs answer at each exit, (m,)."""

    def at(self, exit_: int) -> tuple[Floats, Floats]:
        """Return the scores (n,) of all inputs at an exit, and their ties (n,)."""


class RankedInMemory:
    """Inputs with scores (n, m) and ties (n,), all of them in memory; methods as in `Ranked`."""

    def __init__(self, score: Floats, tie: Floats) -> None:
        self.shape = score.shape[0], score.shape[1]
        self._score, self._tie = score, tie
        self._here = np.arange(len(score))

    def release(self, exit_: int, count: int) -> tuple[float, float]:
        """Return the (score, tie) of the `count`-th surest of all inputs at an exit."""
        return release(self._score[:, exit_], self._tie, count)

    def leave(self, exit_: int, reached: int) -> tuple[float, float]:
        """Let the surest inputs here leave until `reached` of all have left; return the last one's (score, tie)."""
        here, ties = self._score[self._here, exit_], self._tie[self._here]
        least = release(here, ties, reached - (self.shape[0] - len(here)))
        self._here = self._here[~at_least(here, ties, *least)]
        return least

    def counts(self, limits: Thresholds) -> Integers:
        """Return how many of all inputs answer at each exit, (m,)."""
        counts: Integers = np.bincount(exits_under(self._score, self._tie, limits), minlength=self.shape[1])
        return counts

    def at(self, exit_: int) -> tuple[Floats, Floats]:
        """Return the scores (n,) of all inputs at an exit, and their ties (n,)."""
        return self._score[:, exit_], self._tie


def sequential_thresholds(inputs: Ranked, counts: Integers, last: int) -> Thresholds:
    """Return thresholds, exit by exit, over the inputs still here: exit l releases the counts[l] surest of them.

    `counts` (m,) summing to n; `last` is the exit that releases all that is left. Where no two inputs have equal
    (score, tie), the shares released equal those planned, and the mean cost of future inputs follows
    `MeanCostDistribution(counts, cost)`. Equal inputs leave together. What leaves too early is made up for at the next
    exits, so at least the planned number has left by each exit, and the mean cost is stochastically at most that of the
    distribution (docs/explanation/guarantees.md, "Inputs that repeat").
    """
    reached = np.cumsum(counts)
    pairs = [inputs.leave(exit_, int(reached[exit_])) for exit_ in range(last)]
    beyond = inputs.shape[1] - last
    return Thresholds.of(pairs + [(ALWAYS, ALWAYS)] * beyond)


def marginal_thresholds(inputs: Ranked, rates: Floats, slack: Slack) -> Thresholds:
    """Return the paper's thresholds (Eq. 8-9, Algorithm 1): quantiles over *all* calibration inputs.

    Exit l answers if F_l(s) >= 1 - e_l, with e_l = eps_1 + ... + eps_l + C/sqrt(n) capped at 1. `slack` is C: "paper"
    is the exit's own cumulative rate, as in the paper's experiments; a number is that constant. Inputs that left
    earlier are counted again, so a part of the budget is not used. Exits with rate 0 release nothing, whatever the
    slack.
    """
    n, m = inputs.shape
    cumulative = np.cumsum(rates)
    constant = cumulative if slack in ("paper", None) else _checked_slack(slack)
    shares = np.minimum(cumulative + constant / math.sqrt(n), 1.0)
    last = last_exit(rates)  # its cumulative rate is 1, up to the rounding of the sum
    pairs: list[tuple[float, float]] = []
    for exit_ in range(m):
        if exit_ >= last or (rates[exit_] > 0 and shares[exit_] >= 1):
            pairs.append((ALWAYS, ALWAYS))
        elif rates[exit_] == 0:
            pairs.append((NEVER, NEVER))  # slack must not open an exit that the plan leaves out
        else:
            pairs.append(inputs.release(exit_, _released_by_quantile(float(shares[exit_]), n)))
    return Thresholds.of(pairs)


def route_batch(
    trace: ExitTrace, rates: ArrayLike, *, score: str | Score | None = None, seed: int = 0
) -> Integers:
    """Return the exit (n,) of each input of a whole batch, with the planned shares met inside the batch.

    `rates` (m,): shares of the batch per exit. `score`: by default "margin", or the trace's only score. The cost never
    exceeds that of the rates and falls short by at most one input per exit. No calibration set is needed, and drift
    does no harm, but an answer depends on the batch that the input came in.
    """
    return release_batch(score_matrix(score, trace), distinct_tie_breaks(trace.id, seed), rates)


def release_batch(scores: Floats, ties: Floats, rates: ArrayLike) -> Integers:
    """Return the exit (n,) of each input of a batch with scores (n, m), equal ones in order of `ties` (n,)."""
    checked = checked_rates(rates, scores.shape[1])
    counts = planned_counts(checked, len(scores))
    limits = sequential_thresholds(RankedInMemory(scores, ties), counts, last_exit(checked))
    return exits_under(scores, ties, limits)


@arrays.dispatched
def at_least(
    score: Floats, tie: Floats, least_score: float | Floats, least_tie: float | Floats
) -> arrays.Booleans:
    """Return which (score, tie) pairs are at least the threshold, in lexicographic order."""
    surer: arrays.Booleans = (score > least_score) | ((score == least_score) & (tie >= least_tie))
    return surer


def exits_under(score: Floats, tie: Floats, limits: Thresholds) -> Integers:
    """Return the exit that answers each of these inputs, (n,): `score` (n, m), `tie` (n,)."""
    leaves = at_least(score, tie[:, None], limits.score, limits.tie)
    leaves[:, -1] = True
    exits: Integers = leaves.argmax(axis=1).astype(np.int64)
    return exits


def _words(values: Floats) -> list[float | str]:
    return [WORDS.get(number, number) for number in values.tolist()]


def _numbers(values: list[float | str]) -> Floats:
    return np.array([_NUMBERS[v] if isinstance(v, str) else v for v in values], dtype=np.float64)


def _released_by_quantile(share: float, n: int) -> int:
    """Return how many of n distinct values have F(value) >= 1 - share: the k-th lowest has F = k/n."""
    lowest_rank = max(math.ceil(n * (1 - share) - 1e-9), 1)
    return n - lowest_rank + 1


def _checked_slack(slack: Slack) -> float:
    if isinstance(slack, str) or slack is None:
        raise InputError(f"slack must be 'paper' or a number of 0 or above, got {slack!r}")
    constant = arrays.finite(slack, "slack")
    if constant < 0:
        raise InputError(f"slack must be 0 or above, got {slack!r}")
    return constant
