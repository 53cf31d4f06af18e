"""The arrays that a comparison measures: of one split, and of all splits of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from exeunt._support.arrays import Floats
from exeunt._support.text import counted
from exeunt.costs.cost_model import CostModel
from exeunt.evaluation.frontiers import Measured
from exeunt.rules.cascade import find_cascade
from exeunt.rules.catalogue import CERTIFYING, PRESETS
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.cascade_trace import is_bounded, single_exits
from exeunt.trace.derived import alike_neighbours, one_class_remark
from exeunt.trace.groups import weights_text

_MOST_SPLITS, _FEWEST_SPLITS = 50, 10
_INPUTS_OF_ALL_SPLITS = 150_000


def usual_splits(n: int) -> int:
    """Return how many splits of n inputs are compared by default: 50, of more than 3,000 inputs fewer, at least 10.

    Time grows with inputs times splits. What is measured on large parts varies little from split to split, and what the
    inputs have in common no number of splits shows.
    """
    return max(_FEWEST_SPLITS, min(_MOST_SPLITS, _INPUTS_OF_ALL_SPLITS // max(n, 1)))


@dataclass(frozen=True, eq=False, kw_only=True)
class SplitRecord(Measured):
    """What policies reach on one split (see `Measured`), and what they are compared with.

    `exits` (m,): the accuracy of each exit alone. `mixture_accuracy`, `mixture_cost` (q,): accuracy and mean cost of
    the best random mixture of two exits. `parts` (3,): numbers of inputs to fit, calibrate and test. `seconds` (p, 2):
    processor time to make the policy for one budget, and for all; NaN on all splits but the first.
    """

    exits: Floats
    mixture_accuracy: Floats
    mixture_cost: Floats
    parts: Floats
    seconds: Floats

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form: nested lists, with None for NaN."""
        return {field.name: none_for_nan(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> SplitRecord:
        """Rebuild a record from `to_dict`, to the last bit."""
        return cls(**_arrays(body), refusals=tuple(body["refusals"]))


@dataclass(frozen=True, eq=False, kw_only=True)
class TraceResult(SplitRecord):
    """p policies at q budgets over s splits of one trace with m exits.

    The arrays are those of the splits, stacked along a last axis of length s; but `rates` (p, q, m) are means over
    splits, `parts` and `seconds` are those of the first split, and `refusals` each policy's first. `n`: number of
    inputs. `left_out`: how many budgets that were asked for lie below the cost of the first exit. `amounts` (q,): the
    other budgets, in the unit of `cost`. `exit_names`: names of the exits, for a cascade those of all models alone.
    `models`: names of the models of a cascade, the most expensive last; () for a network. `remark`: what is wrong with
    its labels, or its groups, and why a model never answers. `measure`: what the quality of answers is called.
    """

    name: str
    n: int
    policies: tuple[str, ...]
    cost: CostModel
    amounts: Floats
    left_out: int
    exit_names: tuple[str, ...]
    models: tuple[str, ...] = ()
    remark: str = ""
    measure: str = "accuracy"

    @classmethod
    def of(
        cls,
        name: str,
        trace: ExitTrace | CascadeTrace,
        records: Sequence[SplitRecord],
        *,
        policies: tuple[str, ...],
        amounts: Sequence[float],
        left_out: int,
    ) -> TraceResult:
        """Gather the records of all splits, the timed one first."""
        stacked = {name: np.stack([getattr(record, name) for record in records], axis=-1) for name in _ARRAYS}
        known = (~np.isnan(stacked["rates"])).sum(axis=-1)
        with np.errstate(invalid="ignore"):  # NaN where nothing is known
            stacked["rates"] = np.nansum(stacked["rates"], axis=-1) / known
        stacked |= {"parts": records[0].parts, "seconds": records[0].seconds}
        refusals = tuple(
            next(filter(None, texts), "")
            for texts in zip(*(record.refusals for record in records), strict=True)
        )
        single = single_exits(trace)
        remarks = [one_class_remark(single), alike_neighbours(single)]
        if not is_bounded(trace) and {*policies} >= PRESETS.keys() - {*CERTIFYING}:
            remarks.append(
                f"{' and '.join(CERTIFYING)}, which certifies a budget, is left out because the most that an answer "
                "can cost is not known: state it (--highest)."
            )
        if trace.groups is not None:
            how = weights_text(trace.groups.rows_per_group)
            remarks.append(f"Parts are drawn from {counted(trace.groups.n, 'group')} ({how}).")
        exit_names = tuple(map(str, range(len(records[0].exits))))
        models: tuple[str, ...] = ()
        if isinstance(trace, CascadeTrace):
            exit_names = trace.exit_names
            models = tuple(sorted(trace.names, key=lambda name: trace[name].cost.full))
            answering = np.nansum(stacked["rates"], axis=(0, 1)) > 0
            exits_of = {name: trace.places([CascadeStep(name, trace[name].n_exits)]) for name in models}
            idle = [name for name, exits in exits_of.items() if not answering[exits].any()]
            reasons = find_cascade(trace.answering, max(amounts))[1] if idle else {}
            remarks += [reasons[name] for name in idle if name in reasons]
        return cls(
            name=name,
            n=trace.n,
            policies=policies,
            cost=single.cost,
            amounts=np.array(amounts),
            left_out=left_out,
            exit_names=exit_names,
            models=models,
            remark=" ".join(filter(None, remarks)),
            refusals=refusals,
            measure=trace.measure,
            **stacked,
        )

    @property
    def splits(self) -> int:
        """Number of splits."""
        return int(self.accuracy.shape[-1])

    @property
    def whole(self) -> str:
        """The model whose cost and accuracy are the reference: the full network, or the most expensive model."""
        return f"{self.models[-1]} alone" if self.models else "the full network"

    @property
    def one_exit(self) -> str:
        """What an exit is called: a model, where each model has a single one."""
        return "model" if len(self.models) == len(self.exit_names) else "exit"

    @property
    def shares(self) -> Floats:
        """Budgets as shares of the cost of the `whole`, (q,)."""
        return self.cost.share(self.amounts)  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return super().to_dict() | {"cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> TraceResult:
        """Rebuild a result from `to_dict`, to the last bit."""
        unknown = {"refusals": [""] * len(body["policies"])}  # of files without them
        lists = {
            name: tuple((unknown | body)[name]) for name in ("policies", "exit_names", "models", "refusals")
        }
        arrays = _arrays(body) | {"amounts": np.array(body["amounts"], dtype=np.float64)}
        return cls(**body | lists | arrays | {"cost": CostModel.from_dict(body["cost"])})


_ARRAYS = [field.name for field in fields(SplitRecord) if field.name != "refusals"]


def _arrays(body: dict[str, Any]) -> dict[str, Floats]:
    """Return the arrays of a record in JSON-able form, with NaN for None."""
    return {name: np.array(body[name], dtype=np.float64) for name in _ARRAYS}


def none_for_nan(field: Any) -> Any:
    """Return arrays as nested lists, and None for NaN, also inside lists and dicts: JSON has neither."""
    if isinstance(field, np.ndarray):
        field = field.tolist()
    if isinstance(field, dict):
        return {name: none_for_nan(entry) for name, entry in field.items()}
    if isinstance(field, list):
        return [none_for_nan(entry) for entry in field]
    return None if isinstance(field, float) and np.isnan(field) else field
