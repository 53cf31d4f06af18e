"""What the engine takes by itself: microseconds a row on an executor that computes next to nothing.

    python benchmarks/engine.py --out docs/results/engine-benchmarks.md

Five exits, at each of which a fifth of the rows leaves, thresholds on the margin. Every number is the best of 15
rounds; what the executor itself takes, called on the same rows without an engine, is beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "runtime"))
from cheap import Cheap

from exeunt.calibration import Thresholds
from exeunt.engine.engine import Engine
from exeunt.run.runner import Runner
from exeunt.score.confidence import NamedScore
from exeunt.timing.forced_exits import all_heads_policy
from exeunt.timing.interleaving import describe_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt.policy import Policy

M, ROWS, ROUNDS = 5, 4096, 15


class FiveExits(Cheap):
    n_exits = M
    segments = tuple((exit_, exit_) for exit_ in range(M))


def policy() -> Policy:
    half = Thresholds(np.full(M, 0.5), np.zeros(M))
    return replace(all_heads_policy(M), limits=half, score=NamedScore("margin"))


def best(call: Callable[[], Any]) -> float:
    """Return the least seconds of several rounds."""
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def bare(batches: list[Any]) -> None:
    """Call the executor alone, with the rows that are left dropped by hand."""
    executor = FiveExits()
    for inputs in batches:
        state, _ = executor.start(inputs)
        for exit_ in range(M):
            executor.run(exit_, state, [exit_])
            state = state[state[:, 0] > exit_]
            if not len(state):
                break


def waiting(rows: int) -> float:
    """Return seconds a call takes beside this many rows of tickets of their own that wait at the last exit."""
    engine = Engine(FiveExits(), policy(), company=(1, 1, 1, 1, 10**9))
    late = np.full((1, 8), M - 1.0, dtype=np.float32)
    for _ in range(rows):
        engine.submit(late)
    while engine.ready():
        engine.step()
    first = np.zeros((1, 8), dtype=np.float32)

    def one() -> None:
        for _ in range(100):
            engine.submit(first)
            engine.step()

    return best(one) / 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    single = list(rng.integers(0, M, (ROWS, 1, 8)).astype(np.float32))
    full = list(rng.integers(0, M, (ROWS // 64, 64, 8)).astype(np.float32))
    runner = Runner(FiveExits(), policy())
    ways = {
        "one row at a time": (lambda: [runner(one) for one in single], single, 60),
        "single rows, 64 at once (`stream`)": (lambda: list(runner.stream(single)), single, 25),
        "batches of 64": (lambda: [runner(one) for one in full], full, 2),
        "batches of 64 (`stream`)": (lambda: list(runner.stream(full)), full, 2),
    }
    lines = [
        "| rows come as | microseconds a row | of these the executor | aim |",
        "| --- | --- | --- | --- |",
    ]
    for name, (call, batches, aim) in ways.items():
        taken, own = best(call) / ROWS, best(lambda given=batches: bare(given)) / ROWS
        lines.append(f"| {name} | {1e6 * taken:.1f} | {1e6 * own:.1f} | {aim} |")
    machine = describe_machine()
    few, many = waiting(10), waiting(10_000)
    text = f"""# What the engine takes

Made by `python benchmarks/engine.py --out docs/results/engine-benchmarks.md`, on one of {machine["cores"]} cores
({machine["processor"]}).
An executor that computes next to nothing has five exits, at each of which a fifth of the rows leaves.

{chr(10).join(lines)}

A request of one row takes {1e6 * few:.0f} microseconds beside 10 tickets that wait, and {1e6 * many:.0f} beside 10,000
({many / few:.2f} times as long).
"""
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
