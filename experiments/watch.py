"""The watch: how often it is wrong without drift, how soon it notices six drifts, and what it costs in time.

    python -m experiments.watch
    python -m experiments.watch --measure all --data ../shared/data --models ../shared/models [--streams 1000]
    python -m experiments.watch --measure null --data ../shared/data [--streams 1000]

Writes the page again from the kept numbers. `--measure all` records images and texts once, and draws streams from
recorded traces; `null` adds streams without drift to those of the page, which must be of the same watch. The same
command goes on where it was interrupted. Drift needs the packages `river` and `scikit-learn`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from experiments.pages import RESULTS, Measurements, kept_numbers, parser, table, write_page
from experiments.watched_drifts import (
    BLUR,
    CONTRAST,
    HARDER,
    NOISE,
    OUT_OF_SCOPE,
    STRENGTHS,
    WORSE,
    all_sources,
)
from experiments.watched_rivals import RIVALS
from experiments.watched_streams import (
    BATCH,
    CLEAN,
    DELAYS,
    LENGTH,
    LONGER,
    LONGEST,
    MOST,
    NULL_INPUTS,
    REPETITION,
    Pool,
    delays,
    of_groups,
    power,
    recorded,
    seconds,
    without_drift,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE, KEPT = RESULTS / "watch.md", Path("runs/watch.jsonl")
GROUPED = ("resnet20-cifar10-joint", "banking77-tuned")


def measure(data: Path, models: Path, streams: int) -> dict[str, Any]:
    kept = Measurements(KEPT)
    sources = all_sources(data, models, Path("runs/watched"))
    found = {
        f"{name}, {strength}": medians(
            kept.of("delay", name, strength, measure=partial(delays, source, strength))
        )
        for name, source in sources.items()
        for strength in STRENGTHS
    }
    return {
        "null": measure_null(data, streams, {}),
        "delays": found,
        "power": kept.of("power", measure=power),
        "seconds": kept.of("seconds", measure=seconds),
    }


def measure_null(data: Path, streams: int, before: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Draw streams without drift, as many in all as `streams`, and return summaries of them and those `before`.

    All traces in turn, so that an interrupted measurement has some of each.
    """
    kept, parts = Measurements(KEPT), recorded(data)
    made = {name: (fit, Pool(pool)) for name, (fit, pool) in parts.items()}
    drawn: dict[str, list[list[float]]] = {}

    def of(name: str, kind: str, seed: int, measure: Callable[[], Any]) -> None:
        about = f"{name}, {kind}"
        if seed * BATCH >= before.get(about, {}).get("streams", 0):
            drawn.setdefault(about, []).extend(kept.of("null", name, kind, seed, measure=measure))

    for seed in range(streams // BATCH):
        for name, (fit, pool) in made.items():
            for repetition in REPETITION:
                of(name, repetition, seed, partial(without_drift, fit, pool, repetition, seed))
        for name in GROUPED:
            of(name, "groups", seed, partial(of_groups, *parts[name], seed))
    return before | {name: pooled(before.get(name), summary(rows)) for name, rows in drawn.items()}


def summary(streams: list[list[float]]) -> dict[str, float]:
    at, peaks = np.array(streams).T
    return {
        "streams": len(at), "restricted_mean": float(np.minimum(at, LONGEST).mean()),
        "error": float(np.minimum(at, LONGEST).std() / len(at) ** 0.5),
        "within_half": float(np.mean(at <= LENGTH / 2)), "at_longer": float(np.mean(peaks >= LONGER)),
    }  # fmt: skip


def pooled(before: dict[str, float] | None, after: dict[str, float]) -> dict[str, float]:
    """Return the summary of the streams of two summaries."""
    if before is None:
        return after
    n = np.array([before["streams"], after["streams"]])
    found = {name: float(np.average([before[name], after[name]], weights=n)) for name in after}
    apart = np.average(
        [(one["restricted_mean"] - found["restricted_mean"]) ** 2 for one in (before, after)], weights=n
    )
    variance = np.average(n * [before["error"] ** 2, after["error"] ** 2], weights=n) + apart
    return found | {"streams": int(n.sum()), "error": float((variance / n.sum()) ** 0.5)}


def medians(found: dict[str, list[float | None]]) -> dict[str, Any]:
    """Return the median delay of each detector over streams without an alarm before the drift; None beyond `MOST`."""
    result = {}
    for name, every in found.items():
        late = [np.inf if at is None else at for at in every if at is None or at > 0]
        middle = float(np.median(late)) if late else np.inf
        result[name] = middle if np.isfinite(middle) else None
    return result


def page(found: dict[str, Any]) -> str:
    null, late = found["null"], found["delays"]
    streams = min(one["streams"] for one in null.values())
    rows = []
    for name, one in null.items():
        mean = f"{one['restricted_mean']:,.0f} ± {1.96 * one['error']:,.0f}"
        rows.append([name, one["streams"], mean, f"{one['within_half']:.1%}", f"{one['at_longer']:.1%}"])
    detectors = next(iter(late.values()))
    rivals = {name: [one for one in detectors if one.startswith(name)] for name in RIVALS}
    drifts = []
    for name, one in late.items():
        best = [soonest(one, of) for of in rivals.values()]
        drifts.append([name, shown(one["watch"]), *map(shown, best)])
    ratios = {
        signal: [
            (one["watch"] or np.inf) / (soonest(one, [k for k in detectors if k.endswith(signal)]) or np.inf)
            for one in late.values()
        ]
        for signal in ("", "score")
    }
    wins = {signal: sum(ratio < 1 for ratio in each) for signal, each in ratios.items()}
    worst = [f"{ratio:.2g} ({name})" for ratio, name in zip(ratios[""], late, strict=True) if ratio > 2]
    pooled = np.average(
        [one["restricted_mean"] for one in null.values()], weights=[one["streams"] for one in null.values()]
    )
    power_, taken = found["power"], found["seconds"]
    return f"""# The watch

`python -m experiments.watch` writes this page; [how the watch works](../explanation/watch.md).

## Without drift

Calibration inputs (1,000) and streams are drawn from one pool with replacement: rows of a trace, or of a cascade of
services. "Zipf": a few rows come most often, as in a query log. "groups": five rows of a class each, 500 in
calibration, whose first row counts. The run length is 10,000: the mean number of inputs to an alarm must be at least
that, and at most half of the streams may have an alarm within 5,000. Streams without one after {LONGEST:,} inputs count
as so many, which makes the mean smaller than it is. For a run length of 100,000, at most {NULL_INPUTS / LONGER:.0%} of
the streams may reach this evidence within {NULL_INPUTS:,} inputs. At least {streams:,} streams each; means with 95%
intervals. Over all pools the mean is {pooled:,.0f}.

{table(["pool", "streams", "mean inputs to an alarm", "alarm within 5,000", "evidence of 100,000"], rows)}

## With drift

Median inputs from the drift to the alarm, over {DELAYS} streams with {CLEAN} clean inputs before; streams with an alarm
among these are left out. "-": not within {MOST:,}. The watch has a run length of 10,000 by its theorem. The others are
tuned on streams without drift, so that as many have an alarm within {CLEAN + MOST:,} inputs as at a constant rate of
one in 10,000. They see one number per input, its score at the first exit or the exit that answers it; the better one of
both, chosen in hindsight for each row, is shown. ADWIN and Page-Hinkley are those of river, with its other settings;
windows of 200 are compared with calibration by a Kolmogorov-Smirnov statistic.

{table(["drift", "watch", *RIVALS], drifts)}

The watch is sooner than all others in {wins[""]} of {len(late)} rows, and in {wins["score"]} than all others that see
the score. Rows in which it is more than twice as late as the best of the others: {", ".join(worst) or "none"}.

Images are 2,500 test images of CIFAR-10 through a ResNet-20 with two linear heads: noise of standard deviation
{listed(NOISE)}, Gaussian blur of {listed(BLUR)} pixels, contrast of {listed(CONTRAST)}. Class shift: four hard classes
(bird, cat, deer, dog) come {listed(HARDER)} times as often. Texts: {listed(OUT_OF_SCOPE)} of the questions to a bank
(BANKING77, two classifiers by tf-idf) are replaced by other questions. A worse model: a fine-tuned ResNet-20 before a
ResNet-56 gives way to one with frozen weights, for {listed(WORSE)} of the inputs.

One exit's share falls from .35 to .25 after 2,000 clean inputs (three exits, 1,000 calibration inputs, run length
100,000): found after {power_["exits and scores"]:.0f} inputs in the median with scores, and after
{power_["exits alone"]:.0f} with exits alone.

## Time

A batch of 64 inputs, four exits: {1e6 * taken["exits and scores"]:.0f} microseconds of processor time with scores,
{1e6 * taken["exits alone"]:.0f} without, the least of 200 means of 100.
"""


def soonest(found: dict[str, float | None], detectors: Sequence[str]) -> float | None:
    return min((found[one] for one in detectors if one != "watch" and found[one] is not None), default=None)


def shown(at: float | None) -> str:
    return "-" if at is None else f"{at:,.0f}"


def listed(values: Sequence[float]) -> str:
    *first, last = (f"{value:g}" for value in values)
    return f"{', '.join(first)} or {last}"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--measure", choices=("all", "null"))
    arguments.add_argument("--data", type=Path)
    arguments.add_argument("--models", type=Path)
    arguments.add_argument("--streams", type=int, default=1000)
    given = arguments.parse_args()
    if given.measure == "all":
        found = measure(given.data, given.models, given.streams)
    else:
        found = kept_numbers(PAGE)
        if given.measure == "null":
            found["null"] = measure_null(given.data, given.streams, found["null"])
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
