"""How long a billion inputs take on many machines: a model (scale_model.py), fitted and checked here, then used.

    python experiments/scale.py RUN --data ../shared/data/cifar10

Runs `exeunt predict --engine ray` at several sizes on this machine, fits the model to most of them, compares it with
the others, and writes docs/scale.md and docs/results/cluster/scale.json. Where that file is there, `--again` writes the
page from it and measures nothing. The data are a table `test.parquet`, repeated as often as needed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from report import heading
from scale_model import Machines, Seconds, job_seconds, limits, simulated

from cluster import RESULTS, ROOT, repeated
from exeunt._files import read_json, write_json, write_text
from exeunt._limits import usable_cores
from exeunt.cluster.jobs import predict_on_cluster
from exeunt.cluster.scheduler import WINDOW
from exeunt.cluster.session import connected
from exeunt.data import open_inputs
from exeunt.predicting.blocks import Block, BlockEnd
from exeunt.predicting.predict import predict_job
from exeunt.run.folder import RunFolder
from exeunt.timing.measuring import describe_machine

FITTED = ((2_000, 500), (20_000, 2_000), (40_000, 4_000), (20_000, 250), (40_000, 500), (80_000, 4_000))
"""Inputs of a job and of a block that the model is fitted to."""
CHECKED = ((60_000, 2_000), (30_000, 1_000), (60_000, 500))
"""Those that it is compared with."""
ROUNDS = 2
BILLION = 1e9
MACHINES, CORES = (10, 100, 1_000), 16
BLOCKS = (2_048, 16_384, 131_072)
LOST = (0.05, 0.5)
"""Machines that vanish: how often in an hour, each."""
REPLACED_S = 120.0
LINK, PRICE = 1.25e9, 0.70
"""Assumed: bytes a second between the store and a machine (10 Gbit/s), and what an hour of a machine costs."""


def in_one_process(run: RunFolder, folder: Path, n: int = 4_096) -> dict[str, float]:
    """Return the seconds that an input takes to be read and prepared, and to be answered, one after the other."""
    job, inputs = predict_job(run), open_inputs(folder)
    shared = job.open(threads=1)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        items = list(job.read(inputs.block(0, n)))
        read = time.perf_counter()
        assert isinstance(items[-1], BlockEnd)
        list(job.answer(shared, [(Block(0, n), item) for item in items]))
        times.append((read - began, time.perf_counter() - read))
    decode, network = np.min(times, axis=0) / n
    return {"decode": float(decode), "network": float(network)}


def of_job(run: RunFolder, data: Path, work: Path, n: int, block: int) -> dict[str, float]:
    """Run a job with a worker for each core; return its seconds, and the processor's on the driver."""
    folder = work / f"data-{n}"
    inputs = open_inputs(folder if folder.exists() else repeated(data, n, folder))
    inputs = inputs.take(np.arange(n))
    began, used = time.perf_counter(), time.process_time()
    predict_on_cluster(
        run,
        inputs,
        str(work / "out"),
        workers=usable_cores(),
        block_size=block,
        force=True,
        say=lambda _: None,
    )
    return {"seconds": time.perf_counter() - began, "driver": time.process_time() - used}


def measured(run: RunFolder, data: Path) -> dict[str, Any]:
    """Return all that is measured here, JSON-able."""
    table = pq.read_metadata(data / "test.parquet")
    with tempfile.TemporaryDirectory() as temporary, connected():
        work = Path(temporary)
        of_job(run, data, work, 500, 250)  # warm
        jobs: dict[tuple[int, int], list[dict[str, float]]] = {}
        for _ in range(ROUNDS):
            for sizes in (*FITTED, *CHECKED):
                jobs.setdefault(sizes, []).append(of_job(run, data, work, *sizes))
                print(sizes, jobs[sizes][-1], flush=True)
        alone = in_one_process(run, repeated(data, 5_000, work / "alone"))
    return {
        "machine": describe_machine(), **alone,
        "row_bytes": (data / "test.parquet").stat().st_size / table.num_rows,
        "jobs": [
            {"n": n, "block": block, **{name: min(one[name] for one in runs) for name in runs[0]}}
            for (n, block), runs in jobs.items()
        ],
    }  # fmt: skip


def fitted(found: dict[str, Any]) -> Seconds:
    """Fit start, seconds of an input and of a block to the jobs' times, and the driver's to its own."""
    jobs = [one for one in found["jobs"] if (one["n"], one["block"]) in FITTED]
    cores = found["machine"]["cores"]
    n, blocks = np.array([one["n"] for one in jobs]), np.array([-(-one["n"] // one["block"]) for one in jobs])
    terms = np.stack([np.ones(len(jobs)), n / cores, blocks / cores], axis=1)
    seconds = np.array([one["seconds"] for one in jobs])
    start, row, block = np.linalg.lstsq(terms / seconds[:, None], np.ones(len(jobs)), rcond=None)[0]
    driver = np.polyfit(blocks, [one["driver"] for one in jobs], 1)[0]
    return Seconds(
        found["decode"], found["network"], row - found["decode"] - found["network"], block, driver, start,
        found["row_bytes"],
    )  # fmt: skip


def errors(found: dict[str, Any], parts: Seconds) -> list[list[str]]:
    """Return rows of a table: jobs that the model was not fitted to, and what it says of them."""
    rows = []
    for one in found["jobs"]:
        if (one["n"], one["block"]) in CHECKED:
            said = of_model(parts, one, found["machine"]["cores"])
            rows.append([
                f"{one['n']:,}", f"{one['block']:,}", f"{one['seconds']:.1f}", f"{said:.1f}",
                f"{said / one['seconds'] - 1:+.1%}",
            ])  # fmt: skip
    return rows


def of_model(parts: Seconds, job: dict[str, float], cores: int) -> float:
    """Return the seconds that the model gives a job that was measured; the end is a part of what was fitted."""
    return parts.start + -(-job["n"] // job["block"]) / cores * parts.of_block(job["block"])


def billion(parts: Seconds) -> list[list[str]]:
    """Return rows of a table: a billion inputs on some machines in blocks of some size."""
    rows = []
    for n in MACHINES:
        for block in BLOCKS:
            machines = Machines(n, CORES, LINK)
            seconds = job_seconds(parts, machines, BILLION, block)
            most = limits(parts, machines, block)
            first = min(most, key=lambda name: most[name])
            rows.append([
                f"{n:,}", f"{block:,}", f"{BILLION / block:,.0f}", f"{seconds / 3600:.2f} h",
                f"{n * seconds / 3600 * PRICE:,.0f}", first,
            ])  # fmt: skip
    return rows


def vanishing(parts: Seconds) -> list[list[str]]:
    """Return rows of a table: what machines that vanish cost, by simulation."""
    rows = []
    for n in MACHINES[1:]:
        for block in BLOCKS:
            block_s, blocks, cores = parts.of_block(block), round(BILLION / block), n * CORES
            options = {"window": WINDOW, "driver_s": parts.driver}
            calm, _ = simulated(block_s, blocks, cores, **options)
            cells = [f"{n:,}", f"{block:,}", f"{calm / 3600:.2f} h"]
            for lost in LOST:
                seconds, again = simulated(
                    block_s, blocks, cores, lost_per_hour=lost, replaced_s=REPLACED_S, **options
                )
                cells += [f"{seconds / calm - 1:+.1%}", f"{again / blocks:.2%}"]
            rows.append(cells)
    return rows


def table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    return "\n".join([*heading(columns), *(f"| {' | '.join(row)} |" for row in rows)])


def page(found: dict[str, Any], command: str) -> str:
    parts = fitted(found)
    micro = {name: 1e6 * value for name, value in asdict(parts).items()}
    return f"""# A billion inputs

<!-- Made by `{command}`; what is measured is in results/cluster/scale.json. -->

How long does a job take on 10, 100 or 1,000 machines, what does it cost, and what limits it? The answer here is a model
with few numbers. They were measured on one machine ({found["machine"]["processor"]}, {
        found["machine"]["cores"]
    } cores)
with `{
        found["run"]
    }`, CIFAR-10 images in Parquet and `exeunt predict --engine ray`. Measure yours with the same command:
`{command}`.

## What a job is made of

| part | seconds of a core | of |
| --- | --- | --- |
| read, decode, prepare | {micro["decode"]:.0f} millionths | an input |
| the network with its exits | {micro["network"]:.0f} millionths | an input |
| sent between processes, and the rest | {micro["moved"]:.0f} millionths | an input |
| a block: handed out, its part written | {1e3 * parts.block:.0f} thousandths | a block |
| the driver, which does one block after the other | {1e3 * parts.driver:.1f} thousandths | a block |
| start: processes, network | {parts.start:.1f} | a job |

The first two were measured in one process. The others are fitted to the times of {
        len(FITTED)
    } jobs, of 2,000 to 80,000
inputs in blocks of 250 to 4,000, each the fastest of {
        ROUNDS
    } runs. In `experiments/scale_model.py` a job takes

    start + inputs / slowest part + half a block

where the parts are the cores of all machines, their links to the store, and the driver.

## How well it describes jobs that it was not fitted to

{table(("inputs", "in a block", "measured, s", "model, s", "error"), errors(found, parts))}

## A billion inputs

Machines of {CORES} cores like those here, each with {8 * LINK / 1e9:.0f} Gbit/s to the store ({
        parts.row_bytes:,.0f} bytes
an input) and {
        PRICE:.2f} $ an hour. The link and the price are assumptions; the price of the answer is proportional to the
second.

{table(("machines", "in a block", "parts", "time", "$", "what limits it"), billion(parts))}

- Cores are the first limit up to where the driver is: it takes {
        1e3 * parts.driver:.1f} ms for a block, so that blocks of
  2,048 inputs end at {
        2048 / parts.driver:,.0f} inputs a second however many machines there are. Larger blocks move that
  limit up in proportion (`--block-size`).
- Choose blocks that take a core some ten seconds to a minute. Smaller ones cost the driver, larger ones wait for
  one another at the end and cost more where a machine dies.
- A part is written for each block. Read files of some 100 MB to 1 GB: a block reads its rows of a file and nothing else
  of it, so files need not be as small as blocks.

## Machines that vanish

Spot machines are cheaper and may go at any time. Each vanishes {LOST[0]:g} or {
        LOST[1]:g} times in an hour on average, the blocks
that it had are done again, and {
        REPLACED_S:.0f} s later another is there. By simulation of every block on every
core; cores vanish one by one:

{
        table(
            (
                "machines",
                "in a block",
                "none vanishes",
                f"{LOST[0]:g} an hour: longer by",
                "blocks done again",
                f"{LOST[1]:g} an hour: longer by",
                "blocks done again",
            ),
            vanishing(parts),
        )
    }

## The server at scale

A server is a process that holds a run. Servers share nothing but the run folder, so N of them behind any balancer
answer N times as much as one ([a server](howto/serve.md)).

- **What is shared.** The run folder, read-only, on a disk or an image that every server sees; and the file of the
  live budget (`--live-file`), if all are to follow one `PUT /budget`. Give the file a place that all can read and
  write.
- **A new run without a gap.** Let `RUN` be a step. Point it to the new run and `POST /reload` to one server: it opens
  and warms the new run beside the old one, answers what it has begun with the old one, and notes the change in the
  live file. All others follow within a second. Both runs are in memory meanwhile.
- **What autoscaling should look at.** Not at latency or the processor: under `--slo-ms` the server keeps the first by
  lowering the budget, and the second is high as soon as there is load. Look at the accuracy lost to load and the active
  budget (`exeunt_accuracy_lost` and `exeunt_budget_active` in `/metrics`), or at the rows that end early
  (`exeunt_problems_total{{problem="expired"}}`). Add servers when the loss stays above what you accept for minutes. Take
  servers away when the active budget stays at its limit, next to no rows end early, and that would stay so at the rate
  times N / (N - 1). The seconds that a new server needs to load and warm up are no outage: until it is ready, the others
  lower their budgets.
- **Health.** Send requests where `/v2/health/ready` is 200. A server that drains, or has not warmed up, says 503.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--again", action="store_true", help="write the page from scale.json")
    given = parser.parse_args()
    file = RESULTS / "scale.json"
    if not given.again:
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(file, {"run": given.run.name, **measured(RunFolder.open(given.run), given.data)})
    found = read_json(file)
    print(fitted(found))
    write_text(
        ROOT / "docs" / "scale.md", page(found, f"python experiments/scale.py RUN --data {given.data}")
    )


if __name__ == "__main__":
    main()
