"""`exeunt calibrate RUN --budget 50% --delta 0.05`: choose thresholds that keep a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exeunt.cli.arguments import Run, Seed, TrustedModel, share
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.bundle import Bundle
    from exeunt.costs import CostModel


def calibrate(
    run: Run,
    budget: Annotated[
        str,
        typer.Option(
            help="Mean cost per input: a share (50%) or a quantity (30MMACs, 4ms).", show_default=False
        ),
    ],
    delta: Annotated[
        str,
        typer.Option(
            help="Chance at most with which the mean cost may exceed the budget; 'none' plans on average."
        ),
    ] = "0.05",
    policy: Annotated[
        str,
        typer.Option(
            help="The rule by name: eero, msdnet, common_threshold, optimised, stopping, ... A wrong name lists all."
        ),
    ] = "eero",
    score: Annotated[str | None, typer.Option(help="margin, max_probability or entropy.")] = None,
    calibration: Annotated[str, typer.Option(help="sequential, or the paper's marginal.")] = "sequential",
    cost: Annotated[
        str, typer.Option(help="macs, or ms: timed on this machine. Default: ms if the budget is in ms.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Batch at which the network is timed.", min=1)] = 64,
    seed: Seed = 0,
    trusted: TrustedModel = None,
) -> None:
    """Fit a policy to a budget and calibrate its thresholds, on inputs that the network has not seen."""
    from exeunt.bundle import Bundle
    from exeunt.catalogue import preset

    bundle = Bundle.open(run)
    marginal = calibration == "marginal"
    costs = _costs(bundle, cost, budget, batch_size=batch_size, trusted=trusted)
    _check_budget(costs, budget)
    chosen = preset(policy)(
        bundle.trace("fit").with_cost(costs),
        bundle.trace("calibrate").with_cost(costs),
        budget=budget,
        delta=None if marginal or delta.lower() == "none" else share(delta, "delta"),
        **({} if score is None else {"score": score}),
        calibration=calibration,
        seed=seed,
    )
    bundle.save_policy(chosen)
    typer.echo(chosen)
    typer.echo(f"\nwritten to {run}; next: exeunt evaluate {run}")


def _costs(bundle: Bundle, wanted: str, budget: str, *, batch_size: int, trusted: str | None) -> CostModel:
    """Return the bundle's multiply-adds, or milliseconds timed here."""
    if wanted not in ("auto", "macs", "ms"):
        raise InputError(f"cost must be macs or ms, got {wanted!r}")
    if wanted == "macs" or (wanted == "auto" and not budget.strip().endswith("ms")):
        return bundle.cost
    from exeunt.torch.bundled import timed_cost

    typer.echo(f"timing the network at batch {batch_size}", err=True)
    return timed_cost(bundle, batch_size=batch_size, trusted=trusted)


def _check_budget(costs: CostModel, budget: str) -> None:
    """Refuse a bare number that was meant as a share, and say when a budget saves nothing."""
    try:
        number = float(budget)
    except ValueError:
        number = None
    if number is not None and 0 < number <= 100 and (number <= 1 or number < costs.first):
        percent = 100 * number if number <= 1 else number
        raise InputError(
            f"a budget of {budget} without a unit means {number:g} {costs.unit} per input, and the first exit "
            f"costs {costs.show(costs.first)}: write {percent:g}% for a share of the full network, or "
            f"{number:g}{costs.unit} for a quantity"
        )
    if costs.budget(budget) >= costs.full:
        typer.echo(
            f"note: a budget of {budget} is all that the full network costs, or more: "
            f"{costs.show(costs.full)} is what is kept to, and nothing has to be saved",
            err=True,
        )
