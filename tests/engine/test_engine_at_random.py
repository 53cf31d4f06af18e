"""The engine under random policies, tickets, deadlines, cancelling and failures: every answer is that of the replay.

The executor drops rows in place, and may be a cascade of models. Policies come and go, and some use only some of the
network's exits, and so skip models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_executor import PoisonError, SpaceError, TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.executor import BORDER
from exeunt.engine.plan import Plan, segments_between
from exeunt.engine.row_table import RowTable
from exeunt.errors import QueueFull
from exeunt.policy import PolicySet
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.policy.ensemble_answer import EnsembleAnswer, LogTerm, OwnAnswer, Stage
from exeunt.runs.saved_policies import named_by_budget
from exeunt.score.confidence import Evidence, NamedScore, softmax
from exeunt.score.kinds import ConfidentPatience, ConstantScore, Patience

CERTAIN = 1 - 1e-12


@dataclass(frozen=True)
class MeanScore:
    """The mean margin of the exits so far. If `strict` it raises at exit 1 for a row that is `certain` there."""

    strict: bool = True
    name: str = "mean"
    remembers: ClassVar[bool] = True

    def init(self, n):
        return {"sum": np.zeros(n)}

    def __call__(self, exit_, evidence, memory):
        if self.strict and exit_ == 1 and (evidence["margin"] > CERTAIN).any():
            raise ValueError("the score does not take this row")
        total = memory["sum"] + evidence["margin"]
        return total / (exit_ + 1), {"sum": total}


@dataclass
class Replay:
    """What comes of each row (n,). `reach`: the last exit whose logits were asked for, -1 for none.

    `nearest`: least distance on its way of its score to a threshold, and of its class to another one where it answers;
    at every exit, if the score remembers.
    """

    exit: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    cost: np.ndarray
    reach: np.ndarray
    nearest: np.ndarray


def replayed(policy, logits, id_, finite, segments) -> Replay:
    """Ask the policy about every row at every exit, whether it has answered or not; its first "leave" counts.

    `finite` (n,): whether the row's input is. `segments`: a row pays for all of the segments that it enters.
    """
    n, m = logits.shape[:2]
    if isinstance(policy.score, MeanScore):
        policy = replace(policy, score=MeanScore(strict=False))
    found = Replay(
        exit=np.full(n, -1), label=np.full(n, -1), confidence=np.full(n, np.nan), cost=np.zeros(n),
        reach=np.full(n, -1), nearest=np.full(n, np.inf),
    )  # fmt: skip
    alive, state = finite.copy(), policy.init(n, id=id_)
    exact = getattr(policy.score, "in_steps", False)
    for exit_ in np.flatnonzero(policy.needs):
        evidence, whole = shown(logits[:, exit_])
        leave, score, answer, state = policy.decide(exit_, evidence, state)
        limit = policy.thresholds[exit_]
        found.reach[alive] = exit_
        (end,) = (last for first, last in segments if first <= exit_ <= last)
        found.cost[alive] = policy.cost.cumulative[end]
        alive &= whole
        if exit_ < m - 1 and np.isfinite(limit) and not exact:
            found.nearest[alive] = np.minimum(found.nearest, abs(score - limit))[alive]
        now = alive & leave
        shows = alive if policy.score.remembers else now
        found.nearest[shows] = np.minimum(found.nearest, answer["margin"])[shows]
        found.exit[now], found.label[now] = exit_, answer["prediction"][now]
        found.confidence[now] = answer["max_probability"][now]
        alive &= ~leave
    return found


def shown(logits):
    """Return (evidence of logits (n, k), which rows are finite). Those that are not count as 0."""
    whole = np.isfinite(logits).all(axis=1)
    return Evidence(softmax(np.where(whole[:, None], logits, 0).astype(np.float64))), whole


SCORES = (
    NamedScore("margin"), NamedScore("entropy"), NamedScore("max_probability"),
    Patience(), ConfidentPatience("margin", 2), ConstantScore(), MeanScore(),
)  # fmt: skip


class StrictTable(RowTable):
    """Lets no row be finished twice, nor one of no open ticket."""

    def __init__(self, policies):
        super().__init__(size=4)
        self.policies = policies
        self.settled = set()

    def finish(self, rows, *, valid):
        numbers = rows.tolist()
        assert len(set(numbers)) == len(numbers)
        assert not self.settled.intersection(numbers)
        opened = {row for ticket in self._open.values() for row in range(ticket.base, ticket.base + ticket.n)}
        assert opened.issuperset(numbers)
        self.settled.update(numbers)
        super().finish(rows, valid=valid)


def use_strict_table(engine):
    """Give an engine that holds nothing a strict table."""
    engine.table = engine._calls.table = engine._deadlines.table = StrictTable(engine.table.policies)


def random_logits(rng, n, m, k):
    """Of some rows each exit is surer than the one before, of others none is."""
    ease = rng.gamma(1.0, 2.0, (n, 1, 1)) * np.linspace(0.3, 2, m)[:, None]
    return (rng.normal(size=(n, m, k)) + ease * np.eye(k)[rng.integers(0, k, n)][:, None]).astype("f4")


def made_policy(rng, logits, cost, budget):
    """Return a policy with thresholds at scores of the logits."""
    m = logits.shape[1]
    score = SCORES[rng.integers(len(SCORES))]
    answer = OwnAnswer()
    if rng.random() < 0.4:
        answer = EnsembleAnswer(tuple(Stage(rng.choice([0.0, 0.7]), LogTerm(1.0)) for _ in range(m)))
    lenient = MeanScore(strict=False) if isinstance(score, MeanScore) else score
    memory, outputs, limits = lenient.init(len(logits)), {}, []
    for exit_ in range(m):
        answered, outputs = answer(exit_, shown(logits[:, exit_])[0], outputs)
        scores, memory = lenient(exit_, answered, memory)
        close = (float(rng.choice(scores)), float(rng.random()))
        limits.append([close, close, (NEVER, NEVER)][rng.integers(3)])
    return ex.Policy(
        name="made", score=score, rates=np.full(m, 1 / m), limits=Thresholds.of(limits), answer=answer, cost=cost,
        budget=budget, calibration="made", n_calibration=0, seed=int(rng.integers(99)),
    )  # fmt: skip


class Used:
    """A policy and the exits of the network that are its own: what it makes of each row."""

    def __init__(self, policy, exits, logits, segments):
        self.policy, self.exits = policy, exits
        self._logits = logits[:, exits]
        inside = [np.flatnonzero((first <= exits) & (exits <= last)) for first, last in segments]
        self._segments = [(own[0], own[-1]) for own in inside if len(own)]
        self.ends = [policy.cost.cumulative[last] for _, last in self._segments]

    def replay(self, finite):
        """Set `truth` to the replay, and `shown_at` to the answer of each exit (n,), by name."""
        self.truth = replayed(self.policy, self._logits, np.arange(len(self._logits)), finite, self._segments)
        self.shown_at, outputs = {}, {}
        for own in np.flatnonzero(self.policy.needs):
            self.shown_at[own], outputs = self.policy.answer(own, shown(self._logits[:, own])[0], outputs)


class RequestStream:
    """Tickets at random through an engine, on a clock of its own."""

    def __init__(self, seed, n):
        rng = self.rng = np.random.default_rng(seed)
        m, k = rng.integers(1, 6), rng.integers(2, 5)
        self.logits = random_logits(rng, n, m, k)
        ends = sorted({m - 1, *rng.integers(0, m, 2).tolist()})
        self.segments = segments_between(ends)
        s = len(ends)
        for _ in range(rng.integers(3)):
            self.logits[rng.integers(n), rng.integers(m), 0] = rng.choice([np.nan, np.inf])
        self.used = self._policies(rng, m)
        restarts = (0, *sorted({*rng.integers(1, s, 2).tolist()})) if s > 1 and rng.random() < 0.4 else ()
        fails = {int(row): int(rng.integers(s)) for row in rng.integers(0, n, rng.integers(3))}
        self.executor = TraceExecutor(self.logits, self.segments, fails, restarts=restarts)
        if rng.random() < 0.3:
            kinds = {"start": 9, "run": 60, "gather": 60, "compact": 20}
            self.executor.faults = {kind: frozenset(rng.integers(0, n, most)) for kind, most in kinds.items()}
        drops = ((1, 8), rng.integers(0, 9, (s, 2)).tolist()) if rng.random() < 0.5 else ()
        plan = Plan("trace", self.segments, tuple(rng.integers(1, 40, s)), *drops)
        seconds = rng.uniform(0, 2, s)
        self.engine = Engine(
            self.executor, {name: used.policy for name, used in self.used.items()}, plan,
            exits={name: used.exits.tolist() for name, used in self.used.items()},
            min_batch=tuple(rng.integers(1, 60, s)), seconds=tuple(seconds),
            single_row_seconds=tuple(seconds * rng.uniform(0, 1, s)),
            max_wait_s=rng.choice([None, 0.0, 5.0]), max_rows=rng.choice([None, None, 30]),
            when_full=rng.choice(["refuse", "degrade"]),
        )  # fmt: skip
        use_strict_table(self.engine)
        self.spoilt = rng.random(n) < 0.02
        self.rows, self.cancelled, self.done, self.now = {}, set(), {}, 0.0

    def _policies(self, rng, m):
        """Return a set of policies by name, and one of some of the exits."""
        cost = ex.CostModel(np.cumsum(rng.uniform(0.5, 2, m)))
        made = [made_policy(rng, self.logits, cost, 1.0 + i) for i in range(rng.integers(1, 4))]
        used = {name: (policy, range(m)) for name, policy in named_by_budget(PolicySet(tuple(made))).items()}
        if m > 1 and rng.random() < 0.5:
            own = np.sort(rng.permutation(m)[: rng.integers(1, m)])
            cost = ex.CostModel(cost.cumulative[own])
            used["some"] = (made_policy(rng, self.logits[:, own], cost, 1.0), own)
        of_network = self.logits, self.segments
        return {name: Used(policy, np.array(exits), *of_network) for name, (policy, exits) in used.items()}

    def run(self):
        """Let all rows come, some be cancelled, and time pass between; then finish."""
        rng, n = self.rng, len(self.logits)
        at, order = 0, rng.permutation(n)
        while at < n:
            size = int(min(n - at, rng.choice([0, 1, 1, 1, 5, 30, 100])))
            rows = order[at : at + size]
            at += size
            self._submit(rows)
            self._work()
            if rng.random() < 0.1 and self.rows:
                ticket = list(self.rows)[rng.integers(len(self.rows))]
                if ticket not in self.done:
                    self.engine.cancel(ticket)
                    self.cancelled.add(ticket)
        while self.engine.rows:
            self.now += self.rng.exponential(0.3)
            self._step(force=True)
        self._step()
        assert not list(self.engine.scheduler)
        assert set(self.done) == set(self.rows) - self.cancelled

    def _step(self, **options):
        """Run a call. Rows whose deadline has passed are done."""
        for ticket in self.engine.step(self.now, **options):
            assert ticket not in self.done
            self.done[ticket] = self.now
        self._check_what_waits()
        assert self.engine.table.stale <= max(self.engine.rows - 1, 0)
        late = [ticket for ticket in self.rows if ticket.deadline <= self.now]
        assert all(ticket.done for ticket in late if not ticket.soft)
        just_run = set(np.concatenate([*self.engine._deadlines.left, []]).tolist())  # by this call
        for ticket in late:
            rows = self.engine.table.unfinished(ticket)
            assert just_run.issuperset(rows[self.engine.table.has_output(rows)].tolist())

    def _check_what_waits(self):
        """Every row without an answer waits once, and the table knows how many others do."""
        table = self.engine.table
        groups = [entry.group.rows for queue in self.engine.scheduler for entry in queue.heap]
        rows = np.concatenate([*groups, np.zeros(0, dtype=np.int64)])
        unfinished = table._unfinished[rows & table._mask] == rows
        assert len(set(rows.tolist())) == len(rows)
        assert table.stale == len(rows) - np.count_nonzero(unfinished)
        assert self.engine.rows == np.count_nonzero(unfinished)
        assert sum(queue.rows for queue in self.engine.scheduler) == len(rows)

    def _submit(self, rows):
        rng = self.rng
        inputs = np.column_stack([rows.astype(float)] * rng.integers(1, 3))
        inputs[self.spoilt[rows], 0] = np.nan
        deadline = None if rng.random() < 0.4 else self.now + rng.exponential(6)
        policy = None if rng.random() < 0.3 else self._any_policy()
        options = {"deadline": deadline, "policy": policy, "soft": bool(rng.random() < 0.5)}
        try:
            ticket = self.engine.submit(inputs, self.now, id=rows, **options)
        except QueueFull:
            assert self.engine.max_rows is not None
            return
        except SpaceError:  # there is none to take them in
            return
        self.rows[ticket] = rows

    def _any_policy(self):
        return str(self.rng.choice(list(self.used)))

    def _change_policies(self):
        """Activate another policy; replace one while rows run under it."""
        self.engine.active = self._any_policy()
        name = self._any_policy()
        self.engine.add(name, self.used[name].policy, exits=self.used[name].exits.tolist())

    def _work(self):
        rng = self.rng
        for _ in range(rng.integers(0, 4)):
            self.now += rng.exponential(0.5)
            if rng.random() < 0.1:
                self._change_policies()
            waits = [ticket for ticket in self.rows if not ticket.done]
            flush = waits[0] if waits and rng.random() < 0.2 else None
            self._step(force=rng.random() < 0.5, flush=flush)

    def check(self):
        """Compare with the replay, policy by policy. Returns how many rows were answered in full."""
        for used in self.used.values():
            used.replay(~self.spoilt)
        full = 0
        for ticket, at in self.done.items():
            rows, answers = self.rows[ticket], ticket.answers
            if ticket.error is not None:
                self._check_error(ticket.error, rows)
                assert not answers.valid.any()
                continue
            cut = answers.expired | answers.degraded
            assert not answers.expired.any() or ticket.deadline <= at + 2 * max(self.engine.scheduler.seconds)
            assert not answers.degraded.any() or self.engine.when_full == "degrade"
            assert not ticket.soft or (answers.exit >= 0)[answers.expired].all()
            for place, row in enumerate(rows.tolist()):
                self._check_row(answers, place, row, ticket.policies[place], cut[place])
            full += int((~cut).sum())
        return full

    def _check_row(self, answers, place, row, name, cut):
        exit_, label, cost = answers.exit[place], answers.label[place], answers.cost[place]
        assert answers.valid[place] == (exit_ >= 0)
        if name is None:  # it was never run
            assert (exit_, label, cost) == (-1, -1, 0.0)
            assert self.spoilt[row] or cut
            return
        used = self.used[name]
        right = used.truth
        if right.nearest[row] < 1e-6:
            return
        own = -1 if exit_ < 0 else int(np.flatnonzero(used.exits == exit_)[0])
        if not cut:
            assert (own, label, cost) == (right.exit[row], right.label[row], right.cost[row])
            assert answers.confidence[place] == pytest.approx(right.confidence[row], abs=1e-9, nan_ok=True)
            if abs(right.nearest[row] - BORDER) > 1e-9:
                assert answers.borderline[place] == (exit_ >= 0 and right.nearest[row] < BORDER)
            return
        assert cost in used.ends
        if exit_ < 0:
            assert label == -1
            return
        assert cost >= used.policy.cost.cumulative[own]
        assert own < (right.exit[row] if right.exit[row] >= 0 else right.reach[row])
        shown_there = used.shown_at[own]
        assert answers.confidence[place] == pytest.approx(shown_there["max_probability"][row], abs=1e-9)
        assert label == shown_there["prediction"][row]

    def _check_error(self, error, rows):
        if isinstance(error, (PoisonError, SpaceError)):
            assert error.rows <= {*rows.tolist(), -1}
            assert isinstance(error, SpaceError) or any(row in self.executor.fails for row in rows.tolist())
            return
        assert isinstance(error, ValueError)
        strict = [used.shown_at for used in self.used.values() if isinstance(used.policy.score, MeanScore)]
        assert any((shown_at[1]["margin"][rows] > CERTAIN).any() for shown_at in strict if 1 in shown_at)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_traffic_at_random(seed):
    traffic = RequestStream(seed, 200)
    traffic.run()
    traffic.check()


@pytest.mark.slow
def test_a_million_rows():
    full = 0
    for seed in range(500):
        traffic = RequestStream(seed, 2000)
        traffic.run()
        full += traffic.check()
    assert full > 450_000
