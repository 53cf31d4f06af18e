"""`exeunt calibrate RUN --budget 50%`, `--max-loss 1%` or `--budgets 20%:95%:5%`: choose thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exeunt._support.progress import Progress
from exeunt._support.text import echo, listed
from exeunt.cli.calibration_options import Guarantee, Rule, is_of_time
from exeunt.cli.opened_tables import is_table, open_models
from exeunt.cli.options import Execution, changed, option, seed_option, with_groups
from exeunt.cli.tables import UNGRADED, Tables, checked_ungraded
from exeunt.errors import InfeasibleBudget, InputError, UnitError

if TYPE_CHECKING:
    from exeunt.costs.cost_model import CostModel
    from exeunt.jobs.timed_run import TimedExits
    from exeunt.policy import Policy, PolicySet
    from exeunt.runs.folder import RunFolder
    from exeunt.trace import StoredTrace

_TYPICAL_BUDGET = "70%"  # with --max-loss alone, the network is timed under about this budget


@dataclass(frozen=True, kw_only=True)
class _Options:
    of: str = option(
        "What the budget is of: macs, or time, measured on this machine. Shares of time are of the original network's, "
        "and exits that do not pay are not run. auto is time if the budget is in ms, else macs.",
        default="auto",
    )
    traces: str | None = option(
        "Calibrate on the outputs recorded in this folder or address, which need not fit in memory, instead of the "
        "run's own calibration part."
    )
    batch_size: int = option("Inputs per batch when the network is timed.", default=64, min=1)
    out: Path | None = option("Of a table: the run folder to write.")
    ungraded: str | None = option(UNGRADED)
    seed: int = seed_option()


@with_groups
def calibrate(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|TABLE",
            help="Run folder that `exeunt train` made; RUN@int8 is the run at this precision. Or a table (.csv, "
            ".parquet) of what models answered: it becomes a run of these models in --out.",
            show_default=False,
        ),
    ],
    guarantee: Guarantee,
    rule: Rule,
    options: _Options,
    execution: Execution,
    tables: Tables,
) -> None:
    """Choose thresholds that keep a budget or a loss, on inputs that the network has not seen."""
    if is_table(path) or (path.suffix == ".parquet" and not path.exists()):  # which reading it says
        path = _run_of_table(path, tables, guarantee, options)
    elif wrong := changed(tables) or (options.out and "--out") or (options.ungraded and "--ungraded"):
        raise InputError(
            f"{wrong}: such options are about a table (.csv, .tsv, .txt, .parquet), and {path} is none"
        )
    run = _opened(path)
    run.kind.action("calibrate", _calibrate_run)(run, guarantee, rule, options, execution)


def _calibrate_run(
    run: RunFolder, guarantee: Guarantee, rule: Rule, options: _Options, execution: Execution
) -> None:
    """Calibrate the exits of a run on recorded outputs, and keep its policy, or policies."""
    from exeunt.rules.by_name import policy_set, rule_for
    from exeunt.rules.cheapest import cheapest

    delta = guarantee.checked_delta(certifies=rule.calibration != "marginal")
    rule.check(certified=delta is not None and (guarantee.budget, guarantee.budgets) != (None, None))
    amounts = guarantee.amounts
    promises = guarantee.promises
    in_time = is_of_time(options.of, amounts if guarantee.tail is None else [*amounts, guarantee.tail[0]])
    if options.traces is not None and guarantee.of_answers and guarantee.agree is None:
        raise InputError(f"{guarantee.of_answers} is tested on labelled inputs in memory: leave out --traces")
    if guarantee.per != Guarantee.per:
        raise InputError("--per is about the tokens of a language model that generates: leave it out")
    make = rule.made(live=run.kind.is_paid)
    answer = (
        {"answer": rule.answer or "auto"} if rule.answer or (run.cascade and rule.policy != "router") else {}
    )
    if run.runs_whole:
        _refuse_whole(run, amounts)
    fit, held_out = _inputs(run, guarantee, options.traces)
    if warning := run.worse_last_exit("fit"):
        echo(f"WARNING: {warning}\n")
    costs, reference = run.cost, _reference(run, guarantee)
    if in_time:
        seeded, how = partial(make, seed=options.seed, **answer), {"seed": options.seed, **vars(execution)}
        timed = _timed(run, seeded, amounts or [_TYPICAL_BUDGET], options.batch_size, **how)
        fit, held_out = timed.trace(fit), timed.trace(held_out)
        costs, make = timed.cost, timed.rule(make)
        reference = (
            (timed.steps[-1].model or None) if timed.steps else None
        )  # the model of the last exit that is run
    for amount in amounts:
        _check_budget(costs, str(amount))
    common: dict[str, Any] = {"delta": delta, "seed": options.seed, **answer}
    if guarantee.budgets is not None:
        policies = policy_set(
            fit, held_out, policy=make, budgets=amounts, jointly=guarantee.jointly, **common
        )
        removed = run.save_policy_set(policies)
        echo("\n".join([str(run.policy_set), *_coinciding(policies, amounts), run.active_text]))
    elif guarantee.of_answers:
        with Progress("policies made") as bar:
            policy = cheapest(
                fit,
                held_out,
                **promises,
                budget=guarantee.budget,
                policy=make,
                reference=reference,
                progress=bar.report,
                **common,
            )
        removed = run.save_policy(policy)
        saved = 1 - policy.cost.share(policy.expected_cost)
        echo(f"{run.policy}\nexpected to save {saved:.1%} of {policy.cost.whole}")
    else:
        policy = rule_for(fit, make)(fit, held_out, budget=amounts[0], **common)
        removed = run.save_policy(policy)
        echo(run.policy)
    if removed:
        echo(f"\nremoved, because they come from an earlier calibration: {listed(removed, 3)}")
    echo(f"\nwritten to {run.path}; next: exeunt evaluate {quote(str(run.path))}")


def _run_of_table(path: Path, tables: Tables, guarantee: Guarantee, options: _Options) -> Path:
    """Write the run of the models that answered a table, and return its folder."""
    from exeunt.live.live_run import make_log_run
    from exeunt.trace.derived import alike_neighbours
    from exeunt.trace.table_columns import read_table

    if (out := options.out) is None:
        raise InputError(f"{path} is a table: name the folder of the run that it becomes with --out")
    # What is wrong is told before anything is written.
    guarantee.checked_delta(certifies=True)
    _ = guarantee.promises, guarantee.amounts
    checked_ungraded(options.ungraded)
    if tables.cost is not None:
        raise InputError(
            "--cost is of the exits of one network, whose runs `exeunt train` makes: `exeunt compare` and Python "
            "(ExitTrace.from_table) make policies of such a table. Models have a --price each"
        )
    table = read_table(path, **tables.format)
    if guarantee.agree is not None and tables.loss is None:
        tables = replace(tables, label="")
    opened = open_models(
        table, path.name, tables, echo, ungraded=options.ungraded, reference=guarantee.reference
    )
    if remark := alike_neighbours(opened.trace[opened.trace.names[0]]):
        echo(f"warning: {remark}")
    make_log_run(
        out,
        opened.trace,
        name=path.name,
        classes=opened.classes,
        assumption=opened.assumption,
        worst_against=opened.worst_against,
        say=echo,
    )
    return out


def _opened(path: Path) -> RunFolder:
    """Open a run that can be written. Raises ArtefactError if a model of a cascade was made anew since the cascade.

    Raises InputError for a path that names a policy.
    """
    from exeunt._support.files import check_writable
    from exeunt.runs.folder import RunFolder

    run = RunFolder.open(path)
    if run.budget is not None:
        raise InputError(f"{path} is one policy of a run, and calibrate makes all anew: give {run.path}")
    check_writable(run.path, f"cannot calibrate {path}")
    for entry in run.cascade:
        with suppress(InputError):  # a model that is not there is needed only to answer
            run.open_model(entry.name)
    return run


def _stored(folder: str, run: RunFolder) -> StoredTrace:
    """Open the outputs recorded in a folder; reading them tells how far it is."""
    from exeunt._support.paths import place
    from exeunt.jobs.parts import check_complete
    from exeunt.trace import StoredTrace

    check_complete(place(folder), run)
    return StoredTrace.open(folder, models=[entry.step for entry in run.cascade], say=partial(echo, err=True))


def _inputs(run: RunFolder, guarantee: Guarantee, traces: str | None) -> tuple[Any, Any]:
    """Return the inputs to fit and to calibrate on, measured by agreement if that is to be certified."""
    from exeunt.trace import concatenate
    from exeunt.trace.cascade_trace import agreeing

    held_out: Any = run.recorded("calibrate") if traces is None else _stored(traces, run)
    if guarantee.agree is None:
        return run.recorded("fit"), held_out
    if guarantee.reference is not None and not run.cascade:
        raise InputError(
            f"{run.path} is one network, which agrees with its last exit: leave out --reference "
            f"{guarantee.reference}, which names a model of a cascade"
        )
    if traces is not None:
        if run.cascade:
            raise InputError(
                "--agree of a cascade is tested on its own calibration inputs: leave out --traces"
            )
        held_out = concatenate(list(held_out.chunks()))
    return agreeing(run.recorded("fit"), guarantee.reference), agreeing(held_out, guarantee.reference)


def _reference(run: RunFolder, guarantee: Guarantee) -> str | None:
    """Return the model that a loss is measured against; None for the usual one, and where agreement names it."""
    stated, worst_against = guarantee.reference, run.manifest["data"].get("worst_against")
    if guarantee.agree is not None or not guarantee.of_answers:
        return None
    if stated is not None and not run.cascade:
        raise InputError(
            f"{run.path} is one network, which loses against its last exit: leave out --reference"
        )
    if worst_against is not None and stated not in (None, worst_against):
        raise InputError(
            f"the missing grades of {run.path} are the worst there can be against {worst_against}, not against "
            f"{stated}: calibrate the table again with --reference {stated}"
        )
    return stated or worst_against


def _coinciding(policies: PolicySet, budgets: Sequence[str | float]) -> list[str]:
    """Return a sentence for each policy that also serves larger budgets, and one for budgets that were left out."""
    cost = policies.policies[0].cost  # of a cascade, perhaps a shorter one than those of larger budgets
    served: dict[float, list[str]] = {policy.budget: [] for policy in policies}
    left_out = []
    for amount, budget in sorted((cost.amount(budget), str(budget)) for budget in budgets):
        if amount < policies.policies[0].budget:
            left_out.append(budget)
        elif amount not in served:
            served[policies.at(amount).budget].append(budget)
    left = [f"left out, since no policy can keep so little: {', '.join(left_out)}"] if left_out else []
    return [
        f"the policy for {cost.show(budget)} also serves {', '.join(others)}: a larger budget would not be used"
        for budget, others in served.items()
        if others
    ] + left


def _timed(
    run: RunFolder, make: Callable[..., Policy], budgets: Sequence[str | float], batch: int, **how: Any
) -> TimedExits:
    """Time the run at a batch size and return the exits that pay for their time under these budgets.

    `how`: seed, and the options of `Execution`.
    """
    from exeunt.jobs.timed_run import TimedNetwork, choose_by_time

    say = partial(echo, err=True)
    length = run.manifest["inputs"].get("length")
    texts = "" if length is None else f", texts of {length} tokens"
    wanted = f"{'a budget' if len(budgets) == 1 else 'budgets'} of {', '.join(map(str, budgets))}"
    say(f"at batch {batch}{texts}, exits for {wanted}:")
    inputs = TimedNetwork.of(run, how["executor"], how["trusted"]).batch(batch)
    timed = choose_by_time(run, make, budgets, inputs, say=say, **how)
    say(timed.cost.source)
    return timed


def _refuse_whole(run: RunFolder, budgets: Sequence[str | float]) -> None:
    """Raise InfeasibleBudget for a budget or a loss that asks a network which cannot be cut to save something."""
    costs = run.cost
    with suppress(InfeasibleBudget, UnitError):
        for budget in budgets:
            costs.budget(str(budget))
        if budgets:
            return
    raise InfeasibleBudget(
        f"the network of {run.path} runs whole: every input costs {costs.show(costs.full)}, wherever it answers, so "
        f"no smaller budget can be kept. {run.runs_whole}. Then run its `exeunt train` command again: it keeps the "
        "training and counts the costs anew",
        smallest_budget=costs.first,
    )


def _check_budget(costs: CostModel, budget: str) -> None:
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
    if costs.full <= costs.amount(budget) <= costs.highest:  # of more than that, `CostModel.budget` warns
        echo(
            f"note: a budget of {budget} is all that the full network costs, or more: the policy gets "
            f"{costs.show(costs.full)} and saves nothing",
            err=True,
        )
