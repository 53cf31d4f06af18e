"""How many reservations a ledger handles a second, and how long anybody waits when many processes share its file.

    python -m benchmarks.ledger [--folder FOLDER] [--seconds 10]

A cycle is reserve, dispatch and settle, each with a key. First one client: in memory, in a file that survives the end
of processes ("normal") or a power failure ("full"), and in a PostgreSQL server of this machine (Debian's package
`postgresql`). Then 8 processes of 32 threads on one file, or one database. All are made in FOLDER, by default the
system's for temporary files. Writes docs/results/ledger.md and its numbers.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROCESSES, THREADS = 8, 32
TOTAL = "1000000 usd"
TARGETS = {"in memory": 20_000, "normal": 5_000, "full": 1_500}
LONGEST_S = 5.0


def cycles(ledger: Ledger, name: str, seconds: float, watch: Callable[[float], None] | None = None) -> int:
    """Go through cycles for so long, and return how many. `watch` is given how long each call took."""
    end, n = time.perf_counter() + seconds, 0
    while (began := time.perf_counter()) < end:
        held = ledger.reserve(0.01, model="large", key=f"{name}/{n}")
        reserved = time.perf_counter()
        held.dispatch()
        dispatched = time.perf_counter()
        held.settle(0.005)
        if watch is not None:
            watch(reserved - began)
            watch(dispatched - reserved)
            watch(time.perf_counter() - dispatched)
        n += 1
    return n


def one_client(seconds: float, **where: Any) -> dict[str, float]:
    """Return cycles of one thread a second, and a second of processor time."""
    ledger = Ledger(total=TOTAL, **where)
    cycles(ledger, "warm", 0.2)
    began = time.process_time()
    n = cycles(ledger, "one", seconds)
    used = time.process_time() - began
    ledger.close()
    return {"cycles": n / seconds, "by processor time": n / used}


def synced(folder: Path) -> float:
    """Return the median time of a write of 4 KiB that waits for the disk, in seconds."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        times = []
        for _ in range(200):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return float(np.median(times))


def client(place: Path | str, durability: str, number: int, seconds: float, together: Any, out: Any) -> None:
    """Run the threads of one process, and put what each call took into `out`."""
    ledger = Ledger(total=TOTAL, file=place, durability=durability)
    together.wait()
    waits: list[float] = []
    threads = [
        threading.Thread(target=cycles, args=(ledger, f"{number}/{i}", seconds, waits.append))
        for i in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.put(waits)
    ledger.close()


def many_clients(place: Path | str, durability: str, seconds: float) -> Any:
    """Return what each call of all clients took, in seconds."""
    context = multiprocessing.get_context("spawn")
    out, together = context.Queue(), context.Barrier(PROCESSES)
    processes = [
        context.Process(target=client, args=(place, durability, i, seconds, together, out))
        for i in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    waits = np.concatenate([out.get() for _ in processes])
    for process in processes:
        process.join()
    return waits


@contextmanager
def started(folder: Path) -> Iterator[Any]:
    """Yield a PostgreSQL server in a folder."""
    from tests.postgresql_server import Server

    folder.chmod(0o755)  # the server is another user's
    (folder / "postgresql").mkdir()
    server = Server(folder / "postgresql", durable=True)
    server.start()
    try:
        yield server
    finally:
        server.stop("fast")


def main() -> None:
    # Not above: each client's process imports this file.
    from experiments.pages import RESULTS, parser, write_page

    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="where the files are made")
    options.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    given = options.parse_args()
    numbers: dict[str, Any] = {"load": os.getloadavg()[0], "one client": {}, "many clients": {}}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        numbers["fdatasync_s"] = synced(folder)
        numbers["one client"]["in memory"] = one_client(given.seconds)
        with started(folder) as server:
            places = {
                name: (folder / f"one-{name}.db", folder / f"many-{name}.db") for name in ("normal", "full")
            }
            places["PostgreSQL"] = (server.new_database(), server.new_database())
            for name, (one, many) in places.items():
                durability = "normal" if name == "normal" else "full"
                numbers["one client"][name] = one_client(given.seconds, file=one, durability=durability)
                waits = many_clients(many, durability, given.seconds)
                median, most, longest = np.quantile(waits, [0.5, 0.99, 1])
                numbers["many clients"][name] = {
                    "cycles": len(waits) / 3 / given.seconds,
                    "median_s": float(median),
                    "99%_s": float(most),
                    "longest_s": float(longest),
                }
    write_page(RESULTS / "ledger.md", page(numbers), numbers)


def page(numbers: dict[str, Any]) -> str:
    from experiments.pages import table

    from exeunt.timing.timing_tools import describe_machine

    one = [
        [name, *(f"{rate:,.0f}" for rate in row.values()), f"{TARGETS[name]:,}" if name in TARGETS else ""]
        for name, row in numbers["one client"].items()
    ]
    many = [
        [
            name,
            f"{row['cycles']:,.0f}",
            *(f"{1e3 * row[f'{key}_s']:.1f}" for key in ("median", "99%", "longest")),
        ]
        for name, row in numbers["many clients"].items()
    ]
    machine = describe_machine()
    return f"""# What a ledger takes

Made by `python -m benchmarks.ledger` ({machine["processor"]}, {os.cpu_count()} cores; {numbers["load"]:.1f} processes
were running or waiting on average when it began). A cycle is reserve, dispatch and settle. "normal" survives the end of
any process, "full" also a power failure: each dispatch waits for the disk, where a write of 4 KiB took
{1e3 * numbers["fdatasync_s"]:.2f} ms (median). PostgreSQL is a server on this machine, reached by a socket; each
of its commits waits for the disk.

One client. Processor time is the client's; it does not count what other work on the machine or the server takes, or
waiting for the disk.

{table(("kept", "cycles a second", "a second of processor time", "target"), one)}

{PROCESSES} processes of {THREADS} threads on one file, or one database; how long one call takes, in milliseconds.
Nobody should wait for more than {LONGEST_S:g} seconds.

{table(("kept", "cycles a second", "median", "99th percentile", "longest"), many)}
"""


if __name__ == "__main__":
    main()
