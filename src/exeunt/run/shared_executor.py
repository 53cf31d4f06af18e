"""One executor for several policies of a run: with the exits that any of them uses, and of a cascade the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan, segments_between
from exeunt.policy import Policy
from exeunt.policy.policy_set import models_in_order
from exeunt.run.executors import default_executor, executor_device, open_executor
from exeunt.run.folder import RunFolder
from exeunt.trace.cascade_step import CascadeStep


@dataclass(frozen=True, eq=False)
class SharedExecutor:
    """An executor for several policies, as `exeunt.engine.engine.Engine` takes them.

    `exits`: by policy, which of the executor's exits its own are. `places`: which of the run's exits, those of a
    cascade's models in a row, the executor's are. `plan`: the run folder's for this machine, if all exits are run.
    """

    executor: Executor
    policies: Mapping[str, Policy]
    exits: Mapping[str, list[int]]
    places: tuple[int, ...]
    plan: Plan | None


def open_shared(
    run: RunFolder,
    policies: Mapping[str, Policy],
    *,
    executor: str | None = None,
    threads: int | None = None,
    trusted: str | None = None,
) -> SharedExecutor:
    """Open a run's network once for all these policies, by name. For the options see `exeunt.run.load`.

    It is cut where any of the policies lets inputs answer.

    Raises InputError for policies that ask models in different orders, ArtefactError for one of another run.
    """
    for policy in policies.values():
        run.check_policy(policy)
    whole = tuple(entry.step for entry in run.cascade) or (CascadeStep("", run.cost.n_exits),)
    asked = {name: policy.cascade or whole for name, policy in policies.items()}
    steps = _union(list(asked.values()))
    places = [(step.model, exit_) for step in steps for exit_ in step.exits]
    exits = {
        name: [places.index((step.model, exit_)) for step in cascade for exit_ in step.exits]
        for name, cascade in asked.items()
    }
    ends = {last - 1 for last in accumulate(step.n_exits for step in steps)}
    for name, policy in policies.items():
        lasts = accumulate(step.n_exits for step in asked[name])
        ends |= {exits[name][own] for own in (*np.flatnonzero(policy.active), *(last - 1 for last in lasts))}
    selects = steps != whole
    name = default_executor(run) if executor is None else executor
    plan = None if selects or run.cascade else run.plan(name, executor_device(name))
    opened = open_executor(
        replace(run, steps=steps if selects or run.cascade else ()),
        name,
        threads=threads,
        trusted=trusted,
        segments=None
        if run.runs_whole
        else segments_between(sorted(ends))
        if plan is None
        else plan.segments,
    )
    before = dict(
        zip((step.model for step in whole), accumulate([0, *(step.n_exits for step in whole)]), strict=False)
    )
    return SharedExecutor(
        opened, policies, exits, tuple(before[model] + exit_ for model, exit_ in places), plan
    )


def _union(cascades: list[tuple[CascadeStep, ...]]) -> tuple[CascadeStep, ...]:
    """Return the models of cascades in the order that all keep, each with the exits that any uses."""
    used: dict[str, set[int]] = {}
    for step in (step for cascade in cascades for step in cascade):
        used.setdefault(step.model, set()).update(step.exits)
    order = models_in_order([[step.model for step in cascade] for cascade in cascades])
    return tuple(CascadeStep(model, sorted(used[model])) for model in order)
