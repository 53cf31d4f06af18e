"""The inputs of `exeunt compare`: tables of other origin, whose columns its options name, and all other paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exeunt._support.text import counted
from exeunt.cli.options import changed, column_names, numbers, options_under
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.trace import CascadeTrace, ExitTrace

_column, _group = options_under("Tables: what their columns mean"), options_under("Tables: groups of inputs")
_features = options_under("Tables: features of inputs")
_graded, _csv = options_under("Tables: graded answers"), options_under("Tables: CSV files")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """How tables are read."""

    confidence: str | None = _column("The confidence columns, as 'conf_{}' or a list.")
    prediction: str | None = _column("The prediction columns, as 'pred_{}' or a list.")
    label: str = _column("The column of true classes.", default="label")
    id: str | None = _column(
        "A column that identifies inputs: texts or numbers, equal for copies of one. Default: none."
    )
    group_column: str | None = _group(
        "The column of groups, such as documents, videos or users, whose inputs are alike. Parts, certificates and "
        "intervals then count groups. Default: none."
    )
    rows_per_group: int = _group(
        "Means are over inputs, and those of groups of more than N weigh N/size; with 1, means are over groups.",
        default=1,
        min=1,
    )
    cost: str | None = _column("The cost of each exit, such as 1,4,13.")
    cost_is: str = _column(
        "Cumulative (cost up to each exit), or per-call (price of each model; prices add up).",
        default="cumulative",
    )
    unit: str | None = _column("The unit of the costs. Default: MACs, and usd of prices.")
    models: str | None = _column(
        "The models that cascades may ask, such as mini,mid,big, or a YAML file that names them and their prices. "
        "Their columns are those of --prediction and --confidence with the name for {} (default: prediction_{}, "
        "confidence_{})."
    )
    price: str | None = _column(
        "What each model costs, in the same order, such as 0.2,1,8: a number, or the column of prices and the highest "
        "price there can be, such as cost_b:300."
    )
    price_per: float = _column("How many answers a price is for, such as 1000.", default=1.0)
    features: str | None = _features(
        "Columns of numbers, or of lists of numbers such as embeddings, that routers look at, separated by commas."
    )
    features_price: float = _features(
        "What the features of an input cost, such as 0.01, per --price-per.", default=0.0, min=0.0
    )
    loss: str | None = _graded(
        "The columns of the loss in [0, 1] of each answer, as 'loss_{}' or a list, in place of --label. --prediction "
        "and --confidence may then be left out."
    )
    better: str = _graded("Whether lower or higher values of --loss are better.", default="lower")
    measure: str = _graded("What the report calls them, such as IoU.", default="quality")
    empty_is_no_answer: bool = _graded(
        "A model whose cell is empty gave no answer: its loss is 1, and it is paid.", default=False
    )
    delimiter: str | None = _csv("The mark between columns. Default: told by the first lines.")
    encoding: str | None = _csv("The encoding, such as cp1252. Default: UTF-8 or UTF-16, by the first bytes.")
    decimal: str | None = _csv("The decimal point, such as ','. Default: told by the first lines.")

    def columns(self, table: Any) -> dict[str, Any]:
        """Return the columns of answers, but for confidences and predictions, as `from_table` takes them."""
        if self.loss is not None and self.label != "label":
            raise InputError(
                "--label is of answers that are right or wrong, --loss of graded ones: give one of them"
            )
        if self.loss is None and (self.better, self.measure) != ("lower", "quality"):
            raise InputError("--better and --measure are about --loss: name the columns of losses")
        if self.loss is None and self.label and self.label not in table.column_names:
            raise InputError(
                f"the table has no column {self.label}: name the column of true classes with --label, or of graded "
                "answers the columns of losses with --loss; without either add --agreement. It has "
                f"{', '.join(table.column_names)}"
            )
        graded = {"loss": self.loss, "better": self.better, "measure": self.measure}
        return {
            **({"label": self.label or None} if self.loss is None else graded),
            "empty_is_no_answer": self.empty_is_no_answer,
            "id": self.id,
            "groups": self.group_column,
            "rows_per_group": self.rows_per_group,
        }

    @property
    def format(self) -> dict[str, str | None]:
        """How CSV files are written."""
        return {name: getattr(self, name) for name in ("delimiter", "encoding", "decimal")}


def open_traces(
    paths: Sequence[Path], tables: Tables, *, agreement: bool = False, say: Callable[[str], None]
) -> dict[str, Path | ExitTrace | CascadeTrace]:
    """Return what to compare on, by name: tables as traces or as models, other paths unchanged.

    Paths with the same file name are named by their whole path. With `agreement`, tables need no labels. Raises
    InputError for a table whose columns are not named, or options of tables without a table.
    """
    from exeunt.trace.table_columns import read_table

    are_tables = [_is_table(path) for path in paths]
    if (options := changed(tables)) and not any(are_tables):
        raise InputError(
            f"{options}: such options are about tables (.csv, .tsv, .txt, .parquet), and there is none among "
            f"{', '.join(map(str, paths))}"
        )
    if tables.price_per != 1 and not (tables.price or tables.models):
        raise InputError("--price-per is about --price: give --models and the --price of each")
    if (tables.features_price and tables.features is None) or (tables.features and not tables.models):
        raise InputError(
            "--features are what routers look at to choose among models: give --models and --price, and with "
            "--features-price the columns"
        )
    if tables.rows_per_group != 1 and tables.group_column is None:
        raise InputError("--rows-per-group is about groups: name their column with --group-column")
    if agreement and tables.loss is None:
        tables = replace(tables, label="")
    opened: dict[str, Path | ExitTrace | CascadeTrace] = {}
    for name, path, is_table in zip(_names(paths), paths, are_tables, strict=True):
        read = _models if tables.models or tables.price else _trace
        opened[name] = read(read_table(path, **tables.format), name, tables, say) if is_table else path
    return opened


def _is_table(path: Path) -> bool:
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

    named = options.loss or (options.confidence and options.prediction)
    if not named or options.cost is None:
        raise InputError(
            f"{name} is a table: name its columns with --confidence 'conf_{{}}' --prediction 'pred_{{}}' --label "
            "NAME (or --loss 'loss_{}'), and what each exit costs with --cost 1,4,13; or the models of cascades with "
            "--models and --price"
        )
    trace = ExitTrace.from_table(
        table,
        **options.columns(table),
        confidence=options.confidence,
        prediction=options.prediction,
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
    _tell_of_grades(options, "exit 0", trace.risk[0], f"exit {trace.n_exits - 1}", trace.risk[-1], say)
    for exit_ in inverted_exits(trace, "confidence"):
        say(
            f"note: the confidence of exit {exit_} (0 = first) is lower for good answers than for bad ones: if it is "
            "an uncertainty, such as an entropy, give its negative"
        )
    return trace


def _models(table: Any, name: str, options: Tables, say: Callable[[str], None]) -> CascadeTrace:
    """Make the trace of several models of a table, and print what each model costs and how often it is right."""
    from exeunt.trace import CascadeTrace
    from exeunt.trace.grades import how_good

    if options.cost is not None:
        raise InputError("--cost is of the exits of one network: models have a --price each")
    priced = {model: _price(text) for model, text in _prices(options).items()}
    models = CascadeTrace.from_table(
        table,
        **options.columns(table),
        confidence=options.confidence or (None if options.loss else "confidence_{}"),
        prediction=options.prediction or (None if options.loss else "prediction_{}"),
        price={model: price for model, (price, _) in priced.items()},
        highest={model: highest for model, (_, highest) in priced.items() if highest is not None},
        features=[part.strip() for part in (options.features or "").split(",") if part.strip()],
        features_price=options.features_price,
        price_per=options.price_per,
        unit=options.unit or "usd",
    )
    models = models if models.has_loss else models.with_reference()
    good = how_good(models.measure)
    shown = ", ".join(
        f"{name} at {models[name].cost.show(models[name].cost.full)} {good.format(1 - models[name].risk[0])}"
        for name in priced
    )
    say(f"{name}: {counted(models.n, 'input')}; {shown}")
    by_cost = sorted(priced, key=lambda name: models[name].cost.full)
    cheap, dear = by_cost[0], by_cost[-1]
    _tell_of_grades(options, cheap, models[cheap].risk[0], dear, models[dear].risk[0], say)
    return models


def _tell_of_grades(
    options: Tables, cheap: str, loss: float, dear: str, dear_loss: float, say: Callable[[str], None]
) -> None:
    """Print a note where losses look like grades: the dearest answers have more of them than the cheapest."""
    if options.loss is not None and options.better == "lower" and dear_loss > loss:
        say(
            f"note: {dear} costs more than {cheap} and its mean --loss is higher, {dear_loss:.3f} beside {loss:.3f}: "
            "if these are grades, where higher is better, add --better higher"
        )


def _prices(options: Tables) -> dict[str, str]:
    """Return the price of each model, as text."""
    if options.models is not None and options.models.endswith((".yaml", ".yml")):
        return _prices_in(Path(options.models), options.price)
    names, prices = column_names(options.models), column_names(options.price)
    if len(names) != len(prices) or len(set(names)) < len(names):
        raise InputError(
            f"give each model once, and its price in the same order, got --models {','.join(names) or 'none'} and "
            f"--price {','.join(prices) or 'none'}"
        )
    return dict(zip(names, prices, strict=True))


def _prices_in(file: Path, prices: str | None) -> dict[str, str]:
    """Return the prices of the models that a YAML file describes, such as that of `exeunt record`."""
    from exeunt._support.yaml_text import read_yaml

    entries = read_yaml(file, extra="cli")
    if prices is not None:
        raise InputError(f"{file} has the prices of its models: leave out --price")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"{file} must hold a model for each name, such as `small: {{price: 0.2}}`")
    for name, entry in entries.items():
        if type(entry.get("price")) not in (int, float, str):
            raise InputError(
                f"the model {name!r} of {file} needs a price that is a number for each answer, or a column of the "
                f"table with the highest price, such as cost_b:300, got {entry.get('price')!r:.60}"
            )
    return {str(name): str(entry["price"]) for name, entry in entries.items()}


def _price(text: str) -> tuple[float | str, float | None]:
    """Read "5" as a price; "cost_b" or "cost_b:300" as a column of prices and the highest price there can be."""
    column, colon, highest = text.rpartition(":")
    try:
        return (column, float(highest)) if colon else (float(text), None)
    except ValueError:
        return text, None
