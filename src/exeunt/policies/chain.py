"""Chains: which members answer, in which order, and how many exits of each, within a budget (METHOD 8)."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from itertools import combinations, permutations
from math import perm
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.answer.pooling import Pooling, classes_of, has_few_classes
from exeunt.errors import InputError
from exeunt.policies.answering import check_answer, pooling_pays
from exeunt.policies.catalogue import preset
from exeunt.policies.worthwhile_exits import COMPARED_ON, beats, right_within, some_inputs
from exeunt.policy import PolicySet
from exeunt.trace import ExitTrace, Members, StoredTrace
from exeunt.trace.cache import cached_on_trace
from exeunt.trace.links import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from exeunt._arrays import Floats
    from exeunt.policies.answering import AnswerChoice
    from exeunt.policy import Policy

__all__ = ["chain", "chains", "find_chain", "policy_set", "rule_for"]

_ENUMERATED = 100
"""Chains of all members and orders are tried where there are at most so many; four members make 64."""
_CUTS = 6
"""How many last exits of a member are tried."""
_FINALISTS = 8
"""So many chains are compared once more, on more inputs."""
_SETTLED_ON = 1 << 18
"""So many inputs times classes."""
_KEPT = 1 << 24
"""Pooled answers of chains are kept for so many inputs times classes, 50 bytes each."""


def chain(
    fit: Members,
    calibrate: Members | StoredTrace,
    *,
    budget: float | str,
    policy: str | Callable[..., Policy] = "auto",
    answer: AnswerChoice = "auto",
    reference: str | None = None,
    order: Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Return a policy of a chain of members: some of them, in an order of its own, and the exits used of each.

    These are chosen on `fit` alone, for this budget: the most accurate chain within it, or a plainer one, of fewer
    members or with more of their exits, that it does not beat by half a standard error. So members that answer too
    little for what they cost are left out. Then the policy is made of the chain's exits as of those of one network.

    `budget`: mean cost per input in the members' unit, or "7.5 usd per 10k", or a share such as "30%" of what
    `reference` costs alone, by default the most expensive member. `policy`: the name of a rule, or a callable
    `(fit, calibrate, *, budget, answer, seed)`. `answer`: as for `eero`; "auto" lets cross-validation decide.
    `order`: names of members; those of the chain are among them, in this order. `calibrate`: a `StoredTrace` of these
    members where it does not fit in memory; the policy is the same.
    The other options, such as `delta`, are those of the rule. `policy.members` names who is asked, in order.

    Raises InputError for parts that overlap or differ in their members, InfeasibleBudget for a budget that no member
    can meet.
    """
    _check_members(fit, calibrate)
    check_answer(answer)
    amount = fit.budget(budget, reference=reference)
    links = find_chain(fit, amount, answer, seed, None if order is None else tuple(order))
    parts = (part.along(links, reference=reference) for part in (fit, calibrate))
    return replace(preset(policy)(*parts, budget=amount, answer=answer, seed=seed, **options), chain=links)


def rule_for(inputs: ExitTrace | Members, policy: str | Callable[..., Policy]) -> Callable[..., Policy]:
    """Return a rule by its name, or the rule for chains that makes policies by it."""
    rule = preset(policy)
    return partial(chain, policy=rule) if isinstance(inputs, Members) else rule


def policy_set(
    fit: ExitTrace | Members,
    calibrate: ExitTrace | Members | StoredTrace,
    *,
    policy: Callable[..., Policy],
    **options: Any,
) -> PolicySet:
    """Return policies of one network, or of chains, for several budgets; options as `PolicySet.make` takes them."""
    if isinstance(fit, Members) and not isinstance(calibrate, ExitTrace):
        return chains(fit, calibrate, policy=policy, **options)
    return PolicySet.make(policy, fit, calibrate, **options)


def chains(
    fit: Members,
    calibrate: Members | StoredTrace,
    *,
    budgets: Iterable[float | str],
    answer: AnswerChoice = "auto",
    reference: str | None = None,
    seed: int = 0,
    **options: Any,
) -> PolicySet:
    """Return a policy of a chain for each budget, all of which ask their members in one order.

    The order is that which is most accurate on `fit`, on average over the budgets, among the orders of the chains that
    are best for one of them. A policy may skip members. The other options are those of `chain` and `PolicySet.make`.
    """
    _check_members(fit, calibrate)
    check_answer(answer)
    amounts = tuple(sorted({fit.budget(budget, reference=reference) for budget in budgets}))
    order = _common_order(fit, amounts, answer, seed)
    made = partial(chain, answer=answer, reference=reference, order=order, seed=seed)
    return PolicySet.make(made, fit, calibrate, budgets=amounts, **options)


def _check_members(fit: object, calibrate: object) -> None:
    stored = isinstance(calibrate, StoredTrace) and calibrate.members
    if not isinstance(fit, Members) or not (stored or isinstance(calibrate, Members)):
        raise InputError(
            "a chain is made of Members: give exeunt.Members({name: trace, ...}) to fit and calibrate, or to calibrate "
            "StoredTrace.open(folder, members=...)"
        )


def _common_order(fit: Members, amounts: Sequence[float], answer: AnswerChoice, seed: int) -> tuple[str, ...]:
    by_price = sorted(fit.names, key=lambda name: fit[name].cost.full)
    best = [[link.member for link in find_chain(fit, amount, answer, seed)] for amount in amounts]
    orders = list(dict.fromkeys((*names, *(one for one in by_price if one not in names)) for names in best))
    if len(orders) == 1:
        return orders[0]
    on = _comparing(fit, seed, COMPARED_ON)

    def right(order: tuple[str, ...]) -> float:
        found = [(amount, find_chain(fit, amount, answer, seed, order)) for amount in amounts]
        return sum(_Search(on, amount, answer).accuracy(links) for amount, links in found)

    return max(orders, key=right)


@cached_on_trace
def find_chain(
    fit: Members,
    amount: float,
    answer: AnswerChoice = "auto",
    seed: int = 0,
    order: tuple[str, ...] | None = None,
) -> tuple[Link, ...]:
    """Return the chain that is most accurate on `fit` within this mean cost.

    All orders of all members are compared where they are few, else all pairs. From the best of them on, the search
    changes one member at a time, or how many of its exits are used, until nothing is better. With `order`, only chains
    of these members in this order are. The search takes some of the inputs; the best of what it has found are compared
    once more on all of them, or as many as fit in memory.
    """
    search = _Search(_comparing(fit, seed, COMPARED_ON), amount, answer)
    names = fit.names if order is None else order
    members = [Link(name, fit[name].n_exits) for name in names]
    arranged: Callable[..., Iterable[tuple[Link, ...]]] = permutations if order is None else combinations
    few = sum(perm(len(members), k) for k in range(1, len(members) + 1)) <= _ENUMERATED
    lengths = range(1, (len(members) if few else 2) + 1)
    following = search.best([chain for k in lengths for chain in arranged(members, k)])
    seen: set[tuple[Link, ...]] = set()
    while following not in seen:
        best = following
        seen.add(best)
        near = [chain for chain in _neighbours(best, members) if order is None or _keeps(order, chain)]
        following = search.best([best, *near])
    more = _SETTLED_ON * fit.n // max(_numbers(fit), _SETTLED_ON)
    if more <= COMPARED_ON:
        return best
    return _Search(_comparing(fit, seed, more), amount, answer).best([best, *search.finalists()])


def _keeps(order: tuple[str, ...], chain: tuple[Link, ...]) -> bool:
    places = [order.index(link.member) for link in chain]
    return places == sorted(places)


def _neighbours(chain: tuple[Link, ...], members: Sequence[Link]) -> Iterator[tuple[Link, ...]]:
    """Yield chains with one member less, more, replaced or used for fewer exits, or two neighbours exchanged."""
    others = [member for member in members if member.member not in {link.member for link in chain}]
    for i in range(len(chain) + 1):
        before, after = chain[:i], chain[i:]
        yield from ((*before, member, *after) for member in others)
        if after:
            yield (*before, *after[1:])
            yield (*before, *after[1:2], after[0], *after[2:])
            yield from ((*before, member, *after[1:]) for member in others)
            counts = np.unique(np.linspace(1, after[0].n_exits, _CUTS + 1).astype(int)[:-1])
            yield from ((*before, Link(after[0].member, int(n)), *after[1:]) for n in counts)


def _numbers(members: Members) -> int:
    """Return inputs times classes."""
    return members.n * (int(members.label.max()) + 1)  # type: ignore[union-attr]


@cached_on_trace
def _comparing(fit: Members, seed: int, most: int) -> _Comparing:
    """Return what chains are compared on, for every budget: at most so many of the fit inputs."""
    if fit.label is None:
        raise InputError("a chain is chosen by its accuracy, and the fit part has no labels: give label=...")
    return _Comparing(some_inputs(fit, seed, most), seed)


class _Comparing:
    """What chains are compared on. Their pooled answers are kept, and the oldest forgotten where they are too many."""

    def __init__(self, members: Members, seed: int) -> None:
        self.members, self.seed = members, seed
        self.pooling = lru_cache(max(1, _KEPT // _numbers(members)))(self._pooling)

    def _pooling(self, links: tuple[Link, ...], n_classes: int) -> Pooling:
        """Return the pooled answer of a chain, grown from that of the chain that is one exit shorter."""
        if not links:
            label, id_ = self.members.label, self.members.id
            return Pooling.of(label, id_, n_classes, seed=self.seed)  # type: ignore[arg-type]
        *before, last = links
        shorter = (*before, Link(last.member, last.exits[:-1])) if last.n_exits > 1 else tuple(before)
        return self.pooling(shorter, n_classes).heard(self.members[last.member].evidence(last.exits[-1]))


class _Search:
    """How accurate chains are within a mean cost, each measured once."""

    def __init__(self, comparing: _Comparing, amount: float, answer: AnswerChoice) -> None:
        self._on, self._amount, self._answer = comparing, amount, answer
        self._right: dict[tuple[Link, ...], Floats | None] = {}

    def best(self, chains: Iterable[tuple[Link, ...]]) -> tuple[Link, ...]:
        """Return the plainest of the chains that the most accurate one does not beat by half a standard error."""
        found = {one: right for one in chains if one and (right := self.right(one)) is not None}
        if not found:
            raise InputError("no chain fits the budget")
        top = max(found.values(), key=lambda right: float(right.mean()))
        near = {one: float(right.mean()) for one, right in found.items() if not beats(top, right)}
        return min(near, key=lambda one: (*self._plainness(one), -near[one]))

    def finalists(self) -> list[tuple[Link, ...]]:
        """Return the most accurate of all chains measured, those that the best does not beat by two standard errors."""
        found = [(one, right) for one, right in self._right.items() if right is not None]
        ranked = sorted(found, key=lambda pair: -float(pair[1].mean()))[:_FINALISTS]
        return [one for one, right in ranked if not beats(ranked[0][1], right, by=2.0)]

    def right(self, links: tuple[Link, ...]) -> Floats | None:
        """Return whether each input is answered rightly, (n,); None if the budget is below the first exit."""
        if links not in self._right:
            trace = self._on.members.along(links)
            affordable = trace.cost.first <= self._amount
            self._right[links] = self._measured(trace, links) if affordable else None
        return self._right[links]

    def _plainness(self, links: tuple[Link, ...]) -> tuple[int, int]:
        """Return how many members a chain has, and how many of their exits it leaves out."""
        return len(links), sum(self._on.members[link.member].n_exits - link.n_exits for link in links)

    def accuracy(self, links: tuple[Link, ...]) -> float:
        """Return the share of inputs answered rightly; 0 if the budget is below the first exit."""
        right = self.right(links)
        return 0.0 if right is None else float(right.mean())

    def _measured(self, trace: ExitTrace, links: tuple[Link, ...]) -> Floats:
        own = right_within(trace, self._amount, self._on.seed)
        if self._answer == "own" or (self._answer == "auto" and not has_few_classes(trace)):
            return own
        logs = self._on.pooling(links, classes_of(trace)).held_out
        said = ExitTrace.from_logits(logs, cost=trace.cost, label=trace.label, id=trace.id)
        pooled = right_within(said, self._amount, self._on.seed)
        return own if self._answer == "auto" and not pooling_pays(pooled, own, trace) else pooled
