"""How much of a saving in multiply-adds is one on the clock: the staged runtime against the original model.

    python -m benchmarks.runtime
    python -m benchmarks.runtime prepare --weights resnet56_cifar10.safetensors --data cifar10/
    python -m benchmarks.runtime run

Without a command the page is written again from the kept numbers. `prepare` makes the networks and exports them
(minutes, on a machine that may be busy); with weights and data also the comparison with `earlyon` (`pip install
earlyon`). `run` measures, cell by cell, each in a process of its own, and goes on where it was interrupted. The machine
should have nothing else to do then.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
import torch
from benchmarks.runtime import cells, networks, rival
from benchmarks.runtime.report import page
from benchmarks.runtime.ways import EXECUTORS, Limits, Network, profile
from experiments.pages import RESULTS, ROOT, kept_numbers, parser, write_page

from exeunt._support.files import read_json, write_json
from exeunt._support.limits import usable_cores
from exeunt.data.decode_all import default_cache
from exeunt.runs.folder import RunFolder
from exeunt.timing.timing_tools import describe_machine
from exeunt.torch.to_onnx import export_run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

PAGE = RESULTS / "runtime-benchmarks.md"
HEADS = (1, 3, 7, 13, 26)  # of ResNet-56, to see how time grows with exits
QUICK = Limits(rounds=1, seconds=0.0)
LIMITS = {  # all cells together take 20 minutes
    "profile": Limits(rounds=5, seconds=12.0),
    "efficiency": Limits(rounds=7, seconds=25.0),
    "stream": Limits(rounds=5, seconds=20.0),
    "latency": Limits(rounds=7, seconds=12.0),
    "milliseconds": Limits(rounds=5, seconds=5.0),
    "exits": Limits(rounds=5, seconds=10.0),
    "rival": Limits(rounds=7, seconds=8.0),
}
MEASURE = {
    "efficiency": cells.efficiency,
    "stream": cells.streamed,
    "latency": cells.latency,
    "milliseconds": cells.milliseconds,
    "exits": cells.at_sixty_percent,
}


def prepare(given: argparse.Namespace) -> None:
    """Make what the cells need: run folders with traces, exported."""
    runs = [networks.run_of(networks.CASES[name], given.work / name) for name in networks.MEASURED]
    for heads in HEADS:
        networks.run_of(networks.CASES["resnet56"], given.work / f"resnet56-{heads}", n_heads=heads)
    if given.data and given.weights:
        runs.append(rival.prepare(given.data, given.weights, given.work / rival.NAME))
    for run in runs:
        if not (run.path / "onnx").is_dir():
            export_run(run)


def cells_of(work: Path) -> Iterator[str]:
    """Yield the names of all cells, those that the others need first."""
    for name in networks.MEASURED:
        for executor in EXECUTORS:
            yield from (f"{kind}.{name}.{executor}" for kind in ("profile", "efficiency", "latency"))
            if name != "resnet18-224":
                yield f"stream.{name}.{executor}"
                yield f"milliseconds.{name}.{executor}"
    if RunFolder.exists(work / rival.NAME):
        yield from (f"profile.{rival.NAME}.{executor}" for executor in EXECUTORS)
        yield f"rival.{rival.NAME}"
    yield from (f"exits.resnet56-{heads}.eager" for heads in HEADS)


def measure(given: argparse.Namespace) -> None:
    """Measure one cell, in this process; the result says on what machine, and how busy that was before and after."""
    torch.set_num_threads(given.threads)
    kind, _, rest = given.name.partition(".")
    name, _, executor = rest.partition(".")
    limits = QUICK if given.quick else LIMITS[kind]
    run, before = RunFolder.open(given.work / name), machine()
    if kind == "rival":
        found = rival.compare(run, limits)
    elif kind == "profile":
        found = profile(run, executor, limits)
    else:
        case = networks.CASES["resnet56" if name.startswith("resnet56") else name]
        found = MEASURE[kind](Network(case, run, executor), limits)
    found |= {"machine": before, "load_after": machine()["load"]}
    write_json(given.work / "results" / f"{given.name}.json", found)


def machine() -> dict[str, Any]:
    """Return what is known of the machine and of the packages that do the work, and how busy it is."""
    return {
        **describe_machine(), "threads": torch.get_num_threads(), "load": [round(one, 2) for one in os.getloadavg()],
        "python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip


def run_all(given: argparse.Namespace) -> None:
    """Measure every cell that has no result yet, each in a process of its own, then write the page."""
    results = given.work / "results"
    results.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    for name in cells_of(given.work):
        if given.only not in name or (results / f"{name}.json").is_file():
            continue
        command = [
            sys.executable,
            "-m",
            "benchmarks.runtime",
            "cell",
            name,
            "--work",
            str(given.work.resolve()),
        ]
        command += ["--threads", str(given.threads), *["--quick"] * given.quick]
        began = time.monotonic()
        done = subprocess.run(command, env=environment, cwd=ROOT, check=False)
        state = "done" if done.returncode == 0 else "FAILED"
        print(f"{name}: {state} in {time.monotonic() - began:.0f} s", flush=True)
    if not given.quick:
        files = [file for file in sorted(results.glob("*.json")) if not file.stem.startswith("profile.")]
        found = {file.stem: read_json(file) for file in files}
        write_page(PAGE, page(found), found)


def main() -> None:
    options = parser(__doc__)
    commands = options.add_subparsers(dest="command")
    each = {name: commands.add_parser(name) for name in ("prepare", "run", "cell")}
    for one in each.values():
        one.add_argument("--work", type=Path, default=default_cache() / "runtime-benchmarks")
        one.add_argument("--threads", type=int, default=usable_cores())
        one.add_argument("--quick", action="store_true", help="as few rounds as can be: to see that it runs")
    each["prepare"].add_argument(
        "--data", help="CIFAR-10, as `exeunt train --data` takes it; without it, no earlyon"
    )
    each["prepare"].add_argument("--weights", type=Path, help="of the CIFAR-10 ResNet-56")
    each["run"].add_argument("--only", default="", help="cells whose name has this in it")
    each["cell"].add_argument("name")
    given = options.parse_args()
    if given.command is None:
        write_page(PAGE, page(kept_numbers(PAGE)))
    else:
        {"prepare": prepare, "run": run_all, "cell": measure}[given.command](given)


if __name__ == "__main__":
    main()
