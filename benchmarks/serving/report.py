"""The page of results: README.md, serving.json and load.png in one folder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from loads import CONTROLLED, EACH_CORE

from exeunt._files import atomic_path, write_json
from exeunt.plots.style import new_figure, series_style, styled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SLO_MS = 50
READING = "<!-- reading -->"
FIRST = "original model, fp32"
_COLUMNS = (
    "load",
    "arrivals",
    "asked",
    "median ms",
    "95% ms",
    "99% ms",
    "in time",
    "goodput",
    "accuracy",
    "points lost",
    "cut short",
    "lost",
    "refused",
)
_COMPARED = (
    "goodput, ours over theirs, where 99% are in time",
    "and at most one point is lost",
    "our median at .7 of the capacity, ms",
    "theirs",
)
_INTRODUCTION = """# A server under load: {original}

Made by `{command}`.

{machine[processor]}, {machine[cores]} cores, which the client shares with the server; a virtual machine whose host gave
{stolen:.1%} of their time to others meanwhile. Test images, {pixels} raw
pixels, that neither fit nor calibrated a policy. Arrivals are Poisson, at times fixed in advance. The rate of *bursty*
ones changes between a quarter and seven quarters of its mean every half second. A latency counts from the time at which
a request was due, whether or not the client could send it then. The first {settle_s:g} s at each load are not counted,
the next {seconds:g} s are, {long_s:g} s at twice the capacity.

- *original model*: `exeunt serve` with dynamic batching of the original {original}, fp32 or int8, on ONNX Runtime.
- *LitServe*: its dynamic batching around the same ONNX session.
- *controlled*: `exeunt serve --slo-ms 50 --slo-quantile {quantile:g}` of {exits}.
  Under load rows are answered in time with what the exits so far have said, and the controller lowers the budget, but
  not below an estimated accuracy of {least_accuracy}.
- *a worker a core*: with `--workers {machine[cores]} --threads 1`, a process with a network of its own for each core.

*Asked* and *goodput* are rows a second: those that came, and those answered in time, within 50 ms. *Points lost* is how
much less accurate the answers are than the original fp32 network's to the same images. *Cut short* is the share of rows
that were answered before their policy would have, as their time was up. *Lost* requests got no answer, *refused* ones
were told to go away.
"""
_OVERHEAD = """
`POST /predict` with one image of 32 x 32 pixels in base64, under the smallest budget: {requests_per_s:.0f} requests a
second from 32 connections, median {p50_ms:.1f} ms. The client took {client_cores:.2f} of a core.
"""
_ADDED = (
    "images a request", "engine alone, rows a second", "server, rows a second", "engine, ms of processor a row",
    "server, ms of processor a row", "client, ms of processor a row",
)  # fmt: skip


def write(found: dict[str, Any], folder: Path) -> None:
    """Write the page; what stands below `<!-- reading -->` in the one before is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "README.md"
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    reading = before[before.index(READING) :] if READING in before else f"{READING}\n"
    with atomic_path(page) as path:
        path.write_text(f"{_page(found)}\n{reading.rstrip()}\n", encoding="utf-8")
    write_json(folder / "serving.json", found)
    if "loads" in found:
        _draw([row for row in found["loads"]["rows"] if row["pattern"] == "Poisson"], folder / "load.png")


def _page(found: dict[str, Any]) -> str:
    lines = [_INTRODUCTION.format_map(found)]
    if "loads" in found:
        lines += _loads(found["loads"])
    if "trouble" in found:
        lines += ["## When things go wrong", ""]
        lines += [
            f"All of it on *{CONTROLLED}{EACH_CORE}*, with 16 images a request where nothing else is said. *Wrong* are",
            "answers other than what was recorded of the image at the exit that answered, but for borderline ones.",
            "",
        ]
        for name, one in found["trouble"].items():
            lines += [f"### {_TITLES[name]}", "", *_table(["", ""], _facts(one)), ""]
    if "overhead" in found:
        lines += _overhead(found["overhead"])
    return "\n".join(lines)


_TITLES = {
    "burst": "A burst: ten times the original fp32 network's capacity for five seconds, .3 of it before and after",
    "clients": "500 clients, each asking for one image again and again",
    "poisoned": "One request in a hundred holds an image that cannot be read",
    "malformed": "A thousand malformed requests beside half the original model's capacity",
    "cancelled": "Ten thousand requests whose client leaves after 2 ms, and as many that wait",
    "memory": "As many requests as it can answer",
    "killed": "kill -9 and start again, twice, at half the original model's capacity; the client asks again",
}


def _loads(found: dict[str, Any]) -> list[str]:
    lines = ["![In time, 99% quantile and points lost against load](load.png)", ""]
    for size in dict.fromkeys(row["size"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["size"] == size]
        most = found["capacities"][str(size)]
        lines += [f"## {size} {'images' if size > 1 else 'image'} a request", ""]
        head = [
            "",
            "rows a second at most",
            "highest load with 99% within 50 ms",
            "lower loads without",
            "goodput there",
            "accuracy there",
            "highest load, at most 1 point lost",
            "goodput there",
        ]
        kept = [[name, f"{most[name]:.0f}", *_kept(_of(name, rows))] for name in most]
        cores = [row["client_cores"] for row in rows]
        lines += [
            *_table(head, kept), "",
            f"Loads are of the {most[FIRST]:.0f} rows a second that *{FIRST}* answers at most.",
            f"The client took {min(cores):.2f} to {max(cores):.2f} of a core.", "",
        ]  # fmt: skip
        lines += _compared(rows, most)
        for name in most:
            lines += [f"**{name}**", "", *_table(_COLUMNS, map(_cells, _of(name, rows))), ""]
    return lines


def _compared(rows: list[dict[str, Any]], most: dict[str, float]) -> list[str]:
    """Say what our servers do at twice the capacity, and set goodput and medians against the others'."""
    lines = []
    others = [name for name in most if not name.startswith(CONTROLLED)]
    for ours in (name for name in most if name.startswith(CONTROLLED)):
        mine = _of(ours, rows)
        lines += [
            f"*{ours}* at twice the capacity: {row['in_time']:.2%} are in time, and {row['points_lost']:.2f} points "
            "are lost."
            for row in mine
            if row["load"] == 2 and row["pattern"] == "Poisson" and row["accuracy"] is not None
        ]
        ratios = [
            [name, *(_times(mine, _of(name, rows), points) for points in (math.inf, 1.0)),
             _number(_median(mine), 1), _number(_median(_of(name, rows)), 1)]
            for name in others
        ]  # fmt: skip
        lines += ["", *_table((f"*{ours}* against", *_COMPARED), ratios), ""]
    return lines


def _times(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], points: float) -> str:
    """Return our goodput over theirs, at the highest loads that keep the latency."""
    best, kept = _highest(ours, points), _highest(theirs, points)
    if best is None:
        return "ours at no load"
    return "theirs at no load" if kept is None else f"{best['goodput'] / kept['goodput']:.2f}"


def _median(rows: list[dict[str, Any]]) -> float | None:
    return next((row["p50_ms"] for row in rows if row["load"] == 0.7), None)


def _of(system: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["system"] == system]


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((row for row in rows if row["pattern"] == "Poisson"), key=lambda row: row["load"])


def _keeps(row: dict[str, Any]) -> bool:
    return row["p99_ms"] is not None and row["p99_ms"] <= SLO_MS


def _highest(rows: list[dict[str, Any]], points: float = math.inf) -> dict[str, Any] | None:
    """Return the row of the highest load that keeps the latency and loses at most so many points of accuracy."""
    kept = [row for row in _in_order(rows) if _keeps(row) and row["points_lost"] <= points]
    return kept[-1] if kept else None


def _kept(rows: list[dict[str, Any]]) -> list[str]:
    best, right = _highest(rows), _highest(rows, 1.0)
    if best is None or right is None:
        return ["none", *"-----"]
    missed = [f"{row['load']:g}" for row in _in_order(rows) if row["load"] < best["load"] and not _keeps(row)]
    return [
        f"{best['load']:g}", ", ".join(missed) or "-", f"{best['goodput']:.0f}", _number(best["accuracy"], 4),
        f"{right['load']:g}", f"{right['goodput']:.0f}",
    ]  # fmt: skip


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['load']:g}", row["pattern"], f"{row['rate']:.0f}",
        *(_number(row[name], 1) for name in ("p50_ms", "p95_ms", "p99_ms")),
        _number(row["in_time"], 4), f"{row['goodput']:.0f}", _number(row["accuracy"], 4),
        _number(row["points_lost"], 2), _share(row), str(row["lost"]), str(row["refused"]),
    ]  # fmt: skip


def _share(row: dict[str, Any]) -> str:
    """Return the share of rows that were answered by exits at which the policy would have gone on."""
    rows = row["size"] * (row["requests"] - row["lost"] - row["refused"])
    return _number((row["expired"] + row["degraded"]) / rows, 4) if rows else "-"


def _facts(one: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, value in one.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {number}" for key, number in value.items())
        elif isinstance(value, list):
            value = " ".join(_number(number, 0) for number in value)
        elif isinstance(value, float):
            value = f"{value:.4g}"
        rows.append([name.replace("_", " "), str(value)])
    return rows


def _overhead(found: dict[str, Any]) -> list[str]:
    rows = []
    for size, alone in found["engine"].items():
        server = found["server"][size]
        rows.append([
            size, f"{alone['rows_per_s']:.0f}", f"{server['rows_per_s']:.0f}", f"{alone['cpu_ms_per_row']:.3f}",
            f"{server['cpu_ms_per_row']:.3f}", f"{server['client_cpu_ms_per_row']:.3f}",
        ])  # fmt: skip
    about = (
        f"The same rows under one policy, of {found['budget']} of the original int8 time: through a stream in"
    )
    return [
        "## What the server adds", "",
        f"{about} one process, and through the server, as many as it can answer.", "", *_table(_ADDED, rows),
        _OVERHEAD.format_map(found["predict"]),
    ]  # fmt: skip


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    names = list(dict.fromkeys(row["system"] for row in rows))
    servers = list(dict.fromkeys(name.removesuffix(EACH_CORE) for name in names))
    styles = {
        name: series_style(servers.index(name.removesuffix(EACH_CORE)))
        | ({"linestyle": ":", "markerfacecolor": "white"} if name.endswith(EACH_CORE) else {"linestyle": "-"})
        for name in names
    }
    with styled():
        figure = new_figure(9.6, 2.9 * len(sizes), layout="constrained")
        axes = figure.subplots(len(sizes), 3, squeeze=False)
        for row, (size, (in_time, p99, lost)) in enumerate(zip(sizes, axes, strict=True)):
            for name, style in styles.items():
                here = [one for one in rows if (one["size"], one["system"]) == (size, name)]
                load = [one["load"] for one in here]
                in_time.plot(load, [one["in_time"] for one in here], label="" if row else name, **style)
                p99.plot(load, [one["p99_ms"] or float("nan") for one in here], **style)
                lost.plot(
                    load, [float("nan") if (v := one["points_lost"]) is None else v for one in here], **style
                )
            p99.axhline(SLO_MS, color="#6E6E6E", linewidth=0.8)
            p99.set_yscale("log")
            in_time.set_title(f"share within {SLO_MS} ms, {size} a request")
            p99.set_title("99% quantile of latency, ms")
            lost.set_title("points of accuracy lost")
            for ax in (in_time, p99, lost):
                ax.set_xlabel("load, of the original fp32 network's capacity")
        figure.legend(loc="outside lower center", ncols=4)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160, bbox_inches="tight")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
