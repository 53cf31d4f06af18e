"""The cells by name, in the order in which they are measured, and what they need beforehand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import cells
import networks
import rival
from machine import machine
from ways import EXECUTORS, Limits, Network, measured

from exeunt.run.folder import RunFolder
from exeunt.torch.export.to_onnx import export_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NETWORKS = ("resnet20", "resnet18", "resnet56", "resnet18-224")
HEADS = (1, 3, 7, 13, 26)  # of ResNet-56, to see how time grows with exits
RIVAL = "cifar10-resnet56"
QUICK = Limits(rounds=1, seconds=0.0)
# Rounds of turns and seconds after which none begins, per kind of cell: all of them together take 20 minutes.
LIMITS = {
    "profile": Limits(rounds=5, seconds=12.0),
    "efficiency": Limits(rounds=7, seconds=25.0),
    "stream": Limits(rounds=5, seconds=20.0),
    "latency": Limits(rounds=7, seconds=12.0),
    "milliseconds": Limits(rounds=5, seconds=5.0),
    "batch": Limits(rounds=5, seconds=5.0),
    "exits": Limits(rounds=5, seconds=10.0),
    "rival": Limits(rounds=7, seconds=8.0),
}


def cells_of(work: Path) -> Iterator[str]:
    """Yield the names of all cells, those that the others need first."""
    for name in NETWORKS:
        for executor in EXECUTORS:
            yield from (f"{kind}.{name}.{executor}" for kind in ("profile", "efficiency", "latency"))
            if name != "resnet18-224":
                yield f"stream.{name}.{executor}"
                yield f"milliseconds.{name}.{executor}"
    if RunFolder.exists(work / RIVAL):
        yield from (f"profile.{RIVAL}.{executor}" for executor in EXECUTORS)
        yield f"rival.{RIVAL}"
    yield from (f"batch.resnet18.{executor}" for executor in EXECUTORS)
    yield from (f"exits.resnet56-{heads}.eager" for heads in HEADS)
    yield "inputs"


def prepared(work: Path, *, data: str | None, weights: Path | None) -> None:
    """Make what the cells need: run folders with traces, exported."""
    for name in NETWORKS:
        _exported(networks.run_of(networks.CASES[name], work / name))
    for heads in HEADS:
        networks.run_of(networks.CASES["resnet56"], work / f"resnet56-{heads}", n_heads=heads)
    if data is not None and weights is not None:
        _exported(rival.prepare(data, weights, work / RIVAL))


def _exported(run: RunFolder) -> None:
    if not (run.path / "onnx").is_dir():
        export_run(run)


def result_of(name: str, work: Path, *, quick: bool) -> dict[str, Any]:
    """Measure a cell; the result says on what machine, and how busy that was before and after."""
    kind, _, rest = name.partition(".")
    network, _, executor = rest.partition(".")
    limits = QUICK if quick else LIMITS.get(kind, QUICK)
    before, began = machine(), time.perf_counter()
    if kind == "inputs":
        found = cells.growth_with_inputs()
    elif kind == "rival":
        found = rival.compare(RunFolder.open(work / network), limits)
    elif kind == "profile":
        found = measured(RunFolder.open(work / network), executor, limits)
    else:
        case = networks.CASES["resnet56" if network.startswith("resnet56") else network]
        found = _MEASURE[kind](Network(case, RunFolder.open(work / network), executor), limits)
    return {
        **found,
        "machine": before,
        "load_after": machine()["load"],
        "took_s": time.perf_counter() - began,
    }


_MEASURE: dict[str, Callable[[Network, Limits], dict[str, Any]]] = {
    "efficiency": cells.efficiency,
    "stream": cells.streamed,
    "latency": cells.latency,
    "milliseconds": cells.milliseconds,
    "batch": cells.growth_with_batch,
    "exits": cells.at_sixty_percent,
}
