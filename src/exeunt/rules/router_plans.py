"""What the fit part teaches a router: at each price of cost, which models to ask along a tree of paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt.policy.allocation_search import beats
from exeunt.policy.ensemble_answer import Answer, EnsembleAnswer, OwnAnswer
from exeunt.policy.ensemble_fitting import can_be_ensembled, held_out_ensemble
from exeunt.score.confidence import NO_ANSWER
from exeunt.score.kernel_regression import KernelRegression
from exeunt.score.learned import Grid
from exeunt.score.router_score import RouterInputs, Routing
from exeunt.score.tie_breaking import Ties, tie_breaks
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import CascadeStep, path_to
from exeunt.trace.derived import along_paths, cached_on_trace
from exeunt.trace.groups import Groups, mean
from exeunt.trace.splitting import folds_of

_MOST_STEPS = 64
"""Trees have at most so many steps: all paths through six models, or through pairs of ten."""
_FOLDS = 4
_OFTEN = 0.03
"""A class has weights of its own where so large a share of the predictions is of it."""
_RIDGE = 1e-3
"""Penalty on squared weights, per input."""
_WIDE, FAR, NEAR = 40, 4, 48
"""How many prices are tried on fit inputs; how many plans on calibration inputs, below the budget and near or above."""
DEVIATIONS = (-4.0, 1.5)
"""What is near the budget, in standard errors of a mean cost."""


def by_price(models: CascadeTrace) -> list[str]:
    """Return the names of models that answer, in the order in which a path asks them."""
    return sorted(models.answering.names, key=lambda name: models[name].cost.full)


def told_models(models: CascadeTrace) -> list[str]:
    """Return the names of models that only tell features."""
    return [name for name in models.names if name not in models.answering.names]


class Plan(NamedTuple):
    """A router: its tree, what decides in it, and the answer at each exit.

    `kept`: its exits' places among all that may be. `cost`, `spread`: mean and standard deviation over the fit inputs;
    `right` (n,): how well each is answered; each by what was learned without it.
    """

    steps: tuple[CascadeStep, ...]
    kept: list[int]
    score: Routing
    answer: Answer
    cost: float
    spread: float
    right: Floats


def _tree(models: CascadeTrace, depth: int | None) -> tuple[CascadeStep, ...]:
    """Return the paths through models in the order of their prices, by what they cost.

    Models that only tell features come first. `depth`: how many models a path asks at most, by default as many as make
    at most `_MOST_STEPS` steps.
    """
    tellers, names = told_models(models), by_price(models)

    def grown(max_models: int) -> list[tuple[str, int, int]]:
        steps = [(name, 0, after - 1) for after, name in enumerate(tellers)]
        open_ = [(len(tellers) - 1, -1, 0)]  # place, the place of its model among the names, models so far
        while open_:
            place, model, n_models = open_.pop()
            further = [(model, steps[place][1] + 1, n_models)] if model >= 0 else []
            further = [step for step in further if step[1] < models[names[model]].n_exits]
            further += [
                (later, 0, n_models + 1) for later in range(model + 1, len(names)) if n_models < max_models
            ]
            for later, exit_, count in further:
                steps.append((names[later], exit_, place))
                open_.append((len(steps) - 1, later, count))
        return steps

    sizes = range(len(names), 0, -1) if depth is None else [depth]
    steps = next((steps for steps in map(grown, sizes) if len(steps) <= _MOST_STEPS), grown(1))
    tree = tuple(CascadeStep(name, (exit_,), after) for name, exit_, after in steps)
    costs = [sum(cost.cumulative[exit_] for cost, exit_ in path) for path in models.paths(tree)]
    return _in_order(tree, np.argsort(costs, kind="stable"))


def _in_order(steps: Sequence[CascadeStep], places: Sequence[int] | Integers) -> tuple[CascadeStep, ...]:
    """Return the steps at these places, in this order."""
    to = {int(place): k for k, place in enumerate(places)} | {-1: -1}
    return tuple(
        CascadeStep(steps[i].model, steps[i].exits, to[int(steps[i].after or 0)]) for i in to if i >= 0
    )


@cached_on_trace
def learned_router(fit: CascadeTrace, answer: str, depth: int | None, seed: int) -> LearnedRouter:
    """Return what the fit part teaches; it serves every budget."""
    return LearnedRouter(fit, answer, depth, seed)


class Seen(NamedTuple):
    """Inputs as a router sees them: by exit, columns of what is known, and which are like no fit input."""

    columns: list[Floats]
    unlike: dict[int, Any]
    ties: Floats
    costs: Floats
    groups: Groups | None


class _Choices(NamedTuple):
    """What a price makes of the exits that others may follow, by exit.

    `weights`: see `Routing`. `taken`: the exit that each fit input takes next (n,), itself if it is answered there, by
    what was learned without it.
    """

    weights: dict[int, Floats]
    taken: dict[int, Integers]


class PlansByCost(NamedTuple):
    """Plans of one tree by their mean cost on the fit inputs.

    `plan`: the plan of this cost. `costs`: from the lowest to the highest. `near`: costs near a budget, the first of
    which is surely below it.
    """

    plan: Callable[[float], Plan]
    costs: Sequence[float]
    near: Floats

    def plans(self) -> Iterator[Plan]:
        """Yield plans of growing cost, most of them near the budget."""
        below = np.linspace(self.costs[0], self.near[0], FAR, endpoint=False)
        # Of other inputs, as many may change their path at another price.
        step = self.near[-1] - self.near[-2]
        above = self.near[-1] + np.geomspace(step, max(self.costs[-1] - self.near[-1], 2 * step), NEAR)
        for cost in [*below.tolist(), *self.near.tolist(), *above.tolist()]:
            yield self.plan(cost)


class LearnedRouter:
    """What the fit part teaches about a tree of steps: what is known at each, and what a price makes of that."""

    def __init__(self, fit: CascadeTrace, answer: str, depth: int | None, seed: int) -> None:
        self.steps = _tree(fit, depth)
        trace = fit.along(self.steps)
        self.answer, answered = _answers(trace, answer)
        self.quality, self.costs = answered.quality, trace.cost.of_inputs(trace.n)
        self._groups, best = fit.groups, fit.answering.most_accurate
        self.following = [
            tuple(k for k, step in enumerate(self.steps) if step.after == place)
            for place in range(trace.n_exits)
        ]
        self.folds = folds_of(fit.id, _FOLDS, seed, fit.groups)
        score = answered.scores[answered.default_score]
        finite = score[np.isfinite(score)]
        silent = frozenset(np.flatnonzero((trace.prediction == NO_ANSWER).all(axis=0)).tolist())
        grid = (
            Grid.of(answered.scores, answered.default_score) if finite.size and np.ptp(finite) > 0 else None
        )
        self._answers = [(name, e) for name in fit.answering.names for e in range(fit[name].n_exits)]
        own = np.hstack([fit[name].quality for name in fit.answering.names])
        held_out: dict[int, Floats] = {}
        self.unlike: dict[int, Any] = {}
        regressions = {}
        for exit_, features in answered.features.items():
            regressions[exit_] = KernelRegression.fit(features, own, seed)
            held_out[exit_], self.unlike[exit_] = np.empty(own.shape), np.zeros(trace.n, dtype=np.bool_)
            for rest, rows in self.folds:
                fitted = KernelRegression.fit(features[rest], own[rest], seed)(features[rows])
                held_out[exit_][rows], self.unlike[exit_][rows] = fitted
        self.known = RouterInputs(grid, _often_predicted(answered), regressions, silent)
        self.columns, _ = self._columns(answered, held_out)
        self.safe = {
            exit_: k for exit_ in held_out for k in self.following[exit_] if self.steps[k].model == best
        }
        self._inverses = [
            self._inverse(x) if some else [] for x, some in zip(self.columns, self.following, strict=True)
        ]
        self._known_choices: dict[float, _Choices] = {}
        self._plans: dict[tuple[float, int], Plan] = {}

    def _columns(
        self, answered: ExitTrace, predicted: Mapping[int, Floats]
    ) -> tuple[list[Floats], dict[int, Any]]:
        """Return what is known at each exit, and by exit with features which inputs are like no fit input."""

        def known(exit_: int, before: dict[str, Any]) -> tuple[tuple[Floats, Any], dict[str, Any]]:
            evidence = answered.evidence(exit_)
            columns, memory, unlike = self.known.columns(exit_, evidence, before, predicted.get(exit_))
            return (columns, unlike), memory

        start: dict[str, Any] = {}
        columns, unlike = zip(*along_paths(answered, start, known), strict=True)
        return list(columns), dict(enumerate(unlike))

    def seen(self, inputs: CascadeTrace, ties: Ties, seed: int) -> Seen:
        """Return inputs as the router sees them in use."""
        trace = inputs.along(self.steps)
        columns, unlike = self._columns(self.answer.on(trace), {})
        return Seen(
            columns, unlike, tie_breaks(trace.keys(ties), seed), trace.cost.of_inputs(trace.n), inputs.groups
        )

    def _inverse(self, x: Floats) -> list[Floats]:
        """Return the inverses of penalised Gram matrices: without each fold, and of all inputs."""
        parts = [x[rows].T @ x[rows] for _, rows in self.folds]
        total = np.sum(parts, axis=0)
        penalty = _RIDGE * len(x) * np.eye(x.shape[1])
        return [np.linalg.inv(total - part + penalty) for part in (*parts, np.zeros_like(total))]

    def by_cost(self, amount: float, n: int) -> PlansByCost:
        """Return plans by their mean cost, for a budget.

        They begin at the exit with which the answers are best: with what is known of the input, or with a model.
        `n`: calibration inputs.
        """
        at_budget = [
            float(np.interp(amount, costs, quality, left=-1.0)) for _, costs, quality in self._curves
        ]
        best = int(np.argmax(at_budget))
        root, (prices, costs, _) = self._roots[best], self._curves[best]
        price = float(np.exp(np.interp(amount, costs, np.log(prices))))
        spread = self.plan(price, root).spread or float(self.costs.std())
        error = spread * (1 / n + 1 / len(self.costs)) ** 0.5
        near = amount + error * np.linspace(*DEVIATIONS, NEAR)
        curve = [*zip(costs, prices, strict=True)]
        for _ in range(NEAR):
            # Many inputs may change their path at nearly one price.
            inside = [min(high, near[-1]) - max(low, near[0]) for (low, _), (high, _) in pairwise(curve)]
            place = int(np.argmax(inside))
            if inside[place] <= error / NEAR:
                break
            price = (curve[place][1] * curve[place + 1][1]) ** 0.5
            curve.insert(
                place + 1,
                (min(max(self.plan(price, root).cost, curve[place][0]), curve[place + 1][0]), price),
            )
        costs, prices = zip(*curve, strict=True)

        def plan(cost: float) -> Plan:
            return self.plan(float(np.exp(np.interp(cost, costs, np.log(prices)))), root)

        return PlansByCost(plan, costs, near)

    def _prior(self, exit_: int, n_columns: int) -> Floats:
        """Return weights (f, 1 + exits that may follow) that trust what features tell of the models' own answers."""
        places = (exit_, *self.following[exit_])
        weights = np.zeros((n_columns, len(places)))
        has_quality = any(exit_on_path in self.known.quality for exit_on_path in path_to(self.steps, exit_))
        for k, place in enumerate(places):
            answer = self.steps[place].model, self.steps[place].exits[0]
            if has_quality and answer in self._answers:  # the columns of features are the last ones
                weights[n_columns - len(self._answers) + self._answers.index(answer), k] = 1.0
        return weights

    @property
    def _roots(self) -> list[int]:
        return [exit_ for exit_, step in enumerate(self.steps) if step.after == -1]

    @cached_property
    def _curves(self) -> list[tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]]:
        """By first exit, prices of quality, and what the plans cost and are worth on the fit inputs, cheapest first."""
        costs = self.costs.mean(axis=0)
        answering = [exit_ for exit_ in range(len(costs)) if exit_ not in self.known.silent]
        prices = np.geomspace(3 / costs[answering[0]], 0.001 / costs[-1], _WIDE).tolist()
        curves = []
        for root in self._roots:
            plans = sorted(
                (plan.cost, float(mean(plan.right, self._groups)), price)
                for price in prices
                for plan in [self.plan(price, root)]
            )
            paid, quality, exits = zip(*plans, strict=True)
            curves.append((exits, paid, tuple(np.maximum.accumulate(quality).tolist())))
        return curves

    def plan(self, price: float, root: int) -> Plan:
        """Return the router for a price, what a unit of cost is worth in quality, that begins at this exit."""
        if (price, root) not in self._plans:
            choices = self._choices(price)
            exits = self._walked(np.full(len(self.costs), root), choices)
            self._plans[price, root] = self._pruned(root, exits, choices)
        return self._plans[price, root]

    def _walked(self, start: Integers, choices: _Choices) -> Integers:
        """Return where fit inputs are answered that have come to the exits `start`, (n,)."""
        exits = start.copy()
        for exit_, taken in sorted(choices.taken.items()):
            here = exits == exit_
            exits[here] = taken[here]
        return exits

    def _choices(self, price: float) -> _Choices:
        """Return what this price makes of the exits, from the last one to the first."""
        if price in self._known_choices:
            return self._known_choices[price]
        worth: dict[int, Floats] = {}
        choices = _Choices({}, {})
        for exit_ in reversed(range(len(self.steps))):
            some, x, here = self.following[exit_], self.columns[exit_], self.quality[:, exit_]
            if not some:
                worth[exit_] = here
                continue
            others = [worth[k] - price * (self.costs[:, k] - self.costs[:, exit_]) for k in some]
            target = np.stack([here, *others], axis=1)
            prior = self._prior(exit_, x.shape[1])
            rest = target - x @ prior
            moments = [x[rows].T @ rest[rows] for _, rows in self.folds]
            total, predicted = np.sum(moments, axis=0), np.empty_like(target)
            for inverse, moment, (_, rows) in zip(self._inverses[exit_], moments, self.folds, strict=False):
                predicted[rows] = x[rows] @ (prior + inverse @ (total - moment))
            if exit_ in self.known.silent:
                predicted[:, 0] = -np.inf
            act = predicted.argmax(axis=1)
            if exit_ in self.safe:
                act = np.where(self.unlike[exit_], 1 + some.index(self.safe[exit_]), act)
            worth[exit_] = target[np.arange(len(act)), act]
            choices.weights[exit_] = prior + self._inverses[exit_][-1] @ total
            choices.taken[exit_] = np.array([exit_, *some])[act]
        self._known_choices[price] = choices
        return choices

    def _pruned(self, root: int, exits: Integers, choices: _Choices) -> Plan:
        """Return the plan of the exits that any fit input comes to, or that unlike inputs are sent to."""
        kept_ends = {
            exit_on_path
            for end in {*exits.tolist(), root}
            for exit_on_path in path_to(self.steps, end)
            if exit_on_path >= root
        }
        for exit_, safe in sorted(self.safe.items()):  # unlike inputs may go on from there as well
            if exit_ in kept_ends:
                kept_ends.add(safe)
        exits_left = sorted(kept_ends)
        to = {exit_: k for k, exit_ in enumerate(exits_left)}
        following = [tuple(to[k] for k in self.following[exit_] if k in to) for exit_ in exits_left]
        columns = [
            [0, *(1 + i for i, k in enumerate(self.following[exit_]) if k in to)] for exit_ in exits_left
        ]
        known = RouterInputs(
            self.known.grid,
            self.known.classes,
            {to[exit_]: regression for exit_, regression in self.known.quality.items() if exit_ in to},
            frozenset(to[exit_] for exit_ in self.known.silent if exit_ in to),
        )
        score = Routing(
            known,
            following,
            [
                choices.weights[exit_][:, some] if len(some) > 1 else np.empty((0, 0))
                for exit_, some in zip(exits_left, columns, strict=True)
            ],
            {to[exit_]: to[safe] for exit_, safe in self.safe.items() if exit_ in to},
        )
        paths = np.arange(len(exits)), exits
        paid = self.costs[paths]
        return Plan(
            _in_order(self.steps, exits_left),
            exits_left,
            score,
            self._answer_at(exits_left),
            float(mean(paid, self._groups)),
            float(paid.std()),
            self.quality[paths],
        )

    def _answer_at(self, exits: Sequence[int]) -> Answer:
        """Return the answer of these exits alone."""
        if isinstance(self.answer, EnsembleAnswer):
            return EnsembleAnswer(tuple(self.answer.stages[exit_] for exit_ in exits))
        return self.answer


def _often_predicted(trace: ExitTrace) -> tuple[int, ...]:
    """Return the classes that are predicted often, but for the most frequent one."""
    classes, counts = np.unique(trace.prediction[trace.prediction >= 0], return_counts=True)
    often = classes[counts >= _OFTEN * trace.prediction.size]
    return tuple(int(class_) for class_ in often if class_ != classes[counts.argmax()])


def _answers(trace: ExitTrace, answer: str) -> tuple[Answer, ExitTrace]:
    """Return the answer, and the answers on the fit inputs, each from what was fitted without it."""
    own = OwnAnswer.for_(trace)
    answered = own.on(trace)
    if answer == "own" or (answer == "auto" and not can_be_ensembled(trace)):
        return own, answered
    ensemble, held_out = held_out_ensemble(trace)
    if answer == "ensemble" or beats(held_out.quality.mean(axis=1), answered.quality.mean(axis=1)):
        return ensemble, held_out
    return own, answered
