"""`exeunt calibrate RUN --budget 50%`, `--max-loss 1%` or `--budgets 20%:95%:5%`: choose thresholds."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt.cli.arguments import ExecutorName, RunPath, Seed, TrustedModel, delta_or_none, share
from exeunt.errors import InfeasibleBudget, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.costs import CostModel
    from exeunt.policy import Policy, PolicySet
    from exeunt.run.folder import RunFolder
    from exeunt.trace import ExitTrace, Members

_TYPICAL_BUDGET = "70%"  # with --max-loss alone, the network is timed under about this budget

_PROMISE = "What is promised"  # a group of `--help`


def calibrate(
    path: RunPath,
    budget: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PROMISE,
            help="Mean cost per input: a share of the full network's (50%) or a quantity (30MMACs, 4ms).",
            show_default=False,
        ),
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PROMISE,
            help="Accuracy that may be lost against the full network, such as 1%: chooses the cheapest policy that "
            "provably loses no more. With --budget, both are promised.",
            show_default=False,
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PROMISE,
            help="Several budgets, as a range first:last:step (20%:95%:5%) or a list (30%,50%): makes one policy "
            "each, in one file. Choose among them by time, price or load, not by the inputs to be answered.",
            show_default=False,
        ),
    ] = None,
    jointly: Annotated[
        bool,
        typer.Option(
            "--jointly",
            rich_help_panel=_PROMISE,
            help="With --budgets: all promises hold together, not each on its own. The budget may then be changed "
            "while serving, by anything but the inputs to be answered.",
        ),
    ] = False,
    delta: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PROMISE,
            help="Largest probability with which the promise may be broken; 'none' keeps the budget only on average.",
            show_default="0.05; none for a budget with --calibration marginal, which certifies nothing",
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="Kind of policy: auto, eero, stopping, optimised, msdnet, ... An unknown name lists all."
        ),
    ] = "auto",
    score: Annotated[
        str | None,
        typer.Option(
            help="Confidence that ranks inputs: margin, max_probability or entropy. Default: the policy's own."
        ),
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="How thresholds are set: sequential, or marginal as in the paper.")
    ] = "sequential",
    cost: Annotated[
        str,
        typer.Option(
            help="Cost that the budget limits: macs, or ms (timed on this machine); auto is ms if the budget is "
            "in ms, else macs."
        ),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Inputs per batch when the network is timed.", min=1)] = 64,
    executor: ExecutorName = None,
    seed: Seed = 0,
    trusted: TrustedModel = None,
) -> None:
    """Choose thresholds that keep a budget, on inputs that the network has not seen."""
    from exeunt._files import check_writable
    from exeunt.budgets import budget_grid
    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.policies.catalogue import preset
    from exeunt.policies.chain import policy_set, rule_for
    from exeunt.policies.learn_then_test import cheapest
    from exeunt.run.folder import RunFolder

    # A loss is tested whatever the calibration; no law of spend certifies a budget under the marginal one.
    usual = "none" if calibration == "marginal" and max_loss is None else "0.05"
    promise = delta_or_none(usual if delta is None else delta)
    _check_options(budget, max_loss, budgets, jointly=jointly, promised=promise is not None)
    _check_calibration(calibration, certified=promise is not None and (budget, budgets) != (None, None))
    amounts = [*([] if budget is None else [budget]), *([] if budgets is None else budget_grid(budgets))]
    run = RunFolder.open(path)
    check_writable(run.path, f"cannot calibrate {path}")
    options = {} if score is None else {"score": score}
    rule = partial(preset(policy), calibration=calibration, **options)
    make = partial(rule_for(run.recorded("fit"), rule), seed=seed)
    costs = run.cost
    if _in_milliseconds(cost, amounts):
        costs = _timed(TimedNetwork.of(run, executor, trusted), make, amounts, batch_size=batch_size)
    if run.runs_whole:
        _refuse_whole(run, costs, amounts)
    fit, held_out = (run.recorded(part, costs) for part in ("fit", "calibrate"))
    for amount in amounts:
        _check_budget(fit, costs, str(amount))
    if budgets is not None:
        policies = policy_set(
            fit, held_out, policy=rule, budgets=amounts, delta=promise, jointly=jointly, seed=seed
        )
        run.save_policy_set(policies)
        typer.echo(policies)
        for note in _coinciding(policies, amounts):
            typer.echo(note)
    elif max_loss is not None and promise is not None:  # `_check_options` refuses a loss without a promise
        loss = share(max_loss, "max-loss")
        made = cheapest(fit, held_out, max_loss=loss, delta=promise, budget=budget, policy=rule, seed=seed)
        run.save_policy(made)
        typer.echo(made)
        typer.echo(
            f"expected to save {1 - made.expected_cost / made.cost.full:.1%} of the full network's cost"
        )
    else:
        made = make(fit, held_out, budget=amounts[0], delta=promise)
        run.save_policy(made)
        typer.echo(made)
    typer.echo(f"\nwritten to {path}; next: exeunt evaluate {path}")


def _coinciding(policies: PolicySet, budgets: Sequence[str | float]) -> list[str]:
    """Return a sentence for each policy that serves larger budgets, too, because more is not spent under them."""
    cost = policies.policies[0].cost
    kept = {policy.budget for policy in policies}
    served: dict[float, list[str]] = {}
    for amount, budget in sorted((cost.budget(budget), str(budget)) for budget in budgets):
        if amount not in kept:
            served.setdefault(policies.at(amount).budget, []).append(budget)
    return [
        f"the policy for {cost.show(budget)} also serves {', '.join(others)}: no more is spent under "
        f"{'it' if len(others) == 1 else 'them'}"
        for budget, others in served.items()
    ]


def _check_options(
    budget: str | None, max_loss: str | None, budgets: str | None, *, jointly: bool, promised: bool
) -> None:
    """Raise InputError for options that ask for nothing, or cannot be combined."""
    if budget is None and max_loss is None and budgets is None:
        raise InputError("give a budget or a loss: --budget 50%, --max-loss 1%, or --budgets 20%:95%:5%")
    if budgets is not None and (budget is not None or max_loss is not None):
        raise InputError("--budgets goes with neither --budget nor --max-loss: calibrate twice to have both")
    if jointly and budgets is None:
        raise InputError("--jointly is about the promises of several budgets: give them with --budgets")
    if not promised and (max_loss is not None or jointly):
        named = "--max-loss" if max_loss is not None else "--jointly"
        raise InputError(f"{named} is a promise and needs a --delta")


def _check_calibration(calibration: str, *, certified: bool) -> None:
    """Raise InputError for a calibration that there is not, or that cannot certify a budget."""
    if calibration not in ("sequential", "marginal"):
        raise InputError(f"--calibration must be sequential or marginal, got {calibration!r}")
    if calibration == "marginal" and certified:
        raise InputError(
            "marginal calibration has no exact law to certify a budget by: use --calibration sequential, or "
            "--delta none"
        )


def _in_milliseconds(cost: str, budgets: Sequence[str | float]) -> bool:
    if cost not in ("auto", "macs", "ms"):
        raise InputError(f"cost must be macs or ms, got {cost!r}")
    return cost == "ms" or (cost == "auto" and any(str(b).strip().endswith("ms") for b in budgets))


def _timed(
    network: TimedNetwork, make: Callable[..., Policy], budgets: Sequence[str | float], *, batch_size: int
) -> CostModel:
    """Return milliseconds per exit, timed where the policy for the budget in the middle lets inputs answer."""
    from exeunt.costs import CostModel
    from exeunt.timing.millisecond_costs import self_consistent_cost

    fit, held_out = network.run.trace("fit"), network.run.trace("calibrate")
    middle = budgets[len(budgets) // 2] if budgets else _TYPICAL_BUDGET
    plan = network.plan
    typer.echo(f"timing the network ({network.name}) at batch {batch_size}", err=True)
    costs = self_consistent_cost(
        network.open_for(plan),
        network.batch(batch_size),
        lambda costs: make(fit.with_cost(costs), held_out.with_cost(costs), budget=middle),
        lambda policy: policy.route(held_out),
        plan=plan,
    )
    if (length := network.run.manifest["inputs"].get("length")) is not None:
        source = f"{costs.source}, texts of {length} tokens"
        costs = CostModel(costs.cumulative, unit=costs.unit, source=source)
    typer.echo(costs.source, err=True)
    return costs


def _refuse_whole(run: RunFolder, costs: CostModel, budgets: Sequence[str | float]) -> None:
    """Raise InfeasibleBudget if something is to be saved in a network that cannot be cut."""
    with suppress(InfeasibleBudget):
        for budget in budgets:
            costs.budget(str(budget))
        if budgets:
            return
    raise InfeasibleBudget(
        f"the network of {run.path} runs whole: every input spends {costs.show(costs.full)}, wherever it answers, so "
        f"no smaller budget can be kept. {run.runs_whole}. Then run its `exeunt train` command again: it keeps the "
        "training and counts the costs anew",
        smallest_budget=costs.first,
    )


def _check_budget(fit: ExitTrace | Members, costs: CostModel, budget: str) -> None:
    """Raise InputError for a bare number that was meant as a share; print a note if a budget saves nothing."""
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
    if fit.budget(budget) >= costs.full:
        typer.echo(
            f"note: a budget of {budget} is all that the full network costs, or more: the policy gets "
            f"{costs.show(costs.full)} and saves nothing",
            err=True,
        )
