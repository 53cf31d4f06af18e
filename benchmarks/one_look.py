"""One look at a gate against a look at every exit: quality by time, and a lone input in one file.

    python -m benchmarks.one_look
    python -m benchmarks.one_look --measure ResNet-20 digits segmenter

Writes the page again from the kept numbers, or measures networks on an idle machine. Runs that are missing are trained
first; the segmenter's scenes are those of `python experiments/drawn_scenes.py runs/one-look/scenes --train 1900 --test
800`. Every way answers the same test inputs, from decoded pixels to answers, in turns.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from experiments.pages import RESULTS, kept_numbers, numbers_of, parser, table, write_page
from experiments.segmentation_times import fixed

import exeunt as ex
from benchmarks.cascade import Way, test_inputs, timed, timed_way
from benchmarks.texts import EXEUNT
from exeunt.engine.inputs import input_keys
from exeunt.jobs.timed_run import TimedNetwork, choose_by_time
from exeunt.onnx.nested_if import KEY, model_with_policy
from exeunt.onnx.one_file import read_stages
from exeunt.policy.calibration import ALWAYS, NEVER, Thresholds
from exeunt.rules.baselines import random_routing
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import InputPreparation
from exeunt.runs.runner import load
from exeunt.timing.bench import whole_network
from exeunt.timing.timing_tools import Spread, describe_machine, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = RESULTS / "one-look.md"
SHARES = (0.6, 0.8, 1.0)
SIZE, BATCHES = 64, 8
OF_MASKS = 1, 48
"""Images per batch, and batches, where answers are masks."""
LONE = 64
"""Inputs that are answered one at a time in a round."""

_RESNET20 = (
    "--model exeunt.zoo:resnet20 --weights ../shared/models/resnet20_cifar10.safetensors --data ../shared/data/cifar10 "
    "--fit 3000 --calibrate 2000 --exits layer2.0,layer2.1,layer2.2,layer3.0,layer3.1 --gate layer1.2 "
    "--gate-features spread --epochs 10"
)
_DIGITS = (
    "--model exeunt.zoo:digits --data sklearn:cluttered-digits --epochs 12 --batch-size 64 --augment none --mode joint "
    "--exits blocks.1,blocks.2 --gate blocks.0 --gate-features spread"
)
_SEGMENTER = (
    "--task segment --model experiments.segmenter:segmenter?first=3 --data runs/one-look/scenes --exits own "
    "--gate stages.3 --gate-features spread --mode joint --epochs 8 --learning-rate 0.003 --fit 500 --calibrate 400"
)
NETWORKS = {"ResNet-20": _RESNET20, "digits": _DIGITS, "segmenter": _SEGMENTER}
"""Options of `exeunt train` by network."""
TITLES = {
    "ResNet-20": "ResNet-20, CIFAR-10, 41 million multiply-adds, five heads, gate after the first third",
    "digits": "the demo network, cluttered digits, 0.5 million multiply-adds, two heads, gate after its first block",
    "segmenter": "a segmenter of drawn scenes, 117 million multiply-adds, decoded before and after each of six layers, "
    "gate before the layers; one image at a time",
}


def opened(name: str, folder: Path) -> RunFolder:
    """Open the run of a network, exported; train it if it is not there."""
    path = folder / name
    if not RunFolder.exists(path):
        subprocess.run([*EXEUNT, "train", *shlex.split(NETWORKS[name]), "--out", str(path)], check=True)
    if not (path / "onnx").is_dir():
        trusted = ["--model", RunFolder.open(path).manifest["model"]["spec"]]
        subprocess.run([*EXEUNT, "export", str(path), *trusted], check=True)
    return RunFolder.open(path)


def measured(run: RunFolder) -> dict[str, Any]:
    """Time the original network, and the policies of each share of its time and of its multiply-adds."""
    size, batches = OF_MASKS if run.masks else (SIZE, BATCHES)
    raw = test_inputs(run, size * batches)
    fit, calibrate, test = (run.trace(part) for part in ("fit", "calibrate", "test"))
    prepare = InputPreparation(run)
    ways: list[Way | None] = [Way("the original network", 1 - float(test.risk[-1]), _original(run))]
    advice = {}
    for share in SHARES:
        budget = f"{share:.0%}"
        for name, rule in {"every exit": partial(ex.auto, answer="own"), "one look": ex.one_look}.items():
            ways.append(timed_way(f"{name}, {budget} of the time", run, budget, raw[:size], rule))
            policy = rule(fit, calibrate, budget=budget)
            ways.append(_way(f"{name}, {budget} of the multiply-adds", run, policy))
        chance = random_routing(fit, calibrate, budget=budget)
        advice[budget] = {
            "by chance": float(ex.evaluate(chance, test).accuracy or 0.0),
            "advised": _advised(run, budget, prepare(raw[:size])),
        }
    rows = [way for way in ways if way]
    seconds = timed(rows, np.split(raw, batches), rounds=21, max_seconds=150)
    first = seconds[rows[0].name]
    found = {
        way.name: {
            "accuracy": way.accuracy,
            "ms": float(np.median(seconds[way.name])) * 1e3 / len(raw),
            "share": vars(Spread.of(seconds[way.name] / first)),
        }
        for way in rows
    }
    return {
        "machine": describe_machine(),
        "n": test.n,
        "rows": found,
        "budgets": advice,
        "alone": {} if run.masks else alone(run, prepare(raw[:LONE])),
    }


def _original(run: RunFolder) -> Callable[[Any], Any]:
    """Return what runs the network alone, without other exits; of masks up to the mask."""
    prepare = InputPreparation(run)
    if not run.masks:
        return whole_network(TimedNetwork.of(run, "onnx", None).open_whole(), prepare)
    runner = fixed(run, -1, threads=None)
    return lambda raw: runner(prepare(raw))


def _way(name: str, run: RunFolder, policy: ex.Policy) -> Way:
    accuracy = float(ex.evaluate(policy, run.trace("test")).accuracy or 0.0)
    runner, prepare = load(run, policy=policy, executor="onnx"), InputPreparation(run)
    runner.preparation = None
    return Way(name, accuracy, lambda images: runner(prepare(images)))


def _advised(run: RunFolder, budget: str, inputs: Any) -> str:
    """Return which way `calibrate --of time` takes for the default policy within a budget; "" for none."""
    try:
        timed_exits = choose_by_time(run, ex.auto, [budget], inputs, executor="onnx", say=print)
    except ex.InfeasibleBudget:
        return ""
    return "one look" if timed_exits.instead else "every exit"


def alone(run: RunFolder, inputs: Any) -> dict[str, Any]:
    """Time one file with one look on lone inputs of each exit, against a file that runs this exit for all."""
    policy = ex.one_look(run.trace("fit"), run.trace("calibrate"), budget="75%")
    keys = input_keys(inputs, len(inputs))
    look, found = _session(run, policy), {}
    name = look.get_inputs()[0].name
    chosen = np.array(
        [look.run(["exit"], {name: inputs[[i]], KEY: keys[[i]]})[0][0] for i in range(len(inputs))]
    )
    for exit_ in np.unique(chosen).tolist():
        fixed = _session(run, _always(policy, exit_))
        rows = np.resize(np.flatnonzero(chosen == exit_), 20)
        calls = {
            way: partial(_one_by_one, session, name, inputs, keys, rows)
            for way, session in {"fixed": fixed, "one look": look}.items()
        }
        seconds = time_interleaved(calls, rounds=31, max_seconds=20)
        ratio = vars(Spread.of(seconds["one look"] / seconds["fixed"]))
        found[str(exit_)] = {"ms": float(np.median(seconds["fixed"])) * 1e3 / len(rows), "ratio": ratio}
    return found


def _one_by_one(
    session: onnxruntime.InferenceSession, name: str, inputs: Any, keys: Any, rows: Any, _round: int
) -> None:
    for row in rows.tolist():
        session.run(None, {name: inputs[row : row + 1], KEY: keys[row : row + 1]})


def _always(policy: ex.Policy, exit_: int) -> ex.Policy:
    """Return a policy of which every input runs this exit, with its head alone."""
    limits = np.where(np.arange(policy.n_exits) == exit_, ALWAYS, NEVER)
    limits[-1] = ALWAYS
    return replace(policy, limits=Thresholds(limits, limits))


def _session(run: RunFolder, policy: ex.Policy) -> onnxruntime.InferenceSession:
    stages = read_stages(run.path / "onnx")
    model = model_with_policy(stages, policy, exits=range(1, len(stages)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def section(name: str, found: dict[str, Any]) -> str:
    rows = [
        [way, f"{row['accuracy']:.4f}", f"{row['ms']:.3f}", Spread(**row["share"]).percent]
        for way, row in found["rows"].items()
    ]
    budgets = [
        [budget, f"{entry['by chance']:.4f}", entry["advised"] or "none is so low"]
        for budget, entry in found["budgets"].items()
    ]
    lone = [
        [exit_, f"{row['ms']:.3f}", Spread(**row["ratio"]).percent] for exit_, row in found["alone"].items()
    ]
    text = f"""## {TITLES[name]}

{found["n"]:,} test inputs; {found["machine"]["processor"]}, {found["machine"]["cores"]} cores.

{table(("way", "quality", "ms per input", "of the original network's time"), rows)}

{table(("budget", "quality of inputs drawn by chance, of multiply-adds", "`calibrate --of time` takes"), budgets)}
"""
    if lone:
        columns = ("exit", "ms, always this exit", "one look that chose it, of that")
        text += f"\nA lone input in one file, one thread:\n\n{table(columns, lone)}\n"
    return text


def page(found: dict[str, Any]) -> str:
    return f"""# One look

Made by `python -m benchmarks.one_look`; numbers in [one-look.json](one-look.json).

Quality by time of policies that choose an input's exit at the network's gate (`one_look`) and of those that look at
every exit on the way (`auto`): accuracy, or the mean IoU of images. ONNX Runtime, batches of {SIZE}, or of masks one
image; every way answers the same {SIZE * BATCHES:,} test inputs ({OF_MASKS[1]} of masks), from decoded
pixels to answers, in turns. A time is the median over rounds of its ratio to the original network, with the 10% and 90%
quantiles. Quality is that on all test inputs. Budgets *of the time* are those of `calibrate --of time`, which leaves
out heads that do not pay; budgets *of the multiply-adds* use all exits. A way that is missing has no policy within its
budget.

{chr(10).join(section(name, one) for name, one in found.items())}"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", nargs="*", choices=NETWORKS, default=(), metavar="NETWORK")
    options.add_argument("--run", type=Path, default=Path("runs/one-look"), help="where trainings go")
    given = options.parse_args()
    found = kept_numbers(PAGE) if numbers_of(PAGE).is_file() else {}
    for name in given.measure:
        found[name] = measured(opened(name, given.run))
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
