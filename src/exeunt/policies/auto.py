"""The default policy: the mean of two learned scores, at a mixture of rates that cross-validation weighs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from exeunt import allocation
from exeunt._arrays import Floats
from exeunt.batch_routing import release_batch
from exeunt.policies.answering import AnswerChoice, answering
from exeunt.policies.compose import compose
from exeunt.policies.denoised_correctness import denoised_correctness
from exeunt.policies.last_useful_exit import last_useful_exit, padded, up_to_exit
from exeunt.policies.learned_correctness import correctness_score
from exeunt.policies.line_search import price_path
from exeunt.policies.main_confidence import MainConfidence
from exeunt.policies.rate_path import RatePath
from exeunt.policies.stopping import learned
from exeunt.policy import Policy
from exeunt.score.kinds import Score
from exeunt.score.learned import LearnedScore
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import ExitTrace, check_disjoint
from exeunt.trace.cache import cached_on_trace
from exeunt.trace.scoring import score_matrix
from exeunt.trace.splitting import folds_of

__all__ = ["auto", "joint_score"]


_FEW = 300


def trust(n: int) -> float:
    """Return how far to go from EERO towards what is learned from n labelled inputs, in [0, 1): half way at 300.

    EERO needs the error rate of each exit alone. Learned scores and rates gain less than they lose to noise where
    labels are few.
    """
    return n / (n + _FEW)


def joint_score(fit: ExitTrace, advantage: LearnedScore, score: str | None = None) -> LearnedScore:
    """Return the weighted mean of a learned advantage, learned correctness and the main confidence, each standardised.

    The two learned ones rank the inputs of an exit by the same features but make different errors. With few labels
    both are noisier than the confidence that they are learned from, so it has the weight that `trust` leaves. Once
    the rates are given, only the order within an exit counts, so each may be scaled and shifted freely: to mean 0 and
    unit spread on `fit`.
    """
    correctness = correctness_score(fit, score)
    columns = learned(fit, score).columns
    main, further = np.zeros_like(advantage.main), np.zeros_like(advantage.further)
    intercept = np.zeros_like(advantage.intercept)
    plain = replace(advantage, main=np.zeros_like(main), further=further.copy())
    plain.main[:, :1] = 1.0  # the rank of the main confidence
    share = trust(fit.n)
    for rule, weight in ((advantage, share / 2), (correctness, share / 2), (plain, 1 - share)):
        for exit_ in range(len(intercept)):
            values = columns[exit_] @ np.concatenate([rule.main[exit_], rule.further[exit_]])
            scale = weight / (float(values.std()) + 1e-9)
            main[exit_] += scale * rule.main[exit_]
            further[exit_] += scale * rule.further[exit_]
            intercept[exit_] -= scale * float(values.mean())
    return LearnedScore(advantage.grid, main, further, intercept, advantage.history, title="joint")


_RULES = ("stopping", "line_search", "eero")
_BUDGETS = 12
_WIDTH = 0.08
"""Width of the window over neighbouring budgets, as a share of the span from the first exit to the last."""
_TEMPERATURE = 2.0


@answering
def auto(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    folds: int = 3,
    seed: int = 0,
    answer: AnswerChoice = "auto",
    **options: Any,
) -> Policy:
    """Return a policy that does well on any network: learned scores, and rates weighed by cross-validation.

    The score is the mean of two learned ones, the advantage of `stopping` and the odds of `learned_correctness`.
    The rates are a mixture of three allocations: stopping's own, line searches on learned correctness, and EERO's.
    Each has the weight exp(gain / (2 standard errors)). Its gain is how much more accurate it is than their mean,
    held out in each of `folds` folds of `fit`, at this and neighbouring budgets. With few labels all this shrinks
    towards EERO: the share 1 - `trust` of the score is the main confidence, and of the rates, before gains are
    counted, EERO's. If spending more than some amount makes answers worse, the policy spends that amount only. Exits
    beyond the last useful one are left out: where none of them is right on any fit input that it gets wrong, and
    these are enough to tell, they answer nothing.

    `score`: the main confidence. `answer`: as for `eero`; by default, what cross-validation advises. A policy that
    pools log-probabilities needs them of all that it is asked about; answer="own" makes one that does not. The other
    options are those of `compose`. `policy.notes["auto"]` holds each allocation's gain and weight, and the most that
    helps (`most_useful_spend`, None where that is the budget).

    Raises InputError for fewer than 2 folds, or fewer labelled inputs than folds.
    """
    check_disjoint(fit, calibrate)
    amount = fit.cost.budget(budget)
    main = MainConfidence.of(fit, score)
    last = last_useful_exit(fit)
    useful = main.fit if last == fit.n_exits - 1 else up_to_exit(main.fit, last)
    curves = _curves(useful, main.name, folds, seed)
    most = min(curves.most_useful_spend, useful.cost.full)
    gains, error = curves.around(min(amount, most))
    weights = curves.weights(min(amount, most))
    rule, allocations = _learned(useful, min(amount, most), main.name)

    def rates(planned: float) -> Floats:
        spent = min(planned, most)
        mixed: Floats = np.sum(
            [w * allocations[k](spent) for k, w in zip(_RULES, weights, strict=True)], axis=0
        )
        return padded(mixed / mixed.sum(), fit.n_exits)

    policy = compose(
        "auto",
        rates,
        fit,
        calibrate,
        budget=amount,
        score=main.under(rule),
        seed=seed,
        answer=answer,
        **options,
    )
    table = {
        name: {"weight": float(weight), "gain": float(gain)}
        for name, weight, gain in zip(_RULES, weights, gains, strict=True)
    }
    limit = most if most < amount else None
    notes = {"allocations": table, "standard_error": error, "folds": folds, "most_useful_spend": limit}
    why = []
    if useful is not main.fit:
        why.append(
            f"on none of the {fit.n} labelled fit inputs was a later exit right where exit {last} was wrong"
        )
    if most < useful.cost.full:
        why.append(
            f"spending more than {fit.cost.share(most):.0%} of {fit.cost.whole} did not make answers better"
        )
    if limit is not None:
        why[-1] += ", so no more is spent"
    parts = [_rates_text(table, error) if last else "there is one exit to answer at", *why]
    return replace(policy, notes={"auto": {**notes, "text": "auto: " + "; ".join(parts)}})


def _rates_text(table: dict[str, dict[str, float]], error: float) -> str:
    """Say which rates were chosen and why."""
    parts = ", ".join(
        f"{found['weight']:.0%} {name} ({100 * found['gain']:+.2f} points)" for name, found in table.items()
    )
    return (
        f"rates are {parts}; gains over their mean, cross-validated on the labelled fit inputs, "
        f"standard error {100 * error:.2f}"
    )


def _weights(gains: Floats, error: float, share: float) -> Floats:
    """Return weights (rules,) that sum to 1: where the gains are within their error, `share` alike, the rest EERO's."""
    weights: Floats = np.full(len(_RULES), share / len(_RULES))
    weights[_RULES.index("eero")] += 1 - share
    weights *= np.exp((gains - gains.max()) / (_TEMPERATURE * error))
    weights /= weights.sum()
    return weights


def _learned(
    fit: ExitTrace, budget: float, score: str | None
) -> tuple[LearnedScore, dict[str, Callable[[float], Floats]]]:
    """Return the score for a budget, and the allocations by name."""
    advantage, own = learned(fit, score).at(budget)
    eero = partial(allocation.exponential_weights, fit.risk, fit.cost, spend="exactly")
    return joint_score(fit, advantage, score), {
        "stopping": own, "line_search": _searched(fit, score), "eero": eero,
    }  # fmt: skip


@cached_on_trace
def _searched(fit: ExitTrace, score: str | None) -> RatePath:
    """Return the rates that are best for learned correctness, by labels without their noise.

    They are smooth enough to search without resampling.
    """
    scores = score_matrix(correctness_score(fit, score), fit)
    return price_path(scores, denoised_correctness(fit, score), fit.cost.cumulative)


@dataclass(frozen=True, eq=False)
class _Curves:
    """How right held-out inputs were, (rules, budgets, n), at `budgets` between the first exit and the last."""

    budgets: Floats
    right: Floats
    span: float

    def near(self, budget: float) -> Floats:
        """Return how right each rule was near a budget, (rules, n)."""
        window = np.exp(-0.5 * ((self.budgets - budget) / (_WIDTH * self.span)) ** 2)
        mean: Floats = np.einsum("b,rbn->rn", window / window.sum(), self.right)
        return mean

    @cached_property
    def most_useful_spend(self) -> float:
        """The budget beyond which spending more makes answers worse; infinite where the data do not show one.

        Late exits may get wrong what earlier ones had right. The data show it if the best budget beats the largest
        by more than 3 - 2 * `trust` standard errors of their difference: with few labels, the best of many budgets
        often seems better by two.
        """
        curve = [self.weights(float(budget)) @ self.near(float(budget)) for budget in self.budgets]
        best = int(np.argmax(np.mean(curve, axis=1)))
        lost = curve[best] - curve[-1]
        shows = lost.mean() > (3 - 2 * trust(lost.size)) * lost.std() / lost.size**0.5
        return float(self.budgets[best]) if shows else float("inf")

    def weights(self, budget: float) -> Floats:
        """Return the weight of each rule near a budget, (rules,)."""
        return _weights(*self.around(budget), trust(self.right.shape[2]))

    def around(self, budget: float) -> tuple[Floats, float]:
        """Return each rule's gain over their mean near a budget, and the standard error of a gain."""
        near = self.near(budget)
        apart = near - near.mean(axis=0)
        gains: Floats = apart.mean(axis=1)
        return gains, float(apart.std(axis=1).mean() / apart.shape[1] ** 0.5) + 1e-9


@cached_on_trace
def _curves(fit: ExitTrace, score: str | None, folds: int, seed: int) -> _Curves:
    """Fit on all folds but one, measure on that one, for budgets all over the range."""
    cost = fit.cost
    span = cost.full - cost.first
    budgets = cost.first + span * (np.arange(_BUDGETS) + 0.5) / _BUDGETS
    # Measured by labels and by them without their noise in equal parts, as `stopping` learns.
    right = 0.5 * fit.correct + 0.5 * denoised_correctness(fit, score)
    found = np.zeros((len(_RULES), _BUDGETS, fit.n))
    for rest, rows in folds_of(fit.id, folds, seed):
        train, held = fit.take(rest), fit.take(rows)
        ties = distinct_tie_breaks(held.id, seed)
        for b, amount in enumerate(budgets):
            rule, allocations = _learned(train, float(amount), score)
            scores = score_matrix(rule, held)
            for r, name in enumerate(_RULES):
                exits = release_batch(scores, ties, allocations[name](float(amount)))
                found[r, b, rows] = right[rows, exits]
    return _Curves(budgets, found, span or 1.0)
