"""Routers: whom to ask, and whether to ask on, decided for each input by what is known of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from exeunt._arrays import Floats, Integers
from exeunt.allocation_search import beats
from exeunt.answer import Answer, EnsembleAnswer, OwnAnswer
from exeunt.answer.ensemble import ANSWERS, can_be_ensembled, held_out_ensemble
from exeunt.calibration import ALWAYS, NEVER, RankedInMemory, Thresholds, exits_under
from exeunt.errors import InputError
from exeunt.policies.cascade import check_models, noting_unasked
from exeunt.policy import Policy
from exeunt.policy.certificate_search import Costed, dearest_plan, with_highest
from exeunt.policy.watched_cells import cells_of_first_exit
from exeunt.score.confidence import NO_ANSWER
from exeunt.score.kernel_regression import KernelRegression
from exeunt.score.learned import Grid
from exeunt.score.routing import Known, Routing
from exeunt.score.tie_breaking import Ties, tie_breaks
from exeunt.trace import CascadeTrace, ExitTrace, check_disjoint
from exeunt.trace.cascade_step import CascadeStep, path_to
from exeunt.trace.derived import along_paths, cached_on_trace
from exeunt.trace.groups import Groups, mean, n_groups
from exeunt.trace.splitting import folds_of

_MOST_STEPS = 64
"""Trees have at most so many steps: all paths through six models, or through pairs of ten."""
_FOLDS, _FEWEST = 4, 40
_OFTEN = 0.03
"""A class has weights of its own where so large a share of the predictions is of it."""
_RIDGE = 1e-3
"""Penalty on squared weights, per input."""
_WIDE, _FAR, _NEAR = 40, 4, 24
"""How many prices are tried on fit inputs; how many plans below the budget and near it on calibration inputs."""
_DEVIATIONS = (-4.0, 1.5)
"""What is near the budget, in standard errors of a mean cost."""


def router(
    fit: CascadeTrace,
    calibrate: CascadeTrace,
    *,
    budget: float | str,
    delta: float | None = None,
    reference: str | None = None,
    seed: int = 0,
    ties: Ties = "content",
) -> Policy:
    """Return a policy that asks one model, chosen for each input by its features.

    The traces have features (`CascadeTrace.with_features`). It is `cascade_router` with paths of one model, which is
    what there is to choose where models say nothing of how sure they are. See there for the options.
    """
    _check(fit, calibrate)
    if not _told(fit):
        raise InputError(
            "a router looks at features of the input, and these traces have none: give them with "
            "models.with_features(name, features, cost=...), or take cascade_router, which looks at answers"
        )
    return _made("router", fit, calibrate, budget, delta, reference, seed, ties, "own", depth=1)


def cascade_router(
    fit: CascadeTrace,
    calibrate: CascadeTrace,
    *,
    budget: float | str,
    delta: float | None = None,
    answer: str = "auto",
    reference: str | None = None,
    seed: int = 0,
    ties: Ties = "content",
) -> Policy:
    """Return a policy that decides for each input which model to ask, and after each answer whether to ask on and whom.

    With what is known so far, z, it predicts the value V of answering now and of each model that may follow: the
    quality of the answer in the end, less the further cost at a price per unit; and it does what has the largest
    E[V | z] (docs/explanation/method.md; fitted Q-iteration, Ernst et al. 2005, along the paths through models in the
    order of their prices). z is features of the input, if there are any (`CascadeTrace.with_features`, whose cost
    counts), and the outputs on the path: a model may be skipped at any point. An input whose features are like those of
    no fit input is sent to the model that answers best on the fit part.

    The fit part gives the price at which the mean cost is the budget, and `calibrate` a common threshold: an input is
    answered where answering is worth so much more than going on. It is the most generous one that keeps the budget, in
    expectation or, with `delta`, with a certificate: P(mean cost <= budget) >= 1 - delta (see
    `exeunt.policy.certificate_search.dearest_plan`). Where paths are of one model, `calibrate` chooses the price.
    `cheapest(policy="cascade_router")` certifies a loss.

    `budget`, `reference`: as for `cascade`. `answer`: "own", each model's own; "ensemble", that of all models on the
    path; "auto", the better of both on held-out fit inputs. `seed`: of folds, landmarks and the order of tests.

    Raises InputError for traces without labels or losses, and as `cascade` does; InfeasibleBudget for a budget that
    cannot be kept.
    """
    _check(fit, calibrate)
    if answer not in ANSWERS or answer == "best":
        raise InputError(f"answer must be 'own', 'ensemble' or 'auto', got {answer!r}")
    return _made("cascade_router", fit, calibrate, budget, delta, reference, seed, ties, answer, depth=None)


def _check(fit: CascadeTrace, calibrate: CascadeTrace) -> None:
    check_models(fit, calibrate)
    if not isinstance(calibrate, CascadeTrace):
        raise InputError("a router is calibrated on a CascadeTrace, in memory")
    if not fit.has_loss:
        raise InputError(
            "a router learns how good answers are, and the fit part has no labels: give label=... or losses"
        )
    if fit.n < _FEWEST:
        raise InputError(
            f"a router learns from at least {_FEWEST} inputs, and the fit part has {fit.n}: give more, or take cascade"
        )
    check_disjoint(fit[fit.names[0]], calibrate[calibrate.names[0]])


def _told(models: CascadeTrace) -> list[str]:
    """Return the names of models that only tell features."""
    return [name for name in models.names if name not in models.answering.names]


def _made(
    name: str,
    fit: CascadeTrace,
    calibrate: CascadeTrace,
    budget: float | str,
    delta: float | None,
    reference: str | None,
    seed: int,
    ties: Ties,
    answer: str,
    *,
    depth: int | None,
) -> Policy:
    amount = fit.answering.budget(budget, reference=reference)
    learned = _learned(fit, answer, depth, seed)
    seen = {id(one): learned.seen(one, ties, seed) for one in (fit, calibrate)}

    def costed(plan: _Plan, inputs: CascadeTrace) -> Costed:
        return _on_paths(plan, seen[id(inputs)])

    def plans() -> Iterator[tuple[tuple[_Plan, Thresholds], Floats]]:
        for plan in learned.near(amount, calibrate.n):
            of_plan = costed(plan, calibrate)
            for limits in _limits(plan, costed(plan, fit), amount, calibrate.n):
                yield (plan, limits), of_plan.paid(limits)

    whole = fit.along(learned.steps, reference=reference).cost
    highest = with_highest(whole, seen[id(fit)].costs, seen[id(calibrate)].costs, delta)
    (plan, limits), fields = dearest_plan(
        plans(), highest, amount, calibrate.n, calibrate.groups, delta, seed
    )
    shares = [
        np.bincount(exits_under(one.scores, one.ties, limits), minlength=len(plan.steps))
        for one in (costed(plan, fit), costed(plan, calibrate))
    ]
    watched = None
    if (
        0 not in plan.score.known.silent
    ):  # then there was one plan, whose score at its first exit all inputs have
        seen_at = costed(plan, calibrate)
        ranked = RankedInMemory(seen_at.scores, seen_at.ties)
        watched = cells_of_first_exit(ranked, limits, calibrate.groups, seed)
    policy = Policy(
        name=name, score=plan.score, rates=shares[0] / fit.n, limits=limits, counts=shares[1], budget=amount,
        cost=fit.along(plan.steps, reference=reference).cost.means, n_calibration=calibrate.n, seed=seed, ties=ties,
        n_groups=n_groups(calibrate.groups), cascade=plan.steps, answer=plan.answer, watched=watched, **fields,
    )  # fmt: skip
    unasked = {
        model: f"{model} is not asked: at this budget no input of the fit part gains enough by it."
        for model in fit.names
        if model not in policy.models
    }
    return noting_unasked(policy, unasked)


def _on_paths(plan: _Plan, seen: _Seen) -> Costed:
    """Return inputs with their scores at the exits that they come to if they are answered as late as possible.

    Other exits have NaN, which is never at least a threshold.
    """
    scores = np.full((len(seen.ties), len(plan.kept)), np.nan)
    came = np.zeros(scores.shape, dtype=np.bool_)
    came[:, 0] = True
    for exit_, place in enumerate(plan.kept):
        score, follows = plan.score.decided(exit_, seen.columns[place], seen.unlike.get(place))
        scores[:, exit_] = np.where(came[:, exit_], score, np.nan)
        for k in plan.score.following[exit_]:
            came[:, k] = came[:, exit_] & (follows == k)
    return Costed(scores, seen.ties, seen.costs[:, plan.kept], seen.groups)


def _limits(plan: _Plan, fit: Costed, amount: float, n: int) -> Iterator[Thresholds]:
    """Yield thresholds from the cheapest up: an input is answered where (advantage, tie) is at least a common pair.

    The advantages are those for one price, at which the mean cost is about the budget; the closer to it, the closer
    together the pairs are. `n`: calibration inputs.
    """
    answering = np.array([bool(some) for some in plan.score.following])
    answering[list(plan.score.known.silent)] = False

    inner = fit.scores[:, answering]
    of_inner = np.stack([inner, np.broadcast_to(fit.ties[:, None], inner.shape)], axis=-1)[~np.isnan(inner)]
    pairs = np.append(of_inner[np.lexsort(of_inner.T[::-1])], [[NEVER, NEVER]], axis=0)

    def limits(k: int) -> Thresholds:
        """Return the thresholds under which the k lowest pairs are not answered."""
        silent = plan.score.known.silent
        return Thresholds.of([
            (NEVER, NEVER) if exit_ in silent else tuple(pairs[k]) if answers else (ALWAYS, ALWAYS)
            for exit_, answers in enumerate(answering)
        ])  # fmt: skip

    def cost(k: int) -> float:
        return float(mean(fit.paid(limits(k)), fit.groups))

    def dearest(budget: float) -> int:
        return max(bisect_right(range(len(pairs)), budget, key=cost) - 1, 0)

    spread = fit.paid(limits(dearest(amount))).std() * (1 / n + 1 / len(fit.ties)) ** 0.5
    near = amount + spread * np.linspace(*_DEVIATIONS, _NEAR)
    amounts = np.append(np.linspace(cost(0), near[0], _FAR, endpoint=False), near)
    for k in sorted({0, *map(dearest, amounts.tolist())}):
        yield limits(k)


class _Plan(NamedTuple):
    """A router: its tree, what decides in it, and the answer at each exit.

    `kept`: its exits' places among all that may be. `cost`, `quality`: means of the fit inputs, each by what was
    learned without it.
    """

    steps: tuple[CascadeStep, ...]
    kept: list[int]
    score: Routing
    answer: Answer
    cost: float
    quality: float


def _tree(models: CascadeTrace, depth: int | None) -> tuple[CascadeStep, ...]:
    """Return the paths through models in the order of their prices, by what they cost.

    Models that only tell features come first. `depth`: how many models a path asks at most, by default as many as make
    at most `_MOST_STEPS` steps.
    """
    told, names = _told(models), sorted(models.answering.names, key=lambda name: models[name].cost.full)

    def grown(most: int) -> list[tuple[str, int, int]]:
        steps = [(name, 0, at - 1) for at, name in enumerate(told)]
        open_ = [(len(told) - 1, -1, 0)]  # place, the place of its model among the names, models so far
        while open_:
            place, model, asked = open_.pop()
            further = [(model, steps[place][1] + 1, asked)] if model >= 0 else []
            further = [one for one in further if one[1] < models[names[model]].n_exits]
            further += [(later, 0, asked + 1) for later in range(model + 1, len(names)) if asked < most]
            for later, exit_, count in further:
                steps.append((names[later], exit_, place))
                open_.append((len(steps) - 1, later, count))
        return steps

    sizes = range(len(names), 0, -1) if depth is None else [depth]
    steps = next((one for one in map(grown, sizes) if len(one) <= _MOST_STEPS), grown(1))
    made = tuple(CascadeStep(name, (exit_,), after) for name, exit_, after in steps)
    costs = [sum(cost.cumulative[exit_] for cost, exit_ in path) for path in models.paths(made)]
    return _in_order(made, np.argsort(costs, kind="stable"))


def _in_order(steps: Sequence[CascadeStep], places: Sequence[int] | Integers) -> tuple[CascadeStep, ...]:
    """Return the steps at these places, in this order."""
    to = {int(place): k for k, place in enumerate(places)} | {-1: -1}
    return tuple(
        CascadeStep(steps[i].model, steps[i].exits, to[int(steps[i].after or 0)]) for i in to if i >= 0
    )


@cached_on_trace
def _learned(fit: CascadeTrace, answer: str, depth: int | None, seed: int) -> _Learned:
    return _Learned(fit, answer, depth, seed)


class _Seen(NamedTuple):
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


class _Learned:
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
                found = KernelRegression.fit(features[rest], own[rest], seed)(features[rows])
                held_out[exit_][rows], self.unlike[exit_][rows] = found
        self.known = Known(grid, _often_predicted(answered), regressions, silent)
        self.columns, _ = self._columns(answered, held_out)
        self.safe = {
            exit_: k for exit_ in held_out for k in self.following[exit_] if self.steps[k].model == best
        }
        self._inverses = [
            self._inverse(x) if some else [] for x, some in zip(self.columns, self.following, strict=True)
        ]
        self._known_choices: dict[float, _Choices] = {}
        self._plans: dict[tuple[float, int], _Plan] = {}

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

    def seen(self, inputs: CascadeTrace, ties: Ties, seed: int) -> _Seen:
        """Return inputs as the router sees them in use."""
        trace = inputs.along(self.steps)
        columns, unlike = self._columns(self.answer.on(trace), {})
        return _Seen(
            columns, unlike, tie_breaks(trace.keys(ties), seed), trace.cost.of_inputs(trace.n), inputs.groups
        )

    def _inverse(self, x: Floats) -> list[Floats]:
        """Return the inverses of penalised Gram matrices: without each fold, and of all inputs."""
        parts = [x[rows].T @ x[rows] for _, rows in self.folds]
        total = np.sum(parts, axis=0)
        penalty = _RIDGE * len(x) * np.eye(x.shape[1])
        return [np.linalg.inv(total - part + penalty) for part in (*parts, np.zeros_like(total))]

    def near(self, amount: float, n: int) -> Iterator[_Plan]:
        """Yield the plan whose mean cost is nearest to a budget, or where paths are of one model plans up to there.

        All of them begin at one exit: with what is known of the input, or with the model with which they answer best.
        `n`: calibration inputs.
        """
        at_budget = [
            float(np.interp(amount, costs, quality, left=-1.0)) for _, costs, quality in self._curves
        ]
        best = int(np.argmax(at_budget))
        root, (prices, costs, _) = self._roots[best], self._curves[best]
        error = float(self.costs.std()) * (1 / n + 1 / len(self.costs)) ** 0.5
        near = amount + error * np.linspace(*_DEVIATIONS, _NEAR)
        curve = [*zip(costs, prices, strict=True)]
        for _ in range(_NEAR):
            # Many inputs may change their path at nearly one price.
            inside = [min(high, near[-1]) - max(low, near[0]) for (low, _), (high, _) in pairwise(curve)]
            at = int(np.argmax(inside))
            if inside[at] <= error / _NEAR:
                break
            price = (curve[at][1] * curve[at + 1][1]) ** 0.5
            curve.insert(
                at + 1, (min(max(self.plan(price, root).cost, curve[at][0]), curve[at + 1][0]), price)
            )
        costs, prices = zip(*curve, strict=True)

        def plan(cost: float) -> _Plan:
            return self.plan(float(np.exp(np.interp(cost, costs, np.log(prices)))), root)

        if any(self.following[k] for k in self.following[root]) or root not in self.known.silent:
            yield plan(amount)
            return
        for cost in [*np.linspace(costs[0], near[0], _FAR, endpoint=False).tolist(), *near.tolist()]:
            yield plan(cost)

    def _prior(self, exit_: int, n_columns: int) -> Floats:
        """Return weights (f, 1 + exits that may follow) that trust what features tell of the models' own answers."""
        places = (exit_, *self.following[exit_])
        weights = np.zeros((n_columns, len(places)))
        told = any(at in self.known.quality for at in path_to(self.steps, exit_))
        for k, place in enumerate(places):
            one = self.steps[place].model, self.steps[place].exits[0]
            if told and one in self._answers:  # the columns of features are the last ones
                weights[n_columns - len(self._answers) + self._answers.index(one), k] = 1.0
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
        found = []
        for root in self._roots:
            plans = sorted(
                (one.cost, one.quality, price) for price in prices for one in [self.plan(price, root)]
            )
            paid, quality, kept = zip(*plans, strict=True)
            found.append((kept, paid, tuple(np.maximum.accumulate(quality).tolist())))
        return found

    def plan(self, price: float, root: int) -> _Plan:
        """Return the router for a price, what a unit of cost is worth in quality, that begins at this exit."""
        if (price, root) not in self._plans:
            choices = self._choices(price)
            exits = self._walked(np.full(len(self.costs), root), choices)
            self._plans[price, root] = self._pruned(root, exits, choices)
        return self._plans[price, root]

    def _walked(self, at: Integers, choices: _Choices) -> Integers:
        """Return where fit inputs are answered that have come to the exits `at`, (n,)."""
        exits = at.copy()
        for exit_, taken in sorted(choices.taken.items()):
            here = exits == exit_
            exits[here] = taken[here]
        return exits

    def _choices(self, price: float) -> _Choices:
        """Return what this price makes of the exits, from the last one to the first."""
        if price in self._known_choices:
            return self._known_choices[price]
        worth: dict[int, Floats] = {}
        found = _Choices({}, {})
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
            found.weights[exit_] = prior + self._inverses[exit_][-1] @ total
            found.taken[exit_] = np.array([exit_, *some])[act]
        self._known_choices[price] = found
        return found

    def _pruned(self, root: int, exits: Integers, choices: _Choices) -> _Plan:
        """Return the plan of the exits that any fit input comes to, or that unlike inputs are sent to."""
        kept_ends = {at for end in {*exits.tolist(), root} for at in path_to(self.steps, end) if at >= root}
        kept = sorted(kept_ends | {to for exit_, to in self.safe.items() if exit_ in kept_ends})
        to = {exit_: k for k, exit_ in enumerate(kept)}
        following = [tuple(to[k] for k in self.following[exit_] if k in to) for exit_ in kept]
        columns = [[0, *(1 + i for i, k in enumerate(self.following[exit_]) if k in to)] for exit_ in kept]
        known = Known(
            self.known.grid,
            self.known.classes,
            {to[exit_]: one for exit_, one in self.known.quality.items() if exit_ in to},
            frozenset(to[exit_] for exit_ in self.known.silent if exit_ in to),
        )
        score = Routing(
            known,
            following,
            [
                choices.weights[exit_][:, some] if len(some) > 1 else np.empty((0, 0))
                for exit_, some in zip(kept, columns, strict=True)
            ],
            {to[exit_]: to[safe] for exit_, safe in self.safe.items() if exit_ in to},
        )
        cost, quality = (
            float(mean(of_exits[np.arange(len(exits)), exits], self._groups))
            for of_exits in (self.costs, self.quality)
        )
        return _Plan(_in_order(self.steps, kept), kept, score, self._answer_at(kept), cost, quality)

    def _answer_at(self, exits: Sequence[int]) -> Answer:
        """Return the answer of these exits alone."""
        if isinstance(self.answer, EnsembleAnswer):
            return EnsembleAnswer(tuple(self.answer.stages[exit_] for exit_ in exits))
        return self.answer


def _often_predicted(trace: ExitTrace) -> tuple[int, ...]:
    """Return the classes that are predicted often, but for the most frequent one."""
    classes, counts = np.unique(trace.prediction[trace.prediction >= 0], return_counts=True)
    often = classes[counts >= _OFTEN * trace.prediction.size]
    return tuple(int(one) for one in often if one != classes[counts.argmax()])


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
