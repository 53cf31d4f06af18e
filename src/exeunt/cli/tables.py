"""Tables of other origin, such as a log of what models answered: the options that name their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from exeunt._support.text import did_you_mean
from exeunt.cli.options import column_names, numbers, options_under
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.trace.table_columns import TableColumns

_column, _group = options_under("Tables: what their columns mean"), options_under("Tables: groups of inputs")
_features = options_under("Tables: features of inputs")
_graded, _csv = options_under("Tables: graded answers"), options_under("Tables: CSV files")


UNGRADED = (
    "Of a table: what becomes of rows in which an answer has no grade, or that have no label. drop leaves them out, "
    "and certificates assume that they are like the others; worst counts missing grades as the worst there can be. "
    "Default: they are refused."
)
"""The help of `--ungraded`."""


def checked_ungraded(ungraded: str | None) -> str | None:
    """Return what `--ungraded` says. Raises InputError for anything that it does not know."""
    if ungraded not in (None, "drop", "worst"):
        raise InputError(f"--ungraded must be drop or worst, got {ungraded!r}")
    return ungraded


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
    better: str | None = _graded("Whether lower or higher values of --loss are better. Default: lower.")
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
        if self.loss is None and (self.better, self.measure) != (None, "quality"):
            raise InputError("--better and --measure are about --loss: name the columns of losses")
        if self.loss is None and self.label and self.label not in table.column_names:
            meant = did_you_mean(self.label, table.column_names)
            raise InputError(
                f"the table has no column {self.label}{meant}: name the column of true classes with --label; or of "
                "graded answers the columns of grades, such as --loss '{}_grade' --better higher; without either add "
                "--agreement. It has "
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
        graded = {"loss": self.loss, "better": self.better or "lower", "measure": self.measure}
        return cast(
            "TableColumns", columns | ({"label": self.label or None} if self.loss is None else graded)
        )

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models that are named, also by their prices, or that a YAML file describes."""
        priced = tuple(part.partition("=")[0].strip() for part in column_names(self.price) if "=" in part)
        return tuple(self.described) or column_names(self.models) or priced

    @cached_property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """The models that a YAML file describes, with their prices, by name; none if --models names them."""
        models = self.models or ""
        return _described(Path(models)) if models.endswith((".yaml", ".yml")) else {}

    @property
    def prices(self) -> tuple[dict[str, float | str], dict[str, float]]:
        """The price of each model, a number or a column, and the highest price where it is stated."""
        names, described = self.model_names, self.described
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

    @property
    def format(self) -> dict[str, str | None]:
        """How CSV files are written."""
        return {name: getattr(self, name) for name in ("delimiter", "encoding", "decimal")}


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
