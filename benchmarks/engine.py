"""What the engine takes by itself: microseconds a row on an executor that computes next to nothing.

    python benchmarks/engine.py --out docs/results/engine-benchmarks.md

Five exits, at each of which a fifth of the rows leaves, thresholds on the margin. Every number is the best of 15
rounds. Beside it is what the executor itself takes, called on the same rows without an engine, and what the arithmetic
takes when it is written out for this one policy: no tickets, plans, other policies or failures.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "runtime"))
from cheap import Cheap

from exeunt.calibration import Thresholds, at_least
from exeunt.engine.engine import Engine
from exeunt.engine.executor import BORDER
from exeunt.engine.inputs import input_keys
from exeunt.run.runner import Runner
from exeunt.score.confidence import NamedScore, margin, softmax
from exeunt.score.tie_breaking import tie_breaks
from exeunt.timing.forced_exits import all_heads_policy
from exeunt.timing.measuring import describe_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt.policy import Policy

M, ROWS, ROUNDS = 5, 4096, 15
HALF = 0.5


class FiveExits(Cheap):
    n_exits = M
    segments = tuple((exit_, exit_) for exit_ in range(M))


def policy() -> Policy:
    half = Thresholds(np.full(M, HALF), np.zeros(M))
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


def by_hand(batches: list[Any]) -> None:
    """Decide in a loop that knows the policy: keys, probabilities, margins, who leaves, who is borderline, answers."""
    executor = FiveExits()
    for inputs in batches:
        state, valid = executor.start(inputs)
        n = len(valid)
        tie, rows = tie_breaks(input_keys(inputs, n), 0), np.arange(n)
        label, confidence, exits = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
        borderline = np.zeros(n, np.bool_)
        for exit_ in range(M):
            (logits,), state = executor.run(exit_, state, [exit_])
            said = softmax(np.asarray(logits, dtype=np.float64))
            if not np.isfinite(said).all():
                raise ValueError
            score = margin(said)
            leave = at_least(score, tie, HALF, 0.0) if exit_ < M - 1 else tie >= 0
            borderline[rows] |= abs(score - HALF) <= BORDER
            out, stay = rows[leave], ~leave
            label[out], confidence[out] = said.argmax(axis=1)[leave], said.max(axis=1)[leave]
            exits[out] = exit_
            rows, state, tie = rows[stay], state[stay], tie[stay]
            if not len(rows):
                break


def waiting(rows: int) -> float:
    """Return seconds a call takes beside this many rows of tickets of their own that wait at the last exit."""
    engine = Engine(FiveExits(), policy(), min_batch=(1, 1, 1, 1, 10**9))
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
        "single rows, 64 at once (`stream`)": (lambda: list(runner.stream(single)), full, 25),
        "batches of 64": (lambda: [runner(one) for one in full], full, 2),
        "batches of 64 (`stream`)": (lambda: list(runner.stream(full)), full, 2),
    }
    lines = [
        "| rows come as | microseconds a row | the executor | executor and arithmetic by hand | aim |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (call, batches, aim) in ways.items():
        calls = (call, partial(bare, batches), partial(by_hand, batches))
        taken = [f"{1e6 * best(one) / ROWS:.1f}" for one in calls]
        lines.append(f"| {name} | {' | '.join(taken)} | {aim} |")
    machine = describe_machine()
    few, many = waiting(10), waiting(10_000)
    text = f"""# What the engine takes

Made by `python benchmarks/engine.py --out docs/results/engine-benchmarks.md`, on one of {machine["cores"]} cores
({machine["processor"]}).
An executor that computes next to nothing has five exits, at each of which a fifth of the rows leaves. *By hand* is a
loop that is written for this one policy and an executor that never fails: keys, probabilities, margins, decisions and
answers in NumPy, without an engine.

{chr(10).join(lines)}

A request of one row takes {1e6 * few:.0f} microseconds beside 10 tickets that wait, and {1e6 * many:.0f} beside 10,000
({many / few:.2f} times as long).
"""
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
