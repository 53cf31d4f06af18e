"""The style of all figures: colours, markers and lines that can be distinguished in grey and by the colour-blind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exeunt._support.files import atomic_path
from exeunt.errors import InputError, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from exeunt.timing.timing_tools import Spread

# Okabe and Ito, "Color universal design" (2008), with brown for the yellow, which is too pale on white.
COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "orange": "#E69F00",
    "brown": "#7F4F24",
    "black": "#000000",
    "grey": "#6E6E6E",
}
_SERIES = ("blue", "orange", "green", "purple", "sky", "brown", "vermillion")
_DPI = 160
_WIDE_IN = 6.0  # a narrower figure has its legend below
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    (0, (1, 1.2)),
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (7, 2)),
    (0, (3, 1, 1, 1)),
)

_STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "svg.hashsalt": "exeunt",  # makes the identifiers inside an SVG the same on every run
}


def styled() -> AbstractContextManager[None]:
    """Return a context with the common style, whatever the user's own. It leaves the settings outside unchanged."""
    return require("matplotlib.style", extra="plots").context(  # type: ignore[no-any-return]
        ["default", _STYLE]
    )


@contextmanager
def drawing(ax: Axes | None, *, width_in: float, height_in: float) -> Iterator[Axes]:
    """Yield, in the common style, `ax` or the axes of a new figure: without pyplot it needs no display, nor closing."""
    with styled():
        if ax is None:
            figure = require("matplotlib.figure", extra="plots").Figure
            ax = figure(figsize=(width_in, height_in), layout="constrained").subplots()
        yield ax


def figure_of(drawn: Axes | Figure) -> Figure:
    """Return a figure, or that of axes. Raises InputError for axes that were removed from theirs."""
    if (figure := drawn.get_figure(root=True)) is None:
        raise InputError("these axes no longer belong to a figure: make new ones, or leave ax out")
    return figure


def series_style(index: int) -> dict[str, Any]:
    """Return colour, marker and line of the series number `index`, the first of which stands out.

    The first seven differ in colour, marker and line.
    """
    return {
        "color": COLOURS[_SERIES[index % len(_SERIES)]],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _LINES[index % len(_LINES)],
        "linewidth": 2.4 if index == 0 else 1.3,
        "markersize": 6.0 if index == 0 else 4.5,
    }


def errors_of(spreads: Sequence[Spread]) -> list[list[float]]:
    """Return the lengths of error bars below and above the medians of spreads."""
    return [
        [spread.median - spread.low for spread in spreads],
        [spread.high - spread.median for spread in spreads],
    ]


def percent_ticks(axis: Axis) -> None:
    """Label the ticks of an axis of shares in percent."""
    axis.set_major_formatter(lambda number, _: f"{100 * number:.6g}%")


def shares_of(measure: str) -> str:
    """Return the label of an axis of shares of inputs, or of a mean quality."""
    return (
        f"{measure} (% of inputs)" if measure in ("accuracy", "agreement", "error rate") else f"{measure} (%)"
    )


def label_shares(ax: Axes, title: str, x: str, y: str) -> None:
    """Label a figure of shares, with ticks in percent."""
    ax.set(title=title, xlabel=x, ylabel=y)
    percent_ticks(ax.xaxis)
    percent_ticks(ax.yaxis)


def legend_beside(ax: Axes, *, title: str | None = None) -> None:
    """Put the legend to the right of the data, or below them where the figure is narrow."""
    place = (1.01, 1.0) if figure_of(ax).get_figwidth() >= _WIDE_IN else (0.0, -0.2)
    legend = ax.legend(
        loc="upper left", bbox_to_anchor=place, borderaxespad=0.0, title=title, handlelength=3.0
    )
    legend.set_alignment("left")


def legend_above(ax: Axes, handles: Sequence[Any] | None = None) -> None:
    """Put the legend on one line between title and data."""
    shown = ax.get_legend_handles_labels()[0] if handles is None else handles
    ax.legend(handles=shown, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, ncols=len(shown))


def every_exit(n_exits: int) -> range:
    """Return the exits that an axis names: all, or where there are many every second, third and so on."""
    return range(0, n_exits, max(1, -(-n_exits // 14)))


def label_exits(ax: Axes, n_exits: int) -> None:
    """Label the x axis with exits."""
    ax.set_xticks(every_exit(n_exits))
    ax.set_xlim(-0.6, n_exits - 0.4)
    ax.set_xlabel(f"exit (0 = first, {n_exits - 1} = last)")
    ax.grid(visible=False, axis="x")


def svg_of(drawn: Axes | Figure) -> str:
    """Return a figure, or that of axes, as the SVG that `save_figure` writes."""
    written = StringIO()
    with styled():
        figure_of(drawn).savefig(written, format="svg", bbox_inches="tight", metadata={"Date": None})
    return written.getvalue()


def save_figure(drawn: Axes | Figure, path: str | Path) -> list[Path]:
    """Write a figure, or that of axes, as PATH.png and PATH.svg, each atomically; return both paths.

    An ending .png or .svg of `path` is removed first. The SVG of the same figure is the same to the byte: it contains
    no date and no random identifiers.

    Raises InputError if the folder does not exist.
    """
    figure, file = figure_of(drawn), Path(path)
    stem = file.stem if file.suffix in (".png", ".svg") else file.name
    targets = [file.with_name(f"{stem}.{kind}") for kind in ("png", "svg")]
    engine = figure.get_layout_engine()
    with styled():
        if engine is not None:  # once for both formats: the layout takes longer than the drawing
            engine.execute(figure)
        figure.set_layout_engine("none")
        part = figure.get_tightbbox().padded(0.1)
        try:
            for target in targets:
                metadata = {"Date": None} if target.suffix == ".svg" else None
                with atomic_path(target) as temporary:
                    figure.savefig(
                        temporary, format=target.suffix[1:], dpi=_DPI, bbox_inches=part, metadata=metadata
                    )
        finally:
            figure.set_layout_engine(engine)
    return targets
