"""Detectors to compare the watch with, each tuned on streams without drift to the same run length.

All look at one number per input: its score at the first exit, as its rank among calibration inputs, or the exit that
answers it. ADWIN and Page-Hinkley are those of the package river; windows of 200 inputs are compared with calibration
by a Kolmogorov-Smirnov statistic.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import exeunt as ex

if TYPE_CHECKING:
    pass

RIVALS = ("ADWIN", "Page-Hinkley", "windows")
DELTAS = tuple((0.5 ** np.arange(1, 17)).tolist())
WINDOW, TUNED_ON = 200, 60


def adwin(values: np.ndarray, delta: float) -> int | None:
    from river.drift import ADWIN

    detector = ADWIN(delta=delta)
    for i, value in enumerate(values.tolist()):
        detector.update(value)
        if detector.drift_detected:
            return i + 1
    return None


def page_hinkley(values: np.ndarray) -> np.ndarray:
    """Return the statistic of river's PageHinkley, of both directions, after each value, (n,)."""
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    found, up, down, least, most = np.zeros(len(values)), 0.0, 0.0, 0.0, 0.0
    for i, (value, mean) in enumerate(zip(values.tolist(), means.tolist(), strict=True)):
        up, down = 0.9999 * up + value - mean - 0.005, 0.9999 * down + value - mean + 0.005
        least, most = min(least, up), max(most, down)
        if i >= 30:
            found[i] = max(up - least, most - down)
    return found


def window_statistics(values: np.ndarray, calibrated: np.ndarray) -> np.ndarray:
    """Return after each value the statistic of the latest full window, (n,)."""
    found, known = np.zeros(len(values)), np.sort(calibrated)
    for end in range(WINDOW, len(values) + 1, WINDOW):
        part = np.sort(values[end - WINDOW : end])
        places = np.concatenate([known, part])
        shares = (np.searchsorted(one, places, side="right") / len(one) for one in (known, part))
        found[end - 1] = np.abs(np.subtract(*shares)).max()
    return found


def seen(policy: ex.Policy, exits: np.ndarray, first: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    """Return by signal its values, and those of calibration: ranks of the first exit's score, and exits."""
    ranks = np.searchsorted(np.sort(known), first) / len(known)
    shares = policy.counts / policy.counts.sum()
    at_calibration = np.repeat(np.arange(len(shares)), policy.counts) / len(shares)
    return {"score": (ranks, np.linspace(0, 1, len(known))), "exit": (exits / len(shares), at_calibration)}


def statistics(values: np.ndarray, calibrated: np.ndarray) -> dict[str, np.ndarray]:
    return {"Page-Hinkley": page_hinkley(values), "windows": window_statistics(values, calibrated)}


@cache
def thresholds(fit: ex.ExitTrace, clean: Any, n: int, most: int, length: float) -> dict[str, float]:
    """Return by detector and signal the setting with which 1 - exp(-most / length) of null streams raise an alarm.

    So do streams whose alarms come at a constant rate with this mean run length.
    """
    share, rng = 1 - math.exp(-most / length), np.random.default_rng(7)
    peaks: dict[str, list[float]] = {}
    streams: dict[str, list[np.ndarray]] = {}
    for _ in range(TUNED_ON):
        rows, stream = clean.drawn(rng, n), clean.drawn(rng, most)
        policy = ex.eero(fit, clean.trace.take(rows), budget="60%", seed=0)
        exits = clean.answered(policy, stream)[0]
        for signal, (values, known) in seen(
            policy, exits, clean.scores[stream, 0], clean.scores[rows, 0]
        ).items():
            streams.setdefault(signal, []).append(values)
            for name, statistic in statistics(values, known).items():
                peaks.setdefault(f"{name}, {signal}", []).append(float(statistic.max()))
    found = {name: float(np.quantile(each, 1 - share)) for name, each in peaks.items()}
    for signal, each in streams.items():
        for delta in DELTAS:
            if np.mean([adwin(values, delta) is not None for values in each]) <= share:
                break
        found[f"ADWIN, {signal}"] = delta
    return found


def signals(
    policy: ex.Policy, exits: np.ndarray, first: np.ndarray, known: np.ndarray, tuned: dict[str, float]
) -> dict[str, int | None]:
    """Return by detector and signal at which input it raises an alarm, if it does."""
    found: dict[str, int | None] = {}
    for signal, (values, calibrated) in seen(policy, exits, first, known).items():
        found[f"ADWIN, {signal}"] = adwin(values, tuned[f"ADWIN, {signal}"])
        for name, statistic in statistics(values, calibrated).items():
            over = np.flatnonzero(statistic > tuned[f"{name}, {signal}"])
            found[f"{name}, {signal}"] = int(over[0]) + 1 if len(over) else None
    return found
