"""`exeunt compare TRACE... --out report.html`: policies on the same recorded outputs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exeunt._support.progress import Progress
from exeunt._support.text import echo
from exeunt.cli.opened_tables import open_traces
from exeunt.cli.options import (
    Cluster,
    delta_or_none,
    interruptible,
    option,
    seed_option,
    this_command,
    with_groups,
)
from exeunt.cli.tables import Tables
from exeunt.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from exeunt.evaluation.compare import Measure
    from exeunt.evaluation.report import DrawnWatch
    from exeunt.runs.folder import RunFolder

_CACHE = ".exeunt-cache"


@dataclass(frozen=True, kw_only=True)
class _Options:
    budgets: str = option(
        "Budgets as shares of the full cost, or of the most expensive model: a range first:last:step, or a list such "
        "as 30%,50% or '2 usd per 10k'.",
        default="20%:95%:5%",
    )
    splits: int | None = option(
        "Random splits into fit, calibrate and test; by default 50, of more than 3,000 inputs fewer, at least 10.",
        min=1,
        max=10_000,
    )
    policies: str | None = option(
        "Policies separated by commas, the reference first; of models also router and cascade_router. Default: all, "
        "with eero as the reference."
    )
    delta: str = option(
        "Largest probability with which a policy may break its budget; 'none' keeps budgets on average.",
        default="none",
    )
    agreement: bool = option(
        "Measure answers by their agreement with the full network, of a cascade with the most expensive model, also "
        "where there are labels.",
        default=False,
    )
    all: bool = option(
        "Print every policy, with intervals over the splits, not only the best one of each budget.",
        default=False,
    )
    out: Path | None = option("File to write: a report (.html) or the numbers (.json).")
    workers: int | None = option(
        "Processes to compute with; 0 for none besides this one. Default: one per core.", min=0
    )
    cache: Path | None = option(f"Folder for the result of each split. Default: {_CACHE} beside --out.")
    seed: int = seed_option()


@with_groups
def compare(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE",
            help="Run folders, traces (.parquet), archives (.npz with logits, labels, macs), or tables (.csv, "
            ".parquet) whose columns the options below name.",
        ),
    ],
    options: _Options,
    tables: Tables,
    cluster: Cluster,
) -> None:
    """Compare policies on recorded outputs: accuracy, mean cost, intervals, the oracle and time to fit, in one report.

    If interrupted, the same command resumes.
    """
    import exeunt as ex

    out, policies = options.out, options.policies
    _check_out(out)
    if cluster.is_ray and options.workers is not None:
        raise InputError("--engine ray takes all cores of the cluster: leave out --workers")
    opened = open_traces(traces, tables, agreement=options.agreement, say=echo)
    cache = options.cache or (out or Path(_CACHE)).parent / _CACHE
    progress_kept = f"the splits that were finished are kept in {cache} (--cache): the same command goes on"
    with interruptible(lambda: progress_kept), _measuring(cluster) as measure, Progress("splits") as bar:
        comparison = ex.compare(
            opened,
            agreement=options.agreement,
            budgets=options.budgets,
            splits=options.splits,
            seed=options.seed,
            policies=None if policies is None else [name.strip() for name in policies.split(",")],
            delta=delta_or_none(options.delta),
            workers=options.workers,
            cache=cache,
            progress=bar.report,
            measure=measure,
        )
    comparison = replace(comparison, command=this_command())
    for name, path in opened.items():
        if (run := _run_at(path)) is not None and run.assumption:
            echo(f"{name}: what holds here assumes that {run.assumption}")
    if out is not None:
        if out.suffix == ".html":
            comparison.report(out, watches=_watches(opened, options.seed))
        else:
            comparison.save(out)
    written = [] if out is None else [f"written to {out}"]
    if options.all:
        lines = [f"{comparison}\n", *comparison.summary()]
    else:
        lines = [comparison.by_budget(), "all policies, with intervals: --all, or --out report.html"]
    echo("\n".join([*lines, *written]))


def _run_at(path: Any) -> RunFolder | None:
    """Return the run that is compared; None for a trace."""
    from exeunt.runs.folder import RunFolder

    return RunFolder.open(path) if isinstance(path, Path) and RunFolder.exists(path) else None


def _watches(traces: Mapping[str, Any], seed: int) -> dict[str, DrawnWatch]:
    """Return what the watches of runs find in their test parts, by name, where a policy can be watched."""
    from exeunt.evaluation.figures import draw_watch, svg_of
    from exeunt.evaluation.report import DrawnWatch
    from exeunt.jobs.watching import watched_text
    from exeunt.watch import Watch

    drawn: dict[str, DrawnWatch] = {}
    for name, path in traces.items():
        run = _run_at(path)
        if run is None or not run.has_policy or run.policy.watched is None:
            continue
        watch = Watch(run.policy)
        watch.replay(run.replayed(run.policy, "test"), seed=seed)
        text = watched_text(watch, 0).replace("\n", ": ")
        try:
            drawn[name] = DrawnWatch(text, svg_of(draw_watch(watch, width_in=5.2)))
        except MissingExtra as error:
            echo(f"the report does not draw the watches of runs: {error}")
            break
    return drawn


def _measuring(cluster: Cluster) -> AbstractContextManager[Measure | None]:
    """Return a context with the function that measures splits on a cluster; None for processes of this machine."""
    if not cluster.is_ray:
        return nullcontext()
    from exeunt.jobs.cluster.jobs import measuring_on_cluster

    return measuring_on_cluster(cluster.address)


def _check_out(out: Path | None) -> None:
    """Raise InputError, before hours of work, for a file that cannot be written."""
    if out is not None and out.suffix not in (".html", ".json"):
        raise InputError(f"--out must end in .html or .json, got {out}")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"cannot write {out}: the folder {out.parent} does not exist, create it first")
