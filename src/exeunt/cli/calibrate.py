"""`exeunt calibrate RUN --budget 50%`, `--max-loss 1%` or `--budgets 20%:95%:5%`: choose thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exeunt.cli.arguments import ExecutorName, RunPath, Seed, TrustedModel, delta_or_none, share
from exeunt.errors import InfeasibleBudget, InputError, UnitError

if TYPE_CHECKING:
    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.costs import CostModel
    from exeunt.policy import Policy, PolicySet
    from exeunt.run.folder import RunFolder
    from exeunt.timed_run import TimedExits
    from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace

_TYPICAL_BUDGET = "70%"  # with --max-loss alone, the network is timed under about this budget

_GUARANTEE, _POLICY = "What is guaranteed", "The policy"  # groups of `--help`


def calibrate(
    path: RunPath,
    budget: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_GUARANTEE,
            help="Mean cost per input: a share of the full network's (50%) or a quantity (30MMACs, 4ms).",
            show_default=False,
        ),
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_GUARANTEE,
            help="Accuracy that may be lost against the full network, such as 1%: chooses the cheapest policy that "
            "provably loses no more. With --budget, both are guaranteed.",
            show_default=False,
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_GUARANTEE,
            help="Several budgets, as a range first:last:step (20%:95%:5%) or a list (30%,50%): makes one policy "
            "each, in one file. Choose among them by time, price or load, not by the inputs to be answered.",
            show_default=False,
        ),
    ] = None,
    jointly: Annotated[
        bool,
        typer.Option(
            "--jointly",
            rich_help_panel=_GUARANTEE,
            help="With --budgets: all guarantees hold together, not each on its own. The budget may then be changed "
            "while serving, by anything but the inputs to be answered.",
        ),
    ] = False,
    delta: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_GUARANTEE,
            help="Largest probability with which the guarantee may be broken; 'none' keeps the budget only on average.",
            show_default="0.05; none for a budget with --calibration marginal, which certifies nothing",
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            rich_help_panel=_POLICY,
            help="Kind of policy: auto, eero, stopping, optimised, msdnet, ... An unknown name lists all.",
        ),
    ] = "auto",
    score: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_POLICY,
            help="Confidence that ranks inputs: margin, max_probability or entropy. Default: the policy's own.",
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_POLICY,
            help="What is answered: own (the exit's own), ensemble (of the exits so far), or auto, "
            "what cross-validation advises. Default: the policy's own; auto for cascades.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(
            rich_help_panel=_POLICY, help="How thresholds are set: sequential, or marginal as in the paper."
        ),
    ] = "sequential",
    of: Annotated[
        str,
        typer.Option(
            help="What the budget is of: macs, or time, measured on this machine. Shares of time are of the original "
            "network's, and exits that do not pay are not run. auto is time if the budget is in ms, else macs."
        ),
    ] = "auto",
    traces: Annotated[
        str | None,
        typer.Option(
            help="Calibrate on the outputs recorded in this folder or address, which need not fit in memory, instead "
            "of the run's own calibration part.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Inputs per batch when the network is timed.", min=1)] = 64,
    executor: ExecutorName = None,
    seed: Seed = 0,
    trusted: TrustedModel = None,
) -> None:
    """Choose thresholds that keep a budget, on inputs that the network has not seen."""
    from exeunt._files import check_writable
    from exeunt.answer.choice import ANSWERS
    from exeunt.budget_text import budget_grid
    from exeunt.cli.timed_network import TimedNetwork, is_of_time
    from exeunt.policies.cascade import policy_set, rule_for
    from exeunt.policies.catalogue import preset
    from exeunt.policies.cheapest import cheapest
    from exeunt.run.folder import RunFolder

    # A loss is tested whatever the calibration; no distribution of the mean cost certifies a budget under the marginal one.
    usual = "none" if calibration == "marginal" and max_loss is None else "0.05"
    guarantee = delta_or_none(usual if delta is None else delta)
    _check_options(budget, max_loss, budgets, jointly=jointly, guaranteed=guarantee is not None)
    if answer not in (None, *ANSWERS):
        raise InputError(f"--answer must be own, ensemble or auto, got {answer!r}")
    _check_calibration(calibration, certified=guarantee is not None and (budget, budgets) != (None, None))
    amounts = [*([] if budget is None else [budget]), *([] if budgets is None else budget_grid(budgets))]
    in_time = is_of_time(of, amounts)
    if traces is not None and max_loss is not None:
        raise InputError("--max-loss is tested on labelled inputs in memory: leave out --traces")
    run = RunFolder.open(path)
    check_writable(run.path, f"cannot calibrate {path}")
    for entry in run.cascade:
        with suppress(InputError):  # it may be elsewhere
            run.open_model(entry.name)
    options = {} if score is None else {"score": score}
    rule: Callable[..., Policy] = partial(preset(policy), calibration=calibration, **options)
    said: dict[str, Any] = {"answer": answer or "auto"} if answer or run.cascade else {}
    if run.runs_whole:
        _refuse_whole(run, amounts)
    fit = run.recorded("fit")
    held_out = run.recorded("calibrate") if traces is None else _stored(traces, run)
    costs, against = run.cost, None
    if in_time:
        network = TimedNetwork.of(run, executor, trusted)
        timed = _timed(network, partial(rule, **said), amounts, batch_size=batch_size, seed=seed)
        fit, held_out = timed.trace(run.recorded("fit")), timed.trace(held_out)
        costs, rule = timed.cost, timed.rule(rule)
        against = timed.steps[-1].model or None  # whose last exit is that of what is run
    for amount in amounts:
        _check_budget(fit, costs, str(amount))
    made: Policy | PolicySet
    if budgets is not None:
        made = policy_set(
            fit, held_out, policy=rule, budgets=amounts, delta=guarantee, jointly=jointly, seed=seed, **said
        )
        run.save_policy_set(made)
        typer.echo("\n".join([str(made), *_coinciding(made, fit, amounts)]))
    elif (
        max_loss is not None and guarantee is not None
    ):  # `_check_options` refuses a loss without a guarantee
        loss = share(max_loss, "max-loss")
        asked: Any = {"max_loss": loss, "budget": budget, "delta": guarantee, "policy": rule, "seed": seed}
        made = cheapest(fit, held_out, reference=against, **asked, **said)  # type: ignore[arg-type]
        run.save_policy(made)
        saved = 1 - made.expected_cost / made.cost.full
        typer.echo(f"{made}\nexpected to save {saved:.1%} of the full network's cost")
    else:
        made = rule_for(fit, rule)(fit, held_out, budget=amounts[0], delta=guarantee, seed=seed, **said)
        run.save_policy(made)
        typer.echo(made)
    typer.echo(f"\nwritten to {path}; next: exeunt evaluate {quote(str(path))}")


def _stored(folder: str, run: RunFolder) -> StoredTrace:
    """Return the recorded outputs in a folder, of which it is told how far a calibration is."""
    from exeunt._places import place
    from exeunt.predicting.part_folder import check_complete
    from exeunt.trace import StoredTrace

    check_complete(place(folder), run)
    return StoredTrace.open(
        folder, models=[entry.step for entry in run.cascade], say=partial(typer.echo, err=True)
    )


def _coinciding(
    policies: PolicySet, fit: ExitTrace | CascadeTrace, budgets: Sequence[str | float]
) -> list[str]:
    """Return a sentence for each policy that serves larger budgets, too, because more is not spent under them."""
    cost = policies.policies[0].cost  # of a cascade, perhaps a shorter one than those of larger budgets
    kept = {policy.budget for policy in policies}
    served: dict[float, list[str]] = {}
    for amount, budget in sorted((fit.budget(budget), str(budget)) for budget in budgets):
        if amount not in kept:
            served.setdefault(policies.at(amount).budget, []).append(budget)
    return [
        f"the policy for {cost.show(budget)} also serves {', '.join(others)}: no more is spent under "
        f"{'it' if len(others) == 1 else 'them'}"
        for budget, others in served.items()
    ]


def _check_options(
    budget: str | None, max_loss: str | None, budgets: str | None, *, jointly: bool, guaranteed: bool
) -> None:
    """Raise InputError for options that ask for nothing, or cannot be combined."""
    if budget is None and max_loss is None and budgets is None:
        raise InputError("give a budget or a loss: --budget 50%, --max-loss 1%, or --budgets 20%:95%:5%")
    if budgets is not None and (budget is not None or max_loss is not None):
        raise InputError("--budgets goes with neither --budget nor --max-loss: calibrate twice to have both")
    if jointly and budgets is None:
        raise InputError("--jointly is about the guarantees of several budgets: give them with --budgets")
    if not guaranteed and (max_loss is not None or jointly):
        named = "--max-loss" if max_loss is not None else "--jointly"
        raise InputError(f"{named} is a guarantee and needs a --delta")


def _check_calibration(calibration: str, *, certified: bool) -> None:
    """Raise InputError for a calibration that there is not, or that cannot certify a budget."""
    if calibration not in ("sequential", "marginal"):
        raise InputError(f"--calibration must be sequential or marginal, got {calibration!r}")
    if calibration == "marginal" and certified:
        raise InputError(
            "marginal calibration has no exact distribution to certify a budget by: use --calibration sequential, or "
            "--delta none"
        )


def _timed(
    network: TimedNetwork,
    rule: Callable[..., Policy],
    budgets: Sequence[str | float],
    *,
    batch_size: int,
    seed: int,
) -> TimedExits:
    """Return the exits that pay for their time under the budget in the middle, the first within the least."""
    from exeunt.timed_run import choose_by_time

    budgets = budgets or [_TYPICAL_BUDGET]
    length = network.run.manifest["inputs"].get("length")
    texts = "" if length is None else f", texts of {length} tokens"
    asked = f"{'a budget' if len(budgets) == 1 else 'budgets'} of {', '.join(map(str, budgets))}"
    typer.echo(f"at batch {batch_size}{texts}, exits for {asked}:", err=True)
    found = choose_by_time(
        network.run, partial(rule, seed=seed), budgets, network.batch(batch_size),
        executor=network.name, trusted=network.trusted, seed=seed, say=partial(typer.echo, err=True),
    )  # fmt: skip
    typer.echo(found.cost.source, err=True)
    return found


def _refuse_whole(run: RunFolder, budgets: Sequence[str | float]) -> None:
    """Raise InfeasibleBudget if something is to be saved in a network that cannot be cut."""
    costs = run.cost
    with suppress(InfeasibleBudget, UnitError):
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


def _check_budget(fit: ExitTrace | CascadeTrace, costs: CostModel, budget: str) -> None:
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
