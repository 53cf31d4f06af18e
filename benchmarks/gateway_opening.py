"""How long a gateway takes to open with many records, and its page to be read; which queries look at all of them.

    python -m benchmarks.gateway_opening [--records 300000]

Prints the numbers; `benchmarks.gateway` writes them on its page.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exeunt.gateway.config import read_config
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.page_state import PageState
from exeunt.stream.records import COMPARED, KIND, Record, Records, Said
from exeunt.stream.units import DAY_S, Arrival, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS, ROWS, DRAWN, DAYS, OPEN = 300_000, 3, 0.1, 30, 200
"""Records, requests of a conversation, the share of these that is compared, days, and conversations that are open."""
_BLOCK = 3_000
FILE = """
providers: {one: {base_url: 'http://provider.invalid/v1'}}
models:
  small: {provider: one, price: {input: 0.1, output: 0.4}, max_tokens: 64, logprobs: true}
  large: {provider: one, price: {input: 10, output: 40}, max_tokens: 64}
reference: large
shadow: {models: [small], share: 10%, spend: '100 usd'}
promise: {max_loss: 5%}
"""


def fill(gateway: Gateway, n: int) -> None:
    """Add n records of conversations to a gateway that has none: some by its own classes, the others as copies."""
    records, traffic, start = gateway.records, gateway.traffic, time.time() - DAYS * DAY_S
    said = {"small": Said(1e-5, score=-0.2, grade=0.0), "large": Said(1e-3)}
    units = {}
    for number in range(1, _BLOCK + 1):
        first, row = number - (number - 1) % ROWS, (number - 1) % ROWS
        now = start + number
        drawn = first % round(ROWS / DRAWN) == 1
        unit = units.setdefault(first, Unit(
            first, "me", now, now, closed=now + 3_600, setting=traffic.setting, probability=DRAWN, drawn=drawn,
            held_out=first % 2 == 1,
        ))  # fmt: skip
        unit.rows, unit.latest = row + 1, now
        compared = COMPARED if drawn else ""
        records.add(
            Record(number, now, "me", "0" * 32, said if drawn else {"large": said["large"]}, setting=traffic.setting,
                   unit=first, row=row, is_open=True, transcript=b"%16d" % number, answered="large", asked=("large",),
                   cost=1e-3, input_cost=1e-4, compared=compared)
        )  # fmt: skip
    records.update(units.values())
    blocks = n // _BLOCK
    step = DAYS * DAY_S / blocks
    for block in range(1, blocks):
        _copy(
            records,
            "request",
            Record,
            block,
            step,
            {"transcript": "randomblob(16)", "request": "hex(randomblob(16))"},
        )
        _copy(records, "unit", Unit, block, step, {})
    with records.writing() as connection:
        connection.execute("UPDATE unit SET period = CAST(opened / 86400 AS INTEGER)")
        connection.execute(
            "INSERT INTO period (number, probability, units, chosen, refused, length) "
            "SELECT period, ?, COUNT(*), SUM(drawn), 0, ? FROM unit GROUP BY period",
            (DRAWN, DAY_S),
        )
        connection.execute(
            "UPDATE unit SET closed = NULL WHERE number IN (SELECT number FROM unit ORDER BY number DESC LIMIT ?)",
            (OPEN,),
        )


def _copy(records: Records, table: str, of: type, block: int, step: float, new: dict[str, str]) -> None:
    """Copy the first block of rows, so many numbers and seconds later."""
    moved = {
        **{name: f'"{name}" + {block * _BLOCK}' for name in ("number", "unit")},
        **{name: f'"{name}" + {block * step}' for name in ("time", "opened", "latest", "closed")}, **new,
    }  # fmt: skip
    values = ", ".join(moved.get(one.name, f'"{one.name}"') for one in fields(of))
    with records.writing() as connection:
        connection.execute(f"INSERT INTO {table} SELECT {values} FROM {table} WHERE number <= {_BLOCK}")


@contextmanager
def statements() -> Iterator[list[str]]:
    """Give the list of what is asked of the file from now on."""
    asked, connect = [], type(KIND).connect

    def traced(kind: Any, file: Path) -> Any:
        connection = connect(kind, file)
        if kind.name == KIND.name:
            connection.set_trace_callback(asked.append)
        return connection

    type(KIND).connect = traced
    try:
        yield asked
    finally:
        type(KIND).connect = connect


def scans(records: Records, asked: list[str]) -> list[str]:
    """Return those statements that look at every record or unit."""
    found = []
    with records.reading() as connection:
        for statement in dict.fromkeys(one for one in asked if one.lstrip().upper().startswith("SELECT")):
            plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            if any(
                step.startswith(("SCAN request", "SCAN unit"))
                and not ("unit_open" in step or "request_feedback" in step)
                for step in plan
            ):
                found.append(statement)
    return found


def measured(n: int = RECORDS, times: int = 5) -> dict[str, Any]:
    """Return the seconds that opening, the first request and reading the page take, and what looks at all records."""
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "gateway.yaml").write_text(FILE)
        gateway = Gateway(read_config(file))
        gateway.keys.add("me")
        fill(gateway, n)
        size = (gateway.folder / "records.db").stat().st_size
        seconds: dict[str, list[float]] = {"open": [], "open, of a core": [], "first request": [], "page": []}
        for _ in range(times):
            with statements() as opening:
                started, used = time.perf_counter(), time.process_time()
                gateway = Gateway(read_config(file))
                seconds["open"].append(time.perf_counter() - started)
                seconds["open, of a core"].append(time.process_time() - used)
            started = time.perf_counter()
            gateway.traffic.arrive(Arrival(gateway.traffic.number(), "me", b"new"), time.time())
            seconds["first request"].append(time.perf_counter() - started)
            state = PageState(gateway)
            with statements() as page:
                started = time.perf_counter()
                state.read()
                seconds["page"].append(time.perf_counter() - started)
        found = {
            "records": gateway.records.count(), "units": gateway.records.count_units("1"), "mib": size / 2**20,
            "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
            "scans": {"open": scans(gateway.records, opening), "page": scans(gateway.records, page)},
            "asked": {"open": len(opening), "page": len(page)},
        }  # fmt: skip
        gateway.records.close()
    return found


def main() -> None:
    from experiments.pages import parser

    options = parser(__doc__)
    options.add_argument("--records", type=int, default=RECORDS)
    for name, value in measured(options.parse_args().records).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
