"""Which answer a policy gives: a choice beside score, allocation and calibration that every policy has."""

from __future__ import annotations

from typing import TypeAlias, TypeVar, cast

from exeunt._arrays import Floats
from exeunt.answer.ensemble_weights import can_be_ensembled, fit_ensemble
from exeunt.answer.kinds import Answer, EnsembleAnswer, OwnAnswer
from exeunt.errors import InputError
from exeunt.rate_search import beats, right_within
from exeunt.score.confidence import PROBABILITY_SCORES
from exeunt.trace import ExitTrace, StoredTrace
from exeunt.trace.cache import cached_on_trace

_Calibrate = TypeVar("_Calibrate", bound="ExitTrace | StoredTrace")

AnswerChoice: TypeAlias = "str | Answer"
"""What policies take as `answer`: "own", "ensemble", "auto", or an answer fitted on other data."""
ANSWERS = ("own", "ensemble", "auto")
"""The choices by name."""


def choose_answer(
    answer: AnswerChoice, fit: ExitTrace, calibrate: _Calibrate, *, score: object, amount: float
) -> tuple[Answer, ExitTrace, _Calibrate]:
    """Return the answer, and both parts with the outputs that this answer gives at each exit.

    An ensemble is fitted on `fit`. The outputs returned for `fit` come from folds: each input's from an ensemble that
    was fitted without its fold. `score`: the one asked for, None for the usual one. `amount`: the budget.
    """
    if not isinstance(answer, str):
        rule, answered = answer, answer.on(fit)
    else:
        check_answer(answer)
        rule, answered = OwnAnswer(), fit
        # An ensemble has scores of its own. A score by another name, or a computed one, is of the exits' own answers.
        possible = score in (None, *PROBABILITY_SCORES) and can_be_ensembled(fit)
        possible &= calibrate.has_log_probability or not fit.has_log_probability
        if answer == "ensemble" or (answer == "auto" and possible):
            ensemble, held_out = _fitted(fit)
            if answer == "ensemble" or _gains(held_out, fit, amount):
                rule, answered = ensemble, held_out
    if isinstance(rule, OwnAnswer):
        return rule, answered, calibrate  # of a StoredTrace, only the scores need be read
    other = calibrate.mapped(rule.on) if isinstance(calibrate, StoredTrace) else rule.on(calibrate)
    return rule, answered, cast("_Calibrate", other)


def check_answer(answer: AnswerChoice | None) -> None:
    """Raise InputError for a word that is no choice."""
    if isinstance(answer, str) and answer not in ANSWERS:
        raise InputError(f"answer must be 'own', 'ensemble' or 'auto', got {answer!r}")


def ensemble_pays(ensemble: Floats, own: Floats, fit: ExitTrace) -> bool:
    """Return whether to answer with the ensemble, by whether each fit input (n,) is right within the budget either way.

    With log-probabilities the ensemble answers unless own answers are better by half a standard error, or right on the
    same inputs: it learns two weights an exit, and helps as a rule. With labels and confidences alone it learns tables,
    which are noisier. Then it answers only if it is better by a whole standard error.
    """
    if fit.has_log_probability:
        return not beats(own, ensemble) and bool((own != ensemble).any())
    return beats(ensemble, own, by=1.0)


@cached_on_trace
def _fitted(fit: ExitTrace) -> tuple[EnsembleAnswer, ExitTrace]:
    """Return the ensemble, and its outputs for the fit inputs, each from folds without it."""
    fitted = fit_ensemble(fit)
    return fitted.answer, ExitTrace.from_logits(fitted.held_out, cost=fit.cost, label=fit.label, id=fit.id)


def _gains(held_out: ExitTrace, fit: ExitTrace, amount: float) -> bool:
    ensemble, own = (right_within(one, amount, seed=0) for one in (held_out, fit))
    return ensemble_pays(ensemble, own, fit)
