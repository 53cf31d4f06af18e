"""A sheet of images: the inputs that leave each exit with the highest score, and the hardest at the last exit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._arrays import Integers
from exeunt.data.read_image import read_rgb
from exeunt.errors import InputError
from exeunt.plots.style import COLOURS, new_figure, styled
from exeunt.policy import Policy
from exeunt.trace import ExitTrace
from exeunt.trace.derived import score_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL_IN, _CAPTION_IN, _GAP_IN, _LEFT_IN, _TOP_IN = 1.0, 0.36, 0.12, 1.75, 0.75
_LONGEST_LINE = 17
_KEY = (
    "the answer and its probability; below, the true class, or the answer of the first exit if that is another. "
    "Frame dashed: wrong."
)


@dataclass(frozen=True)
class PickedInputs:
    """Inputs (c,) of a trace that answer at `exit_`: the highest scores first, or, if `hardest`, the lowest.

    `share`: of all inputs, how many answer there.
    """

    exit_: int
    inputs: Integers
    hardest: bool
    share: float


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet: images (see `read_rgb`), a caption for each, and whether its answer was right.

    `right`: None without a label.
    """

    title: str
    images: Sequence[Any]
    captions: Sequence[str]
    right: Sequence[bool | None]


def pick_inputs(
    policy: Policy, trace: ExitTrace, *, per_exit: int = 8, max_rows: int = 10
) -> list[PickedInputs]:
    """Pick inputs to show: at each exit those with the highest scores, at the last exit in use those with the lowest.

    If more than `max_rows` exits are in use, the first, the last and those with the most answers are kept.
    Raises InputError for an empty trace, `per_exit` below 1 or `max_rows` below 2.
    """
    if per_exit < 1 or max_rows < 2:
        raise InputError(f"give per_exit >= 1 and max_rows >= 2, got {per_exit} and {max_rows}")
    if trace.n == 0:
        raise InputError("nothing to show: the trace is empty")
    exits, scores = policy.route(trace), score_matrix(policy.score, policy.answer.on(trace))
    used, answered = np.unique(exits, return_counts=True)
    answered[[0, -1]] = trace.n + 1
    kept = np.sort(used[np.argsort(-answered, kind="stable")[:max_rows]])
    picked = []
    for exit_ in kept.tolist():
        hardest = exit_ == kept[-1]
        inputs = np.flatnonzero(exits == exit_)
        order = np.argsort(scores[inputs, exit_] * (1 if hardest else -1), kind="stable")
        picked.append(PickedInputs(exit_, inputs[order[:per_exit]], hardest, len(inputs) / trace.n))
    return picked


def sheet_rows(
    picked: Sequence[PickedInputs],
    trace: ExitTrace,
    image: Callable[[int], Any],
    *,
    class_names: Sequence[str] | None = None,
) -> list[SheetRow]:
    """Return the rows of a sheet.

    A caption has the answer and its probability. The second line has the true class where the answer is wrong; else
    the answer of the first exit shown where it is another class. So captions tell hard inputs from easy ones even
    where they look alike.

    `trace`: what the policy answers at every exit, `policy.answer.on(trace)`.
    `image(i)`: the image of input i of the trace, called only for the picked inputs.
    """
    rows = []
    for pick in picked:
        captions, right = [], []
        for i in pick.inputs.tolist():
            answer, first = int(trace.prediction[i, pick.exit_]), int(trace.prediction[i, picked[0].exit_])
            truth = None if trace.label is None else int(trace.label[i])
            wrong = truth is not None and truth != answer
            lines = [_name(answer, class_names)]
            if (probability := trace.scores.get("max_probability")) is not None:
                lines[0] = f"{_shortened(lines[0], _LONGEST_LINE - 7)} ({probability[i, pick.exit_]:.0%})"
            if wrong:
                lines.append(f"true: {_name(truth, class_names)}")
            elif first != answer:
                lines.append(f"exit {picked[0].exit_}: {_name(first, class_names)}")
            captions.append("\n".join(map(_shortened, lines)))
            right.append(None if truth is None else not wrong)
        what = "hardest, run to" if pick.hardest else "surest at"
        title = f"{what} exit {pick.exit_}\n({pick.share:.1%} answer here)"
        rows.append(SheetRow(title, [image(i) for i in pick.inputs.tolist()], captions, right))
    return rows


def image_sheet(rows: Sequence[SheetRow], *, title: str | None = None) -> Figure:
    """Draw rows of images. Frames: solid blue is right, dashed vermillion wrong, grey unknown.

    Images of up to 16 pixels are enlarged with visible pixels, larger ones smoothly. Raises InputError without images.
    """
    columns = max((len(row.images) for row in rows), default=0)
    if columns == 0:
        raise InputError("there is no image to show: give at least one row with one image")
    width = _LEFT_IN + columns * (_CELL_IN + _GAP_IN)
    row_in = _CELL_IN + _CAPTION_IN + _GAP_IN
    height = _TOP_IN + len(rows) * row_in
    with styled():
        figure = new_figure(width, height)
        figure.text(0.1 / width, 1 - 0.22 / height, title or "", fontsize=11, va="center")
        figure.text(0.1 / width, 1 - 0.5 / height, _KEY, fontsize=8, va="center", color=COLOURS["grey"])
        for r, row in enumerate(rows):
            bottom = height - _TOP_IN - r * row_in - _CELL_IN
            figure.text(0.1 / width, (bottom + _CELL_IN / 2) / height, row.title, fontsize=9, va="center")
            for c, (image, caption, right) in enumerate(
                zip(row.images, row.captions, row.right, strict=True)
            ):
                left = _LEFT_IN + c * (_CELL_IN + _GAP_IN)
                box = (left / width, bottom / height, _CELL_IN / width, _CELL_IN / height)
                _draw_image(figure.add_axes(box), image, caption, right)
    return figure


def _name(class_: int | None, class_names: Sequence[str] | None) -> str:
    if class_ is None or class_names is None or class_ >= len(class_names):
        return str(class_)
    return str(class_names[class_])


def _shortened(line: str, most: int = _LONGEST_LINE) -> str:
    """Return a line of a caption that fits under its image."""
    return line if len(line) <= most else line[: most - 1] + "…"


def _draw_image(axes: Axes, image: Any, caption: str, right: bool | None) -> None:
    pixels = read_rgb(image)
    side = max(pixels.shape[:2])
    smoothing = "nearest" if side <= 16 else "bicubic" if side <= 128 else "antialiased"
    axes.imshow(pixels, interpolation=smoothing)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption, fontsize=7.5, labelpad=3)
    colour = COLOURS["grey"] if right is None else COLOURS["blue" if right else "vermillion"]
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=1.8, linestyle="--" if right is False else "-")
