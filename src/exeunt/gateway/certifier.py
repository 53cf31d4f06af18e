"""What a gateway certifies on its own traffic: questions, proposals, and bets on periods, all kept in its records.

A question is what is to be promised, of which models, and what a unit is. Whoever asks another one, changes a model or
the grader, or comes back after an alarm, asks a new question, which takes the weights that are left. So the chance that
any certificate is ever false is at most delta, over all looks and questions together.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from exeunt._support.arrays import Floats
from exeunt._support.files import make_folder, write_json
from exeunt.errors import ArtefactError, FileError
from exeunt.gateway.config import GatewayConfig
from exeunt.gateway.evidence import Evidence, evidence_of, own_settings
from exeunt.gateway.folder import PROPOSALS, GatewayModels
from exeunt.gateway.graders import code_digest
from exeunt.gateway.proposals import FEWEST, Proposal, dependence, limits_of, propose, values_of, watched_by
from exeunt.gateway.saved_policies import GatewayPolicies, clients_of, strange_models
from exeunt.policy import Policy
from exeunt.stream import bets
from exeunt.stream.drawing import Period
from exeunt.stream.records import ASKED, COMPARED, IMPORTED, IMPORTS, Records
from exeunt.stream.units import HOUR_S, Unit

_log = logging.getLogger("exeunt.gateway")
_FIRST_LOOK = 1.0
_PACE, _HALF = 60, 3
"""The latest periods that show whether fewer units come, at most, and half of the fewest."""
_SHARES = (*bets.TIGHTER, _FIRST_LOOK)
DEPENDENT = 0.001
"""The p-value below which successive units of a client are taken to depend on one another."""
FORGOTTEN = "forgotten"
"""Under this name the records keep the number of the latest request when a client was forgotten."""
ALARM = "an alarm"

Apart = Callable[..., Awaitable[Any]]
"""Runs a function elsewhere, so that requests are answered meanwhile."""


@dataclass(frozen=True)
class Question:
    """What is to be certified. `number`: from 1; `asked_at`: when. `tests_from`: the first unit that may test;
    `fits_from`: the first that may fit. `why`: it was asked. `body`: what makes it this question.
    """

    number: int
    asked_at: float
    tests_from: int
    fits_from: int
    why: str
    body: Mapping[str, Any]


@dataclass
class Plan:
    """A plan of a proposal. `policy`: None if a client was forgotten whose requests it held. `needed`: about how many
    units it takes; `share`: of the reference's cost that it takes, and `cost` in US dollars per request, estimates by
    the units that fit. `name`: that it is kept under, once it has `passed`, a time.

    `logs`: by promise and share of its limit, the logarithms of the stakes' factors in each period, (p, 4).
    """

    policy: Policy | None
    needed: float
    share: float
    cost: float
    name: str = ""
    passed: float | None = None
    logs: dict[tuple[str, float], list[Floats]] = field(default_factory=dict)

    def wealth(self, promise: str, share: float, first: int) -> float:
        """Return the highest wealth so far after `first` periods or more."""
        logs = self.logs.get((promise, share), [])
        sums = np.cumsum(np.array(logs).reshape(-1, len(bets.STAKES)), axis=0)
        return max((bets.wealth(row) for row in sums[max(first - 1, 0) :]), default=0.0)


@dataclass
class ProposalUnderTest:
    """A proposal and how its tests stand. `number`: among all, which gives its `weight`. `fitted`: units that it was
    made of. `tests_from`: the first unit that tests it. `rows`: of a unit that its plans answer.

    `correlation`: the p-value of whether successive units of a client are alike. `bet_on`: how many units it was bet on
    in each period; of none there is no bet.
    """

    number: int
    question: int
    proposed_at: float
    fitted: int
    tests_from: int
    rows: int
    kind: str
    correlation: float
    plans: list[Plan] = field(default_factory=list)
    ended: bool = False
    bet_on: dict[int, int] = field(default_factory=dict)

    @property
    def periods(self) -> int:
        """In how many periods it was tested."""
        return sum(units > 0 for units in self.bet_on.values())

    @property
    def units(self) -> int:
        """How many units have tested it."""
        return sum(self.bet_on.values())

    @property
    def weight(self) -> float:
        """The share of delta that its tests may use."""
        return bets.weight(self.number)


class ProposalStore:
    """The questions and proposals of a gateway: rows of its records, and files in its folder `proposals`.

    Raises ArtefactError where a plan asks models that the gateway does not have.
    """

    def __init__(self, folder: Path, records: Records, models: GatewayModels) -> None:
        self._folder, self._records, self._models = make_folder(folder / PROPOSALS), records, models

    def latest_question(self) -> Question | None:
        """Return the question that was asked last; None before the first."""
        with self._records.reading() as connection:
            row = connection.execute("SELECT * FROM question ORDER BY number DESC").fetchone()
        if row is None:
            return None
        number, asked_at, tests_from, fits_from, why, body = row
        return Question(number, asked_at, tests_from, fits_from, why, json.loads(body))

    def add_question(self, question: Question) -> None:
        """Write a question."""
        row = {**vars(question), "body": json.dumps(question.body, sort_keys=True)}
        with self._records.writing() as connection:
            connection.execute("INSERT INTO question VALUES (?, ?, ?, ?, ?, ?)", list(row.values()))

    @property
    def highest_delta(self) -> float:
        """The highest delta of any question so far: the chance that any certificate is ever false is at most that."""
        with self._records.reading() as connection:
            bodies = [json.loads(body) for (body,) in connection.execute("SELECT body FROM question")]
        return max((float(body["promise"]["delta"]) for body in bodies), default=0.0)

    @property
    def last(self) -> int:
        """The highest number of a proposal so far, of all questions."""
        with self._records.reading() as connection:
            return int(connection.execute("SELECT COALESCE(MAX(number), 0) FROM proposal").fetchone()[0])

    def add(self, proposal: ProposalUnderTest, clients: Collection[str]) -> None:
        """Write a proposal. `clients`: whose requests it was made of."""
        number, rows = proposal.number, []
        for place, plan in enumerate(proposal.plans):
            rows.append((number, place, plan.needed, plan.share, plan.cost))
            if plan.policy is not None:
                file = self._plan_file(number, place)
                plan.policy.save(file)
                file.chmod(0o600)
        write_json(self.clients_file(number), sorted(clients))
        columns = (
            number,
            proposal.question,
            proposal.proposed_at,
            proposal.fitted,
            proposal.tests_from,
            proposal.rows,
            proposal.kind,
            proposal.correlation,
        )
        with self._records.writing() as connection:
            connection.execute("INSERT INTO proposal VALUES (?, ?, ?, ?, ?, ?, ?, ?)", columns)
            connection.executemany("INSERT INTO plan VALUES (?, ?, ?, ?, ?, '', NULL)", rows)

    def add_factors(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write the bets of a period: proposal, place of the plan, promise, share, period, units, four logarithms."""
        with self._records.writing() as connection:
            connection.executemany("INSERT INTO factor VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def pass_plan(self, proposal: ProposalUnderTest, place: int) -> None:
        """Write that a plan has passed, and the name of its policy."""
        plan = proposal.plans[place]
        with self._records.writing() as connection:
            connection.execute(
                "UPDATE plan SET policy = ?, passed = ? WHERE proposal = ? AND place = ?",
                (plan.name, plan.passed, proposal.number, place),
            )

    def clients_file(self, proposal: int) -> Path:
        """Return the file that names the clients of a proposal; it is not there once one of them was forgotten."""
        return self._folder / f"{proposal}.clients"

    def _plan_file(self, proposal: int, place: int) -> Path:
        return self._folder / f"{proposal}-{place}.json"

    def proposals(self, question: Question) -> list[ProposalUnderTest]:
        """Return the proposals of a question, with their bets so far."""
        with self._records.reading() as connection:
            rows = connection.execute(
                "SELECT number, question, made, fitted, tests_from, rows, kind, correlation FROM proposal "
                "WHERE question = ? ORDER BY number",
                (question.number,),
            )
            proposals = [ProposalUnderTest(*row) for row in rows]
            for proposal in proposals:
                self._restore_plans(connection, proposal)
        return proposals

    def _restore_plans(self, connection: sqlite3.Connection, proposal: ProposalUnderTest) -> None:
        plans, number = proposal.plans, (proposal.number,)
        for place, *columns in connection.execute(
            "SELECT place, needed, share, cost, policy, passed FROM plan WHERE proposal = ? ORDER BY place",
            number,
        ):
            plans.append(Plan(self._read_policy(proposal.number, place), *columns))
        for place, promise, share, period, units, *logs in connection.execute(
            "SELECT plan, promise, share, period, units, f0, f1, f2, f3 FROM factor WHERE proposal = ? ORDER BY period",
            number,
        ):
            plans[place].logs.setdefault((promise, share), []).append(np.array(logs))
            proposal.bet_on[period] = units

    def _read_policy(self, proposal: int, place: int) -> Policy | None:
        """Return the policy of a plan; None if a client was forgotten whose requests it held."""
        file = self._plan_file(proposal, place)
        if not os.path.lexists(file):
            return None
        remedy = (
            f"restore it, or remove {self._folder / str(proposal)}[-.]*, and this proposal is tested no more"
        )
        policy = Policy.load(file, remedy=remedy)
        if strange := strange_models(policy, self._models):
            raise ArtefactError(
                f"{file} asks {', '.join(sorted(strange))}, which this gateway does not have: {remedy}"
            )
        return policy


class Certifier:
    """Asks the question of the configuration, and answers it as units come.

    `question`: None without a promise. `proposals`: of this question. `models`: that it is about. `store`: keeps them.
    """

    def __init__(
        self,
        config: GatewayConfig,
        models: GatewayModels,
        records: Records,
        policies: GatewayPolicies,
        now: float,
    ) -> None:
        self._config, self.models, self._records, self._policies = config, models, records, policies
        self.store = ProposalStore(config.folder, records, models)
        self.question = self.store.latest_question()
        self._drawn_now = f"setting IN ({_listed(own_settings(records.settings(), models))})"
        body = self._body()
        self._is_written = True
        if body is None:
            self.question = None
        elif self.question is None or self.question.body != body:
            why = _why(None if self.question is None else self.question.body, body)
            self.ask(now, why, after=records.latest_number())
        self.proposals = [] if self.question is None else self.store.proposals(self.question)
        self.forget()
        self._is_proposing = False
        self._grace = min(HOUR_S, config.period)
        self._next_look = now

    # -- questions ------------------------------------------------------------------------------------------

    def ask(self, now: float, why: str, *, after: int, fits_from: int = 0) -> None:
        """Ask a new question. Units that begin after the request numbered `after` test it."""
        if (body := self._body()) is None:
            return
        number = 1 if self.question is None else self.question.number + 1
        self.question, self.proposals = Question(number, now, after + 1, fits_from, why, body), []
        self._write_question(self.question)

    def alarmed(self, now: float, latest: int) -> None:
        """Ask a new question: nothing before an alarm is evidence. `latest`: the number of the latest request."""
        try:
            self.ask(now, ALARM, after=latest, fits_from=latest + 1)
        except FileError as error:  # such as a full disk: it is tried again before anything else is written
            self._is_written = False
            _log.error("a question cannot be kept yet", exc_info=error)

    def _write_question(self, question: Question) -> None:
        self.store.add_question(question)
        self._is_written = True

    def _body(self) -> dict[str, Any] | None:
        """Return what identifies a question, JSON-able; None without a promise."""
        config, models = self._config, self.models
        if config.promise is None or config.shadow is None:
            return None
        return {
            "promise": {**limits_of(config.promise), "delta": config.promise.delta},
            "reference": models.reference,
            "models": dict(models.identity),
            "grader": models.grader,
            **({"code of the grader": code} if (code := code_digest(models.grader)) else {}),
            "prices": {
                name: {"call": 0.0, **config.models[name].price.to_dict()} for name in sorted(models.highest)
            },
            "features": None if config.features is None else asdict(config.features),
            "cap": config.cap,
            "period": config.period,
            "units": list(astuple(config.unit_rules)),
            **({"sticky": True} if config.sticky else {}),
        }

    # -- as time goes on ------------------------------------------------------------------------------------

    async def advance(self, now: float, busy: Sequence[Unit], apart: Apart) -> list[str] | None:
        """Bet on the periods that are over, and make a proposal if it is time. Returns the names under which plans are
        kept that passed now, or None if nothing has changed. It looks four times while grades are waited for.

        `busy`: units that are open, or of which requests are under way.
        """
        if self.question is None or self._config.promise is None or now < self._next_look:
            return None
        self._next_look = now + self._grace / 4
        if not self._is_written:
            await asyncio.to_thread(self._write_question, self.question)
        await asyncio.to_thread(self._settle, now, busy)
        passed = await asyncio.to_thread(self._test, now)  # whether or not a proposal can be made
        if await self._propose(now, apart):
            return [*(passed or ()), *(await asyncio.to_thread(self._test, now) or ())]
        return passed

    def _settle(self, now: float, busy: Sequence[Unit]) -> None:
        """Mark the periods as settled whose units have all closed and been graded."""
        grace, done = self._grace, []
        for period in self._periods("settled IS NULL"):
            if now < (period.number + 1) * self._config.period + grace:
                break
            with self._records.reading() as connection:
                (latest,) = connection.execute(
                    "SELECT MAX(closed) FROM unit WHERE period = ?", (period.number,)
                ).fetchone()
            if any(unit.period == period.number for unit in busy) or now < (latest or 0.0) + grace:
                break
            done.append(period)
        if done:
            self._records.settle(done, now)

    def _periods(self, where: str, *, imported: bool = False) -> list[Period]:
        """Return the periods of the question's time for which a condition holds, in their order. `imported`: also those
        of a log.
        """
        since, length = 0.0 if self.question is None else self.question.asked_at, self._config.period
        of_log = f"length = {IMPORTED} OR " if imported else ""
        return self._records.periods(
            f"({of_log}(length = ? AND number >= ?)) AND {where}", (length, since // length)
        )

    @property
    def takes_logs(self) -> bool:
        """Whether the units of a log that is brought in now may test policies: those of one log, before the first
        proposal, for the first question or one before which no request came.
        """
        question = self.question
        first = question is not None and (question.number == 1 or question.tests_from == 1)
        return first and not self.store.last and not any(log["testing"] for log in self.imports)

    @property
    def imports(self) -> list[dict[str, Any]]:
        """The logs that were brought in, see `exeunt.gateway.log_import.Import`."""
        return self._records.kept(IMPORTS) or []

    @property
    def log(self) -> dict[str, Any] | None:
        """The log whose units may test the policies of this question, if there is one."""
        tests_from = math.inf if self.question is None else self.question.tests_from
        return next((log for log in self.imports if log["testing"] and log["last"] >= tests_from), None)

    @property
    def min_periods(self) -> int:
        """Before so many periods nothing is certified; a log without times is one period."""
        return 1 if self.log is not None and not self.log["has_times"] else self._config.min_periods

    async def _propose(self, now: float, apart: Apart) -> bool:
        """Make a proposal if the fit half has reached its next size."""
        question, promise = self.question, self._config.promise
        if question is None or promise is None or self._is_proposing:
            return False
        size = 2 * self.proposals[-1].fitted if self.proposals else FEWEST
        if await asyncio.to_thread(lambda: self.n_fitting) < size:
            return False
        self._is_proposing = True
        try:
            forgotten = self._records.kept(FORGOTTEN)
            evidence = await asyncio.to_thread(self._evidence, self._fitting)
            number, rows = self.store.last + 1, self._config.unit_rules.most_rows
            weight = bets.weight(number)
            proposed = await apart(propose, evidence, promise, weight, most_rows=rows, seed=number)
            correlation = await apart(dependence, evidence, number)
            # A proposal may hold requests of a client that was forgotten meanwhile.
            if self._records.kept(FORGOTTEN) != forgotten:
                return False
            proposal = await asyncio.to_thread(
                self._save_proposal, question, number, now, evidence, proposed, correlation
            )
            if self.question is question:  # nobody asked another one meanwhile
                self.proposals.append(proposal)
        finally:
            self._is_proposing = False
        return True

    @property
    def _fitting(self) -> str:
        """An SQL condition for the units that fit policies."""
        first = 0 if self.question is None else self.question.fits_from
        return f"NOT held_out AND closed IS NOT NULL AND number >= {first} AND {self._drawn_now}"

    @property
    def n_fitting(self) -> int:
        """How many units fit policies."""
        return self._records.count_units(self._fitting)

    def held_out(self, proposal: ProposalUnderTest) -> Evidence:
        """Return the evidence of the units that have tested a proposal."""
        periods = _listed(period for period, units in proposal.bet_on.items() if units)
        return self._evidence(f"{self._tests(proposal)} AND period IN ({periods})")

    def _tests(self, proposal: ProposalUnderTest) -> str:
        """Return an SQL condition for the units that may test a proposal."""
        return f"held_out AND number >= {proposal.tests_from} AND {self._drawn_now}"

    @property
    def probability(self) -> float:
        """The probability with which units are drawn now; 0 before the first."""
        latest = self._records.latest_periods(1, self._config.period)
        return latest[0].probability if latest else 0.0

    @property
    def units_a_period(self) -> float | None:
        """How many units came in each of the latest periods, on average; None while the first one has not ended."""
        latest = self._records.latest_periods(8, self._config.period)[:-1]  # the latest one has not ended
        return sum(period.units for period in latest) / len(latest) if latest else None

    @property
    def fewer_come(self) -> bool:
        """Whether less than half as many units began in the later half of the latest periods as in the earlier half."""
        units = [period.units for period in self._records.latest_periods(_PACE, self._config.period)[:-1]]
        half = len(units) // 2
        return half >= _HALF and sum(units[-half:]) < sum(units[:half]) / 2

    @property
    def unseen_users(self) -> float:
        """About how many users have not come yet: f1 (f1 - 1) / (2 (f2 + 1)); f1 have made one request, and f2 two.

        The estimate of Chao (1984), corrected for its bias, as if there were no other users than those who come now.
        Where they differ in how often they come it is too low.
        """
        once, twice = self._records.units_by_requests(2, self._drawn_now)
        return once * (once - 1) / (2 * (twice + 1))

    def clients(self) -> list[str]:
        """Return the client of each compared unit."""
        return self._records.unit_clients(self._drawn_now)

    def _save_proposal(
        self,
        question: Question,
        number: int,
        now: float,
        evidence: Evidence,
        proposed: Proposal | None,
        correlation: float,
    ) -> ProposalUnderTest:
        """Write a proposal, and return it. One without plans counts, too: its time has passed."""
        # Of a log that only fits, rows may be requests that are held out.
        not_after = [log["last"] for log in self.imports if not log["testing"]]
        latest = max([self._records.kept(FORGOTTEN) or 0, *not_after])
        tests_from = max(question.tests_from, latest + 1)
        rows, kind = (0, "") if proposed is None else (proposed.rows, proposed.kind)
        proposal = ProposalUnderTest(
            number, question.number, now, evidence.n_units, tests_from, rows, kind, correlation
        )
        if proposed is not None:
            held_out = self._evidence(f"held_out AND closed IS NOT NULL AND number >= {tests_from}")
            for policy, needed, saved in zip(proposed.plans, proposed.needed, proposed.saved, strict=True):
                share = 1 - saved
                plan = Plan(watched_by(policy, held_out), needed, share, share * proposed.reference_cost)
                proposal.plans.append(plan)
        self.store.add(proposal, {unit.client for unit in evidence.units})
        return proposal

    # -- bets -----------------------------------------------------------------------------------------------

    def _test(self, now: float) -> list[str] | None:
        """Bet for all proposals. Returns the names under which plans are kept that passed now, or None without bets."""
        settled = [period.number for period in self._periods("settled IS NOT NULL", imported=True)]
        has_bet = [self._bet(proposal, settled) for proposal in self.proposals]
        return self._passes(now) if any(has_bet) else None

    def _bet(self, proposal: ProposalUnderTest, settled: Sequence[int]) -> bool:
        """Bet on the periods on which it has not been bet, in their order. Returns whether there were any.

        A unit that was chosen when money was missing counts as one that loses and costs all it can. If it were left
        out, units that are dear, and with them the days on which they are many, would be tested less often.
        """
        before = proposal.units
        for period in settled:
            if period in proposal.bet_on or proposal.ended:
                continue
            evidence = self._evidence(f"{self._tests(proposal)} AND period = {period}", refused=True)
            if evidence.n_units:
                self._bet_period(proposal, period, evidence)
            proposal.bet_on[period] = evidence.n_units
        return proposal.units > before

    def _bet_period(self, proposal: ProposalUnderTest, period: int, evidence: Evidence) -> None:
        rows, pending = [], []
        for place, plan in enumerate(proposal.plans):
            if plan.policy is None:
                continue
            outcomes = evidence.outcomes(plan.policy)
            for name, limit in self._limits.items():
                for share in _SHARES:
                    values, highest = values_of(name, limit, share, evidence, outcomes, proposal.rows)
                    logs = bets.log_factors(values, highest)
                    pending.append((plan.logs.setdefault((name, share), []), logs))
                    rows.append(
                        (proposal.number, place, name, share, period, evidence.n_units, *logs.tolist())
                    )
        self.store.add_factors(rows)
        for history, logs in pending:  # only what the file holds counts: it is bet on once
            history.append(logs)

    def _passes(self, now: float) -> list[str]:
        """Walk the plans of each proposal; return the names of those that have passed now."""
        passed = []
        for proposal in self.proposals:
            if proposal.ended or self.withheld(proposal):
                continue
            n_passed = bets.n_passed([self.wealths(plan) for plan in proposal.plans], self.needed(proposal))
            for place, plan in enumerate(proposal.plans[:n_passed]):
                if plan.passed is None and plan.policy is not None:
                    plan.name, plan.passed = self._keep_policy(proposal, place, plan), now
                    passed.append(plan.name)
                    self.store.pass_plan(proposal, place)
        return passed

    def needed(self, proposal: ProposalUnderTest) -> float:
        """Return the wealth at which a plan passes."""
        promise = self._config.promise
        return float("inf") if promise is None else 1 / (promise.delta * proposal.weight)

    def wealths(self, plan: Plan) -> dict[str, float]:
        """Return the highest wealth of each promise of a plan, after as many periods as it takes."""
        first = self.min_periods
        return {name: plan.wealth(name, _FIRST_LOOK, first) for name in self._limits}

    @property
    def _limits(self) -> dict[str, float | str]:
        promise = self._config.promise
        return {} if promise is None else limits_of(promise)

    def tightest(self, proposal: ProposalUnderTest, plan: Plan, promise: str) -> float:
        """Return the lowest share of a promised limit that a plan has reached, 1 if none below it."""
        first, needed = self.min_periods, self.needed(proposal)
        reached = [share for share in bets.TIGHTER if plan.wealth(promise, share, first) >= needed]
        return min(reached, default=_FIRST_LOOK)

    def withheld(self, proposal: ProposalUnderTest) -> str:
        """Return why nothing of a proposal is certified now; "" if nothing stands in the way."""
        if proposal.correlation < DEPENDENT and self._config.units is None:
            return (
                f"successive units of a client are alike (p = {proposal.correlation:.2g}), so they are not "
                "independent: write `units` into the file, user where a user's conversations depend on one another, or "
                "the kind that it has now if you know that they do not"
            )
        return ""

    def short_of_money(self) -> tuple[int, int]:
        """Return in how many periods of the question money for comparisons was missing, and how many there were."""
        periods = self._periods("1")
        return sum(period.is_short for period in periods), len(periods)

    def ungraded(self) -> tuple[dict[str, int], int]:
        """Return how many requests compared since the question have no grade, by reason, and how many were compared."""
        first = 0 if self.question is None else self.question.tests_from
        where = "compared != '' AND unit >= ? AND compared = ?"  # the first condition is that of an index
        counts = {why: self._records.count(where, (first, why)) for why in ASKED}
        return {why: n for why, n in counts.items() if n and why != COMPARED}, sum(counts.values())

    # -- files ----------------------------------------------------------------------------------------------

    def _keep_policy(self, proposal: ProposalUnderTest, place: int, plan: Plan) -> str:
        """Keep the policy of a plan, which may answer from now on, and return its name."""
        promise, policy = self._config.promise, plan.policy
        assert policy is not None  # noqa: S101 - for types
        note = {
            "rows": proposal.rows,
            "proposal": proposal.number,
            "plan": place,
            "question": proposal.question,
            "max_loss": None if promise is None else promise.max_loss,
            "share": plan.share,
            "cost": plan.cost,
        }
        clients = clients_of(self.store.clients_file(proposal.number))
        return self._policies.add(replace(policy, notes={**policy.notes, "gateway": note}), clients)

    def forget(self) -> bool:
        """Test nothing any more that holds requests of a client that was forgotten; return whether there was any."""
        ended = [
            proposal
            for proposal in self.proposals
            if not proposal.ended and not self.store.clients_file(proposal.number).exists()
        ]
        for proposal in ended:
            proposal.ended = True
            for plan in proposal.plans:
                plan.policy = None
        return bool(ended)

    def _evidence(self, where: str, *, refused: bool = False) -> Evidence:
        units = self._records.of_units(where, refused=refused)
        config = self._config
        return evidence_of(units, self.models, config.cap, config.unit_rules.most_rows, sticky=config.sticky)


def forget_proposals(folder: Path, client: str) -> None:
    """Remove the plans in a gateway's folder that were made of a client's requests."""
    within = folder / PROPOSALS
    for clients in within.glob("*.clients"):
        if client in clients_of(clients):
            for file in within.glob(f"{clients.stem}-*.json"):
                file.unlink()
            clients.unlink()


def _listed(numbers: Iterable[int]) -> str:
    """Return whole numbers as SQL lists them."""
    return ", ".join(map(str, map(int, numbers)))


def _why(before: Mapping[str, Any] | None, body: Mapping[str, Any]) -> str:
    """Return why a question is asked: what has changed."""
    if before is None:
        return "the first one"
    return ", ".join(name for name in body if before.get(name) != body[name]) + " changed"
