"""The figures of `exeunt evaluate`, with the test images where the data is still at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from exeunt.errors import ExeuntError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exeunt.bundle import Bundle


def draw(bundle: Bundle, *, splits: int) -> list[Path]:
    """Draw a bundle's figures into its folder `figures` and return their paths."""
    from exeunt.bundle import TRACED
    from exeunt.plots import evaluate_figures

    policy = bundle.policy
    fit, calibrate, test = (bundle.trace(part).with_cost(policy.cost) for part in TRACED)
    return evaluate_figures(
        policy,
        fit,
        calibrate,
        test,
        bundle.folder("figures"),
        image=_test_image(bundle),
        class_names=bundle.manifest["class_names"] or None,
        splits=splits,
        progress=lambda name: typer.echo(f"drawing {name}", err=True),
    )


def _test_image(bundle: Bundle) -> Callable[[int], Any] | None:
    """Return what reads the image of a row of the test trace, or None where there is none to be had."""
    from exeunt.data import SplitPlan, open_source

    if bundle.manifest["inputs"]["kind"] != "image":
        return None
    try:
        source = open_source(bundle.manifest["data"]["name"], label=bundle.manifest["data"]["label"])
        data = SplitPlan.from_dict(bundle.manifest["split"]).select(source, "test")
    except ExeuntError as error:  # the data moved, changed or damaged, or its library missing: draw the rest
        typer.echo(f"no sheet of images: {error}", err=True)
        return None
    return lambda row: data.content(row)
