"""What the drawn units of a gateway show of a plan: what each request would have lost and cost under it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt.costs.cost_model import CostModel
from exeunt.gateway.folder import GatewayModels
from exeunt.live.live_cascade import short_of_money
from exeunt.policy import Policy
from exeunt.rules.candidates import lost_by
from exeunt.stream.records import ASKED, COMPARED, Record, Said, one_each
from exeunt.stream.units import Unit
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.groups import Groups

OVER_CAP = ""
"""Among the models that refuse a request: it could cost more than the cap, whoever answers."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The first requests of drawn units, of n rows and u units.

    `unit` (n,): which of the units each row is of; `row` (n,): its place there. `place` (n,): where it lies in `trace`,
    -1 if a model was not asked or nothing is known of it. `records` (n,): None of rows of which there is none.
    `cap`: US dollars that a row counts where its cost is not known.
    """

    units: tuple[Unit, ...]
    records: tuple[Record | None, ...]
    unit: Integers
    row: Integers
    trace: CascadeTrace | None
    place: Integers
    reference: str
    cap: float

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def weight(self) -> Floats:
        """How many units each one stands for, (u,)."""
        return np.array([1 / unit.probability for unit in self.units])

    @property
    def later(self) -> tuple[Floats, Floats]:
        """How many requests came after each unit had closed, and what they have cost, (u,) each."""
        later = np.array([unit.later for unit in self.units], float)
        return later, np.array([unit.later_cost for unit in self.units], float)

    @property
    def reference_cost(self) -> Floats:
        """What each row costs at the reference, (n,); the cap where that is not known."""
        return np.where(self.has_reference, self.least_reference_cost, self.cap)

    @cached_property
    def least_reference_cost(self) -> Floats:
        """The same, (n,); 0 where it is not known, so that no budget gets more than it should."""
        name = self.reference
        return np.array(
            [
                0.0 if record is None or name not in record.said else record.said[name].cost
                for record in self.records
            ]
        )

    @property
    def over_cap(self) -> Booleans:
        """Which rows could cost more than the cap, (n,): the reference answers them."""
        return self._where(lambda record: OVER_CAP in record.refused)

    @property
    def graded(self) -> Booleans:
        """Which rows have grades, (n,)."""
        return self._where(lambda record: record.compared == COMPARED)

    @cached_property
    def has_reference(self) -> Booleans:
        """The rows whose cost at the reference is known, (n,)."""
        return self._where(lambda record: self.reference in record.said)

    def outside(self, policy: Policy) -> Booleans:
        """Return which rows the reference answers: a model refuses them, or they could cost too much, (n,)."""
        models = policy.models
        return self._where(lambda record: is_outside(models, record.refused))

    def _where(self, holds: Callable[[Record], bool]) -> Booleans:
        """Return of which rows there are records for which a condition holds, (n,)."""
        return np.array([record is not None and holds(record) for record in self.records], bool)

    def outcomes(self, policy: Policy) -> tuple[Floats, Floats]:
        """Return what each row loses, in [-1, 1], and what it costs under a policy, (n,) each.

        A row that the reference answers anyway loses nothing. One of which something is missing loses 1 and costs the
        cap, unless it is sure that the reference answers it.
        """
        lost, cost = np.ones(len(self.unit)), np.full(len(self.unit), self.cap)
        in_trace = self.place >= 0
        if self.trace is not None:
            rows = self.place[in_trace]
            lost[in_trace] = lost_by(policy, self.trace, self.reference)[rows]
            cost[in_trace] = paid_for(policy, self.trace)[rows]
        outside = self.outside(policy)
        lost[outside], cost[outside] = 0.0, self.reference_cost[outside]
        return lost, cost

    def only(self, units: Integers) -> Evidence:
        """Return the evidence of some units, by their places."""
        new = np.full(self.n_units, -1)
        new[units] = np.arange(len(units))
        rows = np.flatnonzero(new[self.unit] >= 0)
        in_trace = self.place[rows] >= 0
        recorded = rows[in_trace]
        place = np.full(len(rows), -1)
        place[in_trace] = np.arange(len(recorded))
        return replace(
            self,
            units=tuple(self.units[k] for k in units.tolist()),
            records=tuple(self.records[k] for k in rows.tolist()),
            unit=new[self.unit[rows]],
            row=self.row[rows],
            trace=None if self.trace is None or not len(recorded) else self.trace.take(self.place[recorded]),
            place=place,
        )

    def for_learning(self) -> CascadeTrace | None:
        """Return the trace of the graded rows that all models take, from which policies learn; None without any."""
        usable = (self.place >= 0) & self.graded
        rows = [k for k, record in enumerate(self.records) if usable[k] and record and not record.refused]
        return None if self.trace is None or not rows else self.trace.take(self.place[rows])

    def firsts(self, policy: Policy) -> Integers:
        """Return the places in `trace` of the units' first rows that the policy decides."""
        rows = (self.row == 0) & (self.place >= 0) & ~self.outside(policy)
        places: Integers = self.place[rows]
        return places


def evidence_of(
    units: Sequence[tuple[Unit, Sequence[Record]]], models: GatewayModels, cap: float, most_rows: int
) -> Evidence:
    """Return what drawn units and their compared requests show. `most_rows`: of a unit, that are compared.

    Requests to which no policy has an answer, such as those that no model takes, are no rows.
    """
    unit, row, records = [], [], list[Record | None]()
    for k, (drawn, compared) in enumerate(units):
        by_row = one_each(compared)
        for of_unit in range(min(drawn.rows, most_rows)):
            record = by_row.get(of_unit)
            if record is None or record.answered or OVER_CAP not in record.refused:
                unit.append(k)
                row.append(of_unit)
                records.append(record)
    place = np.full(len(records), -1)
    complete, groups = list[Record](), []
    for k, record in enumerate(records):
        if record is not None and _is_complete(record, models):
            place[k] = len(complete)
            complete.append(record)
            groups.append(units[unit[k]][0].number)
    return Evidence(
        tuple(drawn for drawn, _ in units),
        tuple(records),
        np.array(unit, np.int64),
        np.array(row, np.int64),
        _trace(complete, models, groups) if complete else None,
        place,
        models.reference,
        cap,
    )


def is_outside(models: Collection[str], refused: Collection[str]) -> bool:
    """Return whether the reference answers a request in place of a policy. `models`: those that the policy asks;
    `refused`: those that do not take it.
    """
    return OVER_CAP in refused or any(name in refused for name in models)


def paid_for(policy: Policy, records: CascadeTrace) -> Floats:
    """Return what each record costs under a policy, (n,)."""
    costs = policy.priced(records).cost.of_inputs(records.n)
    return np.asarray(costs[np.arange(records.n), policy.route(records)])


def _is_complete(record: Record, models: GatewayModels) -> bool:
    """Return whether all models that take the request were asked, so that it is known which would answer."""
    if record.compared not in ASKED or OVER_CAP in record.refused:
        return False
    if models.features and record.features is None:
        return False
    for name in models.highest:
        answer = record.said.get(name)
        if name not in record.refused and (answer is None or short_of_money(answer.failed)):
            return False
    reference = record.said.get(models.reference)
    return reference is not None and not reference.failed


def _trace(records: Sequence[Record], models: GatewayModels, units: Sequence[int]) -> CascadeTrace:
    """Return the trace of graded models.

    An answer of the reference that is not graded has grade 1: it agrees with itself. A model that gave no answer has
    grade 0, and so has an answer whose grade is missing. A score that is missing counts as 0, as live models without
    one have it. The requests of a unit are a group.
    """
    keys, traces = [record.request for record in records], {}
    groups = Groups(np.array(units)) if len(set(units)) < len(units) else None
    for name, highest in models.highest.items():
        answers = [record.said.get(name) or _REFUSED for record in records]
        cost = np.array([answer.cost for answer in answers])
        dearest = float(cost.max())
        # Free answers get a cost that does not count: beside what others cost, not beside what one can cost at most.
        paid = np.maximum(cost, 1e-6 * max(dearest, 1e-9))
        usual = 1.0 if name == models.reference else 0.0
        traces[name] = ExitTrace.from_losses(
            np.array([[answer.score or 0.0] for answer in answers]),
            np.array([[usual if answer.grade is None else answer.grade] for answer in answers]),
            cost=CostModel(
                paid[:, None], unit="usd", source="paid", highest=max(dearest, highest, paid.max())
            ),
            no_answer=np.array([[bool(answer.failed)] for answer in answers]),
            better="higher",
            measure=models.measure,
            id=keys,
            groups=groups,
        )
    trace = CascadeTrace(traces)
    if models.features:
        features = np.array([record.features for record in records])
        trace = trace.with_features(models.features, features, cost=models.features_cost)
    return trace


_REFUSED = Said(0.0, failed="does not take it")


def own_settings(settings: Mapping[int, tuple[float, Mapping[str, Any]]], models: GatewayModels) -> list[int]:
    """Return the settings whose records were made with these models, as they are now, and the same grader.

    A setting that lacks one of them, or the features, is of before: what that would have said is not known of any of
    its records, and each would count as lost.
    """
    return [number for number, (_, body) in settings.items() if _is_own(body, models)]


def _is_own(body: Mapping[str, Any], models: GatewayModels) -> bool:
    identity = body.get("identity")
    if identity and not models.identity.items() <= identity.items():
        return False
    if models.features and body.get("features", models.features) != models.features:
        return False
    return body.get("grader", "") in ("", models.grader)
