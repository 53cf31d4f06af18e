"""The page that `experiments.segmentation` writes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from experiments.pages import RESULTS, Curve, Panel, draw_panels, table
from scipy.stats import t

from exeunt._support.text import counted

PAGE, FIGURE = RESULTS / "segmentation.md", RESULTS / "segmentation.png"
N_SCENES, N_FIT, N_CALIBRATE = 1500, 400, 300
BUDGETS = tuple(f"{share}%" for share in range(30, 100, 10))
ASKED, DELTA, POINTS = (0.95, 0.98), 0.05, 20


def mean_and_interval(values: list[float]) -> str:
    """Write a mean over seeds in per cent, with its 95% interval by Student's t."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return f"{100 * mean:.2f}"
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return f"{100 * mean:.2f} ± {100 * half:.2f}"


def of_budgets(seeds: list[dict[str, Any]], value: int) -> str:
    """Write a table of policies by budgets. `value`: 0 for mean image IoU, 1 for mIoU, 2 for the cost spent."""

    def row(name: str) -> list[str]:
        means = ([seed["policies"][name][budget][value] for seed in seeds] for budget in BUDGETS)
        return [_shown(name), *map(mean_and_interval, means)]

    return table(["", *BUDGETS], list(map(row, seeds[0]["policies"])))


def _shown(name: str) -> str:
    return f"`{name}`" if name in ("auto", "stopping") else name


def of_exits(
    seeds: list[dict[str, Any]], shares: list[float], times: list[dict[str, Any]] | None = None
) -> str:
    """Write a table of the exits. `times`: of the same seeds."""

    def row(exit_: int, share: float) -> list[Any]:
        means = [[seed["exits"][exit_][value] for seed in seeds] for value in (0, 1)]
        means += [[one["exit"][str(exit_)] for one in times]] if times else []
        return [exit_, f"{share:.0%}", *map(mean_and_interval, means)]

    columns = ["exit", "multiply-adds", "mean image IoU", "mIoU", *(["time"] if times else [])]
    return table(columns, list(map(row, range(len(shares)), shares)))


def of_times(found: dict[str, Any]) -> str:
    """Write how long the policies take, and how good they are for it."""
    if "times" not in found:
        return ""
    of = found["times"]["seeds"]
    names = [name for name in found["seeds"][0]["policies"] if name in of[0]]
    rows = [
        [_shown(name), *(mean_and_interval([one[name][budget] for one in of]) for budget in BUDGETS)]
        for name in names
    ]
    ms = mean_and_interval([one["ms"] / 100 for one in of])
    machine = found["times"]["machine"]
    return f"""
## Time on the clock

One image at a time, from prepared pixels to its mask, on ONNX Runtime with one thread ({machine["processor"]},
{machine["cores"]} cores). In per cent of the time of the full network, run without a policy, at its last exit alone
({ms} ms). All ways took turns; medians of rounds.

{table(["", *BUDGETS], rows)}
"""


def draw(found: dict[str, Any], path: Any) -> None:
    """Draw mean image IoU against multiply-adds, and against time where it is known."""
    seeds, small, of_time = found["seeds"], found["small"], found.get("times", {}).get("seeds")
    names = ("auto", "stopping", "EERO", "the gate alone (ECO-M2F)", "one fixed depth")

    def quality(name: str) -> list[list[float]]:
        return [[seed["policies"][name][budget][0] for seed in seeds] for budget in BUDGETS]

    def spent(name: str) -> list[list[float]]:
        return [[seed["policies"][name][budget][2] for seed in seeds] for budget in BUDGETS]

    def taken(name: str) -> list[list[float]]:
        if name in of_time[0]:
            return [[one[name][budget] for one in of_time] for budget in BUDGETS]
        shares = seeds[0]["shares"]  # a fixed depth: the time of the exit that it is
        exits = [[int(np.abs(np.array(shares) - cost).argmin()) for cost in row] for row in spent(name)]
        return [[one["exit"][str(e)] for one, e in zip(of_time, row, strict=True)] for row in exits]

    best = float(np.mean([one["quality"][0] for one in small])) if small else 0.0

    def as_good(name: str, places: Any) -> str:
        """Return from where on a policy is within half a point of the full network."""
        first = first_within(lost_by(seeds, name))
        return "no budget" if first is None else f"{np.mean(places(name)[first]):.0%}"

    def panel(x: str, places: Any, place_of_small: float) -> Panel:
        curves = [Curve.over_splits(name, places(name), quality(name)) for name in names]
        reach = [as_good(name, places) for name in ("auto", "one fixed depth")]
        return Panel(
            f"Within .5 points of the full network: auto from {reach[0]} on, one fixed depth from {reach[1]}",
            x,
            "mean image IoU",
            curves,
            {"smaller network": (place_of_small, best)} if small else {},
        )

    panels = [
        panel(
            "multiply-adds, of the full network's",
            spent,
            small[0]["cost"] / seeds[0]["cost"] if small else 0.0,
        )
    ]
    if of_time:
        own = [one["small"][""] for one in of_time if "small" in one]
        panels.append(panel("time, of the full network's", taken, float(np.mean(own)) if own else 0.0))
    draw_panels(panels, path)


def lost_by(seeds: list[dict[str, Any]], name: str) -> list[list[float]]:
    """Return the mean image IoU that a policy loses to the full network, by budget and seed."""
    return [
        [seed["exits"][-1][0] - seed["policies"][name][budget][0] for seed in seeds] for budget in BUDGETS
    ]


def first_within(lost: list[list[float]]) -> int | None:
    """Return the place of the lowest budget at which at most half a point is lost; None if there is none."""
    return next((place for place, row in enumerate(lost) if 100 * float(np.mean(row)) <= 0.5), None)


def reached(seeds: list[dict[str, Any]]) -> str:
    """Write the lowest budget at which `auto` is within .5 points of the full network's mean image IoU."""
    lost = lost_by(seeds, "auto")
    first = first_within(lost)
    shown = ", ".join(
        f"{mean_and_interval(row)} at {budget}" for budget, row in zip(BUDGETS, lost, strict=True)
    )
    where = "at none of these budgets" if first is None else f"from {BUDGETS[first]} of its multiply-adds on"
    return (
        f"`auto` is within .5 points of the full network {where} (points of mean image IoU lost: {shown}; below 0 it "
        "is better)."
    )


def of_small(found: dict[str, Any]) -> str:
    """Write what the smaller networks reach beside the policies at their cost."""
    small = found["small"]
    if not small:
        return ""
    share = small[0]["cost"] / found["seeds"][0]["cost"]
    image, whole = (mean_and_interval([one["quality"][value] for one in small]) for value in (0, 1))
    of_time = [one["small"][""] for one in found.get("times", {}).get("seeds", []) if "small" in one]
    time = f" and {mean_and_interval(of_time)} of the time" if of_time else ""
    return (
        f"A smaller network, of the same form with two transformer layers in place of six, trained alike "
        f"({counted(len(small), 'seed')}), takes {share:.0%} of the multiply-adds{time}. At its last exit it has mean "
        f"image IoU {image} and mIoU {whole}."
    )


def page(found: dict[str, Any]) -> str:
    """Return the page."""
    seeds, certificates = found["seeds"], []
    first = seeds[0]
    for one in first["certificates"]:
        low, high = one["interval"]
        violated = f"{one['violated']} of {one['times']} ({low:.1%} to {high:.1%})"
        row = [
            f"{one['agree']:.0%}",
            f"{one['cost']:.1%}",
            f"{one['differs']:.2%}",
            violated,
            f"{one['p']:.2g}",
        ]
        certificates.append(row)
    return f"""# Segmentation, as deep as the image needs

Made by `python -m experiments.segmentation`; numbers in [segmentation.json](segmentation.json).

The network is [experiments/segmenter.py](../../experiments/segmenter.py): four stages of convolutions and six
transformer layers, with an exit after each, {first["cost"] / 1e6:.0f} million multiply-adds on images of
256x192 pixels. It is trained for eight epochs on 900 drawn scenes
([experiments/drawn_scenes.py](../../experiments/drawn_scenes.py)), with {counted(len(seeds), "seed")}. Of {N_SCENES:,}
fresh scenes for each seed, {N_FIT} fit the policies, {N_CALIBRATE} calibrate them and the others test them. All numbers
are per cent{"; ± is a 95% interval over the seeds" if len(seeds) > 1 else ""}.

![Mean image IoU against multiply-adds and time](segmentation.png)

## Exits

{of_exits(seeds, first["shares"], found.get("times", {}).get("seeds"))}

{of_small(found)}

## Mean image IoU by budget

{of_budgets(seeds, 0)}

{reached(seeds)}

## mIoU by budget

{of_budgets(seeds, 1)}

Policies learn from the IoU of images; the mIoU counts the pixels of all images together.
{of_times(found)}
## Certified agreement, in pixels

As `exeunt calibrate --agree` does, EERO's policies for {POINTS} budgets are tested on {N_CALIBRATE} images drawn anew,
with replacement, from the {N_SCENES - N_FIT:,} scenes that did not fit them, which are the truth (first seed). The
guarantee may be violated in {DELTA:.0%} of the recalibrations.

{table(["agreement asked", "cost", "pixels that differ", "violated (95%)", "p of no more than 5%"], certificates)}
{of_camvid(found.get("camvid"))}"""


def of_camvid(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    refused = "\n".join(f"- {name}: `{text}`" for name, text in found["refused"].items())
    return f"""
## CamVid

[CamVid](http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/) (Brostow, Fauqueur, Cipolla: *Semantic object
classes in video*, 2009; CC BY-NC 4.0) in the 12-class form of SegNet (Badrinarayanan, Kendall, Cipolla 2015), scaled
to 256x192 pixels, with the same network: 16 epochs on the 367 training images, so that its masks are far
from what is published. Policies are fitted on {found["n"][0]} and calibrated on {found["n"][1]} validation images, and
tested on the {found["n"][2]} test images; one run.

{of_exits([found], found["shares"])}

Mean image IoU by budget:

{of_budgets([found], 0)}

mIoU by budget:

{of_budgets([found], 1)}

Cost that was spent:

{of_budgets([found], 2)}

Frames of one drive follow one another, so a certificate counts drives, and the test images are of two. With policies
that learned from all validation images:

{refused}

If no pixel differed at all, {math.ceil(math.log(DELTA) / math.log(0.95))} drives would show that at most 5% do
(0.95^n <= {DELTA:g}); where some differ it takes more.
"""
