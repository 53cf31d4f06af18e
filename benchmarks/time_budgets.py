"""Budgets of time: is the share of the original model's time that is asked for the share that is taken?

    python benchmarks/time_budgets.py "ResNet-56=runs/resnet56-27" "ResNet-20=runs/resnet20" ...

For each run, batch size and share: exits are chosen and calibrated as `exeunt calibrate --of time` does, without a
delta. Then the policy and the original model answer the run's test images in turns. Writes docs/results/time-budgets.md
and .json, which keep what was measured before in other cases and on other machines. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

import exeunt as ex
from exeunt._files import read_json, write_json, write_text
from exeunt.run.executors import open_executor
from exeunt.run.folder import RunFolder
from exeunt.run.inputs import InputPreparation, part_data
from exeunt.run.runner import load
from exeunt.timed_run import choose_by_time
from exeunt.timing.bench import whole_network
from exeunt.timing.measuring import Spread, describe_machine, time_interleaved

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SHARES = (0.4, 0.6, 0.8)
IMAGES = 1024


def measured(name: str, run: RunFolder, size: int, share: float, rounds: int) -> dict[str, Any] | None:
    """Return what was asked for and what was taken; None where no exit is so cheap."""
    data, prepare = part_data(run, "test"), InputPreparation(run)
    images = prepare(np.stack([data.content(i) for i in range(IMAGES)]))
    batches = [images[i : i + size] for i in range(0, IMAGES, size)]
    try:
        found = choose_by_time(run, ex.auto, [f"{share:.0%}"], batches[0], executor="onnx")
        policy = found.rule(ex.auto)(
            found.trace(run.recorded("fit")), found.trace(run.recorded("calibrate")), budget=f"{share:.0%}"
        )
    except ex.InfeasibleBudget as error:
        print(f"{name} at batch {size}, {share:.0%}: {error}")
        return None
    result = ex.evaluate(policy, run.replayed(policy, "test"))
    whole = whole_network(open_executor(run, "onnx", segments=((0, run.cost.n_exits - 1),)))
    runner = load(run, policy=policy, executor="onnx")

    def original(_round: int) -> None:
        for batch in batches:
            whole(batch)

    def answered(_round: int) -> None:
        for batch in batches:
            runner(batch)

    seconds = time_interleaved({"original": original, "policy": answered}, rounds=rounds, max_seconds=90)
    return {
        "network": name, "batch": size, "asked": share, "planned": result.cost / found.cost.reference,
        "taken": vars(Spread.of(seconds["policy"] / seconds["original"])), "accuracy": result.accuracy,
        "full_accuracy": 1 - float(run.trace("test").risk[-1]), "exits": [step.exits for step in found.steps],
        "original_ms": float(np.median(seconds["original"])) * 1e3 / IMAGES,
    }  # fmt: skip


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page of these rows: a table for each machine and command."""
    parts = [
        f"""# Budgets of time

ONNX Runtime. *Asked*: a share of what the original model takes, as `exeunt calibrate RUN --budget SHARE --of time`.
*Planned*: what the policy takes of it on the test images, by the milliseconds of the exits. It falls short of what was
asked where the calibration images were harder. *Taken*: the policy's time for {IMAGES} test images over the original
network's, in turns, batch by batch: the median of the rounds, and their 10% and 90% quantiles. Accuracy is that on all
test images.
"""
    ]
    for (machine, command), group in groupby(rows, itemgetter("machine", "command")):
        table = [
            f"| {row['network']} | {row['batch']} | {row['original_ms']:.3f} | {row['asked']:.0%} | "
            f"{row['planned']:.1%} | {_taken(row)} | {row['accuracy']:.4f} | {row['full_accuracy']:.4f} | "
            f"{len(row['exits'][0])} |"
            for row in group
        ]
        parts.append(
            f"""## {machine}

Made by `{command}`.

| network | batch | original, ms per input | asked | planned | taken | accuracy | original | exits run |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(table)}
"""
        )
    return "\n".join(parts)


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a later measurement replaces: the same case on the same kind of machine."""
    return row["machine"], row["network"], row["batch"], row["asked"]


def _taken(row: dict[str, Any]) -> str:
    taken = row["taken"]
    return f"{taken['median']:.1%} ({taken['low']:.0%} to {taken['high']:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, default=RESULTS / "time-budgets.md")
    parser.add_argument("--sizes", default="64,256", help="of batches")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="of the original model's time")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    about = describe_machine()
    made = {
        "machine": f"{about['processor']}, {about['cores']} cores",
        "command": shlex.join(["python", *sys.argv]),
    }
    file = given.out.with_suffix(".json")
    rows = read_json(file)["rows"] if file.is_file() else []
    for name, path in (one.partition("=")[::2] for one in given.runs):
        for size in map(int, given.sizes.split(",")):
            for share in map(float, given.shares.split(",")):
                if (row := measured(name, RunFolder.open(path), size, share, given.rounds)) is None:
                    continue
                row = made | row
                rows = [*(one for one in rows if identity(one) != identity(row)), row]
                write_json(file, {"rows": rows})  # after each, which takes minutes
                write_text(given.out, page(rows))


if __name__ == "__main__":
    main()
