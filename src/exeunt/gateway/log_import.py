"""Logs of what models answered before a gateway: their rows become records that fit policies, and may test them.

They test policies only for the first question, and only those of the first import, before the first proposal. Rows of a
later log may be the very requests that are held out, so what fits on them is tested on units that come later. What
becomes of a row depends on its time and its unit, never on what was answered.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exeunt._support.arrays import Floats
from exeunt._support.text import counted, listed
from exeunt.errors import InputError
from exeunt.gateway.folder import hashed, secret
from exeunt.gateway.gateway import Gateway
from exeunt.score.confidence import NO_ANSWER
from exeunt.stream.drawing import Period
from exeunt.stream.records import COMPARED, IMPORTED, IMPORTS, Record, Said
from exeunt.stream.units import DAY_S, Arrival, Place, Unit, UnitKind, Units
from exeunt.trace import CascadeTrace
from exeunt.trace.derived import score_matrix

_LATEST_S = 1e11
"""Seconds of a time some thousand years from now: larger numbers are of another unit."""


def times_of(column: Any, name: str) -> Floats:
    """Return the times of a column (n,), in seconds since 1970: numbers are that, and times without a zone are of UTC.

    Raises InputError for anything else, and for gaps.
    """
    is_number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    seconds = column if is_number else _seconds(column)
    if seconds is None:
        rows = range(len(column))
        row = next((row for row in rows if _seconds(column.slice(row, 1)) is None), len(column) - 1)
        raise InputError(
            f"column {name!r} holds {column[row].as_py()!r:.40} in row {row} (rows count from 0), which is no time "
            "like the others: give seconds since 1970, or texts such as 2026-11-01T08:30:00Z, all with a zone or none"
        )
    times = seconds.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if (gaps := ~np.isfinite(times)).any():
        raise InputError(f"column {name!r} has no time in row {int(gaps.argmax())} (rows count from 0)")
    if times.min() > _LATEST_S:
        raise InputError(
            f"column {name!r} holds times such as {times[0]:g}, and times are seconds since 1970: divide milliseconds "
            "by 1,000"
        )
    return np.asarray(times)


def _seconds(column: Any) -> Any:
    """Return a column of times in seconds since 1970; None where one of them is no time."""
    for zone in ("UTC", None):
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            microseconds = column.cast(pa.timestamp("us", zone)).cast(pa.int64())
            return pc.divide(microseconds.cast(pa.float64()), 1e6)
    return None


@dataclass(frozen=True)
class Import:
    """What a gateway keeps of a log that was brought in. `file`: its name; `at`: when, in seconds since 1970.

    `rows`, `units`: that became records, of which the latest has the number `last`; `left_out`: rows that the gateway
    may have kept itself. `testing`: units that may test policies, of `periods` periods. `has_times`: of the rows;
    without, they are one period. `digest`: of its rows. `assumption`: what certificates assume beside, "" for nothing.
    """

    file: str
    at: float
    rows: int
    units: int
    last: int
    left_out: int
    testing: int
    periods: int
    has_times: bool
    digest: str
    assumption: str = ""

    def __str__(self) -> str:
        text = f"{self.file}: {counted(self.rows, 'record')} of {counted(self.units, 'unit')} were added"
        if self.left_out:
            text += f"; {counted(self.left_out, 'row')} left out, which the gateway may have kept itself"
        if not self.testing:
            return (
                f"{text}. They fit policies, which are tested on units that come from now on: only a first log tests, "
                "before the first proposal"
            )
        periods = counted(self.periods, "period")
        return f"{text}. {self.testing:,} units test policies, in {periods}; the others fit them"


def import_log(
    gateway: Gateway,
    models: CascadeTrace,
    *,
    file: str,
    client: str,
    times: Floats | None = None,
    assumption: str = "",
) -> Import:
    """Add the rows of a log to the records of a gateway that does not run, and return what became of them.

    `models`: what all compared models and the reference answered, with prices in US dollars; its groups are units.
    `times` (n,): seconds since 1970, None if they are not known. `client`: whose records they are. For `file` and
    `assumption` see `Import`.

    Scores are mean log-probabilities, as the gateway sees them, and only of models with `logprobs: true`.

    Raises InputError without a promise, for other models or scores, rows that cost more than the cap, and rows that are
    older than records are kept; then nothing is added.
    """
    now, digest = gateway.clock(), _digest(models, client)
    if any(log["digest"] == digest for log in gateway.certifier.imports):
        raise InputError(f"what {file} holds was imported already: its rows would count twice")
    _check(gateway, models, times, now)
    log = _Log(gateway, models, client, times, now)
    records = [*log.records()]
    if not records:
        raise InputError(
            f"no row of {file} can be added: their users have come to the gateway already, or they are of its own time"
        )
    testing = [unit for unit in log.units if unit.held_out]
    done = Import(
        file,
        now,
        len(records),
        len(log.units),
        records[-1].number,
        models.n - len(records),
        len(testing),
        len({unit.period for unit in testing}),
        times is not None,
        digest,
        assumption,
    )
    imports = [*(gateway.records.kept(IMPORTS) or ()), vars(done)]
    gateway.records.add_all(records, log.units, log.periods, **{IMPORTS: imports})
    return done


def _digest(models: CascadeTrace, client: str) -> str:
    """Return what tells a log of a client from others: of the costs and grades of its rows."""
    costs = [models[name].cost.of_inputs(models.n) for name in sorted(models.names)]
    grades = [models[name].quality for name in sorted(models.names)]
    return hashlib.sha256(client.encode() + np.hstack([*costs, *grades]).tobytes()).hexdigest()[:32]


def _check(gateway: Gateway, models: CascadeTrace, times: Floats | None, now: float) -> None:
    """Raise InputError unless a gateway can use what models answered."""
    config, named = gateway.config, {*gateway.models.highest}
    kind, spent = config.unit_rules.kind, np.zeros(models.n)
    if gateway.certifier.question is None:
        raise InputError(
            "nothing is promised yet, and a log tests only the first promise: write shadow and promise, such as "
            "`promise: {max_loss: 5%}`, into the file of the gateway first"
        )
    if config.features is not None:
        raise InputError(
            "a log has no features as the gateway makes them: import it without features in its file"
        )
    if named != {*models.names}:
        raise InputError(
            f"the gateway compares {listed(sorted(named), 9)}, the log has {listed(models.names, 9)}"
        )
    if models.unit != "usd":
        raise InputError(f"the prices of a gateway are in usd, those of the log in {models.unit}")
    _check_units(kind, models.groups is not None)
    for name in models.names:
        spent += models[name].cost.of_inputs(models.n)[:, 0]
        _check_scores(name, _scores(gateway, models, name))
    if spent[row := int(np.argmax(spent))] > config.cap:
        raise InputError(
            f"row {row} (rows count from 0) costs {spent[row]:g} usd if all models answer it, and no request is "
            f"compared that may cost more than {config.cap:g} usd: raise `cap` of shadow"
        )
    if times is not None:
        _check_times(times, now, config.keep.days)


def _check_units(kind: UnitKind, has_groups: bool) -> None:
    """Raise InputError unless the rows of a log are named by what units are."""
    if has_groups and kind == "request":
        raise InputError(
            "units are requests in the file of the gateway, one row each: leave --group-column out"
        )
    if not has_groups and kind == "user":
        raise InputError("units are users in the file of the gateway: name their column with --group-column")


def _check_times(times: Floats, now: float, kept_days: float) -> None:
    """Raise InputError for times of the future, and of before records are kept."""
    days = (now - float(times.min())) / DAY_S
    if days > kept_days:
        raise InputError(
            f"the oldest row is {math.ceil(days)} days old, and records are kept for {kept_days:g}: write "
            f"`keep: {{days: {math.ceil(days) + 30}}}` into the file of the gateway, or leave older rows out"
        )
    if float(times.max()) > now:
        raise InputError(
            f"row {int(times.argmax())} (rows count from 0) is of the future: times are seconds since 1970"
        )


def _scores(gateway: Gateway, models: CascadeTrace, name: str) -> Floats | None:
    """Return what the gateway would have seen as the scores of a model, (n,); None where it sees none."""
    if gateway.config.models[name].logprobs is None:
        return None
    return np.asarray(score_matrix(models[name].default_score, models[name])[:, 0])


def _check_scores(name: str, scores: Floats | None) -> None:
    """Raise InputError unless scores are mean log-probabilities."""
    if scores is None:
        return
    known = scores[np.isfinite(scores)]
    if not len(known) or np.ptp(known) == 0 or known.max() > 0:
        found = f"up to {known.max():g}" if len(known) and np.ptp(known) else "all alike"
        raise InputError(
            f"{name} has `logprobs: true`, so the gateway sees the mean log-probability of its tokens, which is at "
            f"most 0; the scores of the log are {found}: name the column of mean log-probabilities with --confidence"
        )


class _Log:
    """The rows of a log as a gateway would have taken them, in the order of their times.

    `units`: that they make; `periods`: those whose units may test.
    """

    def __init__(
        self, gateway: Gateway, models: CascadeTrace, client: str, times: Floats | None, now: float
    ) -> None:
        self._gateway, self._models, self._client = gateway, models, client
        self._secret = secret(gateway.folder, gateway.records)
        self._length = gateway.config.period
        live = [period.number for period in gateway.records.periods("length = ?", (self._length,))]
        self._before = min([*live, int(now // self._length)])
        """Periods of before this one have ended, and hold no request of the gateway."""
        self._may_test = gateway.certifier.takes_logs and not (live and times is None)
        self._times = np.full(models.n, (self._before - 1) * self._length) if times is None else times
        self._rules = Units(gateway.config.unit_rules)
        if self._rules.rules.kind == "user":
            for unit in gateway.records.units("user != x'' AND closed IS NOT NULL"):
                self._rules.restore(unit)
        self._said = [self._of_model(name) for name in models.names]
        self._units: dict[int, Unit] = {}

    def _of_model(self, name: str) -> list[Said]:
        """Return what a model said to each row."""
        trace, score = self._models[name], _scores(self._gateway, self._models, name)
        cost, grade = trace.cost.of_inputs(trace.n)[:, 0], trace.quality[:, 0]
        silent = trace.prediction[:, 0] == NO_ANSWER
        return [
            Said(float(cost[row]), failed="no answer")
            if silent[row]
            else Said(float(cost[row]), None if score is None else float(score[row]), float(grade[row]))
            for row in range(trace.n)
        ]

    def records(self) -> Iterator[Record]:
        """Yield a record for each row; those are left out that the gateway may have kept itself."""
        first = self._gateway.records.latest_number() + 1
        number = first
        for row in np.argsort(self._times, kind="stable").tolist():
            arrival, now = self._arrival(number, row), float(self._times[row])
            if self._may_test and now // self._length >= self._before:
                continue
            place = self._rules.arrive(arrival, now)
            self._rules.answered(arrival, place, b"", now, failed=False)
            if place.unit is None or place.unit.number < first:
                continue
            number += 1
            if place.starts:
                self._begin(place.unit)
            yield self._record(arrival, row, place, now)
        for unit in self._units.values():
            unit.closed = unit.latest

    def _arrival(self, number: int, row: int) -> Arrival:
        kind, groups = self._rules.rules.kind, self._models.groups
        arrival = Arrival(number, self._client, self._hashed(f"log {self._models.id[row]}"))
        if groups is None:  # each row is a unit of its own
            return arrival
        name = str(groups.key[row])
        if kind == "user":
            return replace(arrival, user=self._hashed(f"user {name}"))
        return replace(arrival, name=self._hashed(f"name {name}"))

    def _hashed(self, content: str) -> bytes:
        return hashed(self._secret, self._client, content.encode())

    def _begin(self, unit: Unit) -> None:
        """Draw a unit, by lot to test policies or to fit them if it may test."""
        unit.drawn, unit.probability, unit.setting = True, 1.0, self._gateway.traffic.setting
        if self._may_test:
            unit.period = int(unit.opened // self._length)
            unit.held_out = self._gateway.traffic.drawing.is_held_out(unit.number)
        self._units[unit.number] = unit

    def _record(self, arrival: Arrival, row: int, place: Place, now: float) -> Record:
        reference, unit = self._gateway.models.reference, place.unit
        said = {name: answers[row] for name, answers in zip(self._models.names, self._said, strict=True)}
        record = Record(
            arrival.number,
            now,
            self._client,
            arrival.content.hex(),
            said if place.is_open else {reference: said[reference]},
            setting=self._gateway.traffic.setting,
            unit=0 if unit is None else unit.number,
            row=place.row,
            is_open=place.is_open,
            transcript=arrival.name,
            answered="" if said[reference].failed else reference,
            asked=(reference,),
            cost=said[reference].cost,
            compared=COMPARED if place.is_open else "",
        )
        if unit is not None and not place.is_open:
            unit.later, unit.later_cost = unit.later + 1, unit.later_cost + record.cost
        return record

    @property
    def units(self) -> list[Unit]:
        """The units of the rows, in order of arrival."""
        return [*self._units.values()]

    @property
    def periods(self) -> list[Period]:
        """The periods of which units may test. All of them have closed and been graded."""
        counts: dict[int, int] = {}
        for unit in self._units.values():
            if self._may_test and unit.period:
                counts[unit.period] = counts.get(unit.period, 0) + 1
        return [
            Period(number, 1.0, units, units, settled=self._gateway.clock(), length=IMPORTED)
            for number, units in counts.items()
        ]
