"""`exeunt compare TRACE... --out report.html`: every policy on the same recorded outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt._progress import Progress
from exeunt.cli.arguments import Cluster, Seed, delta_or_none, this_command
from exeunt.cli.compared_traces import Tables, open_traces
from exeunt.cli.failures import interruptible
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.comparison import Comparison
    from exeunt.comparison.compare import Measure

_CACHE = ".exeunt-cache"


def compare(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE",
            help="Run folders, traces (.parquet), archives (.npz with logits, labels, macs), or tables (.csv, "
            ".parquet) whose columns the options below name.",
        ),
    ],
    tables: Tables,
    cluster: Cluster,
    budgets: Annotated[
        str,
        typer.Option(
            help="Budgets as shares of the full cost, or of the most expensive model: a range first:last:step, or a "
            "list such as 30%,50% or '2 usd per 10k'."
        ),
    ] = "20%:95%:5%",
    splits: Annotated[
        int, typer.Option(help="Number of random splits into fit, calibrate and test.", min=1, max=10_000)
    ] = 50,
    policies: Annotated[
        str | None,
        typer.Option(
            help="Policies separated by commas, the reference first. Default: all, with eero as the reference."
        ),
    ] = None,
    delta: Annotated[
        str,
        typer.Option(
            help="Probability of overspending for which every policy is certified; 'none' keeps budgets on average."
        ),
    ] = "none",
    out: Annotated[
        Path | None, typer.Option(help="File to write: a report (.html) or the numbers (.json).")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File for the numbers (.json), as well as --out.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes to compute with; 0 for none besides this one. Default: one per core.", min=0
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help=f"Folder that keeps the result of each split. Default: {_CACHE} beside --out."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Compare policies on recorded outputs: accuracy, spend, intervals, the oracle and time to fit, in one report.

    If interrupted, the same command resumes.
    """
    import exeunt as ex

    _check_outputs(out, json)
    if cluster.is_ray and workers is not None:
        raise InputError("--engine ray takes all cores of the cluster: leave out --workers")
    found = open_traces(traces, tables, say=typer.echo)
    kept = cache or (out or json or Path(_CACHE)).parent / _CACHE
    told = f"the splits that were finished are kept in {kept} (--cache): the same command goes on"
    with interruptible(lambda: told), _measuring(cluster) as measure, Progress("splits") as bar:
        comparison = ex.compare(
            found,
            budgets=budgets,
            policies=None if policies is None else [name.strip() for name in policies.split(",")],
            splits=splits,
            seed=seed,
            delta=delta_or_none(delta),
            workers=workers,
            cache=kept,
            progress=bar.report,
            measure=measure,
        )
    _write(replace(comparison, command=this_command()), out, json)


@contextmanager
def _measuring(cluster: Cluster) -> Iterator[Measure | None]:
    """Yield what measures splits on a cluster; None where processes of this machine do."""
    if not cluster.is_ray:
        yield None
        return
    from exeunt.cluster.jobs import measuring_on_cluster

    with measuring_on_cluster(cluster.address) as measure:
        yield measure


def _check_outputs(out: Path | None, json: Path | None) -> None:
    """Raise InputError, before hours of work, for files that cannot be written."""
    if out is not None and out.suffix not in (".html", ".json"):
        raise InputError(f"--out must end in .html or .json, got {out}")
    if json is not None and json.suffix != ".json":
        raise InputError(f"--json must end in .json, got {json}")
    for path in (out, json):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {path.parent} does not exist, create it first")


def _write(comparison: Comparison, out: Path | None, json: Path | None) -> None:
    for path in {path for path in (out, json) if path is not None}:
        if path.suffix == ".html":
            comparison.report(path)
        else:
            comparison.save(path)
    typer.echo(comparison)
    typer.echo()
    for sentence in comparison.summary():
        typer.echo(sentence)
    for path in dict.fromkeys(path for path in (out, json) if path is not None):
        typer.echo(f"written to {path}")
