"""Which exits are worth using: those that pay for their heads, and those after which no exit answers better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from exeunt._support.arrays import Floats
from exeunt.errors import InfeasibleBudget
from exeunt.policy.allocation_search import RightWithin, beats
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import NETWORK, CascadeStep
from exeunt.trace.derived import cached_on_trace

_MOST = 12  # exits
_LEARNED_FROM = 3000  # inputs: more take longer and hardly change the choice
_MENDED = 0.001
"""Share of all inputs that later exits may be expected to answer better, where they did so on no fit input."""


def worthwhile_exits(
    fit: ExitTrace | CascadeTrace, amount: float, *, least: float | None = None, seed: int = 0
) -> tuple[CascadeStep, ...]:
    """Return the exits that answer best within a mean cost of `amount`: of one network, or of models in their order.

    A head costs time for all inputs that reach it and helps only those that leave there. So costs count the heads of
    the chosen exits alone (`CostModel.heads`), and of a model its cost up to the last of its chosen exits. The
    search starts with the very last exit. It adds the exit with which answers are best, until they get worse. Of all
    sets on the way it returns the largest that the best does not beat by half a standard error, since learned scores
    gain something from each exit. `least`: the first exit costs no more, so that a budget as small as this can be kept,
    too; by default `amount`.

    Raises InfeasibleBudget if no exit is within the least amount.
    """
    least = amount if least is None else min(least, amount)
    models = fit if isinstance(fit, CascadeTrace) else CascadeTrace({NETWORK: fit})
    models = some_inputs(models, seed, _LEARNED_FROM).without_log_probability()
    places = [(name, exit_) for name in models.names for exit_ in range(models[name].n_exits)]
    rights: dict[tuple[CascadeStep, ...], Floats] = {}
    chosen, rest = places[-1:], places[:-1]
    while rest and len(chosen) < _MOST:
        tried = {}
        for place in rest:
            steps = _steps(models, [*chosen, place])
            trace = models.along(steps)
            if trace.cost.first <= least:
                tried[place] = steps, RightWithin(trace, seed)(amount)
        if not tried:
            break
        place = max(tried, key=lambda place: float(tried[place][1].mean()))
        chosen.append(place)
        rest.remove(place)
        steps, right = tried[place]
        rights[steps] = right
        if beats(_best(rights), right):
            break
    if not rights:
        steps = _steps(models, places[-1:])
        cost = models.along(steps).cost
        if cost.first > least:
            raise InfeasibleBudget(
                f"a budget of {cost.show(least)} is below what every exit costs: ask for more",
                smallest_budget=min(models.along(_steps(models, [place])).cost.first for place in places),
            )
        return steps
    best = _best(rights)
    return [steps for steps, right in rights.items() if not beats(best, right)][-1]


def some_inputs(fit: CascadeTrace, seed: int, max_inputs: int) -> CascadeTrace:
    """Return the inputs that exits and cascades are compared on, drawn at random: rows may be sorted by class."""
    return fit.take(np.random.default_rng(seed).permutation(fit.n)[:max_inputs])


def last_useful_exit(fit: ExitTrace) -> int:
    """Return the first exit such that no later one answers any fit input better.

    The inputs must be enough to tell. Of n inputs w are answered less than perfectly, and none of them better later: by
    Laplace's rule of succession (w + 1) / (n + 2) of all inputs could be mended, and 1 / (w + 2) of these are. That
    must be at most 0.1% of all inputs. It takes 498 inputs where an exit is always right, and up to 998 where it is
    often wrong.
    """
    quality = fit.quality
    later = np.maximum.accumulate(quality[:, :0:-1], axis=1)[:, ::-1]  # of the best later exit
    wrong = (quality[:, :-1] < 1).sum(axis=0)
    may_mend = (wrong + 1) / (fit.n + 2) / (wrong + 2) > _MENDED
    helps = np.append((later > quality[:, :-1]).any(axis=0) | may_mend, False)
    return int(helps.argmin())


@cached_on_trace
def up_to_exit(fit: ExitTrace, last: int) -> ExitTrace:
    """Return the trace of the network that ends at exit `last`: always the same object, on which results are cached."""
    return replace(fit, log_probability=None).exits(0, last + 1)


def _steps(models: CascadeTrace, places: Sequence[tuple[str, int]]) -> tuple[CascadeStep, ...]:
    exits = {name: sorted(exit_ for model, exit_ in places if model == name) for name in models.names}
    return tuple(CascadeStep(name, chosen) for name, chosen in exits.items() if chosen)


def _best(rights: Mapping[tuple[CascadeStep, ...], Floats]) -> Floats:
    return max(rights.values(), key=lambda right: float(right.mean()))
