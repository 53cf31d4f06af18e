"""The page of requests of one image each: single.md and single.json."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from benchmarks.serving.loads import POINTS, goodput
from benchmarks.serving.report import slow
from benchmarks.serving.single import (
    AFTER,
    BARE,
    BARE_WHOLE,
    BEFORE,
    CAREFUL,
    LITSERVE,
    NETWORK,
    RATES,
    WHOLE,
)
from experiments.pages import table, write_page

if TYPE_CHECKING:
    from pathlib import Path

Rows = list[dict[str, Any]]


def write(found: dict[str, Any], page: Path) -> None:
    """Write the page and its numbers."""
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        page, "\n\n".join([_introduction(found), _processor(found), _load(found), _beyond(found)]), found
    )


def _introduction(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return f"""# Requests of one image

Made by `{found["command"]}` in {found["minutes"]:.0f} minutes; numbers in [single.json](single.json).

{machine["processor"]}, {machine["cores"]} cores, which the client shares with the server
(the load average was {found["load_average"]:.1f} before it began); a virtual machine whose host gave
{found["stolen"]:.1%} of their time to others.{slow(found)}

PNG images of {found["pixels"]} pixels, decoded with Pillow; *binary*
is the Open Inference Protocol with raw pixels. Arrivals are Poisson, from an open-loop client on kept connections.

- *{BARE}*: a plain ASGI application on uvicorn (httptools, uvloop) that parses the same requests, decodes the same
  images, and runs no network. *{NETWORK}*: it also runs the cascade in its event loop, on all images that
  wait; which of them leave at an exit is drawn by lot, in the shares of the policy. *{BARE_WHOLE}*: it
  runs the int8 {found["original"]} instead.
- *{BEFORE}*: `exeunt serve` of the commit before requests were answered in front of the framework. *{AFTER}*: of this
  one. Both with `--slo-ms 50`, of {found["exits"]}.
- *{WHOLE}*: `exeunt serve` of this commit with the int8 {found["original"]} alone. *{LITSERVE}*: around the same
  network.
- *workers*: processes, each with a network on one thread. LitServe has as many, and as many API processes."""


def _processor(found: dict[str, Any]) -> str:
    cases: dict[tuple[str, int, float], dict[str, float]] = {}
    for row in found["processor"]:
        cases.setdefault((row["kind"], row["workers"], row["rate"]), {})[row["server"]] = row["ms"]
    rows = []
    for (kind, workers, rate), ms in cases.items():
        before, now = ms.get(BEFORE, math.nan), ms[AFTER]
        beyond = now - ms[NETWORK]
        times = (f"{one:.2f}" for one in (ms[BARE], ms[BARE_WHOLE], ms[NETWORK], before, now))
        rows.append([kind, workers, f"{rate:.0f}", *times, f"{before / now:.1f}", f"{beyond:.2f}"])
    columns = (
        "request", "workers", "requests a second", BARE, BARE_WHOLE, NETWORK, BEFORE, AFTER, f"{BEFORE} / {AFTER}",
        f"{AFTER}, beyond {NETWORK}",
    )  # fmt: skip
    return f"""## Processor time

Milliseconds of processor a request that is answered, of all the server's processes; the lesser of two rounds. The
policy has a budget of {found["policy"]}.

{table(columns, rows)}"""


def _load(found: dict[str, Any]) -> str:
    parts = []
    for workers in dict.fromkeys(row["workers"] for row in found["load"]):
        own = [row for row in found["load"] if row["workers"] == workers]
        names = list(dict.fromkeys(row["server"] for row in own))
        loads = sorted({row["rate"] for row in own if "times" not in row})
        cells = []
        for name in names:
            rows = [row for row in own if row["server"] == name and "times" not in row]
            at = {row["rate"]: row for row in rows}
            shares = [f"{at[load]['in_time']:.1%}" if load in at else "" for load in loads]
            cells.append([name, f"{goodput(rows):.0f}", f"{goodput(rows, POINTS):.0f}", *shares])
        columns = ("server", "goodput", "with one point lost", *(f"{load:.0f}" for load in loads))
        parts.append(f"With {workers} worker{'s' if workers > 1 else ''}:\n\n{table(columns, cells)}")
    return f"""## Rising load

Share of requests that are answered within 50 ms, by requests a second (files of a form). *Goodput*: the most a second
that are in time; and with at most one point of accuracy lost, against the fp32 {found["original"]}. The controller does
not go below an estimated accuracy of {found["least_accuracy"]}, that of *{CAREFUL}* not below {found["careful"]}.

{(chr(10) * 2).join(parts)}

The times above allow a cascade this many times the requests of the int8 network: what *{BARE_WHOLE}*
takes of forms at {max(RATES):.0f} a second, over what *{NETWORK}* takes. *{AFTER}* is the better of its two rows.

{_arithmetic(found)}"""


def _arithmetic(found: dict[str, Any]) -> str:
    rows = []
    for workers in dict.fromkeys(row["workers"] for row in found["load"]):
        ms = {
            row["server"]: row["ms"]
            for row in found["processor"]
            if (row["kind"], row["workers"], row["rate"]) == ("form", workers, max(RATES))
        }
        own = [row for row in found["load"] if row["workers"] == workers]
        most = {
            name: goodput([row for row in own if row["server"] == name], POINTS)
            for name in (WHOLE, AFTER, CAREFUL)
        }
        could = ms[BARE_WHOLE] / ms[NETWORK]
        does = max(most[AFTER], most[CAREFUL]) / most[WHOLE] if most[WHOLE] else math.inf
        rows.append([workers, f"{could:.2f}", f"{does:.2f}", f"{does / could:.0%}"])
    return table(("workers", "could", f"{AFTER} / {WHOLE}, with one point lost", "of what it could"), rows)


def _beyond(found: dict[str, Any]) -> str:
    rows = []
    for row in found["load"]:
        if "times" in row:
            own = [one for one in found["load"] if (one["server"], one["workers"]) == (AFTER, row["workers"])]
            most = goodput(own)
            share = row["goodput"] / most
            rows.append([
                row["workers"], f"{row['times']:g}", f"{row['rate']:.0f}", f"{row['goodput']:.0f}", f"{share:.0%}",
                row["refused"], row["lost"], f"{row['p50_ms']:.0f}" if row["p50_ms"] else "-",
            ])  # fmt: skip
    columns = (
        "workers", "times the goodput above", "requests a second", "in time a second", "of the most", "refused", "lost",
        "median, ms",
    )  # fmt: skip
    return f"""## Beyond its capacity

What *{AFTER}* answers within 50 ms at more than it can answer. Refused requests count in the median as never answered.

{table(columns, rows)}"""
