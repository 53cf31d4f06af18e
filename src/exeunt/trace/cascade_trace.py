"""Recorded outputs of the models of a cascade: classifiers of the same inputs, each with its own cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support.arrays import Integers, Keys
from exeunt._support.text import counted, did_you_mean
from exeunt.costs.cost_model import LEAST_RISE, CostModel
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.score.confidence import NO_ANSWER
from exeunt.score.tie_breaking import distinct_keys
from exeunt.trace.cascade_step import before, is_tree, path_to
from exeunt.trace.exit_trace import ExitTrace
from exeunt.trace.fields import joined_outputs
from exeunt.trace.grades import Grades, as_labels, check_measured_alike, joined_predictions
from exeunt.trace.groups import Groups
from exeunt.trace.splitting import part_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from exeunt.trace.cascade_step import CascadeStep
    from exeunt.trace.table_columns import TableColumns

_KEPT = 8  # traces of cascades in the cache


class CascadeTrace:
    """Recorded outputs of several classifiers on the same inputs, from which cascades are made.

    `traces`: one `ExitTrace` per model, by name, with the costs of the model alone. A model is a network with exits,
    or anything else that answers at a price: a trace of one exit. Inputs are matched by their `id`, and copies
    by how many came before them; they have the order of the first model.

    Raises InputError if there are no models, their units, labels or groups differ, or an input is missing for a model.
    """

    def __init__(self, traces: Mapping[str, ExitTrace]) -> None:
        if not traces or not isinstance(traces, Mapping):
            raise InputError("there are no models: give at least one trace by name, as {name: trace}")
        first, order = next(iter(traces.items()))
        for name, trace in traces.items():
            if not isinstance(trace, ExitTrace):
                raise InputError(f"model {name!r} must be an ExitTrace, got {type(trace).__name__}")
            if trace.cost.unit != order.cost.unit:
                raise InputError(
                    f"costs of {first!r} are in {order.cost.unit}, those of {name!r} in {trace.cost.unit}: "
                    "models are compared in one unit"
                )
        self._cascades: dict[Any, ExitTrace] = {}
        self._traces = dict(traces)
        for name, trace in traces.items() if len(traces) > 1 else ():
            self._traces[name] = _matched(first, order, name, trace)

    @classmethod
    def of(
        cls, cascaded: ExitTrace, steps: Sequence[CascadeStep], highest: Mapping[str, float] | None = None
    ) -> CascadeTrace:
        """Split the trace of a cascade of all models in a row into the models' traces: `along` undone.

        `highest`: by model, the most that an input can cost; by default that of all models together.

        Raises InputError if the steps have another number of exits than the trace.
        """
        if sum(step.n_exits for step in steps) != cascaded.n_exits:
            raise InputError(
                f"the cascade {steps} has another number of exits than the trace: {cascaded.n_exits}"
            )
        ends = accumulate(step.n_exits for step in steps)
        parts = [
            (step, cascaded.exits(end - step.n_exits, end)) for step, end in zip(steps, ends, strict=True)
        ]
        highest_of = highest or {}
        return cls(
            {
                step.model: part.with_cost(part.cost.bounded(highest_of[step.model]))
                if step.model in highest_of
                else part
                for step, part in parts
            }
        )

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        price: Mapping[str, float | str],
        features: Sequence[str] = (),
        features_price: float = 0,
        unit: str = "usd",
        price_per: float = 1,
        highest: Mapping[str, float] | None = None,
        **columns: Unpack[TableColumns],
    ) -> CascadeTrace:
        """Make the traces of a table with a row per input: a `pyarrow.Table`, or a CSV or Parquet file.

        `price`: by model, the price of `price_per` answers, in `unit`; or the name of a column with the price of each
        input, where the price depends on the input's length. Then `highest` is the most that `price_per` answers of
        this model can ever cost, which a certificate needs. `features`: columns of numbers, or of lists of numbers,
        that routers look at (see `with_features`; the model is called "features"); `features_price` is what
        `price_per` of them cost. `columns`: which column means what, such as confidence="{}_score" and label="truth",
        with {} in place of the model's name, see `exeunt.trace.table_columns.TableColumns`. The price of a model that
        gave no answer is paid.

        Raises InputError for columns that are missing, named twice, or hold gaps, text for numbers, or infinity.
        """
        from exeunt.trace import table_columns  # PyArrow: late

        names, data = list(price), table_columns.read_table(table)
        costs = table_columns.model_costs(data, price, highest or {}, unit, price_per)
        fields = table_columns.read_columns(data, table_columns.of_models(columns, names))
        make = ExitTrace.from_losses if "loss" in fields else ExitTrace.from_scores
        trace = make(**fields, cost=CostModel(np.arange(1, len(names) + 1)))
        models = cls({name: trace.exits(i, i + 1).with_cost(costs[name]) for i, name in enumerate(names)})
        if not features:
            return models
        numbers = table_columns.read_features(data, features)
        return models.with_features("features", numbers, cost=features_price / price_per)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(self._traces)

    def __getitem__(self, name: str) -> ExitTrace:
        """Return a model's own trace. Raises InputError for a name that no model has."""
        if name not in self._traces:
            meant = did_you_mean(str(name), self.names)
            raise InputError(f"there is no model {name!r}{meant}: choose one of {', '.join(self._traces)}")
        return self._traces[name]

    @property
    def n(self) -> int:
        """Number of inputs."""
        return self._first.n

    @property
    def id(self) -> Keys:
        """Keys of the inputs, (n,)."""
        return self._first.id

    @property
    def row(self) -> Keys:
        """Keys of the rows, (n,), see `ExitTrace`."""
        return self._first.row

    @property
    def label(self) -> Integers | None:
        """True classes (n,), or None."""
        return self._first.label

    @property
    def has_loss(self) -> bool:
        """Whether it is known how good answers are, by labels or grades."""
        return self._first.has_loss

    @property
    def reference(self) -> str:
        """What the labels are, see `ExitTrace`."""
        return self._first.reference

    @property
    def measure(self) -> str:
        """What is measured of answers, see `ExitTrace`."""
        return self._first.measure

    @property
    def counted(self) -> str:
        """What an agreement is a share of, see `ExitTrace`."""
        return self._first.counted

    @property
    def groups(self) -> Groups | None:
        """The group of each input, or None."""
        return self._first.groups

    @property
    def unit(self) -> str:
        """Unit of the costs."""
        return self._first.cost.unit

    @property
    def _first(self) -> ExitTrace:
        return next(iter(self._traces.values()))

    @property
    def most_expensive(self) -> str:
        """The model that costs most when it is run alone and in full."""
        return max(self._traces, key=lambda name: self._traces[name].cost.full)

    @property
    def most_accurate(self) -> str:
        """The model whose last exit answers best; of equally good ones, the cheapest. Needs labels or losses."""
        return min(self._traces, key=lambda name: (self[name].risk[-1], self[name].cost.full))

    @cached_property
    def alone(self) -> ExitTrace:
        """Every exit of every model, as a user may take it instead of a cascade, in order of its own cost.

        `take` keeps the order. An exit that costs no more than the one before it costs a rounding more.
        """
        exits = [(self[name], exit_) for name, exit_ in self._order]
        costs = [float(model.cost.cumulative[exit_]) for model, exit_ in exits]
        for i in range(1, len(costs)):
            costs[i] = max(costs[i], costs[i - 1] * (1 + LEAST_RISE))
        return ExitTrace(
            joined_predictions([model.prediction[:, [exit_]] for model, exit_ in exits], axis=1),
            {"confidence": np.stack([m.scores[m.default_score][:, exit_] for m, exit_ in exits], axis=1)},
            CostModel(costs, unit=self.unit, reference=self[self.most_expensive].cost.full),
            self.label,
            self.id,
            row=self._first.row,
            groups=self.groups,
            grades=Grades.joined([model.exits(e, e + 1).grades for model, e in exits], axis=1),
            reference=self.reference,
        )

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Names of the exits of `alone`: the model's name, and the exit's number if the model has several."""
        several = {name for name in self.names if self[name].n_exits > 1}
        return tuple(f"{name} exit {exit_}" if name in several else name for name, exit_ in self._order)

    def places(self, cascade: Sequence[CascadeStep]) -> Integers:
        """Return the positions (m,) in `alone` of the exits of a cascade."""
        steps = [(step.model, exit_) for step in cascade for exit_ in step.exits]
        return np.array([self._order.index(step) for step in steps])

    @cached_property
    def _order(self) -> list[tuple[str, int]]:
        every = [(name, exit_) for name, trace in self._traces.items() for exit_ in range(trace.n_exits)]
        return sorted(every, key=lambda step: float(self[step[0]].cost.cumulative[step[1]]))

    def budget(self, value: float | str, *, reference: str | None = None) -> float:
        """Return a budget in the models' unit; a share such as "30%" refers to the model `reference` (see `along`).

        Raises UnitError for a unit that does not convert, InfeasibleBudget below the cheapest first exit.
        """
        least = min(self.names, key=lambda name: self[name].cost.first)
        dearest = self[self.most_expensive if reference is None else reference].cost.reference
        total = sum(self[name].cost.full for name in self.names)
        cost = CostModel([self[least].cost.first, total * (1 + 1e-9)], unit=self.unit, reference=dearest)
        amount = cost.amount(value)
        if amount < cost.first * (1 - 1e-12):
            raise InfeasibleBudget(
                f"a budget of {cost.show(amount)} is below the cheapest model, {least}, which costs "
                f"{cost.show(cost.first)}: ask for at least that, or add a cheaper one",
                smallest_budget=cost.first,
            )
        return cost.budget(value, warn=True)

    def along(self, cascade: Sequence[CascadeStep], *, reference: str | None = None) -> ExitTrace:
        """Return the trace of a cascade: the exits of one model after those of another, with costs that add up.

        Shares of the cost refer to the model `reference`, by default the most expensive one. Scores are those of all
        models, or else each model's default score as "confidence". Log-probabilities need equal numbers of classes.
        """
        key = (tuple(cascade), reference)
        if key not in self._cascades:  # results that are cached on the trace live as long as it
            if len(self._cascades) == _KEPT:
                self._cascades.pop(next(iter(self._cascades)))
            self._cascades[key] = self._assembled(*key)
        return self._cascades[key]

    def _assembled(self, cascade: tuple[CascadeStep, ...], reference: str | None) -> ExitTrace:
        if not cascade:
            raise InputError(
                f"this is for one network, not for a cascade of {', '.join(self.names)}: give a trace"
            )
        tree = is_tree(cascade)
        for step in cascade:
            possible = {*range(self[step.model].n_exits)}
            if not step.exits or list(step.exits) != sorted({*step.exits} & possible):
                raise InputError(
                    f"a cascade may use some of the {len(possible)} exits of {step.model!r}, ascending, got "
                    f"{step.exits}"
                )
        parts = [self[step.model].selected(step.exits) for step in cascade]
        if tree and any(step.n_exits != 1 for step in cascade):
            raise InputError("the steps of a tree are of one exit each: give a step for each exit")
        dearest = self[self.most_expensive if reference is None else reference].cost.reference
        outputs = joined_outputs(parts, axis=1)
        if not outputs["scores"]:
            usual = [trace.scores[trace.default_score] for trace in parts]
            outputs["scores"] = {"confidence": np.hstack(usual)}
        cost = (
            CostModel.of_paths(self.paths(cascade), n=self.n, reference=dearest)
            if tree
            else CostModel.in_a_row([trace.cost for trace in parts], n=self.n, reference=dearest)
        )
        joined = ExitTrace(
            **outputs,
            cost=cost,
            label=self.label,
            id=self.id,
            row=self._first.row,
            groups=self.groups,
            before=tuple(before(cascade, place) for place in range(len(cascade))) if tree else (),
        )
        vars(joined)["neighbours"] = self._first.neighbours
        return joined

    def paths(self, tree: Sequence[CascadeStep]) -> list[list[tuple[CostModel, int]]]:
        """Return, by step of a tree, the costs of each model on the path to it, and the latest exit of that model."""
        latest = [
            {tree[step].model: tree[step].exits[0] for step in path_to(tree, i)} for i in range(len(tree))
        ]
        return [[(self[name].cost, exit_) for name, exit_ in exits.items()] for exits in latest]

    def with_features(self, name: str, features: ArrayLike, *, cost: float) -> CascadeTrace:
        """Return the traces with a model before them that answers nothing, and tells `features` (n, d) of each input.

        Routers decide by them whom to ask (`exeunt.router`): an embedding, the length of a text, columns of a table.
        `cost`: what they cost per input, in the models' unit; free ones get a cost that does not count.
        Raises InputError for a name that a model has, another number of rows, NaN or infinity.
        """
        if name in self._traces:
            raise InputError(f"there is a model {name!r} already: give the features another name")
        first = self._first.exits(0, 1)
        logs = first.log_probability
        cost = cost or 1e-6 * min(trace.cost.first for trace in self._traces.values())
        silent = replace(
            first,
            prediction=np.full((self.n, 1), NO_ANSWER),
            cost=CostModel([cost], unit=self.unit, source="given"),
            grades=None if first.grades is None else Grades(np.ones((self.n, 1)), first.grades.measure),
            log_probability=None if logs is None else np.full(logs.shape, -np.log(logs.shape[2]), np.float32),
            features={0: np.asarray(features)},
        )
        return CascadeTrace({name: silent, **self._traces})

    @property
    def answering(self) -> CascadeTrace:
        """The models that answer: without those that only tell features."""
        return self if self._spoken is None else self._spoken

    @cached_property
    def _spoken(self) -> CascadeTrace | None:
        # None where all models answer: an object that holds itself is freed late, and traces are large.
        silent = [name for name, trace in self._traces.items() if _tells_alone(trace)]
        return self.without(silent) if silent else None

    def without(self, names: Sequence[str]) -> CascadeTrace:
        """Return the traces of the other models, in their order."""
        part = CascadeTrace({name: trace for name, trace in self._traces.items() if name not in names})
        part._order = [step for step in self._order if step[0] not in names]
        return part

    def take(self, rows: ArrayLike | slice) -> CascadeTrace:
        """Return the traces of these inputs: indices, a boolean mask, or a slice."""
        part = CascadeTrace({name: trace.take(rows) for name, trace in self._traces.items()})
        part._order = self._order  # the same for all parts, whatever the costs of their inputs
        return part

    def with_reference(self, model: str = "") -> CascadeTrace:
        """Return the traces measured by their agreement with a model's last exit.

        By default it is the most expensive model; of equally expensive ones the last.
        """
        name = model or max(reversed(self.names), key=lambda name: self[name].cost.full)
        reference_labels = as_labels(self[name].prediction[:, -1], name)
        return CascadeTrace(
            {
                model: replace(trace, label=reference_labels, grades=None, reference=name)
                for model, trace in self._traces.items()
            }
        )

    def without_log_probability(self) -> CascadeTrace:
        """Return the traces without log-probabilities, which take long to copy."""
        bare = {name: replace(trace, log_probability=None) for name, trace in self._traces.items()}
        return CascadeTrace(bare)

    def split(
        self, *, fit: float = 0.3, calibrate: float = 0.2, test: float = 0.5, seed: int = 0
    ) -> tuple[CascadeTrace, CascadeTrace, CascadeTrace]:
        """Return disjoint random parts to fit, calibrate and test on, as `ExitTrace.split` does."""
        rows = part_rows(self.id, {"fit": fit, "calibrate": calibrate, "test": test}, seed, self.groups)
        parts = self.take(rows[0]), self.take(rows[1]), self.take(rows[2])
        for part in parts:
            vars(part._first)["neighbours"] = self._first.neighbours
        return parts

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name} ({counted(trace.n_exits, 'exit')}, {trace.cost.show(trace.cost.full)})"
            for name, trace in self._traces.items()
        )
        return f"CascadeTrace({counted(self.n, 'input')}: {shown})"


def _matched(first: str, order: ExitTrace, name: str, trace: ExitTrace) -> ExitTrace:
    """Return a model's trace with its inputs in the order of the first model's.

    Raises InputError if an input is missing for one of the two, or their labels or groups differ.
    """
    if not np.array_equal(trace.id, order.id):
        keys, wanted = (distinct_keys(each_trace.id) for each_trace in (trace, order))
        if len(missing := np.flatnonzero(~np.isin(keys, wanted))) or not np.isin(wanted, keys).all():
            known, place = (trace, missing[0]) if len(missing) else (order, np.argmin(np.isin(wanted, keys)))
            example = (known.id if known.id_text is None else known.id_text)[place]
            count = len(np.setxor1d(keys, wanted))
            if count == len(keys) + len(wanted):
                raise InputError(
                    f"none of the {counted(order.n, 'input')} of {first!r} has the id of an input of {name!r} (without "
                    "ids, keys are made of the outputs, which differ): if their rows are in one order, make each trace "
                    "with id=range(n), else with its inputs' ids"
                )
            raise InputError(
                f"{counted(count, 'input is', 'inputs are')} known of {first!r} or {name!r} alone, such as id "
                f"{example}: record all models on the same inputs, with the same ids"
            )
        trace = trace.take(np.argsort(keys)[np.argsort(np.argsort(wanted))])
    labels = (order.label, trace.label)
    if (labels[0] is None) != (labels[1] is None) or not np.array_equal(*labels):  # type: ignore[arg-type]
        raise InputError(f"the labels of {first!r} and {name!r} differ: models answer the same question")
    check_measured_alike(order, trace)
    groups, other = order.groups, trace.groups
    if Groups.joined([groups, other]) is not None and not np.array_equal(groups.key, other.key):  # type: ignore[union-attr]
        raise InputError(f"the groups of {first!r} and {name!r} differ: models answer the same inputs")
    return trace


def _tells_alone(trace: ExitTrace) -> bool:
    """Return whether a model only tells features of inputs, and answers nothing."""
    return bool(trace.features) and bool((trace.prediction == NO_ANSWER).all())


def agreeing(inputs: ExitTrace | CascadeTrace, reference: str | None = None) -> ExitTrace | CascadeTrace:
    """Return a trace measured by its agreement with its last exit, called `reference`, or with this model of several.

    By default the last exit is the full network, and the model the most expensive one.
    """
    if isinstance(inputs, CascadeTrace):
        return inputs.with_reference(reference or "")
    return inputs.with_reference(name=reference or "the full network")


def is_bounded(trace: ExitTrace | CascadeTrace) -> bool:
    """Return whether the most that any input can cost is known, of every model."""
    traces = [trace] if isinstance(trace, ExitTrace) else [trace[name] for name in trace.names]
    return all(np.isfinite(part.cost.highest) for part in traces)


def single_exits(inputs: ExitTrace | CascadeTrace) -> ExitTrace:
    """Return the exits that a user may take instead of a policy: those of the trace, or of each model alone."""
    return inputs.alone if isinstance(inputs, CascadeTrace) else inputs
