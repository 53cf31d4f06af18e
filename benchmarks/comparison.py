"""What the comparison takes in processor time: one trace, all policies, 16 budgets.

    python benchmarks/comparison.py TRACE [--splits 2] [--policies eero,auto] [--budgets 20%:95%:5%] [--cores 2]

Set OMP_NUM_THREADS=1. Prints, as Markdown, the time to make each policy for one budget and for all (first split,
nothing shared), the time of a split, the comparison's own part of it (cutting the trace, replaying and measuring every
policy, the oracle and the mixture of two exits), and the time of 50 splits. Processor time on one thread, so that
other load does not count.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import exeunt as ex
from exeunt.budget_text import budget_grid
from exeunt.comparison.compare import open_trace
from exeunt.comparison.one_split import Settings, measure_split
from exeunt.comparison.results import SplitRecord
from exeunt.policies.catalogue import PRESETS

SPLITS = 50


def timed(trace: ex.ExitTrace, settings: Settings, split: int) -> tuple[SplitRecord, float]:
    started = time.process_time()
    record = measure_split(trace, settings, split)
    return record, time.process_time() - started


def own_seconds(trace: ex.ExitTrace, amounts: tuple[float, ...], n_policies: int) -> float:
    """Return the time of a split whose policies cost nothing to make: one, under as many names."""
    fit, calibrate, _ = trace.split(seed=1)
    ready = {amount: ex.eero(fit, calibrate, budget=amount) for amount in amounts}
    names = tuple(f"ready {k}" for k in range(n_policies))
    PRESETS.update({name: lambda _fit, _calibrate, *, budget, seed: ready[budget] for name in names})  # noqa: ARG005
    taken = [timed(trace, _settings(names, amounts), 1)[1] for _ in range(3)]
    for name in names:
        del PRESETS[name]
    return float(np.median(taken))


def _settings(policies: tuple[str, ...], amounts: tuple[float, ...]) -> Settings:
    return Settings(policies, amounts, seed=0, fit=0.3, calibrate=0.2, test=0.5, delta=None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--splits", type=int, default=2, help="timed after the first")
    parser.add_argument("--policies")
    parser.add_argument("--budgets", default="20%:95%:5%")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    trace = open_trace(args.trace)
    policies = tuple(PRESETS) if args.policies is None else tuple(args.policies.split(","))
    amounts = tuple(trace.cost.budget(budget) for budget in budget_grid(args.budgets))
    record, first = timed(trace, _settings(policies, amounts), 0)
    later = [timed(trace, _settings(policies, amounts), split)[1] for split in range(1, args.splits + 1)]
    whole = first + (SPLITS - 1) * float(np.mean(later))
    print(f"# The comparison's time: {args.trace.name}\n")
    print(f"{trace.n} inputs, {trace.n_exits} exits, {len(policies)} policies, {len(amounts)} budgets.\n")
    print(f"- the first split, where policies share nothing: {first:.1f} s")
    print(f"- each of the next {args.splits}: {', '.join(f'{seconds:.1f}' for seconds in later)} s")
    print(f"- of which the comparison's own: {own_seconds(trace, amounts, len(policies)):.2f} s")
    print(f"- {SPLITS} splits on {args.cores} cores: {whole / args.cores / 60:.1f} minutes\n")
    print("| policy | one budget (s) | all budgets (s) |\n| --- | --- | --- |")
    for policy, (one, every) in zip(policies, record.seconds, strict=True):
        print(f"| {policy} | {one:.3g} | {every:.3g} |")


if __name__ == "__main__":
    main()
