"""From the cells' results to a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.runtime.networks import CASES, MEASURED
from benchmarks.runtime.rival import NAME as RIVAL
from benchmarks.runtime.ways import EXECUTORS
from experiments.pages import table

if TYPE_CHECKING:
    from collections.abc import Iterator

Results = dict[str, dict[str, Any]]
NAMES = {"eager": "PyTorch", "onnx": "ONNX Runtime"}
SHARES = ("0.8", "0.6", "0.4")


def page(found: Results) -> str:
    """Return the page, as far as there are results."""
    parts = (_head, _efficiency, _streams, _nobody, _latency, _milliseconds, _rival, _growth)
    return "\n\n".join(part(found) for part in parts)


def _head(found: Results) -> str:
    one = next(iter(found.values()))["machine"]
    loads = [load for cell in found.values() for load in (cell["machine"]["load"][0], cell["load_after"][0])]
    return f"""# Benchmarks of the staged runtime

Made by `python -m benchmarks.runtime`; numbers in [runtime-benchmarks.json](runtime-benchmarks.json). Every number is
a median of rounds (A B C, B C A, ...) in one process, with the 10% to 90% range of the rounds in brackets. Ratios are
taken within a round. Networks have random weights, except in the comparison with `earlyon`. Thresholds are calibrated
on the images that are timed, so that 80%, 60% and 40% of the original model's multiply-adds are left, heads included,
with every exit in use.

{one["processor"]}, {one["cores"]} cores, {one["threads"]} threads; Python {one["python"]}, torch {one["torch"]}, ONNX
Runtime {one["onnxruntime"]}. Load average while it ran: {min(loads):.1f} to {max(loads):.1f} (a run with two threads
alone makes it 2).

- *original*: the network's own forward without any heads, on the same executor. *Stages*: whole batches; answered
  rows are dropped after every exit. *Plan*: rows per call, cuts and drops as `exeunt bench --profile` plans them
  here.
- *efficiency*: share of multiply-adds left over share of time left; 1 where time falls as the multiply-adds do."""


def _efficiency(found: Results) -> str:
    rows, times = [], []
    for title, executor, cell in _cells(found, "efficiency"):
        for batch in ("64", "256"):
            for share in SHARES:
                stages, plan = (cell[batch]["ways"][f"{way} {share}"] for way in ("stages", "plan"))
                best = f"{_ratio(plan['efficiency_against_best'])} (batch {cell[batch]['best_piece']})"
                folded = _ratio(plan["efficiency_against_folded"]) if executor == "PyTorch" else ""
                rows.append([
                    title, executor, batch, f"{plan['share_left']:.1%}", _percent(stages["time_left"]),
                    _ratio(stages["efficiency"]), _percent(plan["time_left"]), _ratio(plan["efficiency"]), best, folded,
                ])  # fmt: skip
        ms = cell["64"]["original_ms"] | {"256": cell["256"]["original_ms"]["256"]}
        times.append([title, executor, *(_number(ms[size]) for size in ("16", "32", "64", "256"))])
    columns = (
        "network", "executor", "batch", "left", "time left, stages", "efficiency, stages", "time left, plan",
        "efficiency, plan", "against the best batch", "against folded norms",
    )  # fmt: skip
    return f"""## Time and multiply-adds in batches

Stages in PyTorch fold batch norms into the layers before them, which the original model does not; the column *against
folded norms* gives the original model the same.

{table(columns, rows)}

The original model, milliseconds per image by rows per call:

{table(("network", "executor", "16", "32", "64", "256"), times)}"""


def _streams(found: Results) -> str:
    rows = [
        [title, executor, f"{row['share_left']:.1%}", _percent(row["time_left"]), _ratio(row["efficiency"])]
        for title, executor, cell in _cells(found, "stream")
        for row in cell["ways"].values()
    ]
    return f"""## In a stream

Eight batches of 64, one after the other: `runner.stream` batches the rows that are left with those of the next
batches, so that late stages run on full calls. Against as many batches of 64 through the original model.

{table(("network", "executor", "left", "time left", "efficiency"), rows)}"""


def _nobody(found: Results) -> str:
    columns = [f"batch {size}, {way}" for size in (64, 256) for way in ("stages", "plan")]
    rows = []
    single = {(title, executor): cell for title, executor, cell in _cells(found, "latency")}
    for title, executor, cell in _cells(found, "efficiency"):
        ways = [cell[size]["ways"][f"{way} nobody"] for size in ("64", "256") for way in ("stages", "plan")]
        one = single[title, executor]["ways"]["plan nobody"]["mean"]
        rows.append([title, executor, *(_percent(way["time_left"]) for way in (*ways, one))])
    return f"""## No early exit taken

All heads run, no input reaches a threshold. Time as a share of the original model's.

{table(("network", "executor", *columns, "batch 1, plan"), rows)}"""


def _latency(found: Results) -> str:
    rows = []
    for title, executor, cell in _cells(found, "latency"):
        for share in SHARES:
            mean, high = (cell["ways"][f"plan {share}"][key] for key in ("mean", "p95"))
            rows.append([
                title, executor, _number(cell["original_ms"]["mean"]), f"{mean['share_left']:.1%}",
                _percent(mean["time_left"]), f"{high['share_left']:.1%}", _percent(high["time_left"]),
            ])  # fmt: skip
    columns = (
        "network",
        "executor",
        "original mean, ms",
        "left",
        "mean time left",
        "p95: left",
        "p95: time left",
    )
    return f"""## One input at a time

Latency over 64 images, run one by one: its mean, and its 95th percentile over images.

{table(columns, rows)}"""


def _milliseconds(found: Results) -> str:
    rows = []
    for title, executor, cell in _cells(found, "milliseconds"):
        for row in cell["rows"]:
            asked = (row["batch"], f"{row['share_of_original']:.0%}", f"{row['budget_ms']:.3g}")
            came = ("less than the first exit takes", "-")
            if "ratio" in row:
                came = (_number(row["measured_ms"]), _ratio(row["ratio"]))
            rows.append([title, executor, *asked, *came])
    columns = (
        "network", "executor", "batch", "of original", "budget, ms", "measured mean, ms", "measured over budget"
    )  # fmt: skip
    return f"""## Budgets in milliseconds

Costs are timed at the mix of exits that they lead to, a policy is calibrated to the budget, and the mean is measured on
other images.

{table(columns, rows)}"""


def _rival(found: Results) -> str:
    cell = found[f"rival.{RIVAL}"]
    columns = (
        "left",
        "original, PyTorch",
        "earlyon",
        "Exeunt, PyTorch",
        "Exeunt, ONNX Runtime",
        "PyTorch over earlyon",
    )
    single = [[*_rates(row), f"{row['accuracy']:.1%}", f"{row['same_exit']:.0%}"] for row in cell["single"]]
    batches = [
        [*_rates(row), f"{row['earlyon_accuracy']:.1%}", f"{row['accuracy_kept']:.1%}"]
        for row in cell["batches"]
    ]
    same = [
        [row["exit"], f"{row['ms_per_input']:.3g}", f"{row['earlyon_accuracy']:.1%}",
         "faster than our smallest budget" if row["our_accuracy"] is None else f"{row['our_accuracy']:.1%}"]
        for row in cell["same_time"]
    ]  # fmt: skip
    return f"""## Against earlyon

`earlyon` 0.3.0 from PyPI on the same pretrained ResNet-56 (CIFAR-10), the same seven heads (trained here on 8,000
images) and the same thresholds of the highest probability. Images per second; one at a time:

{table((*columns, "accuracy", "same exit"), single)}

In batches of 64. `earlyon` lets a batch leave as a whole, once every image is above the threshold:

{table((*columns, "accuracy on the timed images: earlyon", "Exeunt"), batches)}

Accuracy at the same time per image, batches of 64, PyTorch. `earlyon` saves time only if whole batches leave at one
exit; Exeunt's accuracy is interpolated between its budgets:

{table(("all leave at exit", "ms per image", "earlyon", "Exeunt"), same)}"""


def _rates(row: dict[str, Any]) -> list[str]:
    rates = {name: one["median"] for name, one in row["per_second"].items()}
    shown = [f"{rates[name]:,.0f}" for name in ("original", "earlyon", "eager", "onnx")]
    return [f"{row['share']:.0%}", *shown, f"{rates['eager'] / rates['earlyon']:.2f}x"]


def _growth(found: Results) -> str:
    cells = sorted(
        (cell for name, cell in found.items() if name.startswith("exits.")), key=lambda cell: cell["exits"]
    )
    rows = [
        [cell["exits"], f"{cell['heads_share']:.2%}", f"{cell['share_left']:.1%}", _percent(cell["time_left"]),
         _ratio(cell["efficiency"])]
        for cell in cells
    ]  # fmt: skip
    return f"""## Against the number of exits

ResNet-56, batch 64, PyTorch, stages, 60% left:

{table(("exits", "heads add", "left", "time left", "efficiency"), rows)}"""


def _cells(found: Results, kind: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (title, executor, cell) of every network that was measured."""
    for name in MEASURED:
        for executor in EXECUTORS:
            if cell := found.get(f"{kind}.{name}.{executor}"):
                yield CASES[name].title, NAMES[executor], cell


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def _percent(spread: dict[str, float]) -> str:
    return f"{spread['median']:.1%} ({spread['low']:.0%} to {spread['high']:.0%})"


def _number(spread: dict[str, float]) -> str:
    return f"{spread['median']:.3g} ({spread['low']:.3g} to {spread['high']:.3g})"
