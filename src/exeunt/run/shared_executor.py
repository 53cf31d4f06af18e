"""One executor for one or several policies of a run: with the models and exits that any of them uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan, segments_between
from exeunt.policy import Policy
from exeunt.policy.policy_set import models_in_order
from exeunt.run.executors import chosen_executor, executor_device, open_executor
from exeunt.run.folder import RunFolder
from exeunt.trace.cascade_step import CascadeStep


@dataclass(frozen=True, eq=False)
class SharedExecutor:
    """An executor for several policies, as `exeunt.engine.engine.Engine` takes them.

    `exits`: by policy, which of the executor's exits are the policy's. `places`: which of the run's exits, those of a
    cascade's models in a row, are the executor's. `plan`: how to run the executor, if there is a plan for it.
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
    plan: Plan | None = None,
) -> SharedExecutor:
    """Open a run's network once for all these policies, by name. For the options see `exeunt.run.load`.

    The network is cut where any of the policies lets inputs answer: nowhere else are rows dropped. A plan is for all
    exits of one network; by default it is the run folder's for this machine.

    Raises InputError for policies that ask models in different orders, ArtefactError for a policy of another run.
    """
    for policy in policies.values():
        run.check_policy(policy)
    whole = tuple(entry.step for entry in run.cascade) or (CascadeStep("", run.n_exits),)
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
    name = chosen_executor(run) if executor is None else executor
    if plan is None and not selects and not run.cascade:
        plan = run.plan(name, executor_device(name))
    segments = plan.segments if plan else None if run.runs_whole else segments_between(sorted(ends))
    opened = open_executor(
        replace(run, steps=steps if selects or run.cascade else ()), name,
        threads=threads, trusted=trusted, segments=segments,
    )  # fmt: skip
    firsts = accumulate([0, *(step.n_exits for step in whole)])
    before = dict(zip((step.model for step in whole), firsts, strict=False))
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
