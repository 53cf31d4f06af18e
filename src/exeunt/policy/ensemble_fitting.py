"""Ensembles of exits: fitted by cross-entropy on labelled inputs, exit after exit, and chosen where they help.

Cross-validation decides how each exit joins. Every policy has an answer: the exits' own, or that of their ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from scipy.optimize import minimize

from exeunt._support.arrays import Floats, Integers
from exeunt.errors import InputError
from exeunt.policy.allocation_search import beats, rights_of
from exeunt.policy.ensemble_answer import (
    Answer,
    BestAnswer,
    EnsembleAnswer,
    LogTerm,
    OwnAnswer,
    Stage,
    TableTerm,
    best_so_far,
    ramps,
    row_of,
)
from exeunt.policy.learned_quality import correctness_score
from exeunt.score.confidence import LOG_PROBABILITY, PROBABILITY_SCORES, log_softmax
from exeunt.score.learned import quantile_knots
from exeunt.trace import ExitTrace, StoredTrace
from exeunt.trace.derived import along_paths, cached_on_trace, one_class_remark, score_matrix
from exeunt.trace.splitting import folds_of

_Calibrate = TypeVar("_Calibrate", bound="ExitTrace | StoredTrace")

AnswerChoice: TypeAlias = "str | Answer"
"""What policies take as `answer`: "own", "best", "ensemble", "auto", or an answer fitted on other data."""
ANSWERS = ("own", "best", "ensemble", "auto")
"""The choices by name."""

_Rows: TypeAlias = Integers | slice
_Candidate: TypeAlias = Callable[[_Rows, Floats], Stage]
"""Fits a stage on some rows, from the log-probabilities before it (all rows, k); zeros before the first exit."""

_FOLDS = 4
_PIECES = 4
_MOST_CLASSES = 200
"""A table holds five numbers for every pair of classes: for 200 classes 1.6 MB and seconds to fit, at each exit."""
_MOST_NUMBERS = 1 << 20
"""So many log-probabilities are enough for two weights: as of 10,000 inputs with 100 classes."""
_FEWEST = 1000  # inputs for two weights, however many classes there are
_MOST_OUTPUTS = 1 << 24
"""Fitting takes some 23 arrays of inputs times classes in double precision: 3 GB for so many numbers."""
_RIDGE = 1.0
"""Penalty on the squares of a table's entries, in inputs; half or twice of it hardly changes the held-out log-loss."""
_STEADY = 1e-4
"""Relative change of the loss at which a fit of a table ends: held-out losses are no lower with a hundredth of it."""
_BEND = 0.3
"""Mean second derivative of an input's loss by the log-odds of its class, roughly."""
_PULL = 10.0
"""Penalty that pulls the weight of the exits before towards 1, and of an exit's own term towards 1, in inputs."""


@dataclass(frozen=True, eq=False)
class EnsembleFit:
    """An ensemble fitted to n labelled inputs, exit after exit.

    `answer`: fitted on all inputs. `held_out` (n, exits, k): log-probabilities of each input, by what was fitted
    without its fold. `with_exit` returns a new fit with one more exit.
    """

    label: Integers
    n_classes: int
    rows: tuple[_Rows, ...]
    """What each fit learns from: all folds but one, in turn, and for `answer` all inputs."""
    held: tuple[Integers, ...]
    stages: tuple[Stage, ...] = ()
    outputs: tuple[Floats, ...] = ()
    """Log-probabilities of all inputs after the last exit, (n, k), by each fit."""
    by_exit: tuple[Floats, ...] = ()

    @classmethod
    def of(cls, fit: ExitTrace, n_classes: int, *, seed: int = 0, held_out_only: bool = False) -> EnsembleFit:
        """Return the fit of an ensemble that has no exit yet. `held_out_only`: it has no `answer`."""
        rest, held = zip(*folds_of(fit.id, _FOLDS, seed, fit.groups), strict=True)
        return cls(
            cast("Integers", fit.label), n_classes, rest if held_out_only else (*rest, slice(None)), held
        )

    @property
    def answer(self) -> EnsembleAnswer:
        """The answer at each exit."""
        return EnsembleAnswer(self.stages)

    @property
    def held_out(self) -> Floats:
        """Log-probabilities (n, exits, k)."""
        return np.stack(self.by_exit, axis=1)

    def with_exit(self, evidence: Mapping[str, Any]) -> EnsembleFit:
        """Return the fit with one more exit, whose outputs are `evidence`, joined in the way that is best held out."""
        n = len(self.label)
        before = self.outputs or tuple(np.zeros((n, self.n_classes)) for _ in self.rows)
        trials = []
        for candidate in _candidates(evidence, self.label, self.n_classes, first=not self.outputs):
            stages = [candidate(rows, prior) for rows, prior in zip(self.rows, before, strict=True)]
            outputs = [
                stage.log_probability(evidence, prior) for stage, prior in zip(stages, before, strict=True)
            ]
            held_out = outputs[-1].copy()
            for rows, values in zip(self.held, outputs, strict=False):
                held_out[rows] = values[rows]
            trials.append((stages[-1], outputs, held_out))
        best = _best([-held_out[np.arange(n), self.label] for *_, held_out in trials])
        stage, outputs, held_out = trials[best]
        return replace(
            self,
            stages=(*self.stages, stage),
            outputs=tuple(outputs),
            by_exit=(*self.by_exit, held_out),
        )


def fit_ensemble(fit: ExitTrace) -> EnsembleFit:
    """Fit an ensemble of all exits on a labelled trace.

    An exit with log-probabilities joins the ensemble only where that makes held-out labels likelier, by more than a
    standard error; otherwise it answers alone. For an exit that gives a label and a confidence alone a table is fitted.

    Raises InputError for a trace without labels, with labels of one class or nearly so, for fewer than 4 inputs, or for
    more than 200 classes where a table is needed.
    """
    begun = EnsembleFit.of(fit, classes_of(fit))

    def joined(exit_: int, before: EnsembleFit) -> tuple[tuple[Stage, Floats], EnsembleFit]:
        fitted = before.with_exit(fit.evidence(exit_))
        return (fitted.stages[-1], fitted.by_exit[-1]), fitted

    stages, by_exit = zip(*along_paths(fit, begun, joined), strict=True)
    return replace(begun, stages=stages, by_exit=by_exit)


def classes_of(fit: ExitTrace) -> int:
    """Return how many classes an ensemble chooses from: all classes with probabilities, else those that labels name.

    Raises InputError where they are too many for tables, which grow with their square, and for labels of one class or
    nearly so.
    """
    if fit.label is None:
        raise InputError(
            "an ensemble is fitted to labels, and the fit part has none: make it with label=..., or answer='own'"
        )
    if remark := one_class_remark(fit):
        raise InputError(remark)
    k = _n_classes(fit)
    if k > _MOST_CLASSES and fit.log_probability is None:
        raise InputError(
            f"an ensemble of exits without probabilities takes at most {_MOST_CLASSES} classes, got labels up to "
            f"{k - 1}: number the classes without gaps, or take answer='own'"
        )
    return k


def can_be_ensembled(fit: ExitTrace) -> bool:
    """Return whether an ensemble can be fitted within the memory of a usual machine, and on enough inputs.

    It takes an input or group for each fold and, where there are tables, an input for every entry (predicted label,
    class); and labels, of more than one class.
    """
    if fit.label is None:
        return False
    k = _n_classes(fit)
    units = len(np.unique(fit.id)) if fit.groups is None else fit.groups.n
    if units < _FOLDS or one_class_remark(fit):
        return False
    if fit.log_probability is not None:
        return fit.n * k <= _MOST_OUTPUTS
    return k <= _MOST_CLASSES and k * (k + 1) <= fit.n <= _MOST_OUTPUTS


def _n_classes(fit: ExitTrace) -> int:
    if fit.log_probability is not None:
        return int(fit.log_probability.shape[2])
    return int(cast("Integers", fit.label).max()) + 1


def _best(losses: list[Floats]) -> int:
    """Return the candidate with the least mean loss, or the first if none is better than it by a standard error."""
    best = int(np.argmin([loss.mean() for loss in losses]))
    gain = losses[0] - losses[best]
    return best if gain.mean() > gain.std() / gain.size**0.5 else 0


def _candidates(evidence: Mapping[str, Any], label: Integers, k: int, *, first: bool) -> list[_Candidate]:
    """Return the ways in which one exit may join, the most cautious first."""
    if LOG_PROBABILITY not in evidence:
        return [_table(evidence, label, k)]
    logs = np.asarray(evidence[LOG_PROBABILITY], dtype=np.float64)

    def own(rows: _Rows, before: Floats) -> Stage:  # noqa: ARG001 - a candidate
        return Stage(0.0, LogTerm(1.0))

    def weighted(rows: _Rows, before: Floats) -> Stage:
        every = np.arange(len(label))[rows]
        some = every[:: max(1, min(len(every) * k // _MOST_NUMBERS, len(every) // _FEWEST))]
        keep, weight = _weights(np.stack([before[some], logs[some]]), label[some])
        return Stage(keep, LogTerm(weight))

    return [own] if first else [own, weighted]


def _weights(outputs: Floats, label: Integers) -> tuple[float, float]:
    """Return the weights of the exits before and of the exit itself, from their log-probabilities (2, n, k)."""
    rows, start = np.arange(len(label)), np.array([0.0, 1.0])

    def loss(weights: Floats) -> tuple[float, Floats]:
        logs = log_softmax(np.tensordot(weights, outputs, axes=1))
        miss = np.exp(logs)
        miss[rows, label] -= 1.0
        pull = weights - start
        objective = -logs[rows, label].sum() + _PULL / 2 * float(pull @ pull)
        return objective, np.einsum("wnk,nk->w", outputs, miss) + _PULL * pull

    keep, weight = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return float(keep), float(weight)


def _table(evidence: Mapping[str, Any], label: Integers, k: int) -> _Candidate:
    """Return the candidate that learns a table of an exit's label and confidence."""
    score = next(name for name in evidence if name != "prediction")
    confidence = np.asarray(evidence[score], dtype=np.float64)
    knots = quantile_knots(confidence, _PIECES)
    pieces, predicted = ramps(confidence, knots), row_of(evidence["prediction"], k)

    def candidate(rows: _Rows, before: Floats) -> Stage:
        keep, table = _entries(predicted[rows], pieces[rows], before[rows], label[rows], k)
        return Stage(keep, TableTerm(score, knots, table))

    return candidate


def _entries(
    predicted: Integers, pieces: Floats, before: Floats, label: Integers, k: int
) -> tuple[float, Floats]:
    """Return the weight of the exits before, and the table (k + 1, pieces, k).

    Inputs are sorted by predicted class, so that one product of matrices applies a class's part of the table. Arrays
    have the classes first: over a few classes NumPy sums many times as fast along the first axis.
    """
    order, rows = np.argsort(predicted, kind="stable"), np.arange(len(label))
    ends = np.searchsorted(predicted[order], np.arange(k + 2))
    x, prior, label = (
        np.ascontiguousarray(pieces[order].T),
        np.ascontiguousarray(before[order].T),
        label[order],
    )
    parts = [
        (row, slice(first, end), x[:, first:end])
        for row, (first, end) in enumerate(pairwise(ends.tolist()))
        if end > first
    ]

    # Entries that more inputs use bend the loss more: in units of a guess of that, all need steps of one size.
    squares = np.zeros((k + 1, len(x)))
    for row, _, of_part in parts:
        squares[row] = (of_part**2).sum(axis=1)
    bends = np.repeat(_BEND / k * squares + _RIDGE, k)
    scale = np.sqrt(np.append(_BEND * len(label) + _PULL, bends))

    def loss(scaled: Floats) -> tuple[float, Floats]:
        free = scaled / scale
        keep, table = free[0], free[1:].reshape(k + 1, -1, k)
        shifted = keep * prior
        for row, part, of_part in parts:
            shifted[:, part] += table[row].T @ of_part
        shifted -= shifted.max(axis=0)
        miss = np.exp(shifted)
        total = miss.sum(axis=0)
        objective = float((np.log(total) - shifted[label, rows]).sum())
        objective += _RIDGE / 2 * float(free[1:] @ free[1:]) + _PULL / 2 * (keep - 1.0) ** 2
        miss /= total
        miss[label, rows] -= 1.0
        slope = _RIDGE * table
        for row, part, of_part in parts:
            slope[row] += of_part @ miss[:, part].T
        return objective, np.append(float(np.vdot(miss, prior)) + _PULL * (keep - 1.0), slope) / scale

    start = np.zeros(len(scale))
    start[0] = scale[0]
    solution = (
        minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": _STEADY}).x
        / scale
    )
    return float(solution[0]), solution[1:].reshape(k + 1, -1, k)


def choose_answer(
    answer: AnswerChoice, fit: ExitTrace, calibrate: _Calibrate, *, score: object, amount: float
) -> tuple[Answer, ExitTrace, _Calibrate]:
    """Return the answer, and both parts with the outputs that this answer gives at each exit.

    Ensembles and predicted qualities are fitted on `fit`. The outputs returned for `fit` come from folds: each input's
    from what was fitted without its fold. `score`: the one asked for, None for the usual one. `amount`: the budget.
    """
    if not isinstance(answer, str):
        rule, answered = answer, answer.on(fit)
    else:
        check_answer(answer)
        rule = OwnAnswer.for_(fit)
        answered = rule.on(fit)
        # An ensemble has scores of its own. A score by another name, or a computed one, is of the exits' own answers.
        possible = score in (None, *PROBABILITY_SCORES) and can_be_ensembled(fit)
        possible &= calibrate.has_log_probability or not fit.has_log_probability
        if answer == "best":
            rule, answered = _best_fitted(fit)
        elif answer == "ensemble" or (answer == "auto" and possible):
            ensemble, held_out = held_out_ensemble(fit)
            if answer == "ensemble" or ensemble_is_better(
                rights_of(held_out, seed=0)(amount),
                rights_of(answered, seed=0)(amount),
                probabilities=fit.has_log_probability,
            ):
                rule, answered = ensemble, held_out
    if rule == OwnAnswer():
        return rule, answered, calibrate  # of a StoredTrace, only the scores need be read
    other = calibrate.mapped(rule.on) if isinstance(calibrate, StoredTrace) else rule.on(calibrate)
    return rule, answered, cast("_Calibrate", other)


def remark_on_labels(fit: ExitTrace) -> dict[str, Any]:
    """Return a note for policies that are fitted on labels of one class, or nearly so; else no note."""
    remark = one_class_remark(fit)
    return {"labels": {"text": remark}} if remark else {}


def check_answer(answer: AnswerChoice | None) -> None:
    """Raise InputError for a word that is no choice."""
    if isinstance(answer, str) and answer not in ANSWERS:
        raise InputError(f"answer must be 'own', 'best', 'ensemble' or 'auto', got {answer!r}")


def ensemble_is_better(ensemble: Floats, own: Floats, *, probabilities: bool) -> bool:
    """Return whether to answer with the ensemble, by whether each fit input (n,) is right within the budget either way.

    With `probabilities` of all classes the ensemble answers unless own answers are better by half a standard error, or
    right on the same inputs: it learns two weights an exit, and helps as a rule. With labels and confidences alone it
    learns tables, which are noisier. Then it answers only if it is better by a whole standard error.
    """
    if probabilities:
        return not beats(own, ensemble) and bool((own != ensemble).any())
    return beats(ensemble, own, by=1.0)


@cached_on_trace
def held_out_ensemble(fit: ExitTrace) -> tuple[EnsembleAnswer, ExitTrace]:
    """Return the ensemble, and its outputs for the fit inputs, each from folds without it."""
    fitted = fit_ensemble(fit)
    held_out = ExitTrace.from_logits(
        fitted.held_out, cost=fit.cost, label=fit.label, id=fit.id, groups=fit.groups
    )
    return fitted.answer, replace(held_out, features=fit.features, before=fit.before)


@cached_on_trace
def _best_fitted(fit: ExitTrace) -> tuple[BestAnswer, ExitTrace]:
    """Return the answer of the best exit so far, and its outputs for the fit inputs, each from folds without it."""
    quality = np.empty((fit.n, fit.n_exits))
    for rest, rows in folds_of(fit.id, _FOLDS, 0, fit.groups):
        quality[rows] = score_matrix(correctness_score(fit.take(rest), last=True), fit.take(rows))
    return BestAnswer(correctness_score(fit, last=True)), best_so_far(fit, quality)
