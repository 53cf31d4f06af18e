"""What all scripts share: Markdown tables, pages with a reading written by hand, kept measurements, figures."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from exeunt._support.files import atomic_path, write_json, write_text
from exeunt.evaluation.figures.style import COLOURS, percent_ticks, styled
from exeunt.guarantees.confidence_intervals import mean_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
TRACES = RESULTS / "traces"
READING = "<!-- reading -->"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a script's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


# -- text ------------------------------------------------------------------------------------------------------------


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def at(accuracy: float, share: float) -> str:
    """Write an accuracy and the share of the full cost that it took."""
    return f"{accuracy:.4f} @ {share:.3f}"


def points(interval: Sequence[float], digits: int = 2) -> str:
    """Write a difference of accuracies, (mean, low, high), in points."""
    mean, low, high = (f"{100 * value:+.{digits}f}" for value in interval)
    return f"{mean} ({low} to {high})"


def write_page(page: Path, text: str, numbers: Any = None) -> None:
    """Write a page, and its numbers as JSON beside it. The old page's text from the marker READING on is kept."""
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    reading = old[old.index(READING) :] if READING in old else ""
    write_text(page, f"{text.rstrip()}\n\n{reading}".rstrip() + "\n")
    if numbers is not None:
        write_json(numbers_of(page), rounded(numbers))
    print(f"written: {page}")


def numbers_of(page: Path) -> Path:
    """Return the file that holds a page's numbers."""
    return page.with_name("results.json") if page.name == "README.md" else page.with_suffix(".json")


def kept_numbers(page: Path) -> Any:
    """Return a page's numbers as `write_page` kept them. Ends the script if there are none."""
    if not (file := numbers_of(page)).is_file():
        raise SystemExit(f"there is no file {file}, which keeps the numbers of {page}: measure them first")
    return json.loads(file.read_text(encoding="utf-8"))


def rounded(value: Any) -> Any:
    """Return JSON-able numbers to nine digits, and None for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


class Measurements:
    """Measurements kept in a file, a line each: the same command goes on where it was interrupted."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.known = {tuple(key): value for key, value in map(json.loads, lines)}
        self._path = path

    def of(self, *key: Any, measure: Callable[[], Any]) -> Any:
        """Return the measurement of this key, measured now if the file does not hold it."""
        if key not in self.known:
            self.known[key] = measure()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self.known[key]]) + "\n")
        return self.known[key]


# -- figures ---------------------------------------------------------------------------------------------------------

_LINES = (
    ("blue", "-", 2.4), ("vermillion", "--", 1.4), ("green", "-.", 1.4), ("grey", ":", 1.6),
    ("purple", (0, (7, 2)), 1.4),
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A named line of values `y` (q, 3) at `x` (q,): mean, low and high. The first of a panel is drawn strongest."""

    name: str
    x: Any
    y: Any

    @classmethod
    def over_splits(cls, name: str, x: Any, y: Any) -> Curve:
        """Return means over splits with 95% t intervals: `x` (q, s) or (q,), `y` (q, s)."""
        x = np.asarray(x, dtype=float)
        return cls(name, x if x.ndim == 1 else x.mean(axis=1), [mean_interval(row) for row in np.asarray(y)])


@dataclass(frozen=True)
class Panel:
    """One pair of axes: at most five curves, named points (x, y), and nameless `dots` (2, m)."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    dots: Any = ((), ())
    y_percent: bool = True


def draw_panels(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels of the same curves side by side into a PNG; the last one names the curves."""
    with styled():
        figure = Figure(figsize=(6.4 * len(panels), 4.0), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, panel, labelled=panel is panels[-1])
        save_png(figure, path)


def _draw_panel(axes: Any, panel: Panel, *, labelled: bool) -> None:
    for number, (curve, (colour, line, width)) in enumerate(zip(panel.curves, _LINES, strict=False)):
        mean, low, high = np.asarray(curve.y, dtype=float).T
        style = {"color": COLOURS[colour], "linestyle": line, "linewidth": width}
        axes.plot(curve.x, mean, zorder=5 - number, label=curve.name, **style)
        axes.fill_between(curve.x, low, high, color=COLOURS[colour], alpha=0.15, linewidth=0)
    axes.plot(*panel.dots, "o", markersize=4.5, markerfacecolor="white", color=COLOURS["grey"], zorder=6)
    for place in panel.points.values():
        axes.plot(*place, marker="o", markersize=5, markerfacecolor="white", color=COLOURS["black"], zorder=6)
    low, high = axes.get_xlim()
    for name, place in panel.points.items():
        across = (place[0] - low) / (high - low)
        axes.annotate(
            name,
            place,
            xytext=(0, 5),
            textcoords="offset points",
            ha="left" if across < 0.1 else "right" if across > 0.9 else "center",
            va="bottom",
            fontsize=8,
            zorder=7,
        )
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.margins(x=0.02)
    percent_ticks(axes.xaxis)
    if panel.y_percent:
        percent_ticks(axes.yaxis)
    if labelled:
        _label(axes, panel.curves)


def _label(axes: Any, curves: Sequence[Curve]) -> None:
    """Write each curve's name in its colour: right of its end, or in a free corner where the ends lie too close."""
    bottom, top = axes.get_ylim()
    gap = 0.065 * (top - bottom)
    heights = sorted(np.asarray(curve.y, dtype=float)[-1, 0] for curve in curves)
    if len(curves) > 1 and np.diff(heights).min() < gap:
        legend = axes.legend(loc="best", handlelength=3.0, framealpha=1.0)
        for text, (colour, *_), first in zip(
            legend.get_texts(), _LINES, [True, *[False] * len(_LINES)], strict=False
        ):
            text.set(color=COLOURS[colour], weight="bold" if first else "normal")
        return
    for curve, (colour, *_) in zip(curves, _LINES, strict=False):
        axes.annotate(
            curve.name, (curve.x[-1], curve.y[-1][0]), xytext=(6, 0), textcoords="offset points", va="center",
            color=COLOURS[colour], weight="bold" if curve is curves[0] else "normal", annotation_clip=False,
        )  # fmt: skip


def save_png(figure: Any, path: Path, *, dpi: int = 110) -> None:
    """Write a figure as a PNG small enough for a repository."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, styled():
        figure.savefig(temporary, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)
