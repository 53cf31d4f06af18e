"""From the cells' results to a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networks
from suite import NETWORKS, RIVAL
from ways import EXECUTORS

if TYPE_CHECKING:
    from collections.abc import Sequence

Results = dict[str, dict[str, Any]]
NAMES = {"eager": "PyTorch", "onnx": "ONNX Runtime"}
EFFICIENCY, AGAINST_BEST, SLOWER, SLOWER_1, LATENCY, WITHIN = 0.95, 0.93, 1.03, 1.08, 0.85, 0.10


def page(found: Results) -> str:
    """Return the page, as far as there are results."""
    parts = [
        _head(found), _efficiency(found), _streams(found), _nobody(found), _latency(found), _milliseconds(found),
        _rival(found), _growth(found), _plans(found),
    ]  # fmt: skip
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(found: Results) -> list[str]:
    one = next(iter(found.values()))["machine"]
    loads = [load for cell in found.values() for load in (cell["machine"]["load"][0], cell["load_after"][0])]
    return [
        "# Benchmarks of the staged runtime", "",
        "Made by `python benchmarks/runtime run --out docs/results`. Every number is a median of rounds",
        "(A B C, B C A, ...) in one process, with the 10 % to 90 % range of the rounds in brackets. Ratios are taken",
        "within a round. Networks have random weights, except in the comparison with `earlyon`. Thresholds are",
        "calibrated on the images that are timed, so that 80, 60 and 40 % of the original model's multiply-adds are",
        "left, heads included, with every exit in use.", "",
        f"{one['processor']}, {one['cores']} cores, {one['threads']} threads; Python {one['python']},",
        f"torch {one['torch']}, ONNX Runtime {one['onnxruntime']}. Load average while it ran: {min(loads):.1f} to",
        f"{max(loads):.1f} (a run with two threads alone makes it 2).", "",
        "- *original*: the network's own forward without any heads, on the same executor. *Stages*: whole batches, rows",
        "  dropped after every exit. *Plan*: pieces, cuts and drops as `exeunt bench --profile` plans them here.",
        "- *efficiency*: share of multiply-adds left over share of time left.", "",
    ]  # fmt: skip


def _efficiency(found: Results) -> list[str]:
    lines = [
        "## Time follows the multiply-adds", "",
        f"Targets: {EFFICIENCY} against the original model at the same batch, {AGAINST_BEST} at its best batch.",
        "Stages in PyTorch fold batch norms into the layers before them, which the network as it was given does not;",
        "the column *against folded norms* gives the original model the same.",
        "", *_table(
            "network", "executor", "batch", "left", "time left, stages", "efficiency, stages", "time left, plan",
            "efficiency, plan", "against the best batch", "against folded norms", "",
        ),
    ]  # fmt: skip
    for name, executor, cell in _cells(found, "efficiency"):
        for batch in ("64", "256"):
            table = cell[batch]
            for share in ("0.8", "0.6", "0.4"):
                stages, plan = (table["ways"][f"{way} {share}"] for way in ("stages", "plan"))
                met = plan["efficiency"]["median"] >= EFFICIENCY
                met &= plan["efficiency_against_best"]["median"] >= AGAINST_BEST
                lines.append(_row(
                    networks.CASES[name].title, NAMES[executor], batch, f"{plan['share_left']:.1%}",
                    _percent(stages["time_left"]), _ratio(stages["efficiency"]), _percent(plan["time_left"]),
                    _ratio(plan["efficiency"]),
                    f"{_ratio(plan['efficiency_against_best'])} (batch {table['best_piece']})",
                    _ratio(plan["efficiency_against_folded"]) if executor == "eager" else "", _met(met),
                ))  # fmt: skip
    lines += ["", "The original model, milliseconds per image by rows per call:", ""]
    lines += _table("network", "executor", "16", "32", "64", "256")
    for name, executor, cell in _cells(found, "efficiency"):
        ms = cell["64"]["original_ms"] | {"256": cell["256"]["original_ms"]["256"]}
        lines.append(
            _row(
                networks.CASES[name].title,
                NAMES[executor],
                *(_number(ms[b]) for b in ("16", "32", "64", "256")),
            )
        )
    return [*lines, ""]


def _streams(found: Results) -> list[str]:
    lines = [
        "## In a stream", "",
        "Eight batches of 64, one after the other: `runner.stream` lets survivors wait for those of the next batches,",
        "so that late stages run on full calls. Against as many batches of 64 through the original model.", "",
        *_table("network", "executor", "left", "time left", "efficiency", ""),
    ]  # fmt: skip
    lines += [
        _row(
            networks.CASES[name].title, NAMES[executor], f"{row['share_left']:.1%}", _percent(row["time_left"]),
            _ratio(row["efficiency"]), _met(row["efficiency"]["median"] >= EFFICIENCY),
        )
        for name, executor, cell in _cells(found, "stream")
        for row in cell["ways"].values()
    ]  # fmt: skip
    return [*lines, ""]


def _nobody(found: Results) -> list[str]:
    lines = [
        "## Nobody leaves early", "",
        "All heads run, no input reaches a threshold. Time as a share of the original model's; targets at most",
        f"{SLOWER:.0%} in batches and {SLOWER_1:.0%} at batch 1.", "",
        *_table(
            "network", "executor", *(f"batch {size}, {way}" for size in (64, 256) for way in ("stages", "plan")),
            "batch 1, plan", "",
        ),
    ]  # fmt: skip
    for name, executor, cell in _cells(found, "efficiency"):
        ways = [
            cell[size]["ways"][f"{way} nobody"]["time_left"]
            for size in ("64", "256")
            for way in ("stages", "plan")
        ]
        single = found.get(f"latency.{name}.{executor}")
        one = None if single is None else single["ways"]["plan nobody"]["mean"]["time_left"]
        met = (
            max(way["median"] for way in ways[1::2]) <= SLOWER
            and one is not None
            and one["median"] <= SLOWER_1
        )
        lines.append(_row(
            networks.CASES[name].title, NAMES[executor], *map(_percent, ways),
            "" if one is None else _percent(one), _met(met),
        ))  # fmt: skip
    return [*lines, ""]


def _latency(found: Results) -> list[str]:
    lines = [
        "## One input at a time", "",
        "Latency over 64 images, run one by one. *Fall*: how much less time than original, over how much fewer",
        f"multiply-adds; target {LATENCY}. Of p95 both are those of the 95th percentile over images: where the hardest",
        "twentieth runs to the end, nothing can fall (-).", "",
        *_table(
            "network", "executor", "original mean, ms", "left", "mean left", "fall of the mean", "p95: left",
            "p95: time left", "fall of p95", "",
        ),
    ]  # fmt: skip
    for name, executor, cell in _cells(found, "latency"):
        for share in ("0.8", "0.6", "0.4"):
            row = cell["ways"][f"plan {share}"]
            mean, high = row["mean"], row["p95"]
            falls = [_fall(mean), _fall(high)]
            met = all(fall is None or fall >= LATENCY for fall in falls)
            lines.append(_row(
                networks.CASES[name].title, NAMES[executor], _number(cell["original_ms"]["mean"]),
                f"{mean['share_left']:.1%}", _percent(mean["time_left"]), _shown(falls[0]),
                f"{high['share_left']:.1%}", _percent(high["time_left"]), _shown(falls[1]), _met(met),
            ))  # fmt: skip
    return [*lines, ""]


def _fall(row: dict[str, Any]) -> float | None:
    """Return how much time falls per fall of the multiply-adds; None where these fall by less than 5 %."""
    fewer = 1 - row["share_left"]
    return None if fewer < 0.05 else (1 - row["time_left"]["median"]) / fewer


def _milliseconds(found: Results) -> list[str]:
    lines = [
        "## Budgets in milliseconds", "",
        "Costs are timed at the mix of exits that they lead to, a policy is calibrated to the budget, and the mean is",
        f"measured on other images. Target: within {WITHIN:.0%}.", "",
        *_table(
            "network", "executor", "batch", "of original", "budget, ms", "measured mean, ms", "measured over budget", ""
        ),
    ]  # fmt: skip
    for name, executor, cell in _cells(found, "milliseconds"):
        for row in cell["rows"]:
            came = ("less than the first exit takes", "-", "")
            if "ratio" in row:
                met = abs(row["ratio"]["median"] - 1) <= WITHIN
                came = _number(row["measured_ms"]), _ratio(row["ratio"]), _met(met)
            lines.append(_row(
                networks.CASES[name].title, NAMES[executor], row["batch"], f"{row['share_of_original']:.0%}",
                f"{row['budget_ms']:.3g}", *came,
            ))  # fmt: skip
    return [*lines, ""]


def _rival(found: Results) -> list[str]:
    cell = found.get(f"rival.{RIVAL}")
    if cell is None:
        return []
    columns = (
        "left",
        "original, PyTorch",
        "earlyon",
        "Exeunt, PyTorch",
        "Exeunt, ONNX Runtime",
        "PyTorch over earlyon",
    )
    lines = [
        "## Against earlyon", "",
        "`earlyon` 0.3.0 from PyPI on the same pretrained ResNet-56 (CIFAR-10), the same seven heads (trained here on",
        "8,000 images) and the same thresholds of the highest probability. Images per second; one at a time:", "",
        *_table(*columns, "accuracy", "same exit"),
    ]  # fmt: skip
    lines += [
        _row(f"{row['share']:.0%}", *_rates(row), f"{row['accuracy']:.1%}", f"{row['same_exit']:.0%}")
        for row in cell["single"]
    ]
    lines += [
        "", "In batches of 64. `earlyon` lets a batch leave as a whole, once every image is above the threshold:", "",
        *_table(*columns, "accuracy on the timed images: earlyon", "Exeunt"),
    ]  # fmt: skip
    for row in cell["batches"]:
        accuracies = (f"{row[name]:.1%}" for name in ("earlyon_accuracy", "accuracy_kept"))
        lines.append(_row(f"{row['share']:.0%}", *_rates(row), *accuracies))
    lines += [
        "", "Accuracy at the same time per image, batches of 64, PyTorch. `earlyon` saves time only if whole batches",
        "leave at one exit; Exeunt's accuracy is interpolated between its budgets:", "",
        *_table("all leave at exit", "ms per image", "earlyon", "Exeunt"),
    ]  # fmt: skip
    for row in cell["same_time"]:
        ours = (
            "faster than our smallest budget" if row["our_accuracy"] is None else f"{row['our_accuracy']:.1%}"
        )
        lines.append(_row(row["exit"], f"{row['ms_per_input']:.3g}", f"{row['earlyon_accuracy']:.1%}", ours))
    return [*lines, ""]


def _rates(row: dict[str, Any]) -> list[str]:
    rates = row["per_second"]
    shown = [f"{rates[name]['median']:,.0f}" for name in ("original", "earlyon", "eager", "onnx")]
    return [*shown, f"{rates['eager']['median'] / rates['earlyon']['median']:.2f}x"]


def _growth(found: Results) -> list[str]:
    lines = ["## Growth", ""]
    for executor in EXECUTORS:
        cell = found.get(f"batch.resnet18.{executor}")
        if cell is not None:
            lines += [
                f"Milliseconds per image against the batch, ResNet-18 (32 px), {NAMES[executor]}, 60 % left:", "",
                *_table("", *(row["batch"] for row in cell["rows"])),
                *(
                    _row(name, *(_number(row["ms_per_input"][name]) for row in cell["rows"]))
                    for name in ("original", "plan 0.6")
                ), "",
            ]  # fmt: skip
    many = sorted(
        (cell for name, cell in found.items() if name.startswith("exits.")), key=lambda cell: cell["exits"]
    )
    if many:
        lines += [
            "Against the number of exits: ResNet-56, batch 64, PyTorch, stages, 60 % left:", "",
            *_table("exits", "heads add", "left", "time left", "efficiency"),
        ]  # fmt: skip
        for cell in many:
            lines.append(_row(
                cell["exits"], f"{cell['heads_share']:.2%}", f"{cell['share_left']:.1%}", _percent(cell["time_left"]),
                _ratio(cell["efficiency"]),
            ))  # fmt: skip
        lines.append("")
    stream = found.get("inputs")
    if stream is not None:
        lines += [
            "Against the number of inputs: a stream in batches of 64 through four exits of an executor that computes",
            "next to nothing; so this is what the loop itself takes:", "",
            *_table("inputs", "seconds", "microseconds per input", "peak memory above that before, MiB"),
        ]  # fmt: skip
        for row in stream["rows"]:
            lines.append(_row(
                f"{row['inputs']:,}", f"{row['seconds']:.3g}", f"{row['us_per_input']:.3g}", f"{row['peak_mib']:.1f}"
            ))  # fmt: skip
        lines.append("")
    return lines


def _plans(found: Results) -> list[str]:
    lines = [
        "## What the plans say",
        "",
        *_table("network", "executor", "segments of exits", "rows per call"),
    ]
    for name, cell in found.items():
        kind, _, rest = name.partition(".")
        if kind == "profile":
            plan, (network, _, executor) = cell["plan"], rest.partition(".")
            title = networks.CASES[network].title if network in networks.CASES else "ResNet-56, 8 exits"
            cuts = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in plan["segments"])
            lines.append(_row(title, NAMES[executor], cuts, ", ".join(map(str, plan["piece"]))))
    return [*lines, ""]


def _cells(found: Results, kind: str) -> list[tuple[str, str, dict[str, Any]]]:
    names = [(name, executor) for name in NETWORKS for executor in EXECUTORS]
    return [(*name, cell) for name in names if (cell := found.get(".".join((kind, *name)))) is not None]


def _table(*columns: Any) -> Sequence[str]:
    return [_row(*columns), _row(*("---" for _ in columns))]


def _row(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f}-{spread['high']:.2f})"


def _percent(spread: dict[str, float]) -> str:
    return f"{spread['median']:.1%} ({spread['low']:.0%}-{spread['high']:.0%})"


def _number(spread: dict[str, float]) -> str:
    return f"{spread['median']:.3g} ({spread['low']:.3g}-{spread['high']:.3g})"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _met(met: bool) -> str:
    return "met" if met else "**missed**"
