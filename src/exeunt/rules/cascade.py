"""Cascades: which models answer, in which order, and how many exits of each, within a budget."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise, permutations
from math import log, perm
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from exeunt._support.arrays import Floats, Keys
from exeunt._support.text import counted
from exeunt.costs.budget_text import amount_text
from exeunt.errors import ExeuntWarning, InputError
from exeunt.policy import Policy, PolicySet
from exeunt.policy.allocation_search import RightWithin, beats
from exeunt.policy.ensemble_answer import OwnAnswer
from exeunt.policy.ensemble_fitting import (
    AnswerChoice,
    EnsembleFit,
    can_be_ensembled,
    check_answer,
    classes_of,
    ensemble_is_better,
)
from exeunt.policy.policy_set import feasible
from exeunt.rules.catalogue import WITH_A_GATE, preset
from exeunt.rules.useful_exits import some_inputs
from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.derived import cached_on_trace, worse_than_one_class
from exeunt.trace.groups import mean_weight, n_units, per_unit

_ENUMERATED = 100
"""Cascades of all models and orders are tried where there are at most so many; four models make 64."""
_CUTS = 6
"""How many last exits of a model are tried."""
_LEAST, _MOST = 3_000, 10_000
"""Cascades are compared on so many inputs: more take longer, fewer do not show which of two is more accurate."""
_OUTPUTS = 1 << 19
"""And, between these, on so many inputs times classes."""
_SPARE = 1.15
"""How far below the budget the mean cost must be to be certified, in highest costs times log(1/delta)/n: as `betting`
needs where costs are small beside the highest. What their spread needs is in `_first_costs`."""
_KEPT = 1 << 24
"""Ensembles of cascades are kept for so many inputs times classes, 50 bytes each."""

_Steps: TypeAlias = tuple[CascadeStep, ...]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def cascade(
    fit: CascadeTrace,
    calibrate: CascadeTrace | StoredTrace,
    *,
    budget: float | str,
    policy: str | Callable[..., Policy] = "auto",
    answer: AnswerChoice = "auto",
    reference: str | None = None,
    order: Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Return a policy of a cascade of models: some of them, in an order of its own, and the exits used of each.

    These are chosen on `fit` alone, for this budget: the most accurate cascade within it, or a plainer one, of fewer
    models or with more of their exits, that it does not beat by half a standard error. So models that answer too little
    for what they cost are left out. The policy is then made as if the cascade's exits were exits of one network.

    `budget`: mean cost per input in the models' unit, or "7.5 usd per 10k", or a share such as "30%" of what
    `reference` costs alone, by default the most expensive model. `policy`: the name of a policy, or a callable
    `(fit, calibrate, *, budget, answer, seed)`. `answer`: as for `compose`; "auto" lets cross-validation decide.
    `order`: names of models; the cascade asks some of them, in this order. `calibrate`: a `StoredTrace` of these
    models where it does not fit in memory; the policy is the same. The other options, such as `delta`, go to
    the policy. `policy.models` names the models that are asked, in order; `policy.unasked` says why others are not.

    Models that only tell features are for routers, and are left out.

    Raises InputError for parts that overlap or differ in their models, InfeasibleBudget for a budget that no model can
    meet.
    """
    check_models(fit, calibrate)
    check_answer(answer)
    if policy in WITH_A_GATE:
        raise InputError(
            f"{policy} chooses an exit at the gate of one network, and models of a cascade are asked one after the "
            "other: take another policy"
        )
    fit, amount = fit.answering, fit.budget(budget, reference=reference)
    spare = _spare(calibrate, options.get("delta"))
    steps, unasked = find_cascade(fit, amount, answer, seed, None if order is None else tuple(order), spare)
    parts = [part.along(steps, reference=reference) for part in (fit, calibrate)]
    amount = min(amount, parts[0].cost.highest)  # some of the models cost less than all
    new_policy = preset(policy)(*parts, budget=amount, answer=answer, seed=seed, **options)
    return with_unasked(noting_reference(replace(new_policy, cascade=steps), reference), unasked)


def with_unasked(policy: Policy, unasked: Mapping[str, str]) -> Policy:
    """Return a policy of a cascade with notes on the models that it never asks: `unasked`, and those beyond its last.

    `unasked`: the reasons by name, for models that its cascade does not hold.
    """
    first, reasons = 0, dict(unasked)
    for before, step in pairwise(policy.cascade):
        first += before.n_exits
        if first > policy.last:
            reasons[step.model] = (
                f"{step.model} is not asked: {before.model} or a model before it answers everything."
            )
    return noting_unasked(policy, reasons)


def noting_reference(policy: Policy, reference: str | None) -> Policy:
    """Return a policy with the name of the model that shares of its cost refer to; None for the most expensive one."""
    note = {} if reference is None else {"reference": {"model": reference}}
    return replace(policy, notes={**policy.notes, **note})


def noting_unasked(policy: Policy, reasons: Mapping[str, str]) -> Policy:
    """Return a policy with notes on the models that it never asks: the reasons by name."""
    if not reasons:
        return policy
    note = {"unasked": reasons, "text": " ".join(reasons.values())}
    return replace(policy, notes={**policy.notes, "cascade": note})


def cascades(
    fit: CascadeTrace,
    calibrate: CascadeTrace | StoredTrace,
    *,
    budgets: str | Iterable[float | str],
    answer: AnswerChoice = "auto",
    reference: str | None = None,
    seed: int = 0,
    **options: Any,
) -> PolicySet:
    """Return a policy of a cascade for each budget, all of which ask their models in one order.

    Among the orders of the cascades that are best for one of the budgets, it is the order that is most accurate on
    `fit`, on average over the budgets. A policy may skip models. The other options go to `cascade` and
    `PolicySet.make`.
    """
    check_models(fit, calibrate)
    check_answer(answer)
    fit = fit.answering
    amounts = tuple(feasible(partial(fit.budget, reference=reference), budgets))
    if not amounts:
        raise InputError("a set of cascades needs at least one budget, got none")
    order = common_order(fit, amounts, answer, seed, _spare(calibrate, options.get("delta")))
    rule = partial(cascade, answer=answer, reference=reference, order=order, seed=seed)
    return PolicySet.make(rule, fit, calibrate, budgets=amounts, **options)


def _spare(calibrate: CascadeTrace | StoredTrace, delta: Any) -> float:
    """Return how much of the highest cost a certificate at `delta` must leave spare, see `_SPARE`."""
    if not isinstance(delta, float) or not 0 < delta < 1:
        return 0.0
    return _SPARE * log(1 / delta) / max(1, n_units(calibrate.n, calibrate.groups))


def check_models(fit: object, calibrate: object) -> None:
    """Raise InputError unless both parts are of models, and the fit part is not empty."""
    stored = isinstance(calibrate, StoredTrace) and calibrate.models
    if not isinstance(fit, CascadeTrace) or not (stored or isinstance(calibrate, CascadeTrace)):
        raise InputError(
            "a cascade is made of a CascadeTrace: give exeunt.CascadeTrace({name: trace, ...}) to fit and calibrate, "
            "or to calibrate StoredTrace.open(folder, models=...)"
        )
    if fit.n == 0:
        raise InputError("the fit part is empty: it needs at least one input")
    warn_of_classes(fit)


def warn_of_classes(models: CascadeTrace) -> None:
    """Warn of models that answer worse than one class would, or that have fewer classes than others."""
    for name in models.answering.names:
        if worse := worse_than_one_class(models[name]):
            warnings.warn(f"model {name!r} {worse}", ExeuntWarning, stacklevel=4)
    logs = {name: models[name].log_probability for name in models.answering.names}
    columns = {name: log.shape[2] for name, log in logs.items() if log is not None}
    if len(set(columns.values())) > 1:
        listed = ", ".join(f"{name!r} {n}" for name, n in columns.items())
        warnings.warn(
            f"the models have different numbers of classes ({listed}): give all of them a column for each class, in "
            "one order",
            ExeuntWarning,
            stacklevel=4,
        )


@cached_on_trace
def find_cascade(
    fit: CascadeTrace,
    amount: float,
    answer: AnswerChoice = "auto",
    seed: int = 0,
    order: tuple[str, ...] | None = None,
    spare: float = 0.0,
) -> tuple[_Steps, dict[str, str]]:
    """Return the cascade that is most accurate on `fit` within this mean cost, and why it leaves out other models.

    Where all orders of all models are few, they are compared, else all pairs. From the best on, the search changes one
    model at a time, or how many of its exits are used, until nothing is better. With `order`, only cascades of these
    models in this order are compared. `spare`: where inputs differ in cost or come in groups, the first exit must cost
    so much of the highest cost less than the budget, if any cascade can.
    """
    names = fit.names if order is None else order
    if not names:
        raise InputError("order names no model: name those that a cascade may ask, or leave it out")
    if len(set(names)) < len(names):
        raise InputError(f"order names a model twice, got {', '.join(names)}: a cascade asks each once")
    search = _Search(_comparing(fit, seed), amount, answer, spare)
    models = [CascadeStep(name, fit[name].n_exits) for name in names]
    few = sum(perm(len(models), k) for k in range(1, len(models) + 1)) <= _ENUMERATED
    lengths = range(1, (len(models) if few else 2) + 1)
    arranged: Any = permutations if order is None else combinations
    following = search.best([steps for k in lengths for steps in arranged(models, k)])
    tried: set[_Steps] = set()
    while following not in tried:
        best = following
        tried.add(best)
        near = [
            steps
            for steps in _neighbours(best, models)
            if order is None or (places := [order.index(step.model) for step in steps]) == sorted(places)
        ]
        following = search.best([best, *near])
    chosen = {step.model for step in best}
    return best, {name: search.why_without(name, best, near) for name in names if name not in chosen}


def right_within(
    fit: CascadeTrace, amount: float, answer: AnswerChoice, seed: int, order: tuple[str, ...] | None
) -> tuple[Keys, Floats]:
    """Return keys of rows of `fit`, and how well the cascade answers each that `find_cascade` chooses for this cost."""
    steps, _ = find_cascade(fit, amount, answer, seed, order)
    on = _comparing(fit, seed)
    search = _Search(on, amount, answer)
    search.best([steps])
    right = search.right(steps)
    assert right is not None  # noqa: S101 - it was chosen
    return on.models.row, right


def common_order(
    fit: CascadeTrace, amounts: Sequence[float], answer: AnswerChoice, seed: int, spare: float = 0.0
) -> tuple[str, ...]:
    """Return the order of models that is most accurate on `fit`, on average over several budgets."""
    by_price = sorted(fit.names, key=lambda name: fit[name].cost.full)
    best = [
        [step.model for step in find_cascade(fit, amount, answer, seed, None, spare)[0]] for amount in amounts
    ]
    orders = list(
        dict.fromkeys((*names, *(name for name in by_price if name not in names)) for names in best)
    )
    if len(orders) == 1:
        return orders[0]
    on = _comparing(fit, seed)

    def right(order: tuple[str, ...]) -> float:
        cascades_at = [
            (amount, find_cascade(fit, amount, answer, seed, order, spare)[0]) for amount in amounts
        ]
        return sum(_Search(on, amount, answer).accuracy(steps) for amount, steps in cascades_at)

    return max(orders, key=right)


def _neighbours(cascade: _Steps, models: Sequence[CascadeStep]) -> Iterator[_Steps]:
    """Yield cascades with one model less, more, replaced or used for fewer exits, or two neighbours exchanged."""
    others = [model for model in models if model.model not in {step.model for step in cascade}]
    for i in range(len(cascade) + 1):
        before, after = cascade[:i], cascade[i:]
        yield from ((*before, model, *after) for model in others)
        if after:
            yield (*before, *after[1:])
            yield (*before, *after[1:2], after[0], *after[2:])
            yield from ((*before, model, *after[1:]) for model in others)
            counts = np.unique(np.linspace(1, after[0].n_exits, _CUTS + 1).astype(int)[:-1])
            yield from ((*before, CascadeStep(after[0].model, int(n)), *after[1:]) for n in counts)


@cached_on_trace
def _comparing(fit: CascadeTrace, seed: int) -> _Comparing:
    """Return what cascades are compared on, for every budget: some of the fit inputs, fewer of more than 52 classes."""
    if not fit.has_loss:
        raise InputError(
            "a cascade is chosen by accuracy, and the fit part has no labels: give label=... or losses"
        )
    n = min(_MOST, max(_LEAST, _OUTPUTS // _most_classes(fit)))
    return _Comparing(some_inputs(fit, seed, n), _first_costs(fit), seed)


def _first_costs(fit: CascadeTrace) -> dict[str, float]:
    """Return what the first exit of each model costs, such that a budget of that much can be kept.

    Where inputs differ in cost, the mean over calibration inputs may be higher than over fit inputs. A model that is
    asked about all inputs must be affordable by both, so three standard errors of the difference between two such parts
    are added, and the share of one more input of the highest known cost. The cheapest model is asked in any case.
    Where rows come in groups, groups are drawn.
    """
    cheapest = min(fit.names, key=lambda name: fit[name].cost.first)
    first_costs = {}
    for name in fit.names:
        costs, first = fit[name].cost.of_inputs(fit.n)[:, 0], fit[name].cost.first
        drawn = per_unit(costs, fit.groups, first)
        room = 3 * drawn.std() * (2 / len(drawn)) ** 0.5 + np.ptp(drawn) / len(drawn)
        first_costs[name] = first + (0.0 if name == cheapest else float(room / mean_weight(fit.groups)))
    return first_costs


def _most_classes(models: CascadeTrace) -> int:
    logs = [models[name].log_probability for name in models.names]
    labels = 1 if models.label is None else int(models.label.max()) + 1
    return max(labels, *(0 if log is None else log.shape[2] for log in logs))


class _Comparing:
    """What cascades are compared on. Their ensembles are kept; the oldest are dropped where they are too many.

    `first`: what the first exit of each model costs, see `_first_costs`.
    """

    def __init__(self, models: CascadeTrace, first: Mapping[str, float], seed: int) -> None:
        self.models, self.first, self.seed = models, first, seed
        self._most = max(1, _KEPT // (models.n * _most_classes(models)))
        self._ensembles: dict[tuple[object, ...], EnsembleFit] = {}
        self._own: dict[_Steps, _Answers] = {}
        self._ensembled: dict[_Steps, RightWithin] = {}

    def own(self, steps: _Steps) -> _Answers:
        """Return how right the own answers of a cascade are."""

        def measured() -> _Answers:
            trace = self.models.along(steps)
            right, first = RightWithin(OwnAnswer.for_(trace).on(trace), self.seed), trace.cost.first
            return _Answers(right, first, can_be_ensembled(trace), trace.has_log_probability)

        return _kept(self._own, steps, self._most, measured)

    def highest(self, steps: _Steps) -> float:
        """Return the most that an input can cost, if certificates depend on it; else 0."""
        parts = [self.models[step.model] for step in steps]
        # Of a single exit that costs the same for all inputs, the cost is certain.
        several = sum(step.n_exits for step in steps) > 1
        depends = any(part.cost.varies or (several and part.groups is not None) for part in parts)
        return float(sum(part.cost.highest for part in parts)) if depends else 0.0

    def full(self, steps: _Steps) -> float:
        """Return the mean cost of inputs that are answered at the last exit."""
        return float(sum(self.models[step.model].cost.cumulative[step.exits[-1]] for step in steps))

    def ensembled(self, steps: _Steps) -> RightWithin:
        """Return how right the ensemble answers of a cascade are, each by an ensemble fitted without its input."""

        def measured() -> RightWithin:
            trace = self.models.along(steps)
            logs = self.ensemble(steps, trace).held_out
            answered = ExitTrace.from_logits(
                logs, cost=trace.cost, label=trace.label, id=trace.id, groups=trace.groups
            )
            return RightWithin(answered, self.seed)

        return _kept(self._ensembled, steps, self._most, measured)

    def ensemble(self, steps: _Steps, of: ExitTrace) -> EnsembleFit:
        """Return the ensemble of the first steps of a cascade, grown from the one with one exit fewer.

        `of`: the trace of the whole cascade. Its exits have log-probabilities if the exits of all its models have.
        """
        n_classes = classes_of(of)
        if not steps:
            return EnsembleFit.of(of, n_classes, seed=self.seed, held_out_only=True)
        key = (steps, n_classes, of.has_log_probability, tuple(of.scores))
        *before, last = steps
        shorter = (*before, CascadeStep(last.model, last.exits[:-1])) if last.n_exits > 1 else tuple(before)
        evidence = of.evidence(sum(step.n_exits for step in steps) - 1)
        return _kept(self._ensembles, key, self._most, lambda: self.ensemble(shorter, of).with_exit(evidence))


def _kept(cache: dict[_Key, _Value], key: _Key, max_entries: int, make: Callable[[], _Value]) -> _Value:
    """Return what is kept under a key, or make it; the oldest of `max_entries` entries is dropped for it."""
    if key not in cache:
        computed = make()
        while len(cache) >= max_entries:
            cache.pop(next(iter(cache)))
        cache[key] = computed
    return cache[key]


class _Answers(NamedTuple):
    """How right the own answers of a cascade are, and what the choice between them and an ensemble goes by."""

    right: RightWithin
    first: float
    can_be_ensembled: bool
    has_log_probability: bool


class _Search:
    """How accurate cascades are within a mean cost, each measured once."""

    def __init__(
        self, comparing: _Comparing, amount: float, answer: AnswerChoice, spare: float = 0.0
    ) -> None:
        self._on, self._amount, self._spare = comparing, amount, spare
        self._in_any_case = ""  # the model that may be asked first whatever it costs
        self._answer = "own" if isinstance(answer, OwnAnswer) else answer
        self._right: dict[_Steps, Floats | None] = {}

    def best(self, cascades: Sequence[_Steps]) -> _Steps:
        """Return the plainest of the cascades that the most accurate one does not beat by half a standard error."""
        candidates = {
            cascade: right for cascade in cascades if cascade and (right := self.right(cascade)) is not None
        }
        if not candidates:  # calibration says what is lacking
            self._in_any_case = min(
                (cascade[0].model for cascade in cascades if cascade), key=self._on.first.__getitem__
            )
            self._right.clear()
            return self.best(cascades)
        top = max(candidates.values(), key=lambda right: float(right.mean()))
        near = {
            candidate: float(right.mean()) for candidate, right in candidates.items() if not beats(top, right)
        }

        def plainness(steps: _Steps) -> tuple[int, int, float]:
            """Return how many models a cascade has, how many of their exits it leaves out, and its errors."""
            left_out = sum(self._on.models[step.model].n_exits - step.n_exits for step in steps)
            return len(steps), left_out, -near[steps]

        return min(near, key=plainness)

    def right(self, steps: _Steps) -> Floats | None:
        """Return how well each input is answered, (n,); None if the budget is below the first exit."""
        if steps not in self._right:
            amount, least = self._amount, self._on.first[steps[0].model]
            if self._spare and (highest := self._on.highest(steps)):
                # What is certified is never more than the full cost of the cascade.
                amount, least = min(amount, self._on.full(steps)), least + self._spare * highest
            affordable = steps[0].model == self._in_any_case or least <= amount * (1 + 1e-12)
            self._right[steps] = self._measured(steps) if affordable else None
        return self._right[steps]

    def why_without(self, name: str, chosen: _Steps, near: Sequence[_Steps]) -> str:
        """Return a sentence that compares the chosen cascade with the best of those `near` it that ask a model."""
        models, dearest = self._on.models, self._on.models.most_expensive
        budget = amount_text(self._amount, models.unit)
        with_it = [steps for steps in near if any(step.model == name for step in steps)]
        right = {steps: float(each.mean()) for steps in with_it if (each := self.right(steps)) is not None}
        if not right:
            return f"{name} is not asked: no cascade with it, in this order, keeps a budget of {budget}."
        share = models[name].cost.full / models[dearest].cost.full
        paid = "" if name == dearest else f"for its {share:.1%} of the cost of {dearest}, "
        best = max(right, key=right.__getitem__)
        points = 100 * (right[best] - self.accuracy(chosen))
        how = "more accurate (too little to tell) than" if points > 0 else "less accurate than"
        comparison = "as accurate as" if abs(points) < 0.05 else f"{abs(points):.1f} points {how}"
        asking, without = (", ".join(step.model for step in steps) for steps in (best, chosen))
        return (
            f"{name} is not asked: {paid}the best cascade found with it ({asking}) is {comparison} {without}, within "
            f"{budget} on {counted(models.n, 'input')}."
        )

    def accuracy(self, steps: _Steps) -> float:
        """Return the mean quality of the answers; 0 if the budget is below the first exit."""
        right = self.right(steps)
        return 0.0 if right is None else float(right.mean())

    def _measured(self, steps: _Steps) -> Floats:
        answers = self._on.own(steps)
        amount = max(self._amount, answers.first)  # of these inputs, which may cost more than others
        own = answers.right(amount)
        if self._answer in ("own", "best") or (self._answer == "auto" and not answers.can_be_ensembled):
            return own
        ensemble = self._on.ensembled(steps)(amount)
        pays = ensemble_is_better(ensemble, own, probabilities=answers.has_log_probability)
        return own if self._answer == "auto" and not pays else ensemble
