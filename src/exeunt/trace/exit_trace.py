"""The recorded outputs of every exit on every input, with the costs of the exits: all that a policy is fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers, Keys
from exeunt._support.text import counted
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError
from exeunt.score.confidence import BEFORE_EXITS, FEATURES, GATE, LOG_PROBABILITY, NO_ANSWER
from exeunt.trace.fields import (
    check_cost,
    check_grades,
    checked_answers,
    checked_disagreement,
    checked_features,
    checked_label,
    checked_probabilities,
    checked_score,
    content_keys,
    fields_of_outputs,
    first_rows,
    id_keys,
    id_texts,
    loss_of_numbers,
    probabilities_of_logits,
    read_archive,
    usual_rows,
    where_answered,
)
from exeunt.trace.grades import Better, Grades, as_labels, matrix
from exeunt.trace.groups import Groups, mean, neighbours_alike
from exeunt.trace.log_probability import LogProbability, checked_log_probability
from exeunt.trace.splitting import part_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from exeunt.score.tie_breaking import Ties
    from exeunt.trace.cascade_step import CascadeStep
    from exeunt.trace.table_columns import CostIs, TableColumns

_NO_KEYS = cast("Keys", None)  # stands for "make keys from the content"


@dataclass(frozen=True, eq=False)
class ExitTrace:
    """Recorded outputs of n inputs at m exits.

    `prediction` (n, m): the class that each exit predicts.
    `scores`: name -> (n, m) confidences, higher = surer.
    `cost`: cumulative cost per exit. `label` (n,): true class, or None if there are no labels.
    `id` (n,): a 64-bit key of each input's content, equal for copies. It breaks ties between equal scores. Without ids,
    keys are made from the content of the whole trace and the row number: then ties change with the order of the rows.
    `id` may be texts, too: their digests are the keys, and `id_text` (n,) keeps them for messages.
    `row` (n,): a key of each row, which copies do not share; parts that share one overlap. Made from the ids and the
    row numbers of the whole trace if not given.
    `log_probability` (n, m, k): of every class, for ensembles of exits. None if only confidences are known, or if
    there are more than 2^28 numbers. Of more than 256 classes the likeliest 32 are stored (`TopClasses`).
    `groups`: the group of each row, where rows come in groups (`Groups`; names (n,) are taken as well), or None. Mean
    costs are then weighted as guarantees are.
    `grades`: the loss of every answer, where answers are graded (`Grades`), not right or wrong by a label.
    `reference`: what the labels are: "" for true classes, else the name of an exit or model whose answers they are.
    `features`: by exit, what is known of the input (n, d) once this exit is run, such as an embedding; see
    `CascadeTrace.with_features`. Those of exit -1 are known before any exit is run: a network's gate tells them.
    `before`: by exit, the exit that an input takes before it, -1 for none; by default the exits are taken in a row.
    `disagreement` (n, m, m): where answers have parts, the share of the parts in which the answers of two exits differ,
    such as the pixels of two masks; None where answers agree or do not.

    Where an exit gives no answer (`exeunt.trace.grades.NO_ANSWER`) its scores are -inf, so that the input leaves last.

    Make one with `from_probabilities`, `from_logits`, `from_scores`, `from_losses`, `from_numbers`, `from_table` or
    `from_archive`.
    Raises InputError if shapes disagree, a score is NaN, or a label is negative.
    """

    prediction: Integers
    scores: Mapping[str, Floats]
    cost: CostModel
    label: Integers | None = None
    id: Keys = _NO_KEYS
    log_probability: LogProbability | None = None
    row: Keys = _NO_KEYS
    id_text: NDArray[Any] | None = None
    groups: Groups | None = None
    grades: Grades | None = None
    reference: str = ""
    features: Mapping[int, Floats] = field(default_factory=dict)
    before: tuple[int, ...] = ()
    disagreement: Floats | None = None

    def __post_init__(self) -> None:
        prediction = arrays.integers(self.prediction, "prediction", ndim=2)
        scores = {name: checked_score(name, score, prediction) for name, score in self.scores.items()}
        if not scores:
            raise InputError("a trace needs at least one score, got none")
        n, m = prediction.shape
        check_cost(self.cost, n, m)
        label = None if self.label is None else checked_label(self.label, n)
        logs = self.log_probability
        texts = self.id_text if (named := id_texts(self.id)) is None else named
        id_ = content_keys(prediction, scores) if self.id is None else id_keys(self.id, n)
        groups = Groups.checked(self.groups, n)
        check_grades(self.grades, prediction, label)
        row = usual_rows(id_) if self.row is None else arrays.keys(self.row, "row", n=n)
        fields = {
            "prediction": arrays.frozen(prediction),
            "scores": {name: arrays.frozen(score) for name, score in scores.items()},
            "label": None if label is None else arrays.frozen(label),
            "id": arrays.frozen(id_),
            "row": arrays.frozen(row),
            "log_probability": None if logs is None else checked_log_probability(logs, prediction.shape),
            "id_text": texts,
            "groups": groups,
            "cost": self.cost if groups is None else self.cost.weighted(groups.row_weight),
            "features": {exit_: checked_features(feature, n) for exit_, feature in self.features.items()},
            "before": self.before or tuple(range(-1, m - 1)),
            "disagreement": None
            if self.disagreement is None
            else checked_disagreement(self.disagreement, n, m),
        }
        for name, column in fields.items():
            object.__setattr__(self, name, column)

    @classmethod
    def from_probabilities(
        cls,
        probabilities: ArrayLike,
        *,
        cost: CostModel,
        label: ArrayLike | None = None,
        id: ArrayLike | None = None,  # noqa: A002 - the name of the field
        groups: Groups | ArrayLike | None = None,
    ) -> ExitTrace:
        """Make a trace from class probabilities (n, m, k), which it keeps; every score by name is computed.

        Raises InputError for NaN, negative values, rows that do not sum to 1 (to 1e-3), or labels outside
        0..k-1.
        """
        fields = fields_of_outputs(probabilities, checked_probabilities, label)
        return cls(**fields, cost=cost, id=id, groups=groups)  # type: ignore[arg-type]

    @classmethod
    def from_logits(
        cls,
        logits: ArrayLike,
        *,
        cost: CostModel,
        label: ArrayLike | None = None,
        id: ArrayLike | None = None,  # noqa: A002 - the name of the field
        groups: Groups | ArrayLike | None = None,
    ) -> ExitTrace:
        """Make a trace from logits (n, m, k) by a softmax in double precision."""
        fields = fields_of_outputs(logits, probabilities_of_logits, label)
        return cls(**fields, cost=cost, id=id, groups=groups)  # type: ignore[arg-type]

    @classmethod
    def from_scores(
        cls,
        score: ArrayLike,
        prediction: ArrayLike,
        *,
        cost: CostModel,
        label: ArrayLike | None = None,
        no_answer: ArrayLike | None = None,
        id: ArrayLike | None = None,  # noqa: A002 - the name of the field
        groups: Groups | ArrayLike | None = None,
        name: str = "score",
    ) -> ExitTrace:
        """Make a trace from one confidence (n, m) and one prediction (n, m) per exit, of whatever origin.

        `no_answer`: as for `from_losses`.
        """
        classes = arrays.integers(prediction, "prediction", ndim=2)
        predicted, silent = checked_answers(classes, no_answer, classes.shape)
        scores = {name: arrays.floats(where_answered(score, silent, name), name, ndim=2)}
        return cls(predicted, scores, cost, label, id, groups=groups)  # type: ignore[arg-type]

    @classmethod
    def from_losses(
        cls,
        score: ArrayLike | None,
        loss: ArrayLike,
        *,
        cost: CostModel,
        prediction: ArrayLike | None = None,
        no_answer: ArrayLike | None = None,
        better: Better = "lower",
        measure: str = "quality",
        id: ArrayLike | None = None,  # noqa: A002 - the name of the field
        groups: Groups | ArrayLike | None = None,
        name: str = "score",
    ) -> ExitTrace:
        """Make a trace of graded answers, from one confidence (n, m) and one loss in [0, 1] (n, m) per exit.

        Policies then lose as little as they can on average, where with labels they are right as often as they can.
        `score` None: nothing is known of how good an answer is, and inputs leave at random.
        `better`: "higher" if the values are qualities, such as grades or IoU. `measure`: what reports call them.
        `prediction` (n, m): whole numbers, equal for equal answers, where answers can be compared. `no_answer` (n, m):
        where an exit timed out or refused, whatever the other values there. It then has loss 1, and the input gets the
        answer of the exit before it.
        Raises InputError for a loss that is NaN or outside [0, 1], naming row and exit.
        """
        values = matrix(loss, "losses")
        predicted, silent = checked_answers(prediction, no_answer, values.shape)
        sure = np.zeros(predicted.shape) if score is None else where_answered(score, silent, name)
        scores = {name: arrays.floats(sure, name, ndim=2)}
        grades = Grades.of(values, measure, better, silent)
        return cls(predicted, scores, cost, id=id, groups=groups, grades=grades)  # type: ignore[arg-type]

    @classmethod
    def from_numbers(
        cls,
        score: ArrayLike,
        prediction: ArrayLike,
        target: ArrayLike,
        *,
        worst: float,
        error: Literal["absolute", "squared"] = "absolute",
        **options: Any,
    ) -> ExitTrace:
        """Make a trace of a regression, from one confidence (n, m) and one predicted number (n, m) per exit.

        The loss is `min(1, abs(prediction - target) / worst)`, or its square for error="squared". `target` (n,): the
        true numbers. `worst`: the error from which on an answer is worth nothing. The other options are those of
        `from_losses`: `cost`, `no_answer`, `measure`, `id`, `groups` and `name`.
        Raises InputError for a number that is NaN or infinite, naming row and exit.
        """
        loss = loss_of_numbers(prediction, target, worst, error, options.get("no_answer", False))
        named = {"measure": f"{error} error / {worst:g}"} | options
        return cls.from_losses(score, loss, better="lower", **named)

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        cost: CostModel | ArrayLike,
        cost_is: CostIs = "cumulative",
        unit: str = "MACs",
        **columns: Unpack[TableColumns],
    ) -> ExitTrace:
        """Make a trace of a table with a row per input: a `pyarrow.Table`, or a CSV or Parquet file.

        `columns`: which column means what, such as confidence="conf_{}" and label="truth", see
        `exeunt.trace.table_columns.TableColumns`. `cost` (m,): cumulative, or with cost_is="per-call" the price of each
        call in a cascade of models, which adds up from exit to exit. `unit`: of the costs.

        Raises InputError for columns that are missing, named twice, or hold gaps, text for numbers, or infinity.
        """
        from exeunt.trace.table_columns import read_columns, table_cost  # PyArrow is imported late

        fields = read_columns(table, columns)
        model = table_cost(cost, cost_is, unit, n_exits=fields["no_answer"].shape[1])
        return (cls.from_losses if "loss" in fields else cls.from_scores)(**fields, cost=model)

    @classmethod
    def from_archive(cls, path: str | Path) -> ExitTrace:
        """Make a trace of an .npz: `logits` or `probabilities` (n, m, k), `labels` (n,), `macs` or `cost` (m,).

        Costs are cumulative. Raises InputError for a file that is missing, damaged or holds other arrays.
        """
        columns = read_archive(path)
        return cls.from_logits(**columns) if "logits" in columns else cls.from_probabilities(**columns)

    @property
    def n(self) -> int:
        """Number of inputs."""
        return len(self.prediction)

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self.cost.n_exits

    @property
    def has_log_probability(self) -> bool:
        """Whether log-probabilities are kept."""
        return self.log_probability is not None

    @property
    def has_loss(self) -> bool:
        """Whether it is known how good answers are, by labels or grades."""
        return self.label is not None or self.grades is not None

    @property
    def measure(self) -> str:
        """What the quality of answers is called: "accuracy", "agreement" with a reference, or the name of grades."""
        if self.grades is not None:
            return self.grades.measure
        return "agreement" if self.reference else "accuracy"

    @property
    def counted(self) -> str:
        """What an agreement is a share of: "answers", or the "pixels" of masks."""
        return "answers" if self.disagreement is None else "pixels"

    @property
    def quality(self) -> Floats:
        """How good the answer of each exit is, (n, m) in [0, 1]: 1 - loss; 1 if right and 0 if wrong, with labels.

        Raises InputError if it is not known.
        """
        return self.correct.astype(np.float64) if self.grades is None else np.asarray(1.0 - self.grades.loss)

    @property
    def correct(self) -> arrays.Booleans:
        """Whether each exit's prediction is the label, (n, m). Raises InputError without labels."""
        if self.label is None:
            raise InputError(
                "this needs labels, and the trace has none: make it with label=..., with from_losses where answers are "
                "graded, or measure agreement with the last exit: trace.with_reference()"
            )
        return np.asarray(self.prediction == self.label[:, None])

    @property
    def risk(self) -> Floats:
        """Mean loss of each exit, (m,) (the paper's R_l): with labels its error rate."""
        if self.n == 0:
            raise InputError("the risk of no inputs is not defined: the trace is empty")
        return np.asarray(
            np.maximum(1.0 - mean(self.quality, self.groups), 0.0)
        )  # a weighted mean may round to above 1

    @property
    def default_score(self) -> str:
        """Name of the score that presets use: "margin" (the paper's choice), else the only one."""
        if "margin" not in self.scores and len(self.scores) > 1:
            raise InputError(
                f"the trace has several scores and none is 'margin': choose one of {sorted(self.scores)}"
            )
        return "margin" if "margin" in self.scores else next(iter(self.scores))

    @cached_property
    def neighbours(self) -> float:
        """The correlation of neighbouring rows if they are much more alike than others, else 0.

        Parts of `split` have that of the whole trace: between the rows of a part lie those of others.
        """
        score = self.scores["margin" if "margin" in self.scores else next(iter(self.scores))]
        return neighbours_alike(score, self.prediction[:, -1] if self.label is None else self.label, self.id)

    @cached_property
    def some_rows(self) -> list[int]:
        """The keys of at most 64 rows, which are as good as drawn: a trace that shares rows is noticed by them."""
        return first_rows(self.row).tolist()  # type: ignore[no-any-return]

    def evidence(self, exit_: int, rows: Any = slice(None)) -> dict[str, Any]:
        """Return the outputs of an exit for these rows, by name.

        Scores and "prediction" (rows,); "log_probability" (rows, k) and "features" (rows, d) where there are any; at
        exit 0 also "gate" (rows, d) where the network has a gate.
        """
        outputs: dict[str, Any] = {name: score[rows, exit_] for name, score in self.scores.items()}
        outputs["prediction"] = self.prediction[rows, exit_]
        if self.log_probability is not None:
            outputs[LOG_PROBABILITY] = self.log_probability[rows, exit_]
        if exit_ in self.features:
            outputs[FEATURES] = self.features[exit_][rows]
        if exit_ == 0 and BEFORE_EXITS in self.features:
            outputs[GATE] = self.features[BEFORE_EXITS][rows]
        return outputs

    def take(self, rows: ArrayLike | slice) -> ExitTrace:
        """Return the trace of these inputs: indices, a boolean mask, or a slice. Inputs and rows keep their keys.

        Where an index occurs twice, the inputs are a sample of its own, drawn with replacement: its rows have new keys.
        """
        if isinstance(rows, slice):
            return self._part(rows, slice(None), self.cost.take(rows))
        index = np.asarray(rows)
        if index.size == 0:
            index = index.astype(np.int64)  # an empty list has no type of its own
        part = self._part(index, slice(None), self.cost.take(index))
        repeats = index.dtype != np.bool_ and len(np.unique(index)) < len(index)
        return replace(part, row=usual_rows(part.id)) if repeats else part

    def exits(self, start: int, stop: int) -> ExitTrace:
        """Return the trace of these exits alone; their costs count from the exit before them."""
        return self._part(slice(None), slice(start, stop), self.cost.exits(start, stop))

    def selected(self, exits: Sequence[int]) -> ExitTrace:
        """Return the trace of these exits, ascending; their costs leave out the heads of the other exits."""
        if tuple(exits) == tuple(range(self.n_exits)):
            return self
        return self._part(slice(None), list(exits), self.cost.selected(exits))

    def _part(self, rows: Any, exits: Any, cost: CostModel) -> ExitTrace:
        places = np.arange(self.n_exits)[exits].tolist()
        features = {k: self.features[exit_] for k, exit_ in enumerate(places) if exit_ in self.features}
        if BEFORE_EXITS in self.features:
            features[BEFORE_EXITS] = self.features[BEFORE_EXITS]
        return ExitTrace(
            self.prediction[rows][:, exits],
            {name: score[rows][:, exits] for name, score in self.scores.items()},
            cost,
            None if self.label is None else self.label[rows],
            self.id[rows],
            None if self.log_probability is None else self.log_probability[rows][:, exits],
            self.row[rows],
            None if self.id_text is None else self.id_text[rows],
            None if self.groups is None else self.groups.take(rows),
            None if self.grades is None else self.grades.take(rows, exits),
            self.reference,
            {exit_: feature[rows] for exit_, feature in features.items()},
            self.before if len(places) == self.n_exits else (),
            None if self.disagreement is None else self.disagreement[rows][:, exits][:, :, exits],
        )

    def keys(self, ties: Ties) -> Keys:
        """Return the keys (n,) that break ties: of the content, or of the rows."""
        return self.row if ties == "row" else self.id

    def budget(self, value: float | str) -> float:
        """Return a budget in the unit of the costs, as `CostModel.budget` does; warns of one above all costs."""
        return self.cost.budget(value, warn=True)

    def along(self, cascade: Sequence[CascadeStep]) -> ExitTrace:
        """Return the trace of the exits that a cascade of this network alone runs; itself if it holds only those."""
        if len(cascade) != 1 or cascade[0].n_exits == self.n_exits or cascade[0].exits[-1] >= self.n_exits:
            return self
        return self.selected(cascade[0].exits)

    def graded(self, loss: ArrayLike, *, better: Better = "lower", measure: str = "quality") -> ExitTrace:
        """Return the same outputs with a loss (n, m) of every answer in place of labels, see `from_losses`."""
        grades = Grades.of(loss, measure, better, self.prediction == NO_ANSWER)
        return replace(self, label=None, grades=grades, reference="")

    def with_reference(self, exit_: int = -1, name: str = "") -> ExitTrace:
        """Return the trace measured by its agreement with an exit, by default the last: its predictions are the labels.

        Where answers have parts, the loss is the share of them that differs. `name`: what messages call the exit.
        """
        if exit_ not in range(-self.n_exits, self.n_exits):
            raise InputError(f"a reference is one of the exits 0 to {self.n_exits - 1}, got {exit_!r}")
        place = exit_ % self.n_exits
        name = name or ("the full network" if place == self.n_exits - 1 else f"exit {place}")
        if self.disagreement is not None:
            differs = Grades(self.disagreement[:, :, place], "agreement")
            return replace(self, label=None, grades=differs, reference=name)
        return replace(self, label=as_labels(self.prediction[:, place], name), grades=None, reference=name)

    def with_cost(self, cost: CostModel) -> ExitTrace:
        """Return the same outputs with other costs, such as milliseconds instead of multiply-adds."""
        return replace(self, cost=cost)

    def split(
        self, *, fit: float = 0.3, calibrate: float = 0.2, test: float = 0.5, seed: int = 0
    ) -> tuple[ExitTrace, ExitTrace, ExitTrace]:
        """Return disjoint random parts to fit, calibrate and test on. Shares are of all inputs, or of all groups.

        Rows are drawn, so copies of an input may come into several parts, as they come among future inputs. Where rows
        come in groups, groups are drawn.
        Raises InputError if a share is not above 0, they add up to more than 1, or a part comes out empty.
        """
        rows = part_rows(self.id, {"fit": fit, "calibrate": calibrate, "test": test}, seed, self.groups)
        parts = self.take(rows[0]), self.take(rows[1]), self.take(rows[2])
        for part in parts:
            vars(part)["neighbours"] = self.neighbours
        return parts

    def save(self, path: str | Path) -> None:
        """Write the trace as Parquet, one row per input, atomically (see `exeunt.trace.parquet`)."""
        from exeunt.trace.parquet import save_columns

        save_columns(path, vars(self))

    @classmethod
    def load(cls, path: str | Path) -> ExitTrace:
        """Read a trace written by `save`.

        Raises InputError for a missing file, ArtefactError for one that is damaged, foreign or newer.
        """
        from exeunt.trace.parquet import load_trace

        return load_trace(path, cls)

    def __repr__(self) -> str:
        known = f"{self.measure} with {self.reference}" if self.reference else "labelled"
        labels = f"graded by {self.measure}" if self.grades else "unlabelled" if self.label is None else known
        grouped = "" if self.groups is None else f" in {counted(self.groups.n, 'group')}"
        size = f"{counted(self.n, 'input')}{grouped}, {counted(self.n_exits, 'exit')}"
        return f"ExitTrace({size}, {labels}, scores: {', '.join(self.scores)})"
