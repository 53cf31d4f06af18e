"""Streams at random through an executor that fails: how they are made, run and compared with the replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from replay import MeanScore, certain, replayed, shown
from trace_executor import PoisonError, SpaceError, TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.executor import BORDER
from exeunt.engine.inputs import input_keys
from exeunt.engine.plan import Plan
from exeunt.engine.row_table import RowTable
from exeunt.errors import BatchFailed
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.runs.streaming import Batch, answer_stream
from exeunt.score.confidence import NamedScore
from exeunt.score.kinds import ConfidentPatience, ConstantScore, Patience

if TYPE_CHECKING:
    from collections.abc import Callable

SCORES = (
    NamedScore("margin"), NamedScore("entropy"), NamedScore("max_probability"),
    Patience(), ConfidentPatience("margin", 2), ConstantScore(), MeanScore(),
)  # fmt: skip


class StrictTable(RowTable):
    """Lets no row be finished twice, nor one of no open ticket. `admitted`: number of tickets."""

    def __init__(self, policies):
        super().__init__(size=4)
        self.policies = policies
        self.settled, self.admitted = set(), 0

    def admit_together(self, sizes, deadlines, dues):
        self.admitted += len(sizes)
        return super().admit_together(sizes, deadlines, dues)

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


@dataclass
class MadeStream:
    """Batches of rows of the executor's record, and how they are answered.

    `batches`: rows of each; `widths`: of their inputs. `spoilt` (n,): whether a row's input holds a NaN. `refused`:
    batches of a shape that the executor does not take. `id_` (n,): keys of the rows, if they are `keyed`.
    """

    executor: TraceExecutor
    policy: ex.Policy
    plan: Plan
    batches: list[np.ndarray]
    widths: list[int]
    spoilt: np.ndarray
    refused: frozenset[int]
    id_: np.ndarray
    keyed: bool
    pool_rows: tuple[int, ...]
    max_rows: int
    max_wait_s: float | None
    ordered: bool
    skip: bool
    given: int = 0

    def check(self):
        """Run the stream and compare all that comes out with the replay."""
        waits = {"min_batch": self.pool_rows, "max_wait_s": self.max_wait_s}
        engine = Engine(self.executor, self.policy, self.plan, **waits)
        use_strict_table(engine)
        found, failure, options = [], None, {"ordered": self.ordered, "skip": self.skip}
        try:
            for answers in answer_stream(engine, self._source(), self.max_rows, **options):
                found.append(answers)
                self.given += answers.n
        except BatchFailed as error:
            failure = error
        numbers = [answers.batch for answers in found]
        assert len(set(numbers)) == len(numbers)
        if self.ordered:
            assert numbers == sorted(numbers)
        failed = {answers.batch: answers.error for answers in found if answers.error is not None}
        executor = self.executor
        truth = replayed(self.policy, executor.logits, self._keys(), ~self.spoilt, executor.segments)
        taken = set(range(len(self.batches)))
        if self.skip:
            assert failure is None
            assert set(numbers) == taken
        else:
            assert not failed
            taken = set(range(engine.table.admitted))
            failed = dict.fromkeys(sorted(taken - set(numbers)))
            assert (failure is None) == (not failed)
            if failure is not None:
                failed[failure.batch] = failure.__cause__
        doomed = {number for number in taken if number in self.refused or self._doomed(number, truth)}
        assert doomed <= set(failed)
        assert set(failed) <= doomed or self.executor.faults
        for number, error in failed.items():
            self._check_error(number, error)
        for answers in found:
            (self._check_failed if answers.batch in failed else self._check_batch)(answers, truth)
        if not (failed or self.executor.faults or self.executor.noise):
            self._check_work(truth)

    def _source(self):
        """Yield the batches, and look whether too many rows are held whenever one is asked for."""
        for number, (rows, width) in enumerate(zip(self.batches, self.widths, strict=True)):
            held = self._first_slot(number) - self.given
            assert held <= self.max_rows or not self.skip or self.max_wait_s is not None
            inputs = self._inputs(rows, width)
            inputs.flags.writeable = False
            if number in self.refused:
                inputs = inputs[None]
            yield Batch(inputs, self.id_[rows]) if self.keyed else inputs

    def _rows(self, number):
        return 1 if number in self.refused else len(self.batches[number])

    def _first_slot(self, number):
        return sum(map(self._rows, range(number)))

    def _inputs(self, rows, width):
        inputs = np.column_stack([rows.astype(float)] * width)
        inputs[self.spoilt[rows], -1] = np.nan
        return inputs

    def _keys(self):
        """Return the key of each row (n,): without any, that of its content, whatever batch it is in."""
        if self.keyed:
            return self.id_
        keys = np.zeros(len(self.id_), dtype=np.uint64)
        for rows, width in zip(self.batches, self.widths, strict=True):
            for row in rows.tolist():
                keys[row] = input_keys(self._inputs(np.array([row]), width), 1)[0]
        return keys

    def _doomed(self, number, truth):
        """Whether a row of the batch breaks a segment or the score that it gets to."""
        rows = self.batches[number]
        first = {row: self.executor.segments[segment][0] for row, segment in self.executor.fails.items()}
        if any(truth.reach[row] >= max(0, first[row]) for row in rows.tolist() if row in first):
            return True
        if not isinstance(self.policy.score, MeanScore) or self.executor.n_exits == 1:
            return False
        return bool((certain(self.executor.logits[rows, 1]) & (truth.reach[rows] >= 1)).any())

    def _check_error(self, number, error):
        """The failure must be of a call on rows of the batch alone. `error`: None if it is not known."""
        rows = {*self.batches[number].tolist(), -1}
        if number in self.refused:
            assert isinstance(error, ex.InputError | None)
        elif isinstance(error, (PoisonError, SpaceError)):
            assert error.rows <= rows
        elif error is not None or not any(held <= rows for _, held in self.executor.failed):
            assert isinstance(error, ValueError | None)
            assert certain(self.executor.logits[self.batches[number], 1]).any()

    def _check_failed(self, answers, truth):
        assert answers.n == self._rows(answers.batch)
        assert not (answers.valid | answers.borderline).any()
        assert ((answers.exit == -1) & (answers.label == -1) & np.isnan(answers.confidence)).all()

    def _check_batch(self, answers, truth):
        rows = self.batches[answers.batch]
        assert answers.n == len(rows)
        slack = max(1e-11, 10 * self.executor.noise)
        nearest = truth.nearest[rows]
        assert answers.borderline[nearest < BORDER - slack].all()
        assert not answers.borderline[nearest > BORDER + slack].any()
        sure = nearest > slack
        for name in ("exit", "label", "cost"):
            found, right = getattr(answers, name), getattr(truth, name)[rows]
            np.testing.assert_array_equal(found[sure], right[sure], name)
        np.testing.assert_allclose(answers.confidence[sure], truth.confidence[rows][sure], atol=slack)
        np.testing.assert_array_equal(answers.valid, answers.exit >= 0)

    def _check_work(self, truth):
        """Each segment runs the rows that get to it once, and no others where they are always dropped."""
        rows, needed = np.concatenate(self.batches), np.flatnonzero(self.policy.needs)
        for segment, (first, last) in enumerate(self.executor.segments):
            calls = [call for call in self.executor.calls if call[0] == segment]
            assert {call[2] for call in calls} <= {tuple(needed[(first <= needed) & (needed <= last)])}
            before = needed[needed < first]
            there = np.count_nonzero(truth.reach[rows] > (before[-1] if len(before) else -1))
            ran = sum(call[1] for call in calls)
            assert ran >= there if self.plan.sizes else ran == there


def made_stream(pick: Callable[[int, int], int], n: int) -> MadeStream:
    """Make a stream of up to n rows of choices between two numbers, both included."""
    n, m, k = pick(1, n), pick(1, 5), pick(2, 4)
    rng = np.random.default_rng(pick(0, 2**16))
    policy, logits = made_policy(pick, rng, n, m, k)
    cuts = [exit_ for exit_ in range(m - 1) if pick(0, 2)]
    segments = tuple(zip([0, *(cut + 1 for cut in cuts)], [*cuts, m - 1], strict=True))
    s = len(segments)
    piece = tuple(pick(1, 2 + n // 2) for _ in segments)
    drops = rng.integers(0, 24, (s, 3)).tolist() if pick(0, 2) else None
    plan = Plan("trace", segments, piece, (1, 4, 16), drops) if drops else Plan("trace", segments, piece)
    spoilt = rng.random(n) < 0.04 * pick(0, 2)
    id_ = rng.integers(0, 2**63, n, dtype=np.uint64)
    noise = 1e-7 * (pick(0, 3) == 3 and not isinstance(policy.score, MeanScore))
    fails = {pick(0, n - 1): pick(0, s - 1) for _ in range(pick(0, 4) - 1)}
    if noise:  # it is not known which way rows near a threshold take, and so whether they get there
        truth = replayed(policy, logits, id_, ~spoilt, segments)
        fails = {row: segment for row, segment in fails.items() if truth.nearest[row] > 1e-6}
    kinds = ("start", "run", "gather", "compact") if pick(0, 3) == 3 else ()
    faults = {kind: frozenset(pick(0, 12) for _ in range(pick(0, 4))) for kind in kinds}
    ends = np.sort([pick(0, n) for _ in range(pick(0, 1 + n // 6))]).astype(int)
    batches = np.split(rng.permutation(n), ends)
    return MadeStream(
        executor=TraceExecutor(logits, segments, fails, faults, noise),
        policy=policy,
        plan=plan,
        batches=batches,
        widths=[1 + pick(1, 4) // 3 for _ in batches],
        spoilt=spoilt,
        refused=frozenset(i for i in range(len(batches)) if pick(0, 24) == 24),
        id_=id_,
        keyed=pick(0, 1) == 1 or noise > 0,
        pool_rows=piece if pick(0, 1) else tuple(pick(1, 2 * n) for _ in segments),
        max_rows=pick(1, 2 * n),
        max_wait_s=10.0 ** -pick(3, 9) if pick(0, 7) == 7 else None,
        ordered=pick(0, 1) == 1,
        skip=pick(0, 2) > 0,
    )


def random_logits(rng, n, m, k):
    """Of some rows each exit is surer than the one before, of others none is."""
    ease = rng.gamma(1.0, 2.0, (n, 1, 1)) * np.linspace(0.3, 2, m)[:, None]
    return (rng.normal(size=(n, m, k)) + ease * np.eye(k)[rng.integers(0, k, n)][:, None]).astype("f4")


def made_policy(pick, rng, n, m, k):
    """Return a policy with thresholds at, next to and between the scores of logits, and these (n, m, k)."""
    score = SCORES[pick(0, len(SCORES) - 1)]
    logits = random_logits(rng, n, m, k)
    for _ in range(pick(0, 2)):
        logits[pick(0, n - 1), pick(0, m - 1), pick(0, k - 1)] = [np.nan, np.inf, -np.inf][pick(0, 2)]
    if isinstance(score, MeanScore) and m > 1 and pick(0, 1):
        logits[pick(0, n - 1), 1] = 60 * np.eye(k)[0]
    limits, lenient = [], MeanScore(strict=False) if isinstance(score, MeanScore) else score
    memory = lenient.init(n)
    for exit_ in range(m):
        scores, memory = lenient(exit_, shown(logits[:, exit_])[0], memory)
        beside = [0.0, 0.0, rng.uniform(-2e-5, 2e-5), rng.normal() * 0.02][pick(0, 3)]
        close = (float(np.sort(scores)[pick(0, n - 1)] + beside), float(rng.random()))
        limits.append([close, close, close, (NEVER, NEVER), (-NEVER, -NEVER)][pick(0, 4)])
    return ex.Policy(
        name="made", score=score, rates=np.full(m, 1 / m), limits=Thresholds.of(limits),
        cost=ex.CostModel(np.cumsum(rng.uniform(0.5, 2, m))), budget=1.0, calibration="made", n_calibration=0,
        seed=pick(0, 99),
    ), logits  # fmt: skip
