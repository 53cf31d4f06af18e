"""Stands in for exeunt.engine.engine and exeunt.run.shared until they are there."""

from __future__ import annotations

import sys
import types
from collections import deque
from types import SimpleNamespace

import numpy as np

from exeunt import errors
from exeunt.errors import ExeuntError, InputError
from exeunt.run.runner import load


class QueueFull(ExeuntError):  # noqa: N818
    pass


class Ticket(SimpleNamespace):
    __hash__ = object.__hash__


class Engine:
    def __init__(
        self, executor, policies, plan=None, *, max_rows=None, when_full="refuse", seconds=None, **_
    ):
        self.executor, self.policies, self.plan = executor, dict(policies), plan
        self.in_force = next(iter(self.policies))
        self.max_rows, self.rows, self._queue = max_rows, 0, deque()

    def submit(self, inputs, now, policy=None, deadline=None, id=None):  # noqa: A002
        n = len(next(iter(inputs.values()))) if hasattr(inputs, "items") else len(inputs)
        if policy is not None and policy not in self.policies:
            raise InputError("no such policy")
        if self.max_rows and self.rows + n > self.max_rows:
            raise QueueFull("full")
        self.executor.start(inputs)
        ticket = Ticket(inputs=inputs, n=n, policy=policy, deadline=deadline, id=id, error=None, answers=None)
        self._queue.append(ticket)
        self.rows += n
        return ticket

    def cancel(self, ticket):
        if ticket in self._queue:
            self._queue.remove(ticket)
            self.rows -= ticket.n

    def step(self, now, force=True):
        if not self._queue:
            return []
        t = self._queue.popleft()
        self.rows -= t.n
        t.policy = t.policy or self.in_force
        t.policies = [t.policy] * t.n
        no = np.zeros(t.n, dtype=bool)
        late = t.deadline is not None and now > t.deadline
        from exeunt.engine.flow import answer_batch

        try:
            a = answer_batch(self.executor, self.policies[t.policy], t.inputs, id=t.id, plan=self.plan)
            if late:
                a = SimpleNamespace(
                    label=np.full(t.n, -1),
                    confidence=np.full(t.n, np.nan),
                    exit=np.full(t.n, -1),
                    cost=np.zeros(t.n),
                    valid=no,
                    borderline=no,
                )
        except Exception as error:
            t.error = error
            a = SimpleNamespace(
                label=np.full(t.n, -1),
                confidence=np.full(t.n, np.nan),
                exit=np.full(t.n, -1),
                cost=np.zeros(t.n),
                valid=no,
                borderline=no,
            )
        t.answers = SimpleNamespace(
            label=a.label,
            confidence=a.confidence,
            exit=a.exit,
            cost=a.cost,
            valid=a.valid,
            borderline=a.borderline,
            expired=~no if late else no,
            degraded=no,
        )
        return [t]

    def seconds_left(self, now):
        return None


def open_shared(run, policies, **options):
    runner = load(run, policy=list(policies.values())[-1], **options)
    return SimpleNamespace(executor=runner.executor, plan=runner.plan, policies=dict(policies))


def install():
    try:
        import exeunt.engine.engine  # noqa: F401
    except ImportError:
        errors.QueueFull = QueueFull
        for name in ("exeunt.engine.engine", "exeunt.run.shared"):
            module = types.ModuleType(name)
            vars(module).update(
                {k: v for k, v in globals().items() if k in ("Engine", "Ticket", "open_shared")}
            )
            sys.modules[name] = module
