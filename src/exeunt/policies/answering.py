"""Which answers a policy gives, a choice beside score, allocation and calibration that every policy has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, cast

from exeunt._arrays import Floats
from exeunt.answer import Answer, EnsembleAnswer, OwnAnswer
from exeunt.answer.ensemble_weights import can_be_ensembled, pool
from exeunt.errors import InputError
from exeunt.policies.worthwhile_exits import beats, right_within
from exeunt.score.confidence import PROBABILITY_SCORES
from exeunt.trace import ExitTrace, StoredTrace, check_disjoint
from exeunt.trace.cache import cached_on_trace

if TYPE_CHECKING:
    from exeunt.policy import Policy

__all__ = ["ANSWERS", "AnswerChoice", "Chosen", "answering", "check_answer", "chosen", "ensemble_pays"]

_Options = ParamSpec("_Options")


@dataclass(frozen=True, eq=False)
class Chosen:
    """An answer that the fit and calibration parts already give. `own`: the calibration part as it was recorded."""

    answer: Answer
    own: ExitTrace


AnswerChoice: TypeAlias = "str | Answer | Chosen"
"""How policies take it: "own", "pooled", "auto", or an answer fitted on other data."""
ANSWERS = ("own", "pooled", "auto")
"""The choices in words."""


def answering(make: Callable[_Options, Policy]) -> Callable[_Options, Policy]:
    """Let a policy `(fit, calibrate, *, answer, ...)` see its inputs as `answer` answers them.

    Pooled answers are fitted on `fit`; what the policy learns there it learns from answers that were held out, fold
    by fold. The policy itself is called with a `Chosen` as its `answer`, to put into what it makes.
    """
    call = signature(make)
    usual: AnswerChoice = call.parameters["answer"].default if "answer" in call.parameters else "own"

    @wraps(make)
    def made(*args: _Options.args, **options: _Options.kwargs) -> Policy:
        answer = cast("AnswerChoice", options.get("answer", usual))
        if isinstance(answer, Chosen):
            return make(*args, **options)
        given = call.bind(*args, **options)
        fit, calibrate = given.arguments["fit"], given.arguments["calibrate"]
        check_disjoint(fit, calibrate)
        amount = fit.cost.budget(given.arguments.get("budget", fit.cost.full))
        rule, said = _chosen(answer, fit, calibrate, options.get("score"), amount)
        given.arguments["fit"] = said
        if not isinstance(calibrate, StoredTrace):
            given.arguments["calibrate"] = rule.on(calibrate)
        elif not isinstance(rule, OwnAnswer):  # else it need not read all that its files hold
            given.arguments["calibrate"] = calibrate.mapped(rule.on)
        return make(*given.args, **given.kwargs | {"answer": Chosen(rule, calibrate)})

    return made


def chosen(answer: AnswerChoice) -> Chosen:
    """Return what `answering` handed to a policy."""
    return cast("Chosen", answer)


def check_answer(answer: AnswerChoice | None) -> None:
    """Raise InputError for a word that is no choice."""
    if isinstance(answer, str) and answer not in ANSWERS:
        raise InputError(f"answer must be 'own', 'pooled' or 'auto', got {answer!r}")


def _chosen(
    answer: str | Answer, fit: ExitTrace, calibrate: ExitTrace | StoredTrace, score: object, amount: float
) -> tuple[Answer, ExitTrace]:
    """Return the answer, and what it says of the fit inputs.

    `score`: the one asked for, None for the usual one. `amount`: the budget.
    """
    if not isinstance(answer, str):
        return answer, answer.on(fit)
    check_answer(answer)
    # An ensemble answer has scores of its own. One asked for by another name, or computed, is of the exits' own answers.
    may_ensemble = score in (None, *PROBABILITY_SCORES) and can_be_ensembled(fit)
    may_ensemble &= calibrate.has_log_probability or not fit.has_log_probability
    if answer == "own" or (answer == "auto" and not may_ensemble):
        return OwnAnswer(), fit
    rule, said = _pooled(fit)
    return (OwnAnswer(), fit) if answer == "auto" and not _gains(said, fit, amount) else (rule, said)


@cached_on_trace
def _pooled(fit: ExitTrace) -> tuple[EnsembleAnswer, ExitTrace]:
    """Return the pooled answer and the fit inputs' answers, each from folds without it."""
    pooling = pool(fit)
    said = ExitTrace.from_logits(pooling.held_out, cost=fit.cost, label=fit.label, id=fit.id)
    return pooling.answer, said


def _gains(said: ExitTrace, fit: ExitTrace, amount: float) -> bool:
    pooled, own = (right_within(one, amount, seed=0) for one in (said, fit))
    return ensemble_pays(pooled, own, fit)


def ensemble_pays(pooled: Floats, own: Floats, fit: ExitTrace) -> bool:
    """Return whether to pool, by whether each of the fit inputs (n,) is right within the budget in either way.

    Log-probabilities are pooled unless own answers are better by half a standard error, or right on the same inputs:
    pooling learns two weights an exit, and helps as a rule. Labels and confidences are pooled only if pooled answers
    are better by a whole one: it learns tables, which are noisier.
    """
    if fit.has_log_probability:
        return not beats(own, pooled) and bool((own != pooled).any())
    return beats(pooled, own, by=1.0)
