"""Tables of other origin, opened: the exits of a network, or models that answered the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from exeunt._support.text import counted, listed
from exeunt.cli.guessed_columns import guessed
from exeunt.cli.options import changed, column_names, numbers
from exeunt.cli.tables import Tables
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.trace import CascadeTrace, ExitTrace
    from exeunt.trace.table_columns import TableColumns


def open_traces(
    paths: Sequence[Path], tables: Tables, *, agreement: bool = False, say: Callable[[str], None]
) -> dict[str, Path | ExitTrace | CascadeTrace]:
    """Return what to compare on, by name: tables as traces or as models, other paths unchanged.

    Paths with the same file name are named by their whole path. With `agreement`, tables need no labels. Raises
    InputError for a table whose columns are not named, or options of tables without a table.
    """
    from exeunt.trace.table_columns import read_table

    are_tables = [is_table(path) for path in paths]
    if (options := changed(tables)) and not any(are_tables):
        raise InputError(
            f"{options}: such options are about tables (.csv, .tsv, .txt, .parquet), and there is none among "
            f"{', '.join(map(str, paths))}"
        )
    if agreement and tables.loss is None:
        tables = replace(tables, label="")
    opened: dict[str, Path | ExitTrace | CascadeTrace] = {}
    for name, path, from_table in zip(_names(paths), paths, are_tables, strict=True):
        if not from_table:
            opened[name] = path
            continue
        table = read_table(path, **tables.format)
        of_exits = tables.cost is not None
        opened[name] = (
            _trace(table, name, tables, say) if of_exits else open_models(table, name, tables, say).trace
        )
    return opened


def is_table(path: Path) -> bool:
    """Return whether a path is a table of other origin, and no run and no trace."""
    from exeunt.trace.parquet import is_trace_file

    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return path.is_file() and not is_trace_file(path)
    return suffix in (".csv", ".tsv", ".txt")


def _names(paths: Sequence[Path]) -> list[str]:
    names = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def _trace(table: Any, name: str, options: Tables, say: Callable[[str], None]) -> ExitTrace:
    """Make the trace of a table and print its costs and how good its exits are, so that a wrong order shows at once."""
    from exeunt.trace import ExitTrace
    from exeunt.trace.derived import inverted_exits
    from exeunt.trace.grades import how_good

    if options.models or options.price or options.highest or options.features:
        raise InputError("--cost is of the exits of one network: models have a --price each")
    if options.price_per != 1 or options.features_price:
        raise InputError(
            "--price-per and --features-price are about models, which have a --price each, not a --cost"
        )
    if not (options.loss or (options.confidence and options.prediction)):
        raise InputError(
            f"{name} is a table: name its columns with --confidence 'conf_{{}}' --prediction 'pred_{{}}' --label "
            "NAME (or --loss 'loss_{}')"
        )
    trace = ExitTrace.from_table(
        table,
        **options.columns(table),
        cost=numbers(options.cost, "--cost must be numbers such as 1,4,13"),
        cost_is=options.cost_is,  # type: ignore[arg-type]  # checked there
        unit=options.unit or "MACs",
    )
    trace = trace if trace.has_loss else trace.with_reference()
    size, unit = trace.cost.scale
    costs = ", ".join(f"{cost / size:.4g}" for cost in trace.cost.cumulative)
    first, *others = 1 - trace.risk
    good = how_good(trace.measure, several=True).format(first)
    say(
        f"{name}: {counted(trace.n, 'input')}, {counted(trace.n_exits, 'exit')} that cost {costs} "
        f"{unit} up to each, and {', '.join([good, *(f'{share:.1%}' for share in others)])}"
    )
    _check_grades(options, "exit 0", trace.risk[0], f"exit {trace.n_exits - 1}", trace.risk[-1])
    for exit_ in inverted_exits(trace, "confidence"):
        say(
            f"note: the confidence of exit {exit_} (0 = first) is lower for good answers than for bad ones: if it is "
            "an uncertainty, such as an entropy, give its negative"
        )
    return trace


class OpenedModels(NamedTuple):
    """The models of a table, of which `table` has the rows that are used.

    `classes`: in the order of their numbers; none of graded answers. `assumption`: what certificates assume of rows
    that were left out for want of a grade, "" for nothing. `worst_against`: the model against which missing grades
    were replaced by the worst there can be, or None.
    """

    trace: CascadeTrace
    classes: list[str]
    table: Any
    assumption: str = ""
    worst_against: str | None = None


def open_models(
    table: Any,
    name: str,
    options: Tables,
    say: Callable[[str], None],
    *,
    ungraded: str | None = "drop",
    reference: str | None = None,
) -> OpenedModels:
    """Make the trace of several models of a table, and print what each model costs and how often it is right.

    `ungraded`: what becomes of rows without a grade or label, "drop", "worst", or None to refuse them; `reference`: the
    model that losses are measured against, by default the most expensive one.
    """
    from exeunt.trace import CascadeTrace
    from exeunt.trace.grades import how_good
    from exeunt.trace.table_columns import check_columns, class_names, of_models

    if options.cost is not None:
        raise InputError("--cost is of the exits of one network: models have a --price each")
    if options.features_price and not options.features:
        raise InputError("--features-price is what --features cost: name their columns")
    options = guessed(options, table.column_names, say)
    if options.cost_is != "cumulative":
        raise InputError("--cost-is is about --cost, of the exits of one network: models have a --price each")
    price, highest = options.prices
    columns = options.columns(table)
    by_model = of_models(columns, [*price])
    others = [*(by_model.get("prediction") or ()), *(by_model.get("loss") or ())]
    check_columns(table, [*others, *sorted({column for column in price.values() if isinstance(column, str)})])
    table = _with_confidences(table, by_model.get("confidence") or (), say)
    classes = [] if options.loss else class_names(table, by_model)
    columns["classes"] = classes or None
    table, assumption, worst_against = _with_grades(table, by_model, price, ungraded, reference, say)
    try:
        models = CascadeTrace.from_table(
            table,
            **columns,
            price=price,
            highest=highest,
            features=column_names(options.features),
            features_price=options.features_price,
            price_per=options.price_per,
            unit=options.unit or "usd",
        )
    except InputError as error:
        if not assumption:
            raise
        raise InputError(f"{error} (rows count without those left out)") from None
    models = models if models.has_loss else models.with_reference()
    good = how_good(models.measure)
    shown = ", ".join(
        f"{name} at {models[name].cost.show(models[name].cost.full)} {good.format(1 - models[name].risk[0])}"
        for name in price
    )
    say(f"{name}: {counted(models.n, 'input')}; {shown}")
    by_cost = sorted(price, key=lambda name: models[name].cost.full)
    cheap, dear = by_cost[0], by_cost[-1]
    _check_grades(options, cheap, models[cheap].risk[0], dear, models[dear].risk[0])
    return OpenedModels(models, classes, table, assumption, worst_against)


def _with_confidences(table: Any, columns: Sequence[str], say: Callable[[str], None]) -> Any:
    """Return the table with a confidence of 0 throughout for models that have none, if others have one.

    Such models are often the last ones asked, whose confidence decides nothing.
    """
    missing = [name for name in columns if name not in table.column_names]
    if not missing or len(missing) == len(columns):
        return table
    say(f"there is no {listed(missing, 3)}: a constant confidence of 0 takes its place")
    for name in dict.fromkeys(missing):
        table = table.append_column(name, [[0.0] * table.num_rows])
    return table


def _with_grades(
    table: Any,
    columns: TableColumns,
    price: Mapping[str, float | str],
    ungraded: str | None,
    reference: str | None,
    say: Callable[[str], None],
) -> tuple[Any, str, str | None]:
    """Return the table with a grade for each answer, or a label in each row, and two fields of `OpenedModels`.

    `columns`: by model, see `of_models`. The others are as for `open_models`.
    """
    import numpy as np

    from exeunt.trace.table_columns import read_prices
    from exeunt.trace.ungraded import difference, ungraded_rows, worst_grades

    losses, label = columns.get("loss"), columns.get("label")
    if (label is None and losses is None) or (losses is not None and columns.get("empty_is_no_answer")):
        return table, "", None
    rows = ungraded_rows(table, [label] if label is not None else [*losses])  # type: ignore[misc]
    if not rows.any():
        return table, "", None
    why = "there is no label" if label is not None else "an answer has no grade"
    which = f"{int(rows.sum()):,} of {counted(len(rows), 'row')}"
    first = f"the first is row {int(rows.argmax())}, rows count from 0"
    if ungraded == "drop":
        prices = [column for column in price.values() if isinstance(column, str)]
        apart = difference(table, rows, [*(columns.get("confidence") or ()), *prices])
        say(f"left out: {which}, because {why} ({first}); {apart}")
        return (
            table.filter(~rows),
            f"the {which} that were left out, because {why}, are like the others",
            None,
        )
    if ungraded is None:
        worst = (
            ""
            if losses is None
            else ", or --ungraded worst, which counts missing grades as the worst there can be"
        )
        raise InputError(
            f"in {which} {why} ({first}): add --ungraded drop, which leaves them out and assumes that they are like "
            f"the others{worst}"
        )
    if losses is None:
        raise InputError(
            "--ungraded worst is of graded answers: leave out rows without a label, with --ungraded drop"
        )
    against = reference or max(price, key=lambda model: np.mean(read_prices(table, price[model])))
    say(f"in {which} {why} ({first}): it counts as the worst there can be against {against}")
    by_model = dict(zip(price, losses, strict=True))
    return (
        worst_grades(table, by_model, better=columns.get("better", "lower"), reference=against),
        "",
        against,
    )


def _check_grades(options: Tables, cheap: str, loss: float, dear: str, dear_loss: float) -> None:
    """Raise InputError where losses look like grades: the dearest answers have more of them than the cheapest."""
    if options.loss is not None and options.better is None and dear_loss > loss:
        raise InputError(
            f"{dear} costs more than {cheap} and its mean --loss is higher, {dear_loss:.3f} beside {loss:.3f}: if "
            "these are grades, add --better higher; if they are losses, say so with --better lower"
        )
