"""The search for a chain: which members, in which order, and how many exits of each (METHOD 8)."""

from __future__ import annotations

from itertools import combinations, permutations
from math import perm
from typing import TYPE_CHECKING

import numpy as np

from exeunt.answer import OwnAnswer
from exeunt.answer.pooling import Pooling, can_be_pooled, classes_of
from exeunt.errors import InputError
from exeunt.policies.answering import pooling_pays
from exeunt.policies.worthwhile_exits import beats, right_within, some_inputs
from exeunt.trace import ExitTrace, Members
from exeunt.trace.cache import cached_on_trace
from exeunt.trace.links import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from exeunt._arrays import Floats
    from exeunt.policies.answering import AnswerChoice

__all__ = ["common_order", "find_chain"]

_ENUMERATED = 100
"""Chains of all members and orders are tried where there are at most so many; four members make 64."""
_CUTS = 6
"""How many last exits of a member are tried."""
_LEAST, _MOST = 3_000, 10_000
"""Chains are compared on so many inputs: more take longer, fewer do not tell apart who is nearly as accurate."""
_POOLED = 1 << 19
"""And, between these, on so many inputs times classes."""
_KEPT = 1 << 24
"""Pooled answers of chains are kept for so many inputs times classes, 50 bytes each."""


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
    of these members in this order are.
    """
    names = fit.names if order is None else order
    if len(set(names)) < len(names):
        raise InputError(f"order names a member twice, got {', '.join(names)}: a chain asks each once")
    search = _Search(_comparing(fit, seed), amount, answer)
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
    return best


def common_order(fit: Members, amounts: Sequence[float], answer: AnswerChoice, seed: int) -> tuple[str, ...]:
    """Return the order of members that is most accurate on `fit`, on average over several budgets."""
    by_price = sorted(fit.names, key=lambda name: fit[name].cost.full)
    best = [[link.member for link in find_chain(fit, amount, answer, seed)] for amount in amounts]
    orders = list(dict.fromkeys((*names, *(one for one in by_price if one not in names)) for names in best))
    if len(orders) == 1:
        return orders[0]
    on = _comparing(fit, seed)

    def right(order: tuple[str, ...]) -> float:
        found = [(amount, find_chain(fit, amount, answer, seed, order)) for amount in amounts]
        return sum(_Search(on, amount, answer).accuracy(links) for amount, links in found)

    return max(orders, key=right)


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


@cached_on_trace
def _comparing(fit: Members, seed: int) -> _Comparing:
    """Return what chains are compared on, for every budget: some of the fit inputs, fewer of more than 52 classes."""
    if fit.label is None:
        raise InputError("a chain is chosen by its accuracy, and the fit part has no labels: give label=...")
    first = {name: fit[name].cost.first for name in fit.names}
    some = some_inputs(fit, seed, min(_MOST, max(_LEAST, _POOLED // _most_classes(fit))))
    return _Comparing(some, first, seed)


def _most_classes(members: Members) -> int:
    said = [members[name].log_probability for name in members.names]
    return max(int(members.label.max()) + 1, *(0 if logs is None else logs.shape[2] for logs in said))  # type: ignore[union-attr]


class _Comparing:
    """What chains are compared on. Their pooled answers are kept, and the oldest forgotten where they are too many.

    `first`: what the first exit of each member costs on average of all fit inputs.
    """

    def __init__(self, members: Members, first: Mapping[str, float], seed: int) -> None:
        self.members, self.first, self.seed = members, first, seed
        self._most = max(1, _KEPT // (members.n * _most_classes(members)))
        self._pooled: dict[tuple[object, ...], Pooling] = {}

    def pooling(self, links: tuple[Link, ...], of: ExitTrace) -> Pooling:
        """Return the pooled answer of the first links of a chain, grown from that of those that are one exit fewer.

        `of`: the trace of the whole chain, whose exits have log-probabilities if those of all members do.
        """
        n_classes = classes_of(of)
        if not links:
            return Pooling.of(of.label, of.id, n_classes, seed=self.seed)  # type: ignore[arg-type]
        key = (links, n_classes, of.has_log_probability, tuple(of.scores))
        if key not in self._pooled:
            *before, last = links
            shorter = (*before, Link(last.member, last.exits[:-1])) if last.n_exits > 1 else tuple(before)
            grown = self.pooling(shorter, of).heard(of.evidence(sum(link.n_exits for link in links) - 1))
            while len(self._pooled) >= self._most:
                self._pooled.pop(next(iter(self._pooled)))
            self._pooled[key] = grown
        return self._pooled[key]


class _Search:
    """How accurate chains are within a mean cost, each measured once."""

    def __init__(self, comparing: _Comparing, amount: float, answer: AnswerChoice) -> None:
        self._on, self._amount = comparing, amount
        self._answer = "own" if isinstance(answer, OwnAnswer) else answer
        self._right: dict[tuple[Link, ...], Floats | None] = {}

    def best(self, chains: Iterable[tuple[Link, ...]]) -> tuple[Link, ...]:
        """Return the plainest of the chains that the most accurate one does not beat by half a standard error."""
        found = {one: right for one in chains if one and (right := self.right(one)) is not None}
        if not found:
            raise InputError("no chain fits the budget")
        top = max(found.values(), key=lambda right: float(right.mean()))
        near = {one: float(right.mean()) for one, right in found.items() if not beats(top, right)}
        return min(near, key=lambda one: (*self._plainness(one), -near[one]))

    def right(self, links: tuple[Link, ...]) -> Floats | None:
        """Return whether each input is answered rightly, (n,); None if the budget is below the first exit."""
        if links not in self._right:
            affordable = self._on.first[links[0].member] <= self._amount * (1 + 1e-12)
            self._right[links] = self._measured(links) if affordable else None
        return self._right[links]

    def _plainness(self, links: tuple[Link, ...]) -> tuple[int, int]:
        """Return how many members a chain has, and how many of their exits it leaves out."""
        return len(links), sum(self._on.members[link.member].n_exits - link.n_exits for link in links)

    def accuracy(self, links: tuple[Link, ...]) -> float:
        """Return the share of inputs answered rightly; 0 if the budget is below the first exit."""
        right = self.right(links)
        return 0.0 if right is None else float(right.mean())

    def _measured(self, links: tuple[Link, ...]) -> Floats:
        trace = self._on.members.along(links)
        amount = max(self._amount, trace.cost.first)  # of these inputs, which may cost more than others
        own = right_within(trace, amount, self._on.seed)
        if self._answer == "own" or (self._answer == "auto" and not can_be_pooled(trace)):
            return own
        logs = self._on.pooling(links, trace).held_out
        said = ExitTrace.from_logits(logs, cost=trace.cost, label=trace.label, id=trace.id)
        pooled = right_within(said, amount, self._on.seed)
        return own if self._answer == "auto" and not pooling_pays(pooled, own, trace) else pooled
