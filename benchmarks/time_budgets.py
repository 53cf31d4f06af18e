"""Budgets of time: is the share of the uncut network's time that is asked for the share that is taken?

    python benchmarks/time_budgets.py "ResNet-56=runs/resnet56-27" "ResNet-20=runs/resnet20" ...

For each run, batch size and share: exits are chosen and calibrated as `exeunt calibrate --of time` does, without a
delta. Then the policy and the uncut network answer the run's test images in turns. Writes docs/results/time-budgets.md
and .json. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

import exeunt as ex
from exeunt._files import atomic_path, write_json
from exeunt.derived.timed_exits import choose_by_time
from exeunt.run.executors import open_executor
from exeunt.run.folder import RunFolder
from exeunt.run.part_data import part_data
from exeunt.run.preparation import InputPreparation
from exeunt.run.runner import load
from exeunt.timing.alternatives import whole_network
from exeunt.timing.interleaving import Spread, describe_machine, time_interleaved

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SHARES = (0.4, 0.6, 0.8)
IMAGES = 1024


def measured(name: str, run: RunFolder, size: int, share: float, rounds: int) -> dict[str, Any] | None:
    """Return what was asked for and what was taken; None where no exit is so cheap."""
    data, prepare = part_data(run, "test"), InputPreparation(run)
    images = prepare(np.stack([data.content(i) for i in range(IMAGES)]))
    batches = [images[i : i + size] for i in range(0, IMAGES, size)]
    try:
        found = choose_by_time(run, ex.auto, f"{share:.0%}", batches[0], executor="onnx")
        policy = found.rule(ex.auto)(
            found.trace(run.recorded("fit")), found.trace(run.recorded("calibrate")), budget=f"{share:.0%}"
        )
    except ex.InfeasibleBudget as error:
        print(f"{name} at batch {size}, {share:.0%}: {error}")
        return None
    result = ex.evaluate(policy, run.replayed(policy, "test"))
    whole = whole_network(open_executor(run, "onnx", segments=((0, run.cost.n_exits - 1),)))
    runner = load(run, policy=policy, executor="onnx")

    def uncut(_round: int) -> None:
        for batch in batches:
            whole(batch)

    def answered(_round: int) -> None:
        for batch in batches:
            runner(batch)

    seconds = time_interleaved({"uncut": uncut, "policy": answered}, rounds=rounds, max_seconds=90)
    return {
        "network": name, "batch": size, "asked": share, "planned": result.cost / found.cost.reference,
        "taken": vars(Spread.of(seconds["policy"] / seconds["uncut"])), "accuracy": result.accuracy,
        "full_accuracy": 1 - float(run.trace("test").risk[-1]), "exits": [link.exits for link in found.links],
        "uncut_ms": float(np.median(seconds["uncut"])) * 1e3 / IMAGES,
    }  # fmt: skip


def page(rows: list[dict[str, Any]], command: str) -> str:
    machine = describe_machine()
    lines = [
        f"| {row['network']} | {row['batch']} | {row['uncut_ms']:.3f} | {row['asked']:.0%} | {_taken(row)} | "
        f"{row['accuracy']:.4f} | {row['full_accuracy']:.4f} | {len(row['exits'][0])} |"
        for row in rows
    ]
    return f"""# Budgets of time

Made by `{command}`.

{machine["processor"]}, {machine["cores"]} cores, ONNX Runtime. *Asked*: a share of what the uncut network takes, as
`exeunt calibrate RUN --budget SHARE --of time`. *Taken*: the policy's time for {IMAGES} test images over the uncut
network's, in turns, batch by batch: the median of the rounds, and their 10% and 90% quantiles. Accuracy is that on all
test images.

| network | batch | uncut, ms per input | asked | taken | accuracy | uncut | exits run |
| --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}
"""


def _taken(row: dict[str, Any]) -> str:
    taken = row["taken"]
    return f"{taken['median']:.1%} ({taken['low']:.0%} to {taken['high']:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, default=RESULTS / "time-budgets.md")
    parser.add_argument("--sizes", default="64,256")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    named = [one.partition("=")[::2] for one in given.runs]
    rows = [
        row
        for name, path in named
        for size in map(int, given.sizes.split(","))
        for share in SHARES
        if (row := measured(name, RunFolder.open(path), size, share, given.rounds)) is not None
    ]
    with atomic_path(given.out) as path:
        path.write_text(page(rows, shlex.join(["python", *sys.argv])), encoding="utf-8")
    write_json(given.out.with_suffix(".json"), {"machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
