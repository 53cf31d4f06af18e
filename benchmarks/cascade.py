"""A cascade on the clock: int8 ResNet-20 with exits, then int8 ResNet-56, against what a user would run instead.

    python -m benchmarks.cascade
    python -m benchmarks.cascade --measure runs/cifar10-cascade

Writes the page again from the kept numbers, or measures on an idle machine. Takes the runs that
`experiments.cifar10_cascade --train` makes; their int8 runs and the cascade are made if they are not there. Every way
answers the same test images, from decoded pixels to answers, in turns, so that other work on the machine slows all
alike.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnxruntime
from experiments.pages import RESULTS, kept_numbers, parser, save_png, table, write_page
from matplotlib.figure import Figure

import exeunt as ex
from exeunt._support.text import counted
from exeunt.engine.inputs import raw_rows
from exeunt.evaluation.figures.style import COLOURS, percent_ticks, styled
from exeunt.guarantees.confidence_intervals import wilson_interval
from exeunt.jobs.cascade_run import make_cascade
from exeunt.jobs.precision_run import make_precision
from exeunt.jobs.timed_run import choose_by_time
from exeunt.onnx.executor import open_onnx
from exeunt.onnx.one_file import RunInOneFile
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import InputPreparation, part_data
from exeunt.runs.runner import load
from exeunt.timing.bench import whole_network
from exeunt.timing.timing_tools import Spread, describe_machine, time_interleaved
from exeunt.trace.cascade_step import CascadeStep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

PAGE = RESULTS / "cascade-on-the-clock.md"
SMALL, LARGE = "resnet20-tuned", "resnet56"
FROZEN = "resnet20"
SHARES = (0.18, 0.2, 0.22, 0.25, 0.3)
"""Budgets of the cascade, as shares of the original fp32 ResNet-56's time."""
ONE_FILE = (0.38, 0.42, 0.46)
"""Budgets of the cascade in one file, one input at a time, as shares of the ResNet-56's multiply-adds."""
CASES = ((256, None), (64, None), (1, 1), (1, None))
"""Batch sizes, and the threads of a call; None is one a core."""
IMAGES = {256: 1024, 64: 1024, 1: 128}
"""How many images each way answers in a round, by batch size."""

MODELS = ("ResNet-20, int8", "ResNet-56, int8", "ResNet-56, fp32")
N_TEST = 5_000


class Way(NamedTuple):
    """A way to answer: its accuracy in [0, 1], and what answers a batch."""

    name: str
    accuracy: float
    answer: Callable[[Any], Any]


def whole(name: str, run: RunFolder, threads: int | None, *, spin: bool) -> Way:
    """The original model, its heads left out: one session."""
    executor = open_onnx(run, segments=((0, run.cost.n_exits - 1),), threads=threads, spin=spin)
    answer = whole_network(executor, InputPreparation(run))
    return Way(name, 1 - float(run.trace("test").risk[-1]), answer)


def timed_way(
    name: str, run: RunFolder, budget: str, raw: Any, rule: Callable[..., ex.Policy] | None = None
) -> Way | None:
    """A policy of the run under a budget of time, timed at the batch size of `raw`; None if none is so low."""
    inputs = raw if run.cascade else InputPreparation(run)(raw)
    rule = rule or partial(ex.auto, answer="auto")
    try:
        found = choose_by_time(
            run, rule, [budget], inputs, executor=None if run.cascade else "onnx", say=print
        )
        policy = found.rule(rule)(
            found.trace(run.recorded("fit")), found.trace(run.recorded("calibrate")), budget=budget
        )
    except ex.InfeasibleBudget as error:
        print(f"{name}: {error}")
        return None
    result = ex.evaluate(policy, found.trace(run.recorded("test")))
    runner = load(run, policy=policy, executor=None if run.cascade else "onnx")
    runner.preparation = None  # inputs are not looked at
    prepare = (lambda images: images) if run.cascade else InputPreparation(run)
    return Way(name, float(result.accuracy or 0.0), lambda images: runner(prepare(images)))


def one_file_way(run: RunFolder, share: float, threads: int | None) -> Way:
    """The cascade in one ONNX model, which takes one input at a time: both last exits, and the margin as confidence.

    One input at a time, a head takes as long as a block, and so does a learned score.
    """
    fit, calibrate, test = (run.recorded(part) for part in ("fit", "calibrate", "test"))
    steps = tuple(CascadeStep(entry.name, (entry.n_exits - 1,)) for entry in run.cascade)
    policy = ex.optimised(fit.along(steps), calibrate.along(steps), budget=f"{share:.0%}")
    run.save_policy(replace(policy, cascade=steps))
    made = RunInOneFile(run)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Between calls its threads shall not disturb the other ways.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(made.model.SerializeToString(), options)
    key = np.zeros(1, dtype=np.uint64)
    (prepared,) = made.preparations
    prepare = InputPreparation(prepared.run)

    def call(raw: Any) -> Any:
        return session.run(None, {prepared.inputs[0]: prepare(raw), "key": key})

    accuracy = ex.evaluate(run.policy, test).accuracy
    return Way(f"cascade in one file, {share:.0%} of the multiply-adds", float(accuracy or 0.0), call)


def test_inputs(run: RunFolder, n: int) -> Any:
    """Return n raw inputs of the test part."""
    data = part_data(run, "test")
    inputs = [data.content(i) for i in range(n)]
    return raw_rows(inputs) if data.kind == "text" else np.stack(inputs)


def share_of_time(one: Way, other: Way, images: Any) -> float:
    """Return one way's time as a share of the other's, in turns."""
    seconds = timed((one, other), [images], 40, 60)
    return float(np.median(seconds[one.name] / seconds[other.name]))


def timed(ways: Sequence[Way], batches: Sequence[Any], rounds: int, max_seconds: float) -> dict[str, Any]:
    """Return the seconds in which each way answers all batches, by its name, a number a round, in turns."""

    def answer(_round: int, way: Way) -> None:
        for batch in batches:
            way.answer(batch)

    calls = {way.name: partial(answer, way=way) for way in ways}
    return time_interleaved(calls, rounds=rounds, max_seconds=max_seconds)


def measured(
    runs: dict[str, RunFolder], size: int, threads: int | None, rounds: int, max_seconds: float
) -> list[dict[str, Any]]:
    """Time all ways at a batch size; returns a row each, the first of the original fp32 network."""
    images = test_inputs(runs[LARGE], max(IMAGES.values()))
    lone = size == 1
    ways = [
        whole("ResNet-56, fp32", runs[LARGE], threads, spin=lone),
        whole("ResNet-56, int8", runs[f"{LARGE}@int8"], threads, spin=lone),
        whole("ResNet-20, fp32", runs[FROZEN], threads, spin=lone),
        whole("ResNet-20, int8", runs[f"{FROZEN}@int8"], threads, spin=lone),
    ]
    made: list[Way | None] = []
    if lone:
        made += [one_file_way(runs["cascade"], share, threads) for share in ONE_FILE]
    else:
        # In milliseconds a budget would move with the speed of the machine. The cascade's largest model is int8.
        whole_cascade = share_of_time(ways[1], ways[0], images[:size])
        made += [
            timed_way(f"{name}, {share:.0%}", runs[name], f"{share / whole_cascade:.1%}", images[:size])
            for share in SHARES
            for name in ("cascade", "cascade, frozen exits")
        ]
    here = ways + [way for way in made if way is not None]
    count = IMAGES[size] // size
    batches = [images[i * size : (i + 1) * size] for i in range(count)]
    seconds = timed(here, batches, rounds, max_seconds)
    base, int8 = seconds[here[0].name], seconds[here[1].name]
    return [
        {
            "batch": size, "threads": threads, "way": way.name, "accuracy": way.accuracy,
            "ms": float(np.median(seconds[way.name])) * 1e3 / (count * size),
            "of_fp32": vars(Spread.of(seconds[way.name] / base)),
            "of_int8": vars(Spread.of(seconds[way.name] / int8)),
        }
        for way in here
    ]  # fmt: skip


def page(found: dict[str, Any]) -> str:
    machine, rows = found["machine"], found["rows"]
    cases = [list(case) for _, case in groupby(rows, lambda row: (row["batch"], row["threads"]))]
    columns = ("way", "accuracy", "ms per input", "of fp32 ResNet-56", "of int8 ResNet-56")
    tables = [f"## {_case(here[0])}\n\n{table(columns, map(_cells, here))}" for here in cases]
    return f"""# A cascade on the clock

Made by `python -m benchmarks.cascade`; numbers in [cascade-on-the-clock.json](cascade-on-the-clock.json).

{machine["processor"]}, {machine["cores"]} cores, ONNX Runtime. Every way answers the same CIFAR-10 test images, from
decoded pixels to answers, in turns: medians over rounds of the ratio to the original fp32 ResNet-56, with the 10% and
90% quantiles. Accuracy is that on all 5,000 test inputs, which neither fit nor calibrated a policy. A budget is a
share of the original fp32 ResNet-56's time. At batch 1 the threads of a call spin while they wait for one another, as
ONNX Runtime does by default; in batches they do not, which is right on busy machines too.

The cascades were calibrated without `delta`: they have no certificate, and may take longer than their budget. The
ResNet-20 was fine-tuned with its exits for 15 epochs; with *frozen exits*, only the exits were trained
([training](cifar10-cascade.md)). Bars in the figure of the README are 95% Wilson intervals of each accuracy.

The share of time at which the cascade has the fp32 ResNet-56's accuracy is not measured itself: it is interpolated
linearly between the two measured budgets around, which the line names.

{chr(10).join(_reached(here) for here in cases)}

{(chr(10) * 2).join(tables)}
"""


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw accuracy against time in batches of 256: the cascade, three models alone, and a random mixture of two.

    Bars are 95% Wilson intervals of each accuracy.
    """
    place = {row["way"]: (row["of_fp32"]["median"], row["accuracy"]) for row in rows if row["batch"] == 256}
    cascade = np.array([place[f"cascade, {share:.0%}"] for share in SHARES])
    small, large = place["ResNet-20, int8"], place["ResNet-56, int8"]
    least = min(time for time, accuracy in cascade if accuracy >= large[1])
    blue, grey, black = COLOURS["blue"], COLOURS["grey"], COLOURS["black"]
    ours = "Exeunt: ResNet-20 with early exits,\nthen ResNet-56, both int8"
    labels = (
        (ours, cascade[-1], blue, "bold", (8, 16)),
        ("random mixture of\nthe two int8 models", np.mean([small, large], axis=0), grey, "normal", (8, -10)),
        ("ResNet-20, int8", small, black, "normal", (8, -9)),
        ("ResNet-56, int8", large, black, "normal", (8, 0)),
        ("ResNet-56, fp32", place["ResNet-56, fp32"], black, "normal", (-8, 0)),
    )
    with styled():
        figure = Figure(figsize=(5.8, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(*zip(small, large, strict=True), "--", color=grey)
        _with_bars(axes, [place[way] for way in MODELS], black, linestyle="", markerfacecolor="white")
        _with_bars(axes, cascade, blue, linewidth=2.4)
        for text, where, colour, weight, offset in labels:
            axes.annotate(
                text, where, xytext=offset, textcoords="offset points", color=colour, weight=weight, va="center",
                ha="left" if offset[0] > 0 else "right",
            )  # fmt: skip
        axes.set(xlim=(0, 1.05), ylim=(0.905, 0.955), ylabel="accuracy, with 95% interval")
        axes.set_xlabel("time per image (% of the fp32 ResNet-56's)")
        axes.set_title(
            "CIFAR-10 on two CPU cores: the large network's accuracy\n"
            f"in {least:.0%} of its time; int8 alone takes {large[0]:.0%}"
        )
        percent_ticks(axes.xaxis)
        percent_ticks(axes.yaxis)
        save_png(figure, file)


def _with_bars(axes: Axes, places: Any, colour: str, **style: Any) -> None:
    time, accuracy = np.array(places).T
    low, high = np.array([wilson_interval(round(one * N_TEST), N_TEST) for one in accuracy]).T
    bars = (accuracy - low, high - accuracy)
    axes.errorbar(time, accuracy, yerr=bars, color=colour, elinewidth=0.8, marker="o", **style)


def _case(row: dict[str, Any]) -> str:
    threads = row["threads"]
    return f"Batch {row['batch']}" + ("" if threads is None else f", {counted(threads, 'thread')}")


def _reached(here: list[dict[str, Any]]) -> str:
    """Return at what share of the time the fp32 ResNet-56's accuracy is reached, between which measured budgets."""
    wanted, kind = here[0]["accuracy"], "cascade in one file" if here[0]["batch"] == 1 else "cascade, "
    points = sorted(
        (row["of_fp32"]["median"], row["accuracy"], row["of_int8"]["median"])
        for row in here
        if row["way"].startswith(kind) and "frozen" not in row["way"]
    )
    for (low, below, low8), (high, above, high8) in pairwise(points):
        if below < wanted <= above:
            part = (wanted - below) / (above - below)
            return (
                f"- {_case(here[0])}: {low + part * (high - low):.1%} of the fp32 ResNet-56's time (between "
                f"{below:.4f} at {low:.1%} and {above:.4f} at {high:.1%}), {low8 + part * (high8 - low8):.1%} "
                "of the int8 ResNet-56's."
            )
    return f"- {_case(here[0])}: no budget here reaches the fp32 ResNet-56's accuracy."


def _cells(row: dict[str, Any]) -> list[str]:
    shares = map(_share, (row["of_fp32"], row["of_int8"]))
    return [row["way"], f"{row['accuracy']:.4f}", f"{row['ms']:.3f}", *shares]


def _share(spread: dict[str, float]) -> str:
    return f"{spread['median']:.3f} ({spread['low']:.3f} to {spread['high']:.3f})"


def with_int8(run: RunFolder) -> RunFolder:
    """Return a run's run in int8; export the run and make that one if need be."""
    if not (run.path / "onnx").is_dir():
        from exeunt.torch.to_onnx import export_run

        export_run(run)
    if not (run.path / "int8").is_dir():
        make_precision(run, "int8", workers=2)
    return RunFolder.open(f"{run.path}@int8")


def opened(folder: Path) -> dict[str, RunFolder]:
    """Open the runs, and make those that are derived from others."""
    runs = {name: RunFolder.open(folder / name) for name in (SMALL, LARGE, FROZEN)}
    runs |= {f"{name}@int8": with_int8(run) for name, run in runs.items()}
    for name, small in (("cascade", SMALL), ("cascade, frozen exits", FROZEN)):
        out = folder / name.replace(", ", "-").replace(" ", "-")
        if not RunFolder.exists(out):
            make_cascade(out, {"resnet20": runs[f"{small}@int8"], "resnet56": runs[f"{LARGE}@int8"]})
        runs[name] = RunFolder.open(out)
    return runs


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="RUNS")
    options.add_argument("--rounds", type=int, default=11)
    options.add_argument("--max-seconds", type=float, default=45.0)
    given = options.parse_args()
    if given.measure:
        runs, rows = opened(given.measure), []
        for size, threads in CASES:
            rows += measured(runs, size, threads, given.rounds, given.max_seconds)
        found = {"machine": describe_machine(), "rows": rows}
    else:
        found = kept_numbers(PAGE)
    draw(found["rows"], RESULTS.parent / "figures" / "cascade-on-the-clock.png")
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
