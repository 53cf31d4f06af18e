"""What the engine takes by itself: microseconds a row on an executor that computes next to nothing.

    python -m benchmarks.engine

Five exits; a fifth of the rows leaves at each, by thresholds on the margin. Every number is processor time, the best
of 15 rounds. Beside it is what the executor itself takes, called on the same rows without an engine, and what the
arithmetic takes when it is written out for this one policy: no tickets, plans, other policies or failures. Then a
lone row in one ONNX file, which holds network and policy, and a stream of up to a million rows. Prints the page and
writes docs/results/engine-benchmarks.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from experiments.pages import RESULTS, parser, table, write_page
from onnx.parser import parse_model

from benchmarks.core import best, forget_peak, peak_mib
from benchmarks.runtime.one_file import session
from exeunt.engine.engine import Engine
from exeunt.engine.executor import BORDER, CPU
from exeunt.engine.inputs import input_keys
from exeunt.onnx.model_file import OnnxGraph, join_graphs
from exeunt.onnx.nested_if import KEY, ModelStage, model_with_policy
from exeunt.policy.calibration import Thresholds, at_least
from exeunt.runs.runner import Runner
from exeunt.score.confidence import NamedScore, margin, softmax
from exeunt.score.tie_breaking import tie_breaks
from exeunt.timing.bench import all_heads_policy
from exeunt.timing.timing_tools import describe_machine

if TYPE_CHECKING:
    from exeunt.policy import Policy

M, ROWS, ROUNDS = 5, 4096, 15
HALF = 0.5


class FiveExits:
    """An executor whose inputs say by their first number, 0 to 4, at which exit they are confident."""

    name, device, restarts, border, mask_scale = "five exits", CPU, (), BORDER, 1
    n_exits = M
    segments = tuple((exit_, exit_) for exit_ in range(M))

    def start(self, inputs: Any) -> tuple[Any, Any]:
        return inputs, np.isfinite(inputs).all(axis=1)

    def signature(self, state: Any) -> int:
        return state.shape[1]

    def run(self, segment: int, state: Any, wanted: Sequence[int]) -> tuple[list[Any], Any]:
        logits = np.zeros((len(state), 10), dtype=np.float32)
        logits[:, 0] = np.where(state[:, 0] <= segment, 9.0, 0.0)
        return [logits for _ in wanted], state

    def gather(self, parts: Sequence[tuple[Any, Any]]) -> Any:
        return np.concatenate([state if rows is None else state[rows] for state, rows in parts])

    def compact(self, state: Any, rows: Any) -> tuple[Any, Any]:
        return state[rows], rows


def policy() -> Policy:
    half = Thresholds(np.full(M, HALF), np.zeros(M))
    return replace(all_heads_policy(M), limits=half, score=NamedScore("margin"))


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
            probability = softmax(np.asarray(logits, dtype=np.float64))
            if not np.isfinite(probability).all():
                raise ValueError
            score = margin(probability)
            leave = at_least(score, tie, HALF, 0.0) if exit_ < M - 1 else tie >= 0
            borderline[rows] |= abs(score - HALF) <= BORDER
            out, stay = rows[leave], ~leave
            label[out], confidence[out] = probability.argmax(axis=1)[leave], probability.max(axis=1)[leave]
            exits[out] = exit_
            rows, state, tie = rows[stay], state[stay], tie[stay]
            if not len(rows):
                break


def stage(k: int) -> ModelStage:
    """Return what `FiveExits` computes for exit k, as an ONNX model."""
    model = parse_model(f"""<ir_version: 9, opset_import: ["": 18]>
        stage (float[n, 8] x{k}) => (float[n, 8] x{k + 1}, float[n, 10] logits{k})
        <float[8, 1] pick = {{1, 0, 0, 0, 0, 0, 0, 0}}, float[1, 1] bound{k} = {{{k + HALF}}},
         float[1, 10] spread = {{9, 0, 0, 0, 0, 0, 0, 0, 0, 0}}> {{
            x{k + 1} = Identity (x{k})
            first{k} = MatMul (x{k}, pick)
            is_sure{k} = LessOrEqual (first{k}, bound{k})
            sure{k} = Cast <to = 1> (is_sure{k})
            logits{k} = MatMul (sure{k}, spread)
        }}""")
    return ModelStage(model, f"logits{k}")


def in_one_file(single: Sequence[Any]) -> tuple[float, float]:
    """Return seconds that a lone row takes in one file with the policy, and in the stages alone up to its exit."""
    stages = [stage(k) for k in range(M)]
    graphs = [OnnxGraph.read(one.model.SerializeToString()) for one in stages]
    alone = [
        session(join_graphs(graphs[: k + 1]).model([one.logits for one in stages[: k + 1]]), threads=1)
        for k in range(M)
    ]
    whole = session(model_with_policy(stages, policy()).SerializeToString(), threads=1)
    given = [({"x0": one}, {"x0": one, KEY: np.array([i], np.uint64)}) for i, one in enumerate(single)]
    for one, (_, keyed) in zip(single, given, strict=True):
        if whole.run(["exit"], keyed)[0][0] != one[0, 0]:
            raise ValueError(f"{one[0, 0]:g} should be its exit")

    def with_policy() -> None:
        for _, keyed in given:
            whole.run(None, keyed)

    def without() -> None:
        for one, (plain, _) in zip(single, given, strict=True):
            alone[int(one[0, 0])].run(None, plain)

    return best(with_policy, ROUNDS) / len(single), best(without, ROUNDS) / len(single)


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

    return best(one, ROUNDS) / 100


def streams() -> str:
    """Return time and memory of a stream of 1,000 to 1,000,000 rows in batches of 64."""
    runner, rng, rows = Runner(FiveExits(), policy()), np.random.default_rng(0), []
    for n in (1_000, 10_000, 100_000, 1_000_000):
        forget_peak()
        before, began = peak_mib(), time.process_time()
        batches = (rng.integers(0, M, (min(64, n - i), 8)).astype(np.float32) for i in range(0, n, 64))
        answered = sum(answers.n for answers in runner.stream(batches))
        seconds = time.process_time() - began
        rows.append(
            [f"{answered:,}", f"{seconds:.3g}", f"{seconds / n * 1e6:.3g}", f"{peak_mib() - before:.1f}"]
        )
    return table(("rows", "seconds", "microseconds a row", "peak memory above that before, MiB"), rows)


def main() -> None:
    parser(__doc__).parse_args()
    rng = np.random.default_rng(0)
    single = list(rng.integers(0, M, (ROWS, 1, 8)).astype(np.float32))
    full = list(rng.integers(0, M, (ROWS // 64, 64, 8)).astype(np.float32))
    runner = Runner(FiveExits(), policy())
    ways = {
        "one row at a time": (lambda: [runner(one) for one in single], single),
        "single rows, 64 at once (`stream`)": (lambda: list(runner.stream(single)), full),
        "batches of 64": (lambda: [runner(one) for one in full], full),
        "batches of 64 (`stream`)": (lambda: list(runner.stream(full)), full),
    }
    rows = []
    for name, (call, batches) in ways.items():
        calls = (call, partial(bare, batches), partial(by_hand, batches))
        rows.append([name, *(f"{1e6 * best(one, ROUNDS) / ROWS:.1f}" for one in calls)])
    machine = describe_machine()
    whole, alone = in_one_file(single)
    few, many = waiting(10), waiting(10_000)
    columns = ("rows come as", "microseconds a row", "the executor", "executor and arithmetic by hand")
    text = f"""# What the engine takes

Made by `python -m benchmarks.engine`; processor time on one thread ({machine["processor"]}). An executor that
computes next to nothing has five exits, at each of which a fifth of the rows leaves. *By hand* is a loop that is
written for this one policy and an executor that never fails: keys, probabilities, margins, decisions and answers in
NumPy, without an engine.

{table(columns, rows)}

One row at a time in one ONNX file that holds the same network and policy: {1e6 * whole:.1f} microseconds a row, of
which the stages alone, up to the row's exit, take {1e6 * alone:.1f}. To decide takes {1e6 * (whole - alone):.0f}.

A request of one row takes {1e6 * few:.0f} microseconds beside 10 tickets that wait, and {1e6 * many:.0f} beside 10,000
({many / few:.2f} times as long).

A stream in batches of 64:

{streams()}
"""
    print(text)
    write_page(RESULTS / "engine-benchmarks.md", text)


if __name__ == "__main__":
    main()
