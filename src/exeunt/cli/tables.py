"""Tables of other origin, such as a log of what models answered: the options that name their columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, cast

from exeunt._support.text import counted
from exeunt.cli.options import changed, column_names, numbers, options_under
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.trace import CascadeTrace, ExitTrace
    from exeunt.trace.table_columns import TableColumns

_column, _group = options_under("Tables: what their columns mean"), options_under("Tables: groups of inputs")
_features = options_under("Tables: features of inputs")
_graded, _csv = options_under("Tables: graded answers"), options_under("Tables: CSV files")
_USUAL = {
    "price": ("{}_cost", "cost_{}", "{}_price", "price_{}"),
    "confidence": ("{}_confidence", "confidence_{}", "{}_logprob", "logprob_{}", "{}_score", "score_{}"),
    "prediction": ("{}_prediction", "prediction_{}", "{}_label", "label_{}"),
    "loss": ("{}_grade", "grade_{}", "{}_loss", "loss_{}"),
}
"""How columns are called that the options do not name, with {} for the model's name."""


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
        "The models that may be asked, such as mini,mid,big, or a YAML file that names them and their prices. Their "
        "columns are those of --prediction, --confidence and --loss with the name for {}. Default: told by the names "
        "of columns, such as mini_cost and mini_confidence."
    )
    price: str | None = _column(
        "What an answer of each model costs, in the same order, such as 0.2,1,8, or by name, such as mini=mini_cost: a "
        "number, or the column of the price of each input. Default: columns such as mini_cost."
    )
    highest: str | None = _column(
        "The most that an answer of a model can cost, such as mini=0.01,big=0.3, where prices are columns. To certify "
        "a budget needs it."
    )
    price_per: float = _column("How many answers --price and --highest are for, such as 1000.", default=1.0)
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

    def columns(self, table: Any) -> TableColumns:
        """Return which column means what, as `from_table` takes it."""
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
        columns: dict[str, Any] = {
            "confidence": self.confidence,
            "prediction": self.prediction,
            "empty_is_no_answer": self.empty_is_no_answer,
            "id": self.id,
            "groups": self.group_column,
            "rows_per_group": self.rows_per_group,
        }
        if self.rows_per_group != 1 and self.group_column is None:
            raise InputError("--rows-per-group is about groups: name their column with --group-column")
        graded = {"loss": self.loss, "better": self.better, "measure": self.measure}
        return cast(
            "TableColumns", columns | ({"label": self.label or None} if self.loss is None else graded)
        )

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models that are named, or that a YAML file describes."""
        return tuple(self._described) if self._described else column_names(self.models)

    @property
    def _described(self) -> Mapping[str, Mapping[str, Any]]:
        models = self.models or ""
        return _described(Path(models)) if models.endswith((".yaml", ".yml")) else {}

    @property
    def prices(self) -> tuple[dict[str, float | str], dict[str, float]]:
        """The price of each model, a number or a column, and the highest price where it is stated."""
        names, described = self.model_names, self._described
        if described and (self.price or self.highest):
            raise InputError(f"{self.models} has the prices of its models: leave out --price and --highest")
        if described:
            price = {name: entry["price"] for name, entry in described.items()}
            highest = {name: entry["highest"] for name, entry in described.items() if "highest" in entry}
            return price, highest
        stated = _by_name(self.price or "", names, "--price")
        if missing := [name for name in names if name not in stated]:
            raise InputError(f"{missing[0]} has no --price: give one for each of {', '.join(names)}")
        most = _by_name(self.highest or "", names, "--highest")
        amounts = (
            numbers(",".join(most.values()), "--highest must be numbers such as mini=0.01") if most else []
        )
        return {name: _number_or_column(text) for name, text in stated.items()}, dict(
            zip(most, amounts, strict=True)
        )

    def guessed(self, there: Sequence[str], say: Callable[[str], None]) -> Tables:
        """Return these options with those that were left out, as the names of the columns tell; prints which."""
        names = self.model_names or _guessed_models(there)
        if len(set(names)) < max(2, len(names)):
            raise InputError(
                f"name two models or more, each once, such as --models mini,big --price 0.1,2, got "
                f"{','.join(names) or 'none'}; or for one network what its exits cost, such as --cost 1,4,13, with "
                f"--confidence 'conf_{{}}' --prediction 'pred_{{}}'. The columns are {', '.join(there)}"
            )
        guesses: dict[str, Any] = {} if self.models else {"models": ",".join(names)}
        graded = self.label == "label" and "label" not in there and self.prediction is None
        for role, patterns in _USUAL.items():
            wanted = role != "price" or not self._described
            if role in ("prediction", "loss"):
                wanted = graded == (role == "loss") and self.loss is None
            if wanted and getattr(self, role) is None:
                known = {text: sum(text.replace("{}", name) in there for name in names) for text in patterns}
                if known[pattern := max(patterns, key=known.__getitem__)]:
                    guesses[role] = pattern
        if "grade" in guesses.get("loss", ""):
            guesses["better"] = "higher"
        if guesses:
            told = " ".join(f"--{role} {quote(pattern)}" for role, pattern in guesses.items())
            say(f"told by the names of the columns: {told}")
        if "{}" in guesses.get("price", ""):
            guesses["price"] = ",".join(f"{name}={guesses['price'].replace('{}', name)}" for name in names)
        return replace(self, **guesses)

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
            _trace(table, name, tables, say) if of_exits else open_models(table, name, tables, say)[0]
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
    _tell_of_grades(options, "exit 0", trace.risk[0], f"exit {trace.n_exits - 1}", trace.risk[-1], say)
    for exit_ in inverted_exits(trace, "confidence"):
        say(
            f"note: the confidence of exit {exit_} (0 = first) is lower for good answers than for bad ones: if it is "
            "an uncertainty, such as an entropy, give its negative"
        )
    return trace


def open_models(
    table: Any, name: str, options: Tables, say: Callable[[str], None]
) -> tuple[CascadeTrace, list[str]]:
    """Make the trace of several models of a table, and print what each model costs and how often it is right.

    Returns the classes, too, in the order of their numbers; none of graded answers.
    """
    from exeunt.trace import CascadeTrace
    from exeunt.trace.grades import how_good
    from exeunt.trace.table_columns import class_names, of_models

    options = options.guessed(table.column_names, say)
    price, highest = options.prices
    columns = options.columns(table)
    classes = [] if options.loss else class_names(table, of_models(columns, [*price]))
    columns["classes"] = classes or None
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
    models = models if models.has_loss else models.with_reference()
    good = how_good(models.measure)
    shown = ", ".join(
        f"{name} at {models[name].cost.show(models[name].cost.full)} {good.format(1 - models[name].risk[0])}"
        for name in price
    )
    say(f"{name}: {counted(models.n, 'input')}; {shown}")
    by_cost = sorted(price, key=lambda name: models[name].cost.full)
    cheap, dear = by_cost[0], by_cost[-1]
    _tell_of_grades(options, cheap, models[cheap].risk[0], dear, models[dear].risk[0], say)
    return models, classes


def _tell_of_grades(
    options: Tables, cheap: str, loss: float, dear: str, dear_loss: float, say: Callable[[str], None]
) -> None:
    """Print a note where losses look like grades: the dearest answers have more of them than the cheapest."""
    if options.loss is not None and options.better == "lower" and dear_loss > loss:
        say(
            f"note: {dear} costs more than {cheap} and its mean --loss is higher, {dear_loss:.3f} beside {loss:.3f}: "
            "if these are grades, where higher is better, add --better higher"
        )


def _guessed_models(there: Sequence[str]) -> tuple[str, ...]:
    """Return the names for which columns tell a price, and a prediction or a grade."""
    for pattern in _USUAL["price"]:
        before, after = pattern.split("{}")
        names = [name[len(before) : len(name) - len(after)] for name in there if name != before + after]
        names = [name for name in names if name and pattern.replace("{}", name) in there]
        answers = (*_USUAL["prediction"], *_USUAL["loss"])
        if names := [name for name in names if any(text.replace("{}", name) in there for text in answers)]:
            return tuple(dict.fromkeys(names))
    return ()


def _by_name(text: str, models: Sequence[str], name: str) -> dict[str, str]:
    """Read "mini=0.2,big=cost_big", or what each model has in their order. `name`: of the option."""
    parts = column_names(text)
    if "=" not in text and len(parts) == len(models):
        parts = tuple(f"{model}={part}" for model, part in zip(models, parts, strict=True))
    pairs = [part.partition("=") for part in parts]
    amounts = {model.strip(): amount.strip() for model, _, amount in pairs}
    if amounts.keys() - {*models} or len(amounts) < len(parts):
        raise InputError(
            f"give {name} once for each model, by name or in the order of --models {','.join(models)}, got {text}"
        )
    return amounts


def _number_or_column(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _described(file: Path) -> dict[str, dict[str, Any]]:
    """Return the models that a YAML file describes, such as that of `exeunt record`, by name."""
    from exeunt._support.yaml_text import read_yaml

    entries = read_yaml(file, extra="cli")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"{file} must hold a model for each name, such as `small: {{price: 0.2}}`")
    for name, entry in entries.items():
        if type(entry.get("price")) not in (int, float, str):
            raise InputError(
                f"the model {name!r} of {file} needs a price that is a number for each answer, or a column of the "
                f"table, such as cost_b, got {entry.get('price')!r:.60}"
            )
    return {str(name): entry for name, entry in entries.items()}
