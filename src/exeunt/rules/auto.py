"""The default policy: the mean of two learned scores, at a mixture of rates that cross-validation weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from exeunt._support.arrays import Floats
from exeunt.costs.cost_model import CostModel
from exeunt.policy import allocation
from exeunt.policy.allocation_search import RatePath, price_path
from exeunt.policy.calibration import release_batch
from exeunt.policy.compose import Allocation, Composition, FitPart, composed
from exeunt.policy.learned_quality import correctness_score, denoised_correctness, features_of
from exeunt.rules.stopping import learned
from exeunt.rules.useful_exits import last_useful_exit, up_to_exit
from exeunt.score.learned import LearnedScore
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import ExitTrace
from exeunt.trace.derived import cached_on_trace, score_matrix
from exeunt.trace.splitting import folds_of

_FEW = 1000
_RULES = ("stopping", "line_search", "eero")
_BUDGETS = 12
_COMPARED_ON = 5_000
"""Allocations are compared on so many fit inputs: more take longer and hardly change their weights."""
_WIDTH = 0.08
"""Width of the window over neighbouring budgets, as a share of the span from the first exit to the last."""
_TEMPERATURE = 2.0
_NO_VARIANCE = 1e-12
"""Grades that vary less, as a share of what right and wrong would, are all the same but for rounding."""


@partial(composed, usual_answer="auto")
def auto(part: FitPart, *, folds: int = 3) -> Composition:
    """The command line's default: learned scores, and rates weighed by cross-validation on the fit part.

    It does well on any network. The score is the mean of two learned ones, the advantage of `stopping` and the odds of
    `learned_correctness`. The rates are a mixture of three allocations: stopping's own, line searches on learned
    correctness, and EERO's. Each has the weight exp(gain / (2 standard errors)). Its gain is how much more accurate it
    is than their mean, held out in each of `folds` folds of the fit part, of at most 5,000 of its inputs, at this and
    neighbouring budgets. With few labels all this shrinks towards EERO: the share 1 - `trust` of the score is the main
    confidence, and of the rates, before gains are counted, EERO's; a grade counts as several labels, see
    `labels_worth`. If a mean cost above some amount makes answers worse, the policy plans that amount only, or somewhat
    more where that is not sure. Exits beyond the last useful one are left out: where none of them answers any fit input
    better, and the inputs are enough to tell, they answer nothing.

    `score`: the main confidence. `answer`: by default what cross-validation advises. A policy with an ensemble of
    log-probabilities needs them for all inputs; a policy with answer="own" does not. It also takes the arguments of all
    policies, see `compose`. `policy.notes["auto"]` holds each allocation's gain and weight, and the highest mean cost
    that helps (`most_useful_cost`, None where that is the budget).

    Raises InputError for fewer than 2 folds, or fewer labelled inputs than folds.
    """
    fit, score = part.scored
    last = last_useful_exit(fit)
    useful = fit if last == fit.n_exits - 1 else up_to_exit(fit, last)
    curves = _curves(useful, score, folds, part.seed)
    useful_cost = min(curves.most_useful_cost, useful.cost.full)
    gains, error = curves.around(min(part.budget, useful_cost))
    weights = curves.weights(min(part.budget, useful_cost))
    rule, allocations = _learned(useful, min(part.budget, useful_cost), score)

    def rates(planned: float) -> Floats:
        amount = min(planned, useful_cost)
        mixed: Floats = np.sum(
            [w * allocations[k](amount) for k, w in zip(_RULES, weights, strict=True)], axis=0
        )
        return np.pad(mixed / mixed.sum(), (0, fit.n_exits - 1 - last))

    table = {
        name: {"weight": float(weight), "gain": float(gain)}
        for name, weight, gain in zip(_RULES, weights, gains, strict=True)
    }
    sentences = [_mixture(table, error) if last else "auto answers at exit 0 alone."]
    if last < fit.n_exits - 1:
        sentences.append(
            f"{_exits(last + 1, fit.n_exits - 1)} unused: no fit input is answered better there than at exit {last}."
        )
    if useful_cost < useful.cost.full:
        so = ", so the policy costs no more" if useful_cost < part.budget else ""
        share = f"{fit.cost.share(useful_cost):.0%} of {fit.cost.whole}"
        sentences.append(f"A mean cost above {share} does not make answers better{so}.")
    note = {
        "allocations": table,
        "standard_error": error,
        "folds": folds,
        "most_useful_cost": useful_cost if useful_cost < part.budget else None,
        "text": " ".join(sentences),
    }
    return Composition(rates, rule, {"auto": note})


def _mixture(table: dict[str, dict[str, float]], error: float) -> str:
    by_weight = sorted(table.items(), key=lambda row: -row[1]["weight"])
    percents = whole_percents([entry["weight"] for _, entry in by_weight])
    names = [name.replace("_", " ") for name, _ in by_weight]
    shares = ", ".join(f"{percent}% {name}" for percent, name in zip(percents, names, strict=True))
    gain = 100 * sum(entry["weight"] * entry["gain"] for entry in table.values())
    return (
        f"auto mixes three allocations: {shares} (cross-validated gain {round(gain, 2) + 0.0:.2f} ± "
        f"{100 * error:.2f} points)."
    )


def whole_percents(shares: Sequence[float]) -> list[int]:
    """Return shares that add up to 1 as whole percents that add up to 100: the largest remainders are rounded up."""
    exact = 100 * np.asarray(shares)
    percents = np.floor(exact + 1e-9).astype(int)
    percents[np.argsort(percents - exact, kind="stable")[: 100 - percents.sum()]] += 1
    return percents.tolist()  # type: ignore[no-any-return]


def _exits(first: int, last: int) -> str:
    if first == last:
        return f"Exit {first} is"
    return f"Exits {first} {'and' if last == first + 1 else 'to'} {last} are"


def labels_worth(fit: ExitTrace) -> float:
    """Return how many labels the losses of a trace are worth: n of right and wrong, more of grades.

    Right and wrong with a mean loss r have the variance r (1 - r), and grades a smaller one (Bhatia and Davis 2000): as
    many times fewer of them show a mean as well.

    >>> trace = ExitTrace.from_losses([[0.5], [0.5]], [[0.4], [0.6]], cost=CostModel([1]))
    >>> round(labels_worth(trace))  # the variance 0.01 is a 25th of that of right and wrong
    50
    """
    if fit.grades is None:
        return float(fit.n)
    mean, square = fit.quality.mean(axis=0), (fit.quality**2).mean(axis=0)
    variance_of_bits, variance = float((mean - mean**2).sum()), float((square - mean**2).sum())
    return fit.n * (variance_of_bits / variance if variance > _NO_VARIANCE * variance_of_bits else 1.0)


def trust(n: float) -> float:
    """Return the weight, in [0, 1), of what was learned from n labelled inputs against EERO: a half at 1,000.

    EERO needs the error rate of each exit alone. Learned scores and rates gain less than they lose to noise where
    labels are few, and cross-validation cannot tell: if two policies differ on 5% of 300 inputs, the standard error of
    their difference is 1.3 points, which is more than there is to gain as a rule.
    """
    return n**2 / (n**2 + _FEW**2)


def joint_score(fit: ExitTrace, advantage: LearnedScore, score: str | None = None) -> LearnedScore:
    """Return the weighted mean of a learned advantage, learned correctness and the main confidence, each standardised.

    The two learned ones rank the inputs of an exit by the same features but make different errors. With few labels both
    are noisier than the confidence that they are learned from, so it has the weight that `trust` leaves. Once the rates
    are given, only the order within an exit counts, so each may be scaled and shifted freely: to mean 0 and unit spread
    on `fit`.
    """
    correctness = correctness_score(fit, score)
    columns = features_of(fit, score).columns
    main, further = np.zeros_like(advantage.main), np.zeros_like(advantage.further)
    intercept = np.zeros_like(advantage.intercept)
    plain = replace(advantage, main=np.zeros_like(main), further=further.copy())
    plain.main[:, :1] = 1.0  # the rank of the main confidence
    share = trust(labels_worth(fit))
    for rule, weight in ((advantage, share / 2), (correctness, share / 2), (plain, 1 - share)):
        for exit_ in range(len(intercept)):
            values = columns[exit_] @ np.concatenate([rule.main[exit_], rule.further[exit_]])
            scale = weight / (float(values.std()) + 1e-9)
            main[exit_] += scale * rule.main[exit_]
            further[exit_] += scale * rule.further[exit_]
            intercept[exit_] -= scale * float(values.mean())
    return LearnedScore(advantage.grid, main, further, intercept, advantage.history, name="joint")


def _weights(gains: Floats, error: float, share: float) -> Floats:
    """Return weights (rules,) that sum to 1. Where no gain exceeds its error, the rules share `share` equally.

    The rest is EERO's.
    """
    weights: Floats = np.full(len(_RULES), share / len(_RULES))
    weights[_RULES.index("eero")] += 1 - share
    weights *= np.exp((gains - gains.max()) / (_TEMPERATURE * error))
    weights /= weights.sum()
    return weights


def _learned(fit: ExitTrace, budget: float, score: str | None) -> tuple[LearnedScore, dict[str, Allocation]]:
    """Return the score for a budget, and the allocations by name."""
    advantage, own = learned(fit, score).at(budget)
    eero = partial(allocation.exponential_weights, fit.risk, fit.cost, spend="exactly")
    allocations: dict[str, Allocation] = {
        "stopping": own,
        "line_search": _searched(fit, score),
        "eero": eero,
    }
    return joint_score(fit, advantage, score), allocations


@cached_on_trace
def _searched(fit: ExitTrace, score: str | None) -> RatePath:
    """Return the rates that are best for learned correctness, by labels without their noise.

    They are smooth enough to search without resampling.
    """
    scores = score_matrix(correctness_score(fit, score), fit)
    return price_path(scores, denoised_correctness(fit, score), fit.cost.cumulative)


@dataclass(frozen=True, eq=False)
class _Curves:
    """How right held-out inputs were, (rules, budgets, n), at `budgets` between the first exit and the last.

    `worth`: how many labels these are worth.
    """

    budgets: Floats
    right: Floats
    span: float
    worth: float

    def near(self, budget: float) -> Floats:
        """Return how right each rule was near a budget, (rules, n)."""
        window = np.exp(-0.5 * ((self.budgets - budget) / (_WIDTH * self.span)) ** 2)
        mean: Floats = np.einsum("b,rbn->rn", window / window.sum(), self.right)
        return mean

    @cached_property
    def most_useful_cost(self) -> float:
        """The mean cost beyond which a higher one makes answers worse; infinite where the data do not show one.

        Late exits may get wrong what earlier ones had right. If the best budget beats the largest by t standard errors
        of their difference, and t > 1, the cost is the share 1 - 1 / t^2 of the way from the largest to the best one:
        the best of many budgets often seems better by one and a half.
        """
        curve = [self.weights(float(budget)) @ self.near(float(budget)) for budget in self.budgets]
        best = int(np.argmax(np.mean(curve, axis=1)))
        lost = curve[best] - curve[-1]
        t = float(lost.mean() / (lost.std() / lost.size**0.5 + 1e-9))
        last = float(self.budgets[-1])
        return last - (1 - t**-2) * (last - float(self.budgets[best])) if t > 1 else float("inf")

    def weights(self, budget: float) -> Floats:
        """Return the weight of each rule near a budget, (rules,)."""
        return _weights(*self.around(budget), trust(self.worth))

    def around(self, budget: float) -> tuple[Floats, float]:
        """Return each rule's gain over their mean near a budget, and the standard error of a gain.

        It is never below what one input weighs: labels without their noise hardly vary, though they err together.
        """
        near = self.near(budget)
        apart = near - near.mean(axis=0)
        gains: Floats = apart.mean(axis=1)
        n = apart.shape[1]
        return gains, float(np.hypot(apart.std(axis=1).mean() / n**0.5, 1 / n))


@cached_on_trace
def _curves(fit: ExitTrace, score: str | None, folds: int, seed: int) -> _Curves:
    """Fit on all folds but one, measure on that one, for budgets all over the range; on some of the inputs."""
    if fit.n > _COMPARED_ON:
        fit = fit.take(np.random.default_rng(seed).permutation(fit.n)[:_COMPARED_ON])
    cost = fit.cost
    span = cost.full - cost.first
    budgets = cost.first + span * (np.arange(_BUDGETS) + 0.5) / _BUDGETS
    # Measured by labels and by them without their noise in equal parts, as `stopping` learns. All rules rank inputs by
    # one score here: a learned score repeats the errors of denoised correctness, and would be credited for them.
    right = 0.5 * fit.quality + 0.5 * denoised_correctness(fit, score)
    rights = np.zeros((len(_RULES), _BUDGETS, fit.n))
    # A fold plans with the mean costs of all inputs, as its budgets do.
    fit, worth = fit.with_cost(CostModel(cost.cumulative)), labels_worth(fit)
    for rest, rows in folds_of(fit.id, folds, seed, fit.groups):
        train, held = fit.take(rest), fit.take(rows)
        ties = distinct_tie_breaks(held.id, seed)
        for b, amount in enumerate(budgets):
            rule, allocations = _learned(train, float(amount), score)
            scores = score_matrix(rule, held)
            for r, name in enumerate(_RULES):
                exits = release_batch(scores, ties, allocations[name](float(amount)))
                rights[r, b, rows] = right[rows, exits]
    return _Curves(budgets, rights, span or 1.0, worth)
