"""`exeunt compare TRACE... --out report.html`: every policy on the same recorded outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt._text import counted
from exeunt.cli.arguments import ClusterAddress, EngineName, Seed, delta_or_none, of_cluster, this_command
from exeunt.cli.failures import interruptible
from exeunt.cli.tables import TableOptions, open_traces
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.comparison import Comparison
    from exeunt.comparison.compare import Measure

_CACHE = ".exeunt-cache"

_TABLES = "Tables: what their columns mean"  # a group of `--help`


def compare(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE",
            help="Run folders, traces (.parquet), archives (.npz with logits, labels, macs), or tables (.csv, "
            ".parquet) whose columns the options below name.",
            show_default=False,
        ),
    ],
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
            help="Policies separated by commas, the reference first. Default: all, with eero as the reference.",
            show_default=False,
        ),
    ] = None,
    delta: Annotated[
        str,
        typer.Option(
            help="Probability of overspending for which every policy is certified; 'none' keeps budgets on average."
        ),
    ] = "none",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write: a report (.html) or the numbers (.json).", show_default=False),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="File for the numbers (.json), as well as --out.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes to compute with; 0 for none besides this one. Default: one per core.",
            min=0,
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder that keeps the result of each split. Default: {_CACHE} beside --out.",
            show_default=False,
        ),
    ] = None,
    confidence: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TABLES,
            help="The confidence columns, as 'conf_{}' or a list.",
            show_default=False,
        ),
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TABLES,
            help="The prediction columns, as 'pred_{}' or a list.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(rich_help_panel=_TABLES, help="The column of true classes.")
    ] = "label",
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            rich_help_panel=_TABLES,
            help="A column that identifies inputs. Default: none.",
            show_default=False,
        ),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TABLES, help="The cost of each exit, such as 1,4,13.", show_default=False
        ),
    ] = None,
    cost_is: Annotated[
        str,
        typer.Option(
            rich_help_panel=_TABLES,
            help="Cumulative (cost up to each exit), or per-call (price of each model; they add up).",
        ),
    ] = "cumulative",
    unit: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TABLES,
            help="The unit of the costs. Default: MACs, and usd of prices.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_TABLES,
            help="A classifier that cascades may ask, once for each: its columns are those of --prediction and "
            "--confidence with the name for {} (default: prediction_{}, confidence_{}).",
            show_default=False,
        ),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_TABLES,
            help="What each model costs, in the same order: a number, or the column that says it for each input and "
            "the most that it can be, such as cost_b:300.",
            show_default=False,
        ),
    ] = None,
    price_per: Annotated[
        float, typer.Option(rich_help_panel=_TABLES, help="Prices are of so many answers.")
    ] = 1.0,
    seed: Seed = 0,
    engine: EngineName = "local",
    address: ClusterAddress = None,
) -> None:
    """Compare policies on recorded outputs: accuracy, spend, intervals, the oracle and time to fit, in one report.

    If interrupted, the same command resumes.
    """
    import exeunt as ex

    _check_outputs(out, json)
    of_cluster(engine, address=address)
    if engine == "ray" and workers is not None:
        raise InputError("--engine ray takes all cores of the cluster: leave out --workers")
    tables = TableOptions(
        confidence,
        prediction,
        label,
        id_,
        cost,
        cost_is,
        unit,
        tuple(model or ()),
        tuple(price or ()),
        price_per,
    )
    found = open_traces(traces, tables, say=typer.echo)
    kept = cache or (out or json or Path(_CACHE)).parent / _CACHE
    told = f"the splits that were finished are kept in {kept} (--cache): the same command goes on"
    with interruptible(lambda: told), _measuring(engine, address) as measure, _bar() as progress:
        comparison = ex.compare(
            found,
            budgets=budgets,
            policies=None if policies is None else [name.strip() for name in policies.split(",")],
            splits=splits,
            seed=seed,
            delta=delta_or_none(delta),
            workers=workers,
            cache=kept,
            progress=progress,
            measure=measure,
        )
    _write(replace(comparison, command=this_command()), out, json)


@contextmanager
def _measuring(engine: str, address: str | None) -> Iterator[Measure | None]:
    """Yield what measures splits on a cluster; None where processes of this machine do."""
    if engine == "local":
        yield None
        return
    from exeunt.cluster.comparison import measuring

    with measuring(address) as measure:
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


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many splits are done: a bar with the time left, or lines if not on a terminal."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("splits"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("splits", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _lines() -> Callable[[int, int], None]:
    """Return a function that prints a line for every tenth of the work."""
    printed: set[int] = set()

    def show(done: int, total: int) -> None:
        tenth = 10 * done // total
        if tenth not in printed:
            printed.add(tenth)
            typer.echo(f"{done} of {counted(total, 'split')}", err=True)

    return show
