"""A chain of texts on the clock: tf-idf, then MiniLM with exits, against MiniLM uncut.

    python benchmarks/text_chain.py runs/banking77/tfidf runs/banking77/minilm --out docs/results/text-chain.md

The runs are those of `exeunt train --model tfidf` and of `experiments/banking77.py` (frozen, exported), on BANKING77.
The chain is made beside them if it is not there. Every way answers the same test texts, from raw texts to answers, in
turns, so that other work on the machine slows all alike. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import exeunt as ex
from exeunt._files import atomic_path, write_json
from exeunt.data.raw_inputs import raw_rows
from exeunt.derived.chain_run import make_chain
from exeunt.derived.timed_exits import choose_by_time
from exeunt.run.executors import default_executor, open_executor
from exeunt.run.folder import RunFolder
from exeunt.run.part_data import part_data
from exeunt.run.preparation import InputPreparation
from exeunt.run.runner import load
from exeunt.timing.interleaving import Spread, describe_machine, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SHARES = (0.06, 0.08, 0.1, 0.12)
"""Budgets, as shares of uncut MiniLM's time."""
TEXTS = {64: 512, 1: 64}
"""How many texts each way answers in a round, by batch size."""


@dataclass(frozen=True)
class Way:
    """A way to answer: `right` (n,) says on which test texts of the chain, `call` answers raw texts."""

    name: str
    right: Any
    call: Callable[[Any], Any]


def whole(name: str, run: RunFolder, right: Any) -> Way:
    """A network uncut, without its heads."""
    last = run.cost.n_exits - 1
    executor = open_executor(run, default_executor(run), segments=((0, last),))
    prepare = InputPreparation(run)
    return Way(name, right, lambda raw: executor.run(0, executor.start(prepare(raw))[0], [last]))


def timed_way(name: str, run: RunFolder, budget_ms: float, raw: Any) -> Way | None:
    """A policy of the chain under a budget in ms, timed at the batch size of `raw`; None if none is so low."""
    rule = partial(ex.auto, answer="auto")
    try:
        found = choose_by_time(run, rule, budget_ms, raw, say=print)
        policy = found.rule(rule)(found.trace(run, "fit"), found.trace(run, "calibrate"), budget=budget_ms)
    except ex.InfeasibleBudget as error:
        print(f"{name}: {error}")
        return None
    trace = found.trace(run, "test")
    exits = policy.route(trace)
    said = policy.answer.on(trace).prediction[np.arange(trace.n), exits]
    runner = load(run, policy=policy)
    runner.preparation = None  # inputs are not looked at
    used = ", ".join(f"{link.member} {'+'.join(map(str, link.exits))}" for link in found.links)
    return Way(f"{name}: {used}", said == trace.label, runner)


def measured(
    chain: RunFolder,
    runs: dict[str, RunFolder],
    size: int,
    shares: list[float],
    rounds: int,
    max_seconds: float,
) -> list[dict[str, Any]]:
    """Time all ways at a batch size; returns a row each, the first of MiniLM uncut."""
    recorded = chain.recorded("test")
    data = part_data(chain, "test")
    rows = np.random.default_rng(0).permutation(len(data))[: max(TEXTS.values())]
    texts = raw_rows([data.content(int(i)) for i in rows])
    ways: list[Way | None] = [
        whole("MiniLM uncut", runs["minilm"], recorded["minilm"].correct[:, -1]),
        whole("tf-idf", runs["tfidf"], recorded["tfidf"].correct[:, -1]),
    ]
    base = ways[0]
    assert base is not None
    count = TEXTS[size] // size
    batches = [texts[i * size : (i + 1) * size] for i in range(count)]

    def answer(way: Way) -> Callable[[int], None]:
        def call(_round: int) -> None:
            for batch in batches:
                way.call(batch)

        return call

    warm = time_interleaved({"": answer(base)}, rounds=5, max_seconds=30)
    uncut_ms = float(np.median(warm[""])) * 1e3 / (count * size)
    ways += [timed_way(f"chain, {share:.0%}", chain, share * uncut_ms, batches[0]) for share in shares]
    here = [way for way in ways if way is not None]
    seconds = time_interleaved(
        {way.name: answer(way) for way in here}, rounds=rounds, max_seconds=max_seconds
    )
    return [
        {
            "batch": size, "way": way.name, "accuracy": float(np.mean(way.right)),
            "minus_uncut": _points(way.right, base.right),
            "ms": float(np.median(seconds[way.name])) * 1e3 / (count * size),
            "of_uncut": vars(Spread.of(seconds[way.name] / seconds[base.name])),
        }
        for way in here
    ]  # fmt: skip


def _points(right: Any, other: Any) -> list[float]:
    """Return the difference of accuracies in points, with its standard error."""
    gain = 100 * (np.asarray(right, dtype=float) - other)
    return [float(gain.mean()), float(gain.std() / gain.size**0.5)]


def page(rows: list[dict[str, Any]], command: str) -> str:
    machine = describe_machine()
    text = [
        f"""# A chain of texts on the clock

Made by `{command}`.

{machine["processor"]}, {machine["cores"]} cores. Tf-idf (scikit-learn), then the frozen MiniLM with its exits (ONNX
Runtime), on BANKING77. Every way answers the same test texts, from raw texts to answers, in turns: medians over rounds
of the ratio to uncut MiniLM, with the 10% and 90% quantiles. Accuracy is that on all test texts of the chain, which
neither fit nor calibrated a policy; the difference to uncut MiniLM, on the same texts, with its standard error. A
budget is a share of uncut MiniLM's time; behind it are the exits that were chosen for it.
"""
    ]
    for size in dict.fromkeys(row["batch"] for row in rows):
        text += [f"## Batch {size}", "", "| way | accuracy | minus uncut, points | ms per text | of uncut |"]
        text += ["| --- " * 5 + "|"]
        for row in rows:
            if row["batch"] == size:
                gain, error = row["minus_uncut"]
                of = row["of_uncut"]
                text.append(
                    f"| {row['way']} | {row['accuracy']:.4f} | {gain:+.2f} +- {error:.2f} | {row['ms']:.3f} | "
                    f"{of['median']:.3f} ({of['low']:.3f} to {of['high']:.3f}) |"
                )
        text.append("")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tfidf", type=Path)
    parser.add_argument("minilm", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "text-chain.md")
    parser.add_argument("--sizes", default=",".join(map(str, TEXTS)))
    parser.add_argument("--shares", default=",".join(map(str, SHARES)))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--max-seconds", type=float, default=120.0)
    given = parser.parse_args()
    runs = {name: RunFolder.open(getattr(given, name)) for name in ("tfidf", "minilm")}
    folder = given.minilm.parent / "chain"
    chain = RunFolder.open(folder) if RunFolder.exists(folder) else make_chain(folder, runs)
    rows: list[dict[str, Any]] = []
    for size in map(int, given.sizes.split(",")):
        shares = [float(share) for share in given.shares.split(",")]
        rows += measured(chain, runs, size, shares, given.rounds, given.max_seconds)
    with atomic_path(given.out) as path:
        path.write_text(page(rows, shlex.join(["python", *sys.argv])), encoding="utf-8")
    write_json(given.out.with_suffix(".json"), {"machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
