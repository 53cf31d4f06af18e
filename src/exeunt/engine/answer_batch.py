"""Answering one batch: the engine as a function."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from exeunt.engine.answers import Answers
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan
from exeunt.policy import Policy

__all__ = ["answer_batch", "answer_now"]


def answer_now(engine: Engine, inputs: Any, *, id: ArrayLike | None = None) -> Answers:  # noqa: A002
    """Run inputs through an engine to their answers. Raises whatever the executor raises."""
    ticket = engine.submit(inputs, id=id)
    engine.drain()
    if ticket.error is not None:
        raise ticket.error
    ticket.number = 0
    return ticket.answers


def answer_batch(
    executor: Executor,
    policy: Policy,
    inputs: Any,
    *,
    id: ArrayLike | None = None,  # noqa: A002
    plan: Plan | None = None,
    probabilities: bool = False,
) -> Answers:
    """Answer a batch. `id` (n,): keys of the inputs, which break ties; by default those of `input_keys`.
    `plan`: by default pieces of 64, and rows are dropped after every segment. `probabilities`: keep those of all
    classes.

    Inputs with values that are not finite are flagged in `valid`. Raises InputError if policy and network have
    different numbers of exits, and whatever the executor raises.
    """
    return answer_now(Engine(executor, policy, plan, probabilities=probabilities), inputs, id=id)
