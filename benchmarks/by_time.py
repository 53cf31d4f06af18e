"""Accuracy at a share of the original model's time: each way to save time, on images, texts and digits.

    python -m benchmarks.by_time
    python -m benchmarks.by_time --measure CIFAR-10 BANKING77 cluttered-digits --encoder hf:FOLDER

Writes the page again from the kept numbers, or measures tasks. Runs that are missing are trained first: heads on frozen
networks, tf-idf, and small networks as a whole. Every way answers the same test inputs, from decoded pixels or texts to
answers, in turns.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from experiments.banking77 import EXITS
from experiments.ingredients import BLOCKS
from experiments.pages import RESULTS, TRACES, kept_numbers, parser, table, write_page

import exeunt as ex
from benchmarks.cascade import Way, share_of_time, test_inputs, timed, timed_way, with_int8
from benchmarks.runtime.networks import nobody_leaves
from benchmarks.texts import EXEUNT
from exeunt.guarantees.confidence_intervals import wilson_interval
from exeunt.jobs.cascade_run import make_cascade
from exeunt.jobs.timed_run import TimedNetwork
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import InputPreparation
from exeunt.runs.runner import load
from exeunt.timing.bench import all_heads_policy, whole_network
from exeunt.timing.timing_tools import Spread, describe_machine

PAGE = RESULTS / "by-time.md"
SHARES = (0.3, 0.5, 0.6, 0.7)
SIZE, BATCHES = 64, 8
MOST_LOST = 0.01  # accuracy that an int8 model of a cascade may lose

_CIFAR = (
    "--data ../shared/data/cifar10 --fit 3000 --calibrate 2000 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
    "--batch-size {1} --model exeunt.zoo:{0} --weights ../shared/models/{0}_cifar10.safetensors"
)
_FINE_TUNED = (
    "--exits auto --mode distill --teacher original --epochs 8 --heads-first 5 --precision bf16 --augment crop-flip "
    "--backbone-rate 0.05"
)
_SMALL = f"{_CIFAR.format('resnet20', 256)} --exits {','.join(BLOCKS[:-1])} --hidden 256"
_DISTILLED = TRACES / "resnet20-distilled-cifar10-cascade.parquet"
_TEXTS = "--data ../shared/data/text/banking77 --model"
_DIGITS = "--data sklearn:cluttered-digits --epochs 12 --batch-size 64 --augment none --exits 3 --model"
TASKS: dict[str, dict[str, str | Path]] = {
    "CIFAR-10": {
        "ResNet-56": f"{_CIFAR.format('resnet56', 256)} --exits 8 --epochs 10",
        "ResNet-20": _SMALL,
        "ResNet-20, distilled": _DISTILLED,
    },
    "CIFAR-10, exits placed by time": {
        "ResNet-56": f"{_CIFAR.format('resnet56', 256)} --exits auto --epochs 10",
        "ResNet-20": _SMALL,
        "ResNet-56, fine-tuned": f"{_CIFAR.format('resnet56', 128)} {_FINE_TUNED}",
        "ResNet-20, distilled": _DISTILLED,
    },
    "BANKING77": {
        "MiniLM": f"{_TEXTS} {{encoder}} --exits {','.join(EXITS)}",
        "tf-idf": f"{_TEXTS} tfidf --seen",
    },
    "cluttered-digits": {
        "demo network": f"{_DIGITS} exeunt.zoo:digits --mode joint",
        "narrow network": f"{_DIGITS} exeunt.zoo:digits?width=6 --mode joint",
        "narrow network, distilled": f"{_DIGITS} exeunt.zoo:digits?width=6 --mode distill --teacher {{teacher}}",
    },
}
# Options of `exeunt train` by model: the larger, the smaller, others of their shapes (or outputs of one).


def opened(task: str, folder: Path, encoder: str) -> dict[str, RunFolder]:
    """Open the models of a task at both precisions, and their cascade; make what is not there."""
    larger, smaller, *_ = TASKS[task]
    runs = {}
    for model, options in TASKS[task].items():
        path = folder / task / model
        if isinstance(options, str) and not RunFolder.exists(path):
            given = options.format(encoder=encoder, teacher=shlex.quote(f"{folder}/{task}/{larger}"))
            subprocess.run([*EXEUNT, "train", *shlex.split(given), "--out", str(path)], check=True)
        if isinstance(options, str):
            runs[f"{model}, fp32"] = run = RunFolder.open(path)
            runs[f"{model}, int8"] = run if model == "tf-idf" else with_int8(run)
    risks = [runs[f"{larger}, {one}"].trace("calibrate").risk[-1] for one in ("fp32", "int8")]
    precision = "int8" if risks[1] - risks[0] < MOST_LOST else "fp32"
    path = folder / task / "cascade"
    if not RunFolder.exists(path):
        make_cascade(path, {model: runs[f"{model}, {precision}"] for model in (smaller, larger)})
    return runs | {f"cascade, {precision}": RunFolder.open(path)}


def measured(task: str, runs: dict[str, RunFolder]) -> dict[str, Any]:
    """Time all ways of a task; those that no budget allows are None."""
    larger, smaller, *_ = TASKS[task]
    original = runs[f"{larger}, fp32"]
    raw = test_inputs(original, SIZE * BATCHES)
    ways: dict[str, Way | None] = {}
    for name, run in runs.items():
        if not run.cascade and name != "tf-idf, int8":
            answer = whole_network(TimedNetwork.of(run, None, None).open_whole(), InputPreparation(run))
            ways[name] = Way(name, 1 - float(run.trace("test").risk[-1]), answer)
    for model, outputs in TASKS[task].items():
        if isinstance(outputs, Path):
            trace, name = ex.ExitTrace.load(outputs), f"{model}, fp32"
            risk = trace.take(np.flatnonzero(np.isin(trace.id, original.trace("test").id))).risk
            ways[name] = Way(name, 1 - float(risk[-1]), ways[f"{smaller}, fp32"].answer)
    int8 = share_of_time(ways[f"{larger}, int8"], ways[f"{larger}, fp32"], raw[:SIZE])
    policies = {
        name.replace(larger, "exits"): run
        for name, run in runs.items()
        if run.cascade or name.startswith(larger)
    }
    for name, run in policies.items():
        if not run.cascade:
            ways[f"{name}, no early exit"] = _no_early_exit(f"{name}, no early exit", run)
        full = int8 if name.endswith("int8") else 1.0
        for share in SHARES:  # of the fp32 model's time; a budget is a share of the run's own original model
            budget = f"{min(share / full, 1):.1%}"
            ways[f"{name}, {share:.0%}"] = timed_way(f"{name}, {share:.0%}", run, budget, raw[:SIZE])
    seconds = timed([way for way in ways.values() if way], np.split(raw, BATCHES), rounds=21, max_seconds=150)
    rows: dict[str, Any] = dict.fromkeys(ways)
    for name, taken in seconds.items():
        ms = float(np.median(taken)) * 1e3 / len(raw)
        share = vars(Spread.of(taken / seconds[f"{larger}, fp32"]))
        rows[name] = {"accuracy": ways[name].accuracy, "ms": ms, "share": share}
    return {"machine": describe_machine(), "n": original.trace("test").n, "rows": rows}


def _no_early_exit(name: str, run: RunFolder) -> Way:
    """Return what runs all heads, where no input leaves: what exits cost those whom they do not help."""
    runner = load(run, policy=nobody_leaves(all_heads_policy(run.n_exits)), executor="onnx")
    return Way(name, 1 - float(run.trace("test").risk[-1]), lambda raw: runner(runner.prepare(raw)))


def section(task: str, found: dict[str, Any]) -> str:
    """Return the best that each way does within each share of the time, and all measurements."""
    place = {name: row and (row["share"]["median"], row["accuracy"]) for name, row in found["rows"].items()}
    best, (larger, smaller, *_) = [], TASKS[task]
    shares = [share for share in SHARES if any(name.endswith(f", {share:.0%}") for name in place)]
    for name in dict.fromkeys(re.sub(r", \d+%$", "", name) for name in place):
        own = place.get(name)
        within: list[Any] = [None]
        for share in shares:
            fits = own if own and own[0] <= share else within[-1]
            within.append(place.get(f"{name}, {share:.0%}") or fits)
        best.append([name, *map(_cell, (own, *within[1:]))])
    for precision in ("fp32", "int8"):
        small = place.get(f"{smaller}, {precision}", place[f"{smaller}, fp32"])
        times, accuracies = zip(*sorted((small, place[f"{larger}, {precision}"])), strict=True)
        mixed = [(one, np.interp(one, times, accuracies)) for one in np.minimum(shares, times[1])]
        shown = [_cell(one if one[0] >= times[0] else None) for one in mixed]
        best.append([f"random mixture, {precision}", "-", *shown])
    details = []
    for name, row in found["rows"].items():
        if row:
            low, high = wilson_interval(round(row["accuracy"] * found["n"]), found["n"])
            accuracy = f"{row['accuracy']:.4f} ({low:.4f} to {high:.4f})"
            details.append([name, accuracy, f"{row['ms']:.3f}", Spread(**row["share"]).percent])
    return f"""## {task}

{found["n"]:,} test inputs; {found["machine"]["processor"]}, {found["machine"]["cores"]} cores.

{table(("way", "as it is", *(f"within {share:.0%}" for share in shares)), best)}

{table(("measured", "accuracy", "ms per input", "of the original model's time"), details)}
"""


def _cell(point: tuple[float, float] | None) -> str:
    return f"{point[1]:.4f} @ {point[0]:.1%}" if point else "-"


def page(found: dict[str, Any]) -> str:
    return f"""# Accuracy by time

Made by `python -m benchmarks.by_time`; numbers in [by-time.json](by-time.json).

What a model can be replaced with that takes less time, on three tasks. ONNX Runtime and, for tf-idf, scikit-learn, two
threads, batches of {SIZE}. Every way answers the same {SIZE * BATCHES:,} test inputs, from decoded pixels or texts to
answers, in turns. A time is the median over rounds of its ratio to the original fp32 model, with the 10% and 90%
quantiles. Accuracy is that on all test inputs, which neither fit nor calibrated a policy, with 95% Wilson intervals.

- **exits**: `ex.auto` with `answer="auto"` on the larger model alone, under a budget of 30%, 50%, 60% or 70% of the
  time. *Placed by time*: `--exits auto` has chosen their places and sizes. *Fine-tuned*: the network has learned with
  its heads. *No early exit*: all heads run, and no input leaves.
- **cascade**: the smaller model with its exits, then the larger one with its exits, under the same budgets; of int8
  models unless int8 costs the larger one a point of accuracy.
- **random mixture**: the smaller or the larger model, drawn at random, at the time in the column. It is not measured,
  but interpolated between the two. It needs no confidence: every policy should do at least as well.

`-` is a way that is not so fast, or a budget for which no policy exists. A cell is the accuracy @ the time. The options
of `exeunt train` are in `benchmarks/by_time.py`.

{chr(10).join(section(task, one) for task, one in found.items())}"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", nargs="*", choices=TASKS, default=(), metavar="TASK")
    options.add_argument("--encoder", default="hf:sentence-transformers/all-MiniLM-L6-v2")
    options.add_argument("--run", type=Path, default=Path("runs/by-time"), help="where trainings go")
    given = options.parse_args()
    found = kept_numbers(PAGE)
    for task in given.measure:
        found[task] = measured(task, opened(task, given.run, given.encoder))
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
