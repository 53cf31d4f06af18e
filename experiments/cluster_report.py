"""The page of experiments/cluster.py: docs/results/cluster/README.md, from the files of numbers beside it."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from report import heading, write_text_over_reading

from exeunt._files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_INTRODUCTION = """# A job on a cluster

Made by `python experiments/cluster.py RUN --data ../shared/data/cifar10 WHAT`, for each of {parts}.

`exeunt predict --engine ray` on CIFAR-10 test images, in WebP, repeated as often as needed. RUN is a ResNet-20 with
fine-tuned exits in int8, under half of its cost. Each ran on one machine. {machines}."""


def write_page(folder: Path) -> None:
    """Write the page, with the parts that were run."""
    found = {
        name: read_json(folder / f"{name}.json") for name in _PARTS if (folder / f"{name}.json").is_file()
    }
    ran: dict[str, list[str]] = {}
    for name, part in found.items():
        machine = part["about"]["machine"]
        ran.setdefault(f"{machine['processor']}, {machine['cores']} cores", []).append(f"`{name}`")
    machines = "; ".join(f"{', '.join(names)}: {machine}" for machine, names in ran.items())
    sections = [_INTRODUCTION.format(parts=", ".join(f"`{name}`" for name in found), machines=machines)]
    sections += [_PARTS[name](part["about"], part["found"]) for name, part in found.items()]
    write_text_over_reading(folder / "README.md", "\n\n".join(sections))


def _kills(about: dict[str, Any], found: dict[str, Any]) -> str:
    killed = found["killed"]
    text = f"""## Workers, readers and nodes are killed

Three nodes, each a raylet with its own processes, all on this machine. Every few seconds something taken by lot was
killed with signal 9: {times(killed["worker"])} a worker, {times(killed["reader"])} a task that reads and decodes,
{times(killed["node"])} a whole node, for which a new one came. The command was started
{times(found["command started"])}."""
    return "\n".join([text, "", *_against_one_process(about, found)])


def _driver(about: dict[str, Any], found: dict[str, Any]) -> str:
    parts = ", ".join(map(str, found["parts at each kill"]))
    text = f"""## The command is killed, with its cluster

The command and all processes below it, Ray's head among them, were killed {times(found["killed"])} with signal 9, and
the same command started again. Parts that were written when it was killed: {parts}."""
    return "\n".join([text, "", *_against_one_process(about, found)])


def _against_one_process(about: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        *heading(("compared with one process", "")),
        f"| inputs | {about['n']:,} |",
        f"| rows in the end | {found['rows']:,} of {found['rows expected']:,} |",
        f"| same names in the same order | {'yes' if found['same names in the same order'] else 'no'} |",
        f"| rows with another answer | {found['other answers']} |",
        f"| borderline rows, which may differ | {found['borderline']:,} |",
        f"| seconds in all | {found['seconds']:.0f} |",
    ]


def _overhead(about: dict[str, Any], found: dict[str, Any]) -> str:
    """Compare the ways in the same round with the first one on the same cores."""
    rates = {name: [each["per second"] for each in rounds] for name, rounds in found.items()}
    lines = heading(
        ("way", "inputs a second", "time of an input, to one process on these cores", "lowest and highest")
    )
    for name, values in rates.items():
        cores = name.rpartition(", ")[2]
        base = next(other for key, other in rates.items() if key.endswith(cores))
        ratios = [one / value for one, value in zip(base, values, strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}" if values is not base else ""
        lines.append(f"| {name} | {median(values):,.0f} | {median(ratios):.3f} | {spread} |")
    text = f"""## Overhead

{about["n"]:,} inputs; the rate is that between a fifth and nine tenths of them, so that no start is in it. The ways
took turns, {len(base)} times; medians, and ratios within a turn. Each way had these cores for all of its processes."""
    return "\n".join([text, "", *lines])


def _memory(_: dict[str, Any], found: dict[str, Any]) -> str:
    lines = heading(("inputs", "command, MiB", "worker, MiB", "reader, MiB", "rows", "seconds"))
    for n, one in found.items():
        most = [one["MiB"][process] for process in ("command", "worker", "reader")]
        cells = (f"{int(n):,}", *map(str, most), f"{one['rows']:,}", f"{one['seconds']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    text = """## Memory

The most that each process had to itself, looked at twice a second; one worker."""
    return "\n".join([text, "", *lines])


def times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


_PARTS: dict[str, Callable[[dict[str, Any], Any], str]] = {
    "kills": _kills, "driver": _driver, "overhead": _overhead, "memory": _memory,
}  # fmt: skip
