"""What the drawn units of a gateway show of a plan: what each request would have lost and cost under it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt.costs.cost_model import CostModel
from exeunt.gateway.folder import GatewayModels
from exeunt.live.live_cascade import short_of_money
from exeunt.policy import Policy
from exeunt.rules.outcomes import Outcome
from exeunt.stream.records import ASKED, COMPARED, Record, Said, one_each
from exeunt.stream.units import Unit
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import path_to
from exeunt.trace.groups import Groups

OVER_CAP = ""
"""Among the models that refuse a request: it could cost more than the cap, whoever answers."""


class RowOutcomes(NamedTuple):
    """What each row loses, in [-1, 1], and costs under a policy, and whether it is answered without the reference, (n,)
    each.
    """

    lost: Floats
    cost: Floats
    early: Booleans


@dataclass(frozen=True, eq=False)
class Evidence:
    """The first requests of drawn units, of n rows and u units.

    `unit` (n,): which of the units each row is of; `row` (n,): its place there. `place` (n,): where it lies in `trace`,
    -1 if a model was not asked or nothing is known of it. `records` (n,): None of rows of which there is none.
    `cap`: US dollars that a row counts where its cost is not known. `sticky`: whether the model that answers the first
    row of a unit answers the others, too.
    """

    units: tuple[Unit, ...]
    records: tuple[Record | None, ...]
    unit: Integers
    row: Integers
    trace: CascadeTrace | None
    place: Integers
    reference: str
    cap: float
    sticky: bool = False

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

    def outcomes(self, policy: Policy) -> RowOutcomes:
        """Return what becomes of each row under a policy.

        A row that the reference answers anyway loses nothing. One of which something is missing loses 1, costs the cap,
        and is answered without the reference, unless it is sure that the reference answers it. Recorded costs are those
        of models that followed the whole conversation: a model that was not asked for the row before costs what it does
        without a prompt cache.
        """
        lost, cost = np.ones(len(self.unit)), np.full(len(self.unit), self.cap)
        early = np.ones(len(self.unit), bool)
        in_trace = self.place >= 0
        if self.trace is not None:
            rows = self.place[in_trace]
            outcome = Outcome.of(policy, self.trace, self.reference)
            lost[in_trace], cost[in_trace] = outcome.loss[rows], outcome.paid[rows]
            early[in_trace] = outcome.early[rows]
        outside = self.outside(policy)
        lost[outside], cost[outside], early[outside] = 0.0, self.reference_cost[outside], False
        if self.sticky or self._cached:
            paths = self._paths(policy)
            if self.sticky:
                self._stay(paths, lost, cost)
                early = np.array([self.reference not in path for path in paths], bool)
            cost += self._of_switches(paths)
        return RowOutcomes(lost, cost, early)

    @cached_property
    def _cached(self) -> Mapping[str, Floats]:
        """What each row would cost more at a model if nothing had been in its prompt cache, (n,) each; models without a
        cache are left out.
        """
        names = {
            name for record in self.records if record for name, answer in record.said.items() if answer.cached
        }
        return {name: self._of_model(name, lambda answer: answer.cached) for name in sorted(names)}

    def _of_model(self, name: str, amount: Callable[[Said], float]) -> Floats:
        """Return a number of what a model said to each row, (n,); 0 where it was not asked."""
        return np.array(
            [amount(record.said[name]) if record and name in record.said else 0.0 for record in self.records]
        )

    def answering(self, policy: Policy) -> list[str]:
        """Return the model that answers each row under a policy; "" where that is not known."""
        return [path[-1] if path else "" for path in self._paths(policy)]

    def _paths(self, policy: Policy) -> list[tuple[str, ...]]:
        """Return the models that are asked for each row one after the other; none where that is not known."""
        steps, needed, outside = policy.cascade, policy.needs, self.outside(policy)
        exits = [] if self.trace is None else policy.route(self.trace).tolist()
        of_exit = [
            tuple(steps[k].model for k in path_to(steps, exit_) if needed[k]) for exit_ in range(len(steps))
        ]
        paths = [of_exit[exits[place]] if place >= 0 else () for place in self.place.tolist()]
        for k in np.flatnonzero(outside).tolist():
            paths[k] = (self.reference,)
        if self.sticky:
            for k in np.flatnonzero((self.row > 0) & ~outside).tolist():
                paths[k] = self._path_of_later(k, self._of_first(k, paths))
        return paths

    def _of_first(self, k: int, paths: Sequence[tuple[str, ...]]) -> str:
        """Return the model that answers the first row of the unit of row k; "" where that is not known."""
        first = int(np.searchsorted(self.unit, self.unit[k]))
        if self.row[first]:  # no model answers it, and then the reference answers the others
            return self.reference
        record, path = self.records[first], paths[first]
        if record is None or not path:
            return ""
        given = [name for name in path if name in record.said and not record.said[name].failed]
        return given[-1] if given else self.reference

    def _path_of_later(self, k: int, name: str) -> tuple[str, ...]:
        """Return the models that are asked for a row whose unit stays with a model."""
        record = self.records[k]
        if name == self.reference:
            return (name,)
        if not name or record is None or self.place[k] < 0:
            return ()
        return (name, self.reference) if record.said[name].failed else (name,)

    def _of_switches(self, paths: Sequence[tuple[str, ...]]) -> Floats:
        """Return what each row costs more because models were not asked for the row before, (n,)."""
        more = np.zeros(len(self.unit))
        for name, cached in self._cached.items():
            asked, cold = self._asked(name, paths)
            more += np.where(asked & cold & (self.row > 0), cached, 0.0)
        return more

    def _asked(self, name: str, paths: Sequence[tuple[str, ...]]) -> tuple[Booleans, Booleans]:
        """Return for which rows a model is asked, and for which it was not asked for the row before, (n,) each."""
        follows = np.append(False, (np.diff(self.unit) == 0) & (np.diff(self.row) == 1))
        asked = np.array([name in path for path in paths], bool)
        return asked, ~(follows & np.append(False, asked[:-1]))

    def _stay(self, paths: Sequence[tuple[str, ...]], lost: Floats, cost: Floats) -> None:
        """Change what rows after the first of their unit lose and cost to that of the model that answered the first."""
        for k in np.flatnonzero(self.row > 0).tolist():
            record, path = self.records[k], paths[k]
            if not path:
                lost[k], cost[k] = 1.0, self.cap
                continue
            *others, name = path
            if name == self.reference or record is None:
                lost[k], cost[k] = 0.0, self.reference_cost[k]
            else:
                own, best = record.said[name].grade, record.said[self.reference].grade
                lost[k] = (1.0 if best is None else best) - (own or 0.0)
                cost[k] = record.said[name].cost
            cost[k] += sum(record.said[other].cost for other in others if record is not None)

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

    def for_learning(self, policy: Policy | None = None) -> CascadeTrace | None:
        """Return the trace of the graded rows that all models take, from which policies learn; None without any. If
        the first row of a unit decides, they learn from first rows alone.

        `policy`: rows then cost what is expected where models change as often as under it (see `outcomes`).
        """
        usable = (self.place >= 0) & self.graded
        if self.sticky:
            usable &= self.row == 0
        rows = [k for k, record in enumerate(self.records) if usable[k] and record and not record.refused]
        if self.trace is None or not rows:
            return None
        trace = self.trace.take(self.place[rows])
        if policy is None or not self.switches_cost:
            return trace
        more, paths = {}, self._paths(policy)
        for name, cached in self._cached.items():
            asked, cold = self._asked(name, paths)
            later = asked & (self.row > 0)
            rate = cold[later].mean() if later.any() else 1.0
            more[name] = np.where(self.row > 0, rate * cached, 0.0)[rows]
        return CascadeTrace({name: _dearer(trace[name], more.get(name, 0.0)) for name in trace.names})

    @property
    def switches_cost(self) -> bool:
        """Whether a policy pays for changing the model within a unit."""
        return bool(self._cached) and not self.sticky

    def firsts(self, policy: Policy) -> Integers:
        """Return the places in `trace` of the units' first rows that the policy decides."""
        rows = (self.row == 0) & (self.place >= 0) & ~self.outside(policy)
        places: Integers = self.place[rows]
        return places


def evidence_of(
    units: Sequence[tuple[Unit, Sequence[Record]]],
    models: GatewayModels,
    cap: float,
    most_rows: int,
    *,
    sticky: bool = False,
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
        sticky,
    )


def _dearer(trace: ExitTrace, more: Floats | float) -> ExitTrace:
    """Return the trace of a model of which each row costs more, (n,)."""
    paid = trace.cost.of_inputs(trace.n)[:, 0] + more
    highest = max(trace.cost.highest or 0.0, float(paid.max()))
    return trace.with_cost(CostModel(paid[:, None], unit="usd", source="paid", highest=highest))


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
