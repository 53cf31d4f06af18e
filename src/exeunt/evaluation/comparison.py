"""The comparison that `exeunt.compare` returns: its statistics, its summary, its report and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from exeunt._support.sealed_json import read_sealed, write_sealed
from exeunt._version import __version__
from exeunt.errors import InputError, require
from exeunt.evaluation.report import DrawnWatch, write_report
from exeunt.evaluation.results import TraceResult, none_for_nan
from exeunt.evaluation.statistics import overall_rows, point_rows, trace_statistics
from exeunt.evaluation.summary import budget_text, overall_text, remarks, summary
from exeunt.rules.by_name import ABOUT

_FORMAT, _VERSION = "exeunt-comparison", 2


@dataclass(frozen=True, eq=False)
class Comparison:
    """Policies compared on traces by `exeunt.compare`; differences are paired by split, against `reference`.

    All traces have the same policies and number of splits; split number s was drawn with `seed` + s. `delta`: the level
    at which every policy was certified, or None. `command`: the command that made it, if one did. `version`: of exeunt.
    """

    traces: tuple[TraceResult, ...]
    seed: int
    delta: float | None
    reference: str
    command: str | None = None
    version: str = __version__

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the policies."""
        return self.traces[0].policies

    @property
    def splits(self) -> int:
        """Number of splits."""
        return self.traces[0].splits

    def against(self, reference: str) -> Comparison:
        """Return the same comparison with the differences taken against another policy."""
        if reference not in self.policies:
            raise InputError(f"{reference!r} was not compared; choose one of {', '.join(self.policies)}")
        return replace(self, reference=reference)

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics in JSON-able form, as the report shows them: means and 95% t intervals.

        Budgets and mean costs are shares of the cost of the full network, or of the most expensive model alone
        (`whole`); gains are differences of accuracy. None stands where nothing was measured, as for an infeasible
        budget.
        """
        return {
            "version": self.version,
            "command": self.command,
            "splits": self.splits,
            "seed": self.seed,
            "delta": self.delta,
            "reference": self.reference,
            "summary": self.summary(),
            "about": {name: ABOUT[name] for name in self.policies if name in ABOUT},
            "overall": none_for_nan(overall_rows(self.traces, self.reference)),
            "traces": [trace_statistics(trace, self.reference, self.delta) for trace in self.traces],
        }

    def summary(self) -> list[str]:
        """Return the main results in plain sentences."""
        return summary(self.traces, self.reference, self.delta)

    def by_budget(self) -> str:
        """Return the best policy of each budget beside what is simpler, as a table for each trace, and remarks."""
        return "\n".join(["\n\n".join(map(budget_text, self.traces)), *remarks(self.traces)])

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per trace, policy and budget, the oracle included (see `to_dict`)."""
        return [row for trace in self.traces for row in point_rows(trace, self.reference)]

    def to_arrow(self) -> Any:
        """Return the rows as a `pyarrow.Table`."""
        import pyarrow as pa

        return pa.Table.from_pylist(self.rows())

    def to_pandas(self) -> Any:
        """Return the rows as a `pandas.DataFrame` (needs the extra `pandas`)."""
        return require("pandas", extra="pandas").DataFrame(self.rows())

    def report(
        self, path: str | Path, *, command: str | None = None, watches: Mapping[str, DrawnWatch] | None = None
    ) -> None:
        """Write the report: one HTML file that needs nothing else. `command`: shown as the command that made it.

        `watches`: by the name of a run, what the watch of its policy found in its test part.
        """
        shown = self if command is None else replace(self, command=command)
        write_report(shown.to_dict(), path, watches=watches or {})

    def save(self, path: str | Path) -> None:
        """Write the comparison as JSON, atomically: the statistics to read, and every split to load again."""
        measured = {field.name: getattr(self, field.name) for field in fields(self)}
        measured["traces"] = [trace.to_dict() for trace in self.traces]
        body = {"statistics": self.to_dict(), "measured": measured}
        write_sealed(path, "comparison", body, format_=_FORMAT, version=_VERSION)

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read what `save` wrote. Raises ArtefactError for a damaged or foreign file."""

        def build(body: Any) -> Comparison:
            measured = body["measured"]
            return cls(**{**measured, "traces": tuple(map(TraceResult.from_dict, measured["traces"]))})

        return read_sealed(
            path,
            "comparison",
            build,
            kind="comparison",
            format_=_FORMAT,
            version=_VERSION,
            remedy="compare again",
        )

    def __str__(self) -> str:
        return overall_text(self.traces, self.reference, self.delta)

    __repr__ = __str__
