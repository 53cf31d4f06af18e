"""`exeunt calibrate RUN --budget 50% --delta 0.05`: choose thresholds that keep a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from exeunt.cli.arguments import Run, Seed, share


def calibrate(
    run: Run,
    budget: Annotated[
        str,
        typer.Option(help="Mean cost per input: a share (50%) or a quantity (30MMACs).", show_default=False),
    ],
    delta: Annotated[
        str,
        typer.Option(
            help="Chance at most with which the mean cost may exceed the budget; 'none' plans on average."
        ),
    ] = "0.05",
    policy: Annotated[
        str, typer.Option(help="The rule: eero, msdnet, predictive_exit or common_threshold.")
    ] = "eero",
    score: Annotated[str | None, typer.Option(help="margin, max_probability or entropy.")] = None,
    calibration: Annotated[str, typer.Option(help="sequential, or the paper's marginal.")] = "sequential",
    seed: Seed = 0,
) -> None:
    """Fit a policy to a budget and calibrate its thresholds, on inputs that the network has not seen."""
    from exeunt.bundle import Bundle
    from exeunt.catalogue import preset

    bundle = Bundle.open(run)
    marginal = calibration == "marginal"
    chosen = preset(policy)(
        bundle.trace("fit"),
        bundle.trace("calibrate"),
        budget=budget,
        delta=None if marginal or delta.lower() == "none" else share(delta, "delta"),
        score=score,
        calibration=calibration,
        seed=seed,
    )
    bundle.save_policy(chosen)
    typer.echo(chosen)
    typer.echo(f"\nwritten to {run}; next: exeunt evaluate {run}")
