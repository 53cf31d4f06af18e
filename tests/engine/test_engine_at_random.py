"""The engine under random policies, tickets, deadlines, cancelling and failures: every answer is that of the replay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_streams import SCORES, use_strict_table
from replay import CERTAIN, MeanScore, replayed, shown
from trace_executor import PoisonError, TraceExecutor

import exeunt as ex
from exeunt.answer import OwnAnswer
from exeunt.answer.pooled import LogTerm, PooledAnswer, Stage
from exeunt.calibration import NEVER, Thresholds
from exeunt.engine.engine import Engine
from exeunt.engine.plan import Plan, segments_between
from exeunt.errors import QueueFull


def made_policy(rng, logits, cost):
    """Return a policy with thresholds at scores of the logits."""
    m = logits.shape[1]
    score = SCORES[rng.integers(len(SCORES))]
    answer = OwnAnswer()
    if rng.random() < 0.4:
        answer = PooledAnswer(tuple(Stage(rng.choice([0.0, 0.7]), LogTerm(1.0)) for _ in range(m)))
    lenient = MeanScore(strict=False) if isinstance(score, MeanScore) else score
    memory, heard, limits = lenient.init(len(logits)), {}, []
    for exit_ in range(m):
        told, heard = answer(exit_, shown(logits[:, exit_])[0], heard)
        scores, memory = lenient(exit_, told, memory)
        close = (float(rng.choice(scores)), float(rng.random()))
        limits.append([close, close, (NEVER, NEVER)][rng.integers(3)])
    return ex.Policy(
        name="made", score=score, rates=np.full(m, 1 / m), limits=Thresholds.of(limits), answer=answer, cost=cost,
        budget=1.0, calibration="made", n_calibration=0, seed=int(rng.integers(99)),
    )  # fmt: skip


def said_at(policy, logits, exit_):
    """Return what each row (n,) is told at an exit, by name, from all that it needs to have heard."""
    heard = {}
    for before in np.flatnonzero(policy.needs[: exit_ + 1]):
        told, heard = policy.answer(before, shown(logits[:, before])[0], heard)
    return told


class Traffic:
    """Tickets at random through an engine, on a clock of its own."""

    def __init__(self, seed, n):
        rng = self.rng = np.random.default_rng(seed)
        m, k = rng.integers(1, 6), rng.integers(2, 5)
        ease = rng.gamma(1.0, 2.0, (n, 1, 1)) * np.linspace(0.3, 2, m)[:, None]
        self.logits = (rng.normal(size=(n, m, k)) + ease * np.eye(k)[rng.integers(0, k, n)][:, None]).astype(
            "f4"
        )
        ends = sorted({m - 1, *rng.integers(0, m, 2).tolist()})
        self.segments = segments_between(ends)
        s = len(ends)
        cost = ex.CostModel(np.cumsum(rng.uniform(0.5, 2, m)))
        self.policies = {str(i): made_policy(rng, self.logits, cost) for i in range(rng.integers(1, 4))}
        fails = {int(row): int(rng.integers(s)) for row in rng.integers(0, n, rng.integers(3))}
        self.executor = TraceExecutor(self.logits, self.segments, fails)
        drops = (
            {"sizes": (1, 8), "most_alive": rng.integers(0, 9, (s, 2)).tolist()} if rng.random() < 0.5 else {}
        )
        plan = Plan("trace", self.segments, tuple(rng.integers(1, 40, s)), **drops)
        self.engine = Engine(
            self.executor, self.policies, plan,
            company=tuple(rng.integers(1, 60, s)), seconds=tuple(rng.uniform(0, 2, s)),
            max_wait_s=rng.choice([None, 0.0, 5.0]), max_rows=rng.choice([None, 100]),
            when_full=rng.choice(["refuse", "degrade"]),
        )  # fmt: skip
        use_strict_table(self.engine)
        self.spoilt = rng.random(n) < 0.02
        self.rows, self.cancelled, self.done, self.now = {}, set(), [], 0.0

    def run(self):
        """Let all rows come, some be cancelled, and time pass between; then finish."""
        rng, n = self.rng, len(self.logits)
        at, order = 0, rng.permutation(n)
        while at < n:
            size = int(min(n - at, rng.choice([0, 1, 1, 1, 5, 30])))
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
            self.done += self.engine.step(self.now, force=True)
        self.done += self.engine.step(self.now)
        assert not list(self.engine.waiting)
        assert self.engine.table.stale == 0
        assert len(set(self.done)) == len(self.done)
        assert set(self.done) == set(self.rows) - self.cancelled

    def _submit(self, rows):
        rng = self.rng
        inputs = np.column_stack([rows.astype(float)] * rng.integers(1, 3))
        inputs[self.spoilt[rows], 0] = np.nan
        deadline = None if rng.random() < 0.4 else self.now + rng.exponential(6)
        policy = None if rng.random() < 0.3 else str(rng.integers(len(self.policies)))
        try:
            ticket = self.engine.submit(inputs, self.now, policy=policy, deadline=deadline, id=rows)
        except QueueFull:
            assert self.engine.max_rows is not None
            return
        self.rows[ticket] = rows

    def _work(self):
        rng = self.rng
        for _ in range(rng.integers(0, 4)):
            self.now += rng.exponential(0.5)
            if rng.random() < 0.1:
                self.engine.in_force = str(rng.integers(len(self.policies)))
            waits = [ticket for ticket in self.rows if not ticket.done]
            hurry = waits[0] if waits and rng.random() < 0.2 else None
            self.done += self.engine.step(self.now, force=rng.random() < 0.5, hurry=hurry)

    def check(self):
        """Compare with the replay, policy by policy. Returns how many rows were answered in full."""
        n = len(self.logits)
        truth = {
            name: replayed(policy, self.logits, np.arange(n), ~self.spoilt, self.segments)
            for name, policy in self.policies.items()
        }
        told = {
            (name, exit_): said_at(policy, self.logits, exit_)
            for name, policy in self.policies.items()
            for exit_ in np.flatnonzero(policy.needs)
        }
        full = 0
        for ticket in self.done:
            rows, answers = self.rows[ticket], ticket.answers
            if ticket.error is not None:
                self._check_error(ticket.error, rows, told)
                assert not answers.valid.any()
                continue
            cut = answers.expired | answers.degraded
            assert not cut.any() or ticket.deadline < np.inf or self.engine.when_full == "degrade"
            for place, row in enumerate(rows.tolist()):
                self._check_row(answers, place, row, ticket.policies[place], truth, told, cut[place])
            full += int((~cut).sum())
        return full

    def _check_row(self, answers, place, row, name, truth, told, cut):
        exit_, label = answers.exit[place], answers.label[place]
        if cut:
            costs = self.policies[name or "0"].cost.cumulative[[last for _, last in self.segments]]
            assert answers.cost[place] in [0.0, *costs]
            assert answers.cost[place] >= (0.0 if exit_ < 0 else self.policies[name].cost.cumulative[exit_])
        if self.spoilt[row] or exit_ < 0:
            assert self.spoilt[row] or cut
            assert (exit_, label, answers.valid[place]) == (-1, -1, False)
            return
        right = truth[name]
        assert answers.valid[place]
        if right.nearest[row] < 1e-6:
            return
        if not cut:
            assert (exit_, label) == (right.exit[row], right.label[row])
            assert answers.cost[place] == right.cost[row]
            assert answers.confidence[place] == pytest.approx(right.confidence[row], abs=1e-9)
            return
        assert exit_ < right.exit[row]
        said = told[name, exit_]
        assert answers.confidence[place] == pytest.approx(said["max_probability"][row], abs=1e-9)
        assert label == said["prediction"][row]

    def _check_error(self, error, rows, told):
        if isinstance(error, PoisonError):
            assert error.rows <= {*rows.tolist(), -1}
            assert any(row in self.executor.fails for row in rows.tolist())
        else:
            assert isinstance(error, ValueError)
            strict = [name for name, policy in self.policies.items() if isinstance(policy.score, MeanScore)]
            assert any((told[name, 1]["margin"][rows] > CERTAIN).any() for name in strict)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_traffic_at_random(seed):
    traffic = Traffic(seed, 200)
    traffic.run()
    traffic.check()


@pytest.mark.slow
def test_a_million_rows():
    full = 0
    for seed in range(500):
        traffic = Traffic(seed, 2000)
        traffic.run()
        full += traffic.check()
    assert full > 300_000
