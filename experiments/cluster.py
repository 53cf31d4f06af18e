"""`exeunt predict --engine ray` under kills, against one process, and as it grows.

    python experiments/cluster.py RUN --data shared/data/cifar10 kills      fifty kills of workers, readers, nodes
    python experiments/cluster.py RUN --data shared/data/cifar10 driver     the command killed ten times
    python experiments/cluster.py RUN --data shared/data/cifar10 overhead   one worker, and two, against one process
    python experiments/cluster.py RUN --data shared/data/cifar10 memory     of all processes, from 1e4 to 1e6 inputs

Each writes its numbers to docs/results/cluster/NAME.json, and the page README.md from all that are there. `--n`
and the other options make it shorter. The data are a table `test.parquet`, repeated as often as needed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
from cluster_report import write_page

from exeunt._files import write_json
from exeunt.timing.measuring import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "cluster"
sys.path.insert(0, str(ROOT / "tests" / "cluster"))

from ray_processes import below  # noqa: E402


def repeated(data: Path, n: int, folder: Path) -> Path:
    """Return a folder of links to a table, which hold at least n rows in all."""
    table = data / "test.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(-(-n // pq.read_metadata(table).num_rows)):
        (folder / f"test-{k:05d}.parquet").symlink_to(table.resolve())
    return folder


def command(run: Path, data: Path, out: Path, *options: str) -> list[str]:
    exeunt = [sys.executable, "-u", "-c", "from exeunt.cli import main; main()"]
    return [*exeunt, "predict", str(run), "--data", str(data), "--out", str(out), *options]


def differences(found: Path, expected: Path) -> dict:
    """Compare answers with those of one process, in order; borderline ones may differ."""
    names = ["name", "label", "exit", "cost", "error"]
    one, two = pq.read_table(found), pq.read_table(expected)
    other = {k for name in names for k in different(one, two, name)} if len(one) == len(two) else None
    borderline = {
        k for table in (one, two) for k, is_so in enumerate(table["borderline"].to_pylist()) if is_so
    }
    return {
        "rows": len(one),
        "rows expected": len(two),
        "same names in the same order": one["name"].equals(two["name"]),
        "borderline": len(borderline),
        "other answers": None if other is None else len(other),
        "other answers that are not borderline": None if other is None else len(other - borderline),
    }


def different(one, two, name: str) -> list[int]:
    pairs = zip(one[name].to_pylist(), two[name].to_pylist(), strict=True)
    return [k for k, (a, b) in enumerate(pairs) if a != b]


def alone(run: Path, data: Path, work: Path) -> Path:
    out = work / "alone.parquet"
    if not out.exists():
        subprocess.run(command(run, data, out), check=True, stdout=subprocess.DEVNULL)
    return out


# -- kills ---------------------------------------------------------------------------------------------------------


def kills(arguments, work: Path) -> dict:
    """Three nodes on this machine, each with a raylet of its own; something of them is killed every few seconds."""
    from ray.cluster_utils import Cluster

    expected, out = alone(arguments.run, arguments.folder, work), work / "killed"
    rng, log, starts = random.Random(arguments.seed), [], 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

    def kill() -> None:
        what = rng.choice(["worker", "reader", "node"])
        if what == "node":
            cluster.remove_node(nodes.pop(rng.randrange(2)), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))
        elif found := below(named="ray::Worker" if what == "worker" else "ray::read_block"):
            os.kill(rng.choice(found), signal.SIGKILL)
        else:
            return
        log.append(what)
        print(f"{len(log)} killed: {what}", flush=True)

    began, status = time.monotonic(), None
    options = ["--engine", "ray", "--address", cluster.address, "--workers", "3"]
    while status != 0:  # a node that dies may take the command along
        starts += 1
        process = subprocess.Popen(command(arguments.run, arguments.folder, out, *options))
        while process.poll() is None:
            time.sleep(rng.uniform(0.5, 1.5) * arguments.every)
            if len(log) < arguments.kills and process.poll() is None:
                kill()
        status = process.returncode
    seconds = time.monotonic() - began
    cluster.shutdown()
    killed = {what: log.count(what) for what in ("worker", "reader", "node")}
    return {"killed": killed, "command started": starts, "seconds": seconds, **differences(out, expected)}


def driver(arguments, work: Path) -> dict:
    """The command and its whole cluster, head included, killed so many times, and started again."""
    expected, out = alone(arguments.run, arguments.folder, work), work / "driven"
    rng, killed, began = random.Random(arguments.seed), 0, time.monotonic()
    parts = []
    while True:
        job = command(arguments.run, arguments.folder, out, "--engine", "ray", "--workers", "2")
        process = subprocess.Popen(job, start_new_session=True)
        before = len(list(out.glob("*.parquet"))) if out.exists() else 0
        while process.poll() is None:
            time.sleep(0.2)
            now = len(list(out.glob("*.parquet"))) if out.exists() else 0
            if killed < arguments.kills and now > before and rng.random() < 0.2:
                for pid in [*below(process.pid, named=""), process.pid]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                killed += 1
                parts.append(now)
                break
        if process.wait() == 0:
            break
        print(f"the command was killed {killed} times; {len(list(out.glob('*.parquet')))} parts", flush=True)
    return {
        "killed": killed,
        "parts at each kill": parts,
        "seconds": time.monotonic() - began,
        **differences(out, expected),
    }


# -- overhead ------------------------------------------------------------------------------------------------------

_DONE = re.compile(r"([\d,]+) of [\d,]+ inputs done")


def rate(job: list[str], cores: str) -> dict:
    """Return inputs per second between a fifth and nine tenths of a job, whose processes share these cores."""
    began = time.monotonic()
    with subprocess.Popen(["taskset", "-c", cores, *job], stdout=subprocess.PIPE, text=True) as process:
        told = ((time.monotonic() - began, _DONE.match(line)) for line in process.stdout)
        seen = [(seconds, int(found[1].replace(",", ""))) for seconds, found in told if found]
    last = seen[-1][1]
    steady = [(t, n) for t, n in seen if 0.2 * last <= n <= 0.9 * last]
    (t0, n0), (t1, n1) = steady[0], steady[-1]
    return {"per second": (n1 - n0) / (t1 - t0), "seconds in all": time.monotonic() - began}


def overhead(arguments, work: Path) -> dict:
    """Alternately, so that what else the machine does concerns all."""
    ways = {
        "one process, one core": ("0", []),
        "ray, one worker, one core": ("0", ["--engine", "ray"]),
        "one process, a thread that decodes, two cores": ("0,1", ["--workers", "1"]),
        "ray, one worker, two cores": ("0,1", ["--engine", "ray"]),
        "ray, two workers, two cores": ("0,1", ["--engine", "ray", "--workers", "2"]),
    }
    found: dict = {name: [] for name in ways}
    for round_ in range(arguments.rounds):
        for k, (name, (cores, options)) in enumerate(ways.items()):
            out = work / f"rate-{round_}-{k}"
            found[name].append(rate(command(arguments.run, arguments.folder, out, *options), cores))
            print(name, found[name][-1], flush=True)
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    return found


# -- memory --------------------------------------------------------------------------------------------------------


def private_bytes(pid: int) -> int:
    """Return what a process alone has in memory."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) * 1024


def memory(arguments, work: Path) -> dict:
    """The most that the command, a worker and a reader have, for each number of inputs."""
    found = {}
    for n in arguments.sizes:
        folder, out = repeated(arguments.data, n, work / f"data-{n}"), work / f"memory-{n}"
        job = command(arguments.run, folder, out, "--engine", "ray", "--workers", "1")
        most = {"command": 0, "worker": 0, "reader": 0}
        began = time.monotonic()
        with subprocess.Popen(job, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                named = {
                    "command": [process.pid],
                    "worker": below(process.pid, named="ray::Worker"),
                    "reader": below(process.pid, named="ray::read_block"),
                }
                for name, pids in named.items():
                    most[name] = max([most[name], *map(private_bytes, pids)])
                time.sleep(0.5)
        rows = sum(pq.read_metadata(file).num_rows for file in out.glob("*.parquet"))
        megabytes = {name: round(size / 2**20) for name, size in most.items()}
        found[n] = {"rows": rows, "seconds": time.monotonic() - began, "MiB": megabytes}
        print(n, found[n], flush=True)
        shutil.rmtree(out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("what", choices=["kills", "driver", "overhead", "memory"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--kills", type=int, help="how many; default 50, of the command 10")
    parser.add_argument("--every", type=float, default=2.5, help="seconds between kills, on average")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.kills = arguments.kills or (10 if arguments.what == "driver" else 50)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        arguments.folder = repeated(arguments.data, arguments.n, work / "data")
        found = globals()[arguments.what](arguments, work)
    about = {"n": arguments.n, "machine": describe_machine(), "run": arguments.run.name}
    write_json(RESULTS / f"{arguments.what}.json", {"about": about, "found": found})
    write_page(RESULTS)


if __name__ == "__main__":
    main()
