"""What a comparison came to: the numbers of every split, and what they say."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._sealed import read_sealed, write_sealed
from exeunt._version import __version__
from exeunt.arena.one_split import nested, unnested
from exeunt.costs import CostModel
from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exeunt._arrays import Floats
    from exeunt.arena.one_split import SplitRecord
    from exeunt.trace import ExitTrace

__all__ = ["Arena", "TraceResult"]

_FORMAT, _VERSION = "exeunt-arena", 1


@dataclass(frozen=True, eq=False)
class TraceResult:
    """p policies at q budgets over s splits of one trace with m exits.

    `n`: inputs of the trace. `left_out`: how many of the budgets asked for lie below the first exit's cost.
    `amounts` (q,): the others, in the unit of `cost`. `accuracy`, `spend` (p, q, s): NaN where infeasible.
    `rates` (p, q, m): mean share answered per exit. `oracle`, `mixture_accuracy`, `mixture_spend` (q, s).
    `exits` (m, s): accuracy of each exit alone. `parts` (3,): inputs to fit, calibrate and test.
    `seconds` (p, 2): time to make a policy for one budget, and for all.
    """

    name: str
    n: int
    left_out: int
    cost: CostModel
    amounts: Floats
    accuracy: Floats
    spend: Floats
    rates: Floats
    oracle: Floats
    exits: Floats
    mixture_accuracy: Floats
    mixture_spend: Floats
    parts: Floats
    seconds: Floats

    @classmethod
    def of(
        cls,
        name: str,
        trace: ExitTrace,
        amounts: Sequence[float],
        left_out: int,
        records: Sequence[SplitRecord],
    ) -> TraceResult:
        """Gather the records of all splits, the timed one first."""

        def stacked(what: str) -> Floats:
            return np.stack([getattr(record, what) for record in records], axis=-1)

        return cls(
            name, trace.n, left_out, trace.cost, np.array(amounts),
            accuracy=stacked("accuracy"), spend=stacked("spend"), rates=_mean_where_known(stacked("shares")),
            oracle=stacked("oracle"), exits=stacked("exits"),
            mixture_accuracy=stacked("mixture_accuracy"), mixture_spend=stacked("mixture_spend"),
            parts=records[0].parts, seconds=records[0].seconds,
        )  # fmt: skip

    @property
    def shares(self) -> Floats:
        """Budgets as shares of the full network's cost, (q,)."""
        shares: Floats = self.amounts / self.cost.full
        return shares

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        arrays = {name: nested(getattr(self, name)) for name in _arrays_of(type(self))}
        return {name: getattr(self, name) for name in _OF_TRACE} | arrays | {"cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TraceResult:
        """Rebuild a result from `to_dict`, to the last bit."""
        arrays: dict[str, Any] = {name: unnested(value[name]) for name in _arrays_of(cls)}
        plain = {name: value[name] for name in _OF_TRACE}
        return cls(**plain, **arrays, cost=CostModel.from_dict(value["cost"]))


@dataclass(frozen=True, eq=False)
class Arena:
    """Policies compared on traces by `exeunt.compare`; differences are paired, against `reference`.

    `command`: what made it, if a command did. `version`: of exeunt.
    """

    policies: tuple[str, ...]
    traces: tuple[TraceResult, ...]
    splits: int
    seed: int
    delta: float | None
    reference: str
    command: str | None = None
    version: str = __version__

    def against(self, reference: str) -> Arena:
        """Return the same comparison with the differences taken against another policy."""
        if reference not in self.policies:
            raise InputError(f"{reference!r} was not compared; choose one of {', '.join(self.policies)}")
        return replace(self, reference=reference)

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics in JSON-able form, as the report shows them: means and 95 % t intervals.

        Budgets and spend are shares of the full network's cost, gains are differences of accuracy. None
        stands where nothing was measured, as for an infeasible budget.
        """
        from exeunt.arena.statistics import statistics

        return statistics(self)

    def summary(self) -> list[str]:
        """Return what came out in plain sentences."""
        from exeunt.arena.summary import summary

        return summary(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per trace, policy and budget, the oracle included (see `to_dict`)."""
        from exeunt.arena.statistics import point_rows

        return point_rows(self)

    def to_arrow(self) -> Any:
        """Return the rows as a `pyarrow.Table`."""
        import pyarrow as pa

        return pa.Table.from_pylist(self.rows())

    def to_pandas(self) -> Any:
        """Return the rows as a `pandas.DataFrame` (needs the extra `pandas`)."""
        from exeunt.errors import require

        return require("pandas", extra="pandas").DataFrame(self.rows())

    def report(self, path: str | Path, *, command: str | None = None) -> None:
        """Write the report: one HTML file that needs nothing else. `command` is shown as what made it."""
        from exeunt.report import write_report

        shown = self if command is None else replace(self, command=command)
        write_report(shown.to_dict(), path)

    def save(self, path: str | Path) -> None:
        """Write the comparison as JSON, atomically: the statistics to read, and every split to load again."""
        measured = {
            **{name: getattr(self, name) for name in _PLAIN},
            "traces": [trace.to_dict() for trace in self.traces],
        }
        body = {"statistics": self.to_dict(), "measured": measured}
        write_sealed(path, "arena", body, format_=_FORMAT, version=_VERSION)

    @classmethod
    def load(cls, path: str | Path) -> Arena:
        """Read what `save` wrote. Raises ArtefactError for a damaged or foreign file."""
        body = read_sealed(
            path, "arena", kind="comparison", format_=_FORMAT, version=_VERSION, remedy="compare again"
        )
        try:
            plain = {name: body["measured"][name] for name in _PLAIN}
            traces = tuple(TraceResult.from_dict(trace) for trace in body["measured"]["traces"])
            return cls(**{**plain, "policies": tuple(plain["policies"]), "traces": traces})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{path} cannot be read as a comparison: {error!r}") from error

    def __str__(self) -> str:
        from exeunt.arena.summary import overall_text

        return overall_text(self)

    __repr__ = __str__


_OF_TRACE = ("name", "n", "left_out")
_PLAIN = tuple(one.name for one in fields(Arena) if one.name != "traces")


def _arrays_of(cls: type[TraceResult]) -> list[str]:
    return [one.name for one in fields(cls) if one.name not in (*_OF_TRACE, "cost")]


def _mean_where_known(shares: Floats) -> Floats:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(shares)
    count = known.sum(axis=-1)
    total = np.where(known, shares, 0.0).sum(axis=-1)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
