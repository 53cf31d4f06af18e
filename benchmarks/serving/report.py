"""The page of results: README.md, results.json and load.png in one folder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from benchmarks.serving.loads import CONTROLLED, EACH_CORE, POINTS, goodput
from experiments.pages import Curve, Panel, draw_panels, table, write_page

from exeunt.guarantees.confidence_intervals import wilson_interval

if TYPE_CHECKING:
    from pathlib import Path

Rows = list[dict[str, Any]]
SLO_MS = 50
FIRST = "original model, fp32"
DRAWN = (f"{CONTROLLED}{EACH_CORE}", f"original model, int8{EACH_CORE}", "LitServe, int8", FIRST)
TROUBLES = {
    "burst": "ten times the original fp32 model's capacity for five seconds, 0.3 of it before and after",
    "clients": "500 clients, each asking for one image again and again",
    "memory": "as many requests as it can answer",
    "killed": "kill -9 and start again, twice, at half the capacity; the client asks again",
}
BY_LOAD = (
    ("In time", "in_time", ".2%"),
    ("99% quantile, ms", "p99_ms", ".0f"),
    ("Points lost", "points_lost", ".2f"),
)
COUNTED = ("requests", "lost", "refused", "no_answer", "expired", "accuracy")


def write(found: dict[str, Any], folder: Path) -> None:
    """Write page, numbers and figure into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_introduction(found)]
    if "loads" in found:
        _draw(found["loads"]["rows"], folder / "load.png")
        parts += ["![In time and points lost against load](load.png)", *_loads(found["loads"])]
    if "trouble" in found:
        parts.append(_trouble(found["trouble"]))
    if "overhead" in found:
        parts.append(_overhead(found["overhead"]))
    write_page(folder / "README.md", "\n\n".join(parts), found)


def slow(found: dict[str, Any]) -> str:
    """Return the sentence on how slow the machine itself was, if that was measured."""
    if "slow" not in found:
        return ""
    share = f"{found['slow']:.1%} of ten seconds"
    return (
        f" Before the measurement, loops that only count\ntook more than twice as long as usual in {share}."
    )


def _introduction(found: dict[str, Any]) -> str:
    machine, original = found["machine"], found["original"]
    measured = {row["system"] for row in found.get("loads", {}).get("rows", [])}
    missing = "" if f"LitServe, int8{EACH_CORE}" in measured else (
        " It was not measured with a\n  worker for each core: compare it with the lines of one worker."
    )  # fmt: skip
    return f"""# A server under load: {original}

Made by `{found["command"]}`; numbers in [results.json](results.json).

{machine["processor"]}, {machine["cores"]} cores, which the client shares with the server; a virtual machine whose
host gave {found["stolen"]:.1%} of their time to others meanwhile.{slow(found)}

Test images, {found["pixels"]} raw pixels, that
neither fit nor calibrated a policy. Arrivals are Poisson, at times fixed in advance. The rate of *bursty* arrivals
changes between a quarter and seven quarters of its mean every half second. A latency counts from the time at which a
request was due, whether or not the client could send it then. The first {found["settle_s"]:g} s at each load are not
counted, the next {found["seconds"]:g} s are, {found["long_s"]:g} s at twice the capacity.

- *original model*: `exeunt serve` with dynamic batching of the original {original}, fp32 or int8, on ONNX Runtime.
- *LitServe*: its dynamic batching around the same ONNX session, with one API server process and one worker process
  (`num_api_servers=1`, `workers_per_device=1`) where the line does not say *a worker a core*.{missing}
- *controlled*: `exeunt serve --slo-ms {SLO_MS} --slo-quantile {found["quantile"]:g}` of {found["exits"]}. Under load,
  rows take a deadline exit (they are answered at the deadline by their latest exit), and the controller lowers the
  budget, but not below an estimated accuracy of {found["least_accuracy"]}.
- *a worker a core*: with `--workers {machine["cores"]} --threads 1`, a process with a network of its own for each core.

*Goodput*: rows a second that are answered within {SLO_MS} ms. *Points lost*: how much less accurate the answers are
than those of the original fp32 model to the same images."""


# -- loads -----------------------------------------------------------------------------------------------------------


def _loads(found: dict[str, Any]) -> list[str]:
    parts = []
    for size in dict.fromkeys(row["size"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["size"] == size]
        most = found["capacities"][str(size)]
        cores = [row["client_cores"] for row in rows]
        columns = (
            "server", "rows a second at most", "highest load with 99% within 50 ms", "goodput there",
            "and at most 1 point lost", "goodput there", "largest goodput with at most 1 point lost",
            "median at load 0.7, ms", "at twice the capacity: in time", "points lost",
        )  # fmt: skip
        names = [(name, [row for row in rows if row["system"] == name]) for name in most]
        summary = [[name, f"{most[name]:.0f}", *_summary(own)] for name, own in names]
        cases = sorted({(row["load"], row["pattern"]) for row in rows})
        heads = [f"{load:g}" + (" bursty" if pattern == "bursty" else "") for load, pattern in cases]
        by_load = []
        for title, key, form in (
            ("In time", "in_time", ".2%"),
            ("99% quantile, ms", "p99_ms", ".0f"),
            ("Points lost", "points_lost", ".2f"),
        ):
            cells = [[name, *(_cell(own, case, key, form) for case in cases)] for name, own in names]
            by_load.append(f"{title}, by load:\n\n{table(('server', *heads), cells)}")
        parts.append(
            f"""## {size} image{"s" if size > 1 else ""} a request

{table(columns, summary)}

Loads are shares of the {most[FIRST]:.0f} rows a second that *{FIRST}* answers at most. The client took
{min(cores):.2f} to {max(cores):.2f} of a core. A server is not asked for higher loads once it answers less than 1% in
time at two of them.

{(chr(10) * 2).join(by_load)}"""
        )
    return parts


def _summary(rows: Rows) -> list[str]:
    kept, right = _highest(rows), _highest(rows, POINTS)
    at = {row["load"]: row for row in rows if row["pattern"] == "Poisson"}
    twice = at.get(2.0)
    return [
        *([f"{kept['load']:g}", f"{kept['goodput']:.0f}"] if kept else ["none", "-"]),
        *([f"{right['load']:g}", f"{right['goodput']:.0f}"] if right else ["none", "-"]),
        f"{goodput(at.values(), POINTS):.0f}",
        _number(at[0.7]["p50_ms"], ".1f") if 0.7 in at else "-",
        *([f"{twice['in_time']:.2%}", _number(twice["points_lost"], ".2f")] if twice else ["-", "-"]),
    ]


def _highest(rows: Rows, points: float = math.inf) -> dict[str, Any] | None:
    """Return the row of the highest load that keeps the latency and loses at most so many points of accuracy."""
    kept = [
        row
        for row in rows
        if row["pattern"] == "Poisson"
        and (row["p99_ms"] or math.inf) <= SLO_MS
        and row["points_lost"] <= points
    ]
    return max(kept, key=lambda row: row["load"], default=None)


def _cell(rows: Rows, case: tuple[float, str], key: str, form: str) -> str:
    return next((_number(row[key], form) for row in rows if (row["load"], row["pattern"]) == case), "")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _draw(rows: Rows, path: Path) -> None:
    """Draw the share in time and the points lost against load, for requests of the first size."""
    size, in_time, lost = rows[0]["size"], [], []
    for name in DRAWN:
        here = [
            row for row in rows if (row["system"], row["size"], row["pattern"]) == (name, size, "Poisson")
        ]
        loads = [row["load"] for row in here]
        shares = [
            (row["in_time"], *wilson_interval(round(row["in_time"] * row["requests"]), row["requests"]))
            for row in here
        ]
        in_time.append(Curve(name, loads, shares))
        lost.append(Curve(name, loads, [[row["points_lost"]] * 3 for row in here]))
    axis = "load (% of the original fp32 model's capacity)"
    draw_panels(
        [
            Panel(f"Answered within {SLO_MS} ms (95% intervals)", axis, "share of requests", in_time),
            Panel("Accuracy lost", axis, "points", lost, y_percent=False),
        ],
        path,
    )


# -- trouble and overhead --------------------------------------------------------------------------------------------


def _trouble(found: dict[str, Any]) -> str:
    rows = []
    for name, one in found.items():
        more = {key: value for key, value in one.items() if key not in (*COUNTED, "by_second", "degraded")}
        cells = [
            f"{one[key]:.4g}" if isinstance(one.get(key), float) else one.get(key, "") for key in COUNTED
        ]
        rows.append(
            [
                TROUBLES[name],
                *cells,
                "; ".join(f"{key.replace('_', ' ')} {_fact(one)}" for key, one in more.items()),
            ]
        )
    columns = (
        "trouble", "requests", "lost", "refused", "rows without an answer", "deadline exits", "accuracy",
        "also",
    )  # fmt: skip
    return f"""## When things go wrong

All of it on *{CONTROLLED}{EACH_CORE}*, with 16 images a request unless the line says otherwise. *Deadline exits* are
rows.

{table(columns, rows)}"""


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {number}" for key, number in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _overhead(found: dict[str, Any]) -> str:
    rows, predict = [], found["predict"]
    for size, alone in found["engine"].items():
        server = found["server"][size]
        rates = (f"{one['rows_per_s']:.0f}" for one in (alone, server))
        times = (alone["cpu_ms_per_row"], server["cpu_ms_per_row"], server["client_cpu_ms_per_row"])
        rows.append([size, *rates, *(f"{one:.3f}" for one in times)])
    columns = (
        "images a request", "engine alone, rows a second", "server, rows a second", "engine, ms of processor a row",
        "server, ms of processor a row", "client, ms of processor a row",
    )  # fmt: skip
    return f"""## What the server adds

The same rows under one policy, of {found["budget"]} of the original int8 model's time: through a stream in one
process, and through the server, as many as it can answer.

{table(columns, rows)}

`POST /predict` with one image in base64, under the smallest budget: {predict["requests_per_s"]:.0f} requests a second
from 32 connections, median {predict["p50_ms"]:.1f} ms. The client took {predict["client_cores"]:.2f} of a core."""
