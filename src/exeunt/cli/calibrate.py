"""`exeunt calibrate RUN --budget 50%`, `--max-loss 1%` or `--budgets 20%:95%:5%`: choose thresholds that keep it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt.cli.arguments import Run, Seed, TrustedModel, share
from exeunt.cli.timed_run import TimedRun, cost_in_ms
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exeunt.costs import CostModel
    from exeunt.policy import Policy
    from exeunt.run.folder import RunFolder
    from exeunt.trace import ExitTrace

_MIDDLE = "70%"  # where a loss is given and no budget, times are those at about this one


def calibrate(
    path: Run,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Mean cost per input: a share (50%) or a quantity (30MMACs, 4ms).", show_default=False
        ),
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(
            help="Accuracy that may be lost against the full network (1%): the cheapest policy that provably "
            "loses no more; with --budget, both are promised.",
            show_default=False,
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            help="Several budgets, as a range (20%:95%:5%) or a list (30%,50%): one policy each, in one file.",
            show_default=False,
        ),
    ] = None,
    jointly: Annotated[
        bool, typer.Option("--jointly", help="With --budgets: all promises hold together, not each alone.")
    ] = False,
    delta: Annotated[
        str,
        typer.Option(help="Chance at most with which a promise may be broken; 'none' plans on average."),
    ] = "0.05",
    policy: Annotated[
        str,
        typer.Option(
            help="The rule by name: auto, eero, stopping, optimised, msdnet, ... A wrong name lists all."
        ),
    ] = "auto",
    score: Annotated[str | None, typer.Option(help="margin, max_probability or entropy.")] = None,
    calibration: Annotated[str, typer.Option(help="sequential, or the paper's marginal.")] = "sequential",
    cost: Annotated[
        str, typer.Option(help="macs, or ms: timed on this machine. Default: ms if the budget is in ms.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Batch at which the network is timed.", min=1)] = 64,
    executor: Annotated[
        str | None,
        typer.Option(
            help="What is timed: eager or onnx. Default: onnx where the run was exported, else eager."
        ),
    ] = None,
    seed: Seed = 0,
    trusted: TrustedModel = None,
) -> None:
    """Fit a policy to a budget and calibrate its thresholds, on inputs that the network has not seen."""
    from exeunt.catalogue import preset
    from exeunt.costs import budget_grid
    from exeunt.run.folder import RunFolder

    marginal = calibration == "marginal"
    promised = None if marginal or delta.lower() == "none" else share(delta, "delta")
    _check_asked(budget, max_loss, budgets, jointly=jointly, promised=promised is not None)
    amounts = [*([] if budget is None else [budget]), *([] if budgets is None else budget_grid(budgets))]
    run = RunFolder.open(path)
    options = {} if score is None else {"score": score}
    rule = partial(preset(policy), calibration=calibration, **options)
    costs = run.cost
    if _in_milliseconds(cost, amounts):
        costs = _timed(
            TimedRun.of(run, executor, trusted), partial(rule, seed=seed), amounts, batch_size=batch_size
        )
    for amount in amounts:
        _check_budget(costs, str(amount))
    asked = _Asked(
        rule,
        run.trace("fit").with_cost(costs),
        run.trace("calibrate").with_cost(costs),
        promised,
        seed,
    )
    if budgets is not None:
        asked.several(run, amounts, jointly=jointly)
    elif max_loss is not None:
        asked.cheapest(run, share(max_loss, "max-loss"), budget)
    else:
        asked.one(run, amounts[0])
    typer.echo(f"\nwritten to {path}; next: exeunt evaluate {path}")


@dataclass(frozen=True)
class _Asked:
    """What all ways of asking share: the rule, the data, the promise's delta (None: no promise)."""

    rule: Callable[..., Policy]
    fit: ExitTrace
    calibrate: ExitTrace
    delta: float | None
    seed: int

    def one(self, run: RunFolder, budget: str | float) -> None:
        """One budget, one policy."""
        made = self.rule(self.fit, self.calibrate, budget=budget, delta=self.delta, seed=self.seed)
        run.save_policy(made)
        typer.echo(made)

    def cheapest(self, run: RunFolder, max_loss: float, budget: str | None) -> None:
        """The cheapest policy within a loss of accuracy, and within a budget if there is one."""
        from exeunt.policies.cheapest import cheapest
        from exeunt.policies.loss_certificate import LossCertificate

        made = cheapest(
            self.fit, self.calibrate, max_loss=max_loss, delta=self.delta or 0.05, budget=budget,
            policy=self.rule, seed=self.seed,
        )  # fmt: skip
        run.save_policy(made)
        spent = made.law.mean if made.law is not None else made.budget
        typer.echo(made)
        typer.echo(f"certified: {LossCertificate.of(made)}")
        typer.echo(f"expected to save {1 - spent / made.cost.full:.1%} of the full network's cost")

    def several(self, run: RunFolder, budgets: Sequence[str | float], *, jointly: bool) -> None:
        """A policy for each budget, in one file."""
        from exeunt.policy import PolicySet

        made = PolicySet.make(
            self.rule, self.fit, self.calibrate, budgets=budgets, delta=self.delta, jointly=jointly,
            seed=self.seed,
        )  # fmt: skip
        run.save_policy_set(made)
        typer.echo(made)


def _check_asked(
    budget: str | None, max_loss: str | None, budgets: str | None, *, jointly: bool, promised: bool
) -> None:
    """Refuse options that say nothing, or do not go together."""
    if budget is None and max_loss is None and budgets is None:
        raise InputError("say what is to be kept: --budget 50%, --max-loss 1%, or --budgets 20%:95%:5%")
    if budgets is not None and (budget is not None or max_loss is not None):
        raise InputError("--budgets goes with neither --budget nor --max-loss: calibrate twice to have both")
    if jointly and budgets is None:
        raise InputError("--jointly is about the promises of several budgets: give them with --budgets")
    if not promised and (max_loss is not None or jointly):
        named = "--max-loss" if max_loss is not None else "--jointly"
        raise InputError(f"{named} is a promise and needs a --delta, and sequential calibration")


def _in_milliseconds(wanted: str, budgets: Sequence[str | float]) -> bool:
    if wanted not in ("auto", "macs", "ms"):
        raise InputError(f"cost must be macs or ms, got {wanted!r}")
    return wanted == "ms" or (wanted == "auto" and any(str(b).strip().endswith("ms") for b in budgets))


def _timed(
    timed: TimedRun, rule: Callable[..., Policy], budgets: Sequence[str | float], *, batch_size: int
) -> CostModel:
    """Return milliseconds timed here: at the mix of exits of the rule at the budget in the middle."""
    fit, calibrate = timed.run.trace("fit"), timed.run.trace("calibrate")
    middle = budgets[len(budgets) // 2] if budgets else _MIDDLE

    def choose(costs: CostModel) -> Policy:
        return rule(fit.with_cost(costs), calibrate.with_cost(costs), budget=middle)

    typer.echo(f"timing the network ({timed.name}) at batch {batch_size}", err=True)
    costs = cost_in_ms(timed, choose, batch_size=batch_size)
    typer.echo(costs.source, err=True)
    return costs


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
