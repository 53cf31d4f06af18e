"""Records of a gateway as traces of graded models, from which policies are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from exeunt._text import counted
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.gateway.folder import GatewayModels
from exeunt.gateway.records import Record, Records
from exeunt.live.live_cascade import short_of_money
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.groups import Groups

COMPLETE = ("shadow", "audit")
"""Kinds of records in which every model may have been asked."""


@dataclass(frozen=True)
class RecordedTrace:
    """`trace`: of the complete `records`. `notes`: sentences about records that were left out, and bills too high."""

    trace: CascadeTrace
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()

    @property
    def clients(self) -> set[str]:
        """The clients whose records they are."""
        return {one.client for one in self.records}


def read_trace(folder: Path, models: GatewayModels) -> RecordedTrace:
    """Return the trace of the records in a gateway's folder. Raises as `trace_of` and `Records` do."""
    records = Records(folder)
    try:
        return trace_of(records.read(kinds=COMPLETE), models)
    finally:
        records.close()


def trace_of(records: Sequence[Record], models: GatewayModels) -> RecordedTrace:
    """Return the trace of records in which all models were asked, and all answers graded.

    An answer of the reference that is not graded has grade 1: it agrees with itself. A model that gave no answer has
    grade 0. A score that is missing counts as 0, as live models without one have it. Requests of a conversation or a
    user are a group, and so are requests that are linked by others; where nothing is linked, there are no groups.

    Raises InputError if no record is complete.
    """
    own = [one for one in records if _is_own(one, models)]
    notes = []
    if others := len(records) - len(own):
        notes.append(
            f"{counted(others, 'record was', 'records were')} left out: models, or what grades answers, have changed."
        )
    chosen = [one for one in own if _is_complete(one, models)]
    if not chosen:
        raise InputError(
            f"there are {counted(len(own), 'record')} of shadow requests or audits of these models, and in none did "
            f"all of {', '.join(models.highest)} answer and have a grade: let the gateway send a share of the requests "
            "to all"
        )
    if left := len(own) - len(chosen):
        notes.append(
            f"{counted(left, 'record was', 'records were')} left out: not all models were asked, or not all answers "
            "graded. What is certified is about requests like the others."
        )
    keys, groups, traces = [one.request for one in chosen], groups_of(chosen), {}
    for name, highest in models.highest.items():
        said = [one.said[name] for one in chosen]
        cost = np.array([one.cost for one in said])
        if (most := float(cost.max())) > highest:
            over = int((cost > highest).sum())
            notes.append(
                f"{counted(over, 'request')} cost more at {name} than the {highest:g} usd that a request can cost by "
                f"the configuration, up to {most:g} usd: certificates of the cost take that as the most."
            )
        # Free answers get a cost that does not count: beside what others cost, not beside what one can cost at most.
        paid = np.maximum(cost, 1e-6 * max(most, 1e-9))
        usual = 1.0 if name == models.reference else 0.0  # of no answer it does not count
        traces[name] = ExitTrace.from_losses(
            np.array([[one.score or 0.0] for one in said]),
            np.array([[usual if one.grade is None else one.grade] for one in said]),
            cost=CostModel(paid[:, None], unit="usd", source="paid", highest=max(most, highest, paid.max())),
            no_answer=np.array([[bool(one.failed)] for one in said]),
            better="higher", measure=models.measure, id=keys, groups=groups,
        )  # fmt: skip
    trace = CascadeTrace(traces)
    if models.features:
        told = np.array([one.features for one in chosen])
        trace = trace.with_features(models.features, told, cost=models.features_cost)
    return RecordedTrace(trace, tuple(chosen), tuple(notes))


def _is_own(record: Record, models: GatewayModels) -> bool:
    """Return whether a record was made with these models, as they are now, and the same grader."""
    changed = any(record.identity.get(name, known) != known for name, known in models.identity.items())
    return not changed and record.grader in ("", models.grader)


def _is_complete(record: Record, models: GatewayModels) -> bool:
    """Return whether all models were asked, and all answers are graded."""
    said = [record.said.get(name) for name in models.highest]
    known = [one is not None and (one.grade is not None or bool(one.failed)) for one in said]
    known[[*models.highest].index(models.reference)] = True
    asked = all(one is not None and not short_of_money(one.failed) for one in said)
    return (
        asked
        and all(known)
        and not record.said[models.reference].failed
        and (not models.features or record.features is not None)
    )


def groups_of(records: Sequence[Record]) -> Groups | None:
    """Return the groups of records that share a conversation or a user, directly or by others; None if none do."""
    n = len(records)
    conversation = np.unique([one.conversation for one in records], return_inverse=True)[1]
    user = np.unique([one.user for one in records], return_inverse=True)[1]
    named = np.array([bool(one.user) for one in records])
    rows = np.arange(n)
    links = [(rows, n + conversation), (rows[named], 2 * n + user[named])]
    start, end = (np.concatenate(side) for side in zip(*links, strict=True))
    of = connected_components(coo_array((np.ones(len(start)), (start, end)), shape=(3 * n, 3 * n)))[1][:n]
    return None if len(np.unique(of)) == n else Groups(of)
