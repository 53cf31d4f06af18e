"""Which exits pay for their heads. A head takes time of all who reach it, and helps those alone who leave there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt.batch_routing import release_batch
from exeunt.errors import InfeasibleBudget
from exeunt.policies.line_search import finite_scores, price_path
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import ExitTrace, Members
from exeunt.trace.links import NETWORK, Link
from exeunt.trace.scoring import score_matrix
from exeunt.trace.splitting import folds_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exeunt._arrays import Floats, Integers

__all__ = ["beats", "right_within", "some_inputs", "worthwhile_exits"]

_MOST = 12  # exits
_LEARNED_FROM = 3000  # inputs: more take longer and hardly change the choice


def worthwhile_exits(
    fit: ExitTrace | Members, amount: float, *, least: float | None = None, seed: int = 0
) -> tuple[Link, ...]:
    """Return the exits that answer best within a mean cost of `amount`: of one network, or of members in their order.

    Costs count the heads of the chosen exits alone (`CostModel.heads`), and of a member what it takes up to the last of
    its chosen exits. Starting with the very last exit, that one is added with which answers are best, until they get
    worse. Of all sets on the way the largest is chosen that the best does not beat by half a standard error: learned
    scores make something of each exit. `least`: the first exit costs no more, so that a budget as small as this can be
    kept, too; by default `amount`.

    Raises InfeasibleBudget if no exit is within the least amount.
    """
    least = amount if least is None else min(least, amount)
    members = fit if isinstance(fit, Members) else Members({NETWORK: fit})
    members = some_inputs(members, seed, _LEARNED_FROM).without_log_probability()
    places = [(name, exit_) for name in members.names for exit_ in range(members[name].n_exits)]
    found: dict[tuple[Link, ...], Floats] = {}
    chosen, rest = places[-1:], places[:-1]
    while rest and len(chosen) < _MOST:
        tried = {}
        for place in rest:
            links = _links(members, [*chosen, place])
            trace = members.along(links)
            if trace.cost.first <= least:
                tried[place] = links, right_within(trace, amount, seed)
        if not tried:
            break
        place = max(tried, key=lambda place: float(tried[place][1].mean()))
        chosen.append(place)
        rest.remove(place)
        links, right = tried[place]
        found[links] = right
        if beats(_best(found), right):
            break
    if not found:
        links = _links(members, places[-1:])
        cost = members.along(links).cost
        if cost.first > least:
            raise InfeasibleBudget(
                f"a budget of {cost.show(least)} is below what every exit costs: ask for more",
                smallest_budget=min(members.along(_links(members, [place])).cost.first for place in places),
            )
        return links
    best = _best(found)
    return [links for links, right in found.items() if not beats(best, right)][-1]


def _links(members: Members, places: Sequence[tuple[str, int]]) -> tuple[Link, ...]:
    exits = {name: sorted(exit_ for one, exit_ in places if one == name) for name in members.names}
    return tuple(Link(name, chosen) for name, chosen in exits.items() if chosen)


def _best(found: Mapping[tuple[Link, ...], Floats]) -> Floats:
    return max(found.values(), key=lambda right: float(right.mean()))


def some_inputs(fit: Members, seed: int, most: int) -> Members:
    """Return what exits and chains are compared on: inputs at random, since rows may come sorted by class."""
    return fit.take(np.random.default_rng(seed).permutation(fit.n)[:most])


def beats(right: Floats, other: Floats, by: float = 0.5) -> bool:
    """Whether answers are better than others, (n,) each, by so many standard errors."""
    gain = right - other
    return bool(gain.mean() > by * gain.std() / gain.size**0.5)


def right_within(said: ExitTrace, amount: float, seed: int) -> Floats:
    """Return whether each input is right, (n,), within a mean cost of `amount`, at rates searched on others."""
    scores = finite_scores(score_matrix(None, said))
    correct, cost = said.correct.astype(np.float64), said.cost.cumulative
    ties = distinct_tie_breaks(said.id, seed)
    right = np.empty(said.n)

    def released(rows: Integers, rates: Floats) -> Floats:
        return correct[rows, release_batch(scores[rows], ties[rows], rates)]

    for rest, rows in folds_of(said.id, 2, seed):
        path = price_path(scores[rest], correct[rest], cost)
        tried = [*path.rates[path.rates @ cost <= amount], path(amount)]
        right[rows] = released(rows, max(tried, key=lambda rates: float(released(rest, rates).mean())))
    return right
