"""One executor for several policies of a run: with the exits that any of them uses, and of a chain the members."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from exeunt.engine.plan import segments_between
from exeunt.policy.policy_set import members_in_order
from exeunt.run.executors import default_executor, executor_device, open_executor
from exeunt.trace.links import Link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exeunt.engine.executor import Executor
    from exeunt.engine.plan import Plan
    from exeunt.policy import Policy
    from exeunt.run.folder import RunFolder

__all__ = ["SharedExecutor", "open_shared"]


@dataclass(frozen=True, eq=False)
class SharedExecutor:
    """An executor for several policies, as `exeunt.engine.engine.Engine` takes them.

    `exits`: by policy, which of the executor's exits its own are. `places`: which of the run's exits, those of a
    chain's members in a row, the executor's are. `plan`: the run folder's for this machine, if all exits are run.
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

    Raises InputError for policies that ask members in different orders, ArtefactError for one of another run.
    """
    for policy in policies.values():
        run.check_policy(policy)
    whole = tuple(entry.link for entry in run.chain) or (Link("", run.cost.n_exits),)
    asked = {name: policy.chain or whole for name, policy in policies.items()}
    links = _union(list(asked.values()))
    places = [(link.member, exit_) for link in links for exit_ in link.exits]
    exits = {
        name: [places.index((link.member, exit_)) for link in chain for exit_ in link.exits]
        for name, chain in asked.items()
    }
    ends = {last - 1 for last in accumulate(link.n_exits for link in links)}
    for name, policy in policies.items():
        lasts = accumulate(link.n_exits for link in asked[name])
        ends |= {exits[name][own] for own in (*np.flatnonzero(policy.active), *(last - 1 for last in lasts))}
    selects = links != whole
    name = default_executor(run) if executor is None else executor
    plan = None if selects or run.chain else run.plan(name, executor_device(name))
    opened = open_executor(
        replace(run, links=links if selects or run.chain else ()),
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
        zip((link.member for link in whole), accumulate([0, *(link.n_exits for link in whole)]), strict=False)
    )
    return SharedExecutor(
        opened, policies, exits, tuple(before[member] + exit_ for member, exit_ in places), plan
    )


def _union(chains: list[tuple[Link, ...]]) -> tuple[Link, ...]:
    """Return the members of chains in the order that all keep, each with the exits that any uses."""
    used: dict[str, set[int]] = {}
    for link in (link for chain in chains for link in chain):
        used.setdefault(link.member, set()).update(link.exits)
    order = members_in_order([[link.member for link in chain] for chain in chains])
    return tuple(Link(member, sorted(used[member])) for member in order)
