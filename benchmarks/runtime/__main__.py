"""How much of a saving in multiply-adds is one on the clock: the staged runtime against the original model.

    python benchmarks/runtime prepare --weights resnet56_cifar10.safetensors --data cifar10/
    python benchmarks/runtime run --out docs/results

`prepare` makes the networks and exports them (minutes, on a machine that may be busy); `run` measures, cell by cell,
each in a process of its own, and goes on where it was broken off. The machine should have nothing else to do then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import report
import torch
from suite import cells_of, prepared, result_of

from exeunt._files import read_json, write_json
from exeunt._limits import usable_cores
from exeunt.data import default_cache

HERE = Path(__file__).resolve().parent


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.command == "prepare":
        prepared(args.work, data=args.data, weights=args.weights)
    elif args.command == "cell":
        write_json(
            args.work / "results" / f"{args.name}.json", result_of(args.name, args.work, quick=args.quick)
        )
    else:
        _run(args)


def _run(args: argparse.Namespace) -> None:
    """Measure every cell that has no result yet, then write the page."""
    results = args.work / "results"
    results.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in cells_of(args.work) if args.only in name]
    for name in wanted:
        if not (results / f"{name}.json").is_file():
            _in_process(name, args)
    found = {file.stem: read_json(file) for file in sorted(results.glob("*.json"))}
    if args.out:
        write_json(args.out / "runtime-benchmarks.json", found)
        page = report.page(found)
        (args.out / "runtime-benchmarks.md").write_text(page, encoding="utf-8")


def _in_process(name: str, args: argparse.Namespace) -> None:
    command = [
        sys.executable,
        str(HERE),
        "cell",
        name,
        "--work",
        str(args.work),
        "--threads",
        str(args.threads),
    ]
    began = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command + ["--quick"] * args.quick, env=environment, check=False)
    state = "done" if done.returncode == 0 else "FAILED"
    print(f"{name}: {state} in {time.monotonic() - began:.0f} s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prepare, run, cell = (commands.add_parser(name) for name in ("prepare", "run", "cell"))
    for each in (prepare, run, cell):
        each.add_argument("--work", type=Path, default=default_cache() / "runtime-benchmarks")
        each.add_argument("--threads", type=int, default=usable_cores())
    prepare.add_argument("--data", help="CIFAR-10, as `exeunt train --data` takes it; without it, no earlyon")
    prepare.add_argument("--weights", type=Path, help="of the CIFAR-10 ResNet-56")
    run.add_argument("--out", type=Path, help="folder of the page and its numbers, such as docs/results")
    run.add_argument("--only", default="", help="cells whose name has this in it")
    cell.add_argument("name")
    for each in (run, cell):
        each.add_argument("--quick", action="store_true", help="as few rounds as can be: to see that it runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
