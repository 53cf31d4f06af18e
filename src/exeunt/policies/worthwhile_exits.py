"""Which exits pay for their heads. A head takes time of all who reach it, and helps those alone who leave there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from exeunt._arrays import Floats, Integers
from exeunt.batch_routing import release_batch
from exeunt.errors import InfeasibleBudget
from exeunt.policies.line_search import finite_scores, price_path
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import NETWORK, CascadeStep
from exeunt.trace.scoring import score_matrix
from exeunt.trace.splitting import folds_of

__all__ = ["beats", "right_within", "some_inputs", "worthwhile_exits"]

_MOST = 12  # exits
_LEARNED_FROM = 3000  # inputs: more take longer and hardly change the choice


def worthwhile_exits(
    fit: ExitTrace | CascadeTrace, amount: float, *, least: float | None = None, seed: int = 0
) -> tuple[CascadeStep, ...]:
    """Return the exits that answer best within a mean cost of `amount`: of one network, or of models in their order.

    Costs count the heads of the chosen exits alone (`CostModel.heads`), and of a model what it takes up to the last of
    its chosen exits. Starting with the very last exit, that one is added with which answers are best, until they get
    worse. Of all sets on the way the largest is chosen that the best does not beat by half a standard error: learned
    scores make something of each exit. `least`: the first exit costs no more, so that a budget as small as this can be
    kept, too; by default `amount`.

    Raises InfeasibleBudget if no exit is within the least amount.
    """
    least = amount if least is None else min(least, amount)
    models = fit if isinstance(fit, CascadeTrace) else CascadeTrace({NETWORK: fit})
    models = some_inputs(models, seed, _LEARNED_FROM).without_log_probability()
    places = [(name, exit_) for name in models.names for exit_ in range(models[name].n_exits)]
    found: dict[tuple[CascadeStep, ...], Floats] = {}
    chosen, rest = places[-1:], places[:-1]
    while rest and len(chosen) < _MOST:
        tried = {}
        for place in rest:
            steps = _links(models, [*chosen, place])
            trace = models.along(steps)
            if trace.cost.first <= least:
                tried[place] = steps, right_within(trace, amount, seed)
        if not tried:
            break
        place = max(tried, key=lambda place: float(tried[place][1].mean()))
        chosen.append(place)
        rest.remove(place)
        steps, right = tried[place]
        found[steps] = right
        if beats(_best(found), right):
            break
    if not found:
        steps = _links(models, places[-1:])
        cost = models.along(steps).cost
        if cost.first > least:
            raise InfeasibleBudget(
                f"a budget of {cost.show(least)} is below what every exit costs: ask for more",
                smallest_budget=min(models.along(_links(models, [place])).cost.first for place in places),
            )
        return steps
    best = _best(found)
    return [steps for steps, right in found.items() if not beats(best, right)][-1]


def _links(models: CascadeTrace, places: Sequence[tuple[str, int]]) -> tuple[CascadeStep, ...]:
    exits = {name: sorted(exit_ for one, exit_ in places if one == name) for name in models.names}
    return tuple(CascadeStep(name, chosen) for name, chosen in exits.items() if chosen)


def _best(found: Mapping[tuple[CascadeStep, ...], Floats]) -> Floats:
    return max(found.values(), key=lambda right: float(right.mean()))


def some_inputs(fit: CascadeTrace, seed: int, most: int) -> CascadeTrace:
    """Return what exits and cascades are compared on: inputs at random, since rows may come sorted by class."""
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
