"""Several traces of one network: checked for overlap, concatenated, or recorded batch after batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.trace.derived import unlike_copies
from exeunt.trace.exit_trace import ExitTrace
from exeunt.trace.fields import joined_outputs, usual_rows
from exeunt.trace.grades import check_measured_alike
from exeunt.trace.groups import Groups
from exeunt.trace.log_probability import keeps_log_probability
from exeunt.trace.stored_trace import StoredTrace


def check_disjoint(fit: ExitTrace, calibrate: ExitTrace | StoredTrace) -> None:
    """Raise InputError if the two traces share a row or a group, are empty, or are not of the same exits.

    Rows that differ may have the same content.
    """
    for name, part in (("fit", fit), ("calibrate", calibrate)):
        if part.n == 0:
            raise InputError(f"the {name} part is empty: it needs at least one input")
        if isinstance(part, ExitTrace) and (part.id == part.id[0]).all() and unlike_copies(part) > 0:
            shown = (part.id if part.id_text is None else part.id_text)[0]
            raise InputError(
                f"all {counted(part.n, f'{name} input')} have the id {shown}, and other scores: copies of an "
                "input have one id, so give each input its own (id=range(n)), or none"
            )
    if fit.cost != calibrate.cost:
        raise InputError(
            f"fit and calibrate have different costs: {fit.cost} and {calibrate.cost}; "
            "record both from one network"
        )
    if isinstance(calibrate, StoredTrace):
        common = calibrate.n_shared(fit.row)
    else:
        common = len(np.intersect1d(fit.row, calibrate.row))
    if common:
        raise InputError(
            f"fit and calibrate share {counted(common, 'row')}; guarantees hold only for disjoint parts: "
            "use trace.split(...), or give other traces other id=..."
        )
    groups, other = fit.groups, calibrate.groups
    if Groups.joined([groups, other]) is not None and (shared := len(np.intersect1d(groups.key, other.key))):  # type: ignore[union-attr]
        raise InputError(
            f"fit and calibrate share {counted(shared, 'group')}; guarantees hold only for disjoint groups: use "
            "trace.split(...), or give other groups other names"
        )


def concatenate(traces: Sequence[ExitTrace]) -> ExitTrace:
    """Return the inputs of several traces of one network as one trace, with the scores that all of them have.

    Labels, features and log-probabilities are kept only if all traces have them. Raises InputError without traces, or
    if their costs, references or kinds of groups differ.
    """
    if not traces or any(trace.cost != traces[0].cost for trace in traces):
        raise InputError(
            f"concatenate at least one trace, all of the same costs, got {[t.cost for t in traces]}"
        )
    check_measured_alike(*traces)
    labels = [trace.label for trace in traces if trace.label is not None]
    return ExitTrace(
        **joined_outputs(traces, axis=0),
        cost=traces[0].cost.joined([trace.cost for trace in traces]),
        label=np.concatenate(labels) if len(labels) == len(traces) else None,
        id=np.concatenate([trace.id for trace in traces]),
        row=np.concatenate([trace.row for trace in traces]),
        groups=Groups.joined([trace.groups for trace in traces]),
        before=traces[0].before,
    )


class GrowingTrace:
    """A trace that is recorded batch after batch.

    It drops log-probabilities as soon as there are more than a trace keeps, so that they cannot fill the memory.
    """

    def __init__(self) -> None:
        self._parts: list[ExitTrace] = []
        self._size = self._bare = 0  # number of log-probabilities, and of first parts without any

    def add(self, part: ExitTrace) -> None:
        """Add the trace of a batch."""
        self._parts.append(part)
        self._size += 0 if part.log_probability is None else part.log_probability.size
        if not keeps_log_probability(self._size):
            self._parts[self._bare :] = [replace(p, log_probability=None) for p in self._parts[self._bare :]]
            self._bare = len(self._parts)

    def whole(self) -> ExitTrace:
        """Return the batches as one trace. Raises InputError without batches, or if only some of them have labels."""
        if not self._parts:
            raise InputError("there were no batches: there is nothing to record")
        labels = [part.label for part in self._parts if part.label is not None]
        if labels and len(labels) < len(self._parts):
            raise InputError("some batches have labels and some have none: give all or none")
        joined_trace = concatenate(self._parts)
        return replace(joined_trace, row=usual_rows(joined_trace.id))
