"""Streams drawn from recorded traces, without drift and with it, and what a watch says of them."""

from __future__ import annotations

import time
import timeit
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
from experiments.pages import TRACES
from experiments.services import service_models
from experiments.watched_rivals import signals, thresholds

import exeunt as ex
from exeunt.policy.calibration import exits_under
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace.derived import score_matrix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from experiments.watched_drifts import Source

N, LENGTH, LONGER = 1000, 1e4, 1e5
"""Calibration inputs, and the run lengths."""
NULL_INPUTS, LONGEST, STEP = 20_000, 100_000, 4000
"""Inputs of a stream without drift: until it is known whether there is evidence of `LONGER`, at most if there is no
alarm, and drawn at a time."""
CLEAN, MOST, DELAYS = 500, 6000, 60
"""Inputs before a drift and after it; streams per drift."""
REPETITION = ("none", "Zipf")
BATCH = 50


class Pool:
    """Rows that streams are drawn from, with replacement: all that a policy sees of them."""

    def __init__(self, trace: ex.ExitTrace, weights: np.ndarray | None = None) -> None:
        self.trace, self.scores = trace, score_matrix(None, trace)
        self.ties, self.weights = tie_breaks(trace.id, 0), weights

    def answered(self, policy: ex.Policy, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return exits, scores there and at the first exit, and ties (n,) of rows under a policy."""
        exits = exits_under(self.scores[rows], self.ties[rows], policy.limits)
        first = self.scores[rows, policy.watched.first]
        return exits, self.scores[rows, exits], first, self.ties[rows]

    def drawn(self, rng: np.random.Generator, n: int, repetition: str = "none") -> np.ndarray:
        if repetition == "Zipf":
            order = np.random.default_rng(1).permutation(self.trace.n)
            weights = 1 / np.arange(1, self.trace.n + 1) ** 1.1
            return order[rng.choice(self.trace.n, n, p=weights / weights.sum())]
        return rng.choice(self.trace.n, n, p=self.weights)


# -- without drift ---------------------------------------------------------------------------------------------------


def recorded(data: Path | None) -> dict[str, tuple[ex.ExitTrace, ex.ExitTrace]]:
    """Return the fit part and the pool of every recorded trace, and of a cascade for each table of services."""
    traces = {file.stem: ex.ExitTrace.load(file) for file in sorted(TRACES.glob("*.parquet"))}
    for file in sorted((data / "apis").glob("*.parquet")) if data else ():
        models = service_models(file)
        fit, calibrate, _ = models.split(fit=0.2, calibrate=0.2, test=0.6)
        best = min(models.names, key=lambda name: models[name].risk[0])
        policy = ex.cascade(fit, calibrate, budget=0.7 * models[best].cost.full, policy="eero", answer="own")
        if len(policy.models) > 1:
            traces[f"services: {file.stem}"] = models.along(policy.cascade)
    found = {}
    for name, trace in traces.items():
        order = np.random.default_rng(0).permutation(trace.n)
        at = min(1500, trace.n // 5)
        found[name] = trace.take(order[:at]), trace.take(order[at:])
    return found


def budget_of(trace: ex.ExitTrace) -> float:
    """Return 60% of the full cost, or where the first exit costs about that, half-way to the full cost."""
    cost = trace.cost
    return 0.6 * cost.full if cost.first < 0.5 * cost.full else (cost.first + cost.full) / 2


def alarmed(watch: ex.Watch, given: Callable[[int], tuple[np.ndarray, ...]]) -> list[float]:
    """Return the input of the alarm, `LONGEST` + 1 for none up to there, and the highest evidence of `NULL_INPUTS`.

    Once both are known to be over, the rest of the stream is not drawn: evidence of `LONGER` may have grown further.
    """
    peak = 0.0
    while watch.n < NULL_INPUTS and peak < LONGER:
        watch.update(*given(STEP))
        peak = max(watch.curve.peaks)
    while watch.alarm is None and watch.n < LONGEST:
        watch.update(*given(STEP))
    return [LONGEST + 1 if watch.alarm is None else watch.alarm.at, peak]


def without_drift(fit: ex.ExitTrace, pool: Pool, repetition: str, seed: int) -> list[list[float]]:
    """Return `alarmed` of streams drawn from the pool that calibration inputs are drawn from."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(BATCH):
        policy = ex.eero(fit, pool.trace.take(pool.drawn(rng, N, repetition)), budget=budget_of(fit), seed=0)
        found.append(
            alarmed(
                ex.Watch(policy, run_length=LENGTH),
                lambda n, policy=policy: pool.answered(policy, pool.drawn(rng, n, repetition)),
            )
        )
    return found


def of_groups(fit: ex.ExitTrace, trace: ex.ExitTrace, seed: int) -> list[list[float]]:
    """The same of groups of five rows of one class, whose score at the first exit is watched."""
    rng, found = np.random.default_rng(seed), []
    order, scores = np.argsort(trace.label, kind="stable"), score_matrix(None, trace)
    rows, ties = order[: trace.n // 5 * 5].reshape(-1, 5), tie_breaks(trace.id, 0)

    def grouped(part: ex.ExitTrace, names: np.ndarray) -> ex.ExitTrace:
        return replace(part, groups=ex.Groups(names))

    for _ in range(BATCH):
        groups = rng.integers(0, len(rows), 500)
        calibrate = grouped(trace.take(rows[groups].ravel()), np.repeat(np.arange(500), 5) + 10**6)
        policy = ex.eero(grouped(fit, np.arange(fit.n) // 5), calibrate, budget="60%", seed=0)

        def firsts(n: int, first: int = policy.watched.first) -> tuple[np.ndarray, ...]:
            some = rows[rng.integers(0, len(rows), n), 0]
            return np.zeros(n, np.int64), None, scores[some, first], ties[some]

        found.append(alarmed(ex.Watch(policy, run_length=LENGTH), firsts))
    return found


# -- drift -----------------------------------------------------------------------------------------------------------


@cache
def pools(clean: ex.ExitTrace) -> Pool:
    return Pool(clean)


def delays(source: Source, strength: str) -> dict[str, list[float | None]]:
    """Return after how many drifted inputs each detector notices, None for not within `MOST`."""
    clean, (trace, weights) = pools(source.clean), source.drifted[strength]
    drifted, rng = Pool(trace, weights), np.random.default_rng(0)
    tuned = thresholds(source.fit, clean, N, CLEAN + MOST, LENGTH)
    found: dict[str, list[float | None]] = {name: [] for name in ("watch", *tuned)}
    for _ in range(DELAYS):
        rows = clean.drawn(rng, N)
        policy = ex.eero(source.fit, clean.trace.take(rows), budget="60%", seed=0)
        parts = [(clean, clean.drawn(rng, CLEAN)), (drifted, drifted.drawn(rng, MOST))]
        told = [
            np.concatenate(one)
            for one in zip(*(pool.answered(policy, rows) for pool, rows in parts), strict=True)
        ]
        watch = ex.Watch(policy, run_length=LENGTH)
        watch.update(*told)
        found["watch"].append(None if watch.alarm is None else watch.alarm.at - CLEAN)
        first = np.concatenate([pool.scores[rows, 0] for pool, rows in parts])
        known = clean.scores[rows, 0]
        for name, at in signals(policy, told[0], first, known, tuned).items():
            found[name].append(None if at is None else at - CLEAN)
    return found


def power(times: int = 200) -> dict[str, float]:
    """Return the median delay where one exit's share falls from .35 to .25, after 2,000 inputs, at 100,000."""
    rng, cost, shares = np.random.default_rng(0), ex.CostModel([1, 2, 3]), np.array([0.35, 0.4, 0.25])

    def traced(n: int) -> ex.ExitTrace:
        answers = np.zeros((n, 3), int)
        return ex.ExitTrace.from_scores(
            rng.random((n, 3)), answers, label=answers[:, 0], cost=cost, id=rng.integers(0, 2**62, n)
        )

    found: dict[str, list[float]] = {"exits and scores": [], "exits alone": []}
    for _ in range(times):
        policy = ex.compose("planned", lambda _: shares, traced(50), traced(N), budget=1.95)
        scores, least = rng.random((5000, 3)), policy.thresholds[0]
        falls = (np.arange(5000) >= 2000) & (scores[:, 0] >= least) & (rng.random(5000) > 0.25 / 0.35)
        scores[falls, 0] = rng.random(falls.sum()) * least
        exits = exits_under(scores, rng.random(5000), policy.limits)
        for name, given in (
            ("exits and scores", (exits, scores[np.arange(5000), exits], scores[:, 0])),
            ("exits alone", (exits,)),
        ):
            alarms = ex.Watch(policy, run_length=LONGER).update(*given)
            if not alarms or alarms[0].at > 2000:
                found[name].append(alarms[0].at - 2000 if alarms else np.inf)
    return {name: float(np.median(one)) for name, one in found.items()}


def seconds() -> dict[str, float]:
    """Return the processor's seconds of a batch of 64, the least of many."""
    rng, cost = np.random.default_rng(0), ex.CostModel([1, 2, 3, 4])
    label = rng.integers(0, 10, 3000)
    logits = rng.normal(size=(3000, 4, 10))
    logits[np.arange(3000), :, label] += [1, 1.5, 2.5, 3.5]
    fit, calibrate, test = ex.ExitTrace.from_logits(logits, cost=cost, label=label).split()
    policy = ex.eero(fit, calibrate, budget="60%")
    pool = Pool(test)
    told = pool.answered(policy, np.arange(64))
    found = {}
    for name, given in (("exits and scores", told), ("exits alone", told[:1])):
        watch = ex.Watch(policy, run_length=1e12)
        each = timeit.repeat(partial(watch.update, *given), number=100, repeat=200, timer=time.process_time)
        found[name] = min(each) / 100
    return found
