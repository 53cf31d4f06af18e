"""What is computed from recorded outputs: their scores, and results that are kept as long as the trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np

from exeunt._support.arrays import Floats
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.score.confidence import NamedScore
from exeunt.trace.groups import n_units

if TYPE_CHECKING:
    from exeunt.score.kinds import Score
    from exeunt.trace.exit_trace import ExitTrace

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Memory = TypeVar("_Memory")
_Found = TypeVar("_Found")

_WORSE, _SURELY = 0.02, 4
"""A last exit is clearly worse than an earlier one by 2 points and 4 standard errors: heads gain that much at times."""
_FEW = 10  # with fewer right or wrong predictions an exit is not judged
_OTHERS = 20
"""Fit inputs outside the commonest class that an ensemble needs: five for each of its four folds to be judged on."""
_RARE, _VERY_RARE = 0.1, 0.05
"""The other classes are rare below these shares. Few inputs of them teach nothing about them; of a very rare class the
exits must know more than "always the commonest class" does, or that constant is what an ensemble learns."""


def as_score(score: str | Score | None, trace: ExitTrace) -> Score:
    """Return the score of this name, by default the trace's default score; a score object is returned unchanged.

    Raises InputError for a name that the trace lacks.
    """
    if score is None:
        return NamedScore(trace.default_score)
    if isinstance(score, str):
        if score not in trace.scores:
            raise InputError(f"there is no score {score!r} in this trace; it has {sorted(trace.scores)}")
        return NamedScore(score)
    if not (callable(score) and hasattr(score, "init")):
        raise InputError(f"score must be a name, an exeunt.score.kinds.Score, or None, got {score!r}")
    return score


def score_matrix(score: str | Score | None, trace: ExitTrace) -> Floats:
    """Return the scores (n, m) that a policy would see if every input ran to the end. `score`: see `as_score`."""
    rule = as_score(score, trace)
    columns = [
        *along_paths(
            trace, rule.init(trace.n), lambda exit_, before: rule(exit_, trace.evidence(exit_), before)
        )
    ]
    # Callers read one exit after the other, so the scores of an exit are contiguous in memory.
    return np.stack(columns).astype(np.float64, copy=False).T


def along_paths(
    trace: ExitTrace, start: _Memory, step: Callable[[int, _Memory], tuple[_Found, _Memory]]
) -> Iterator[_Found]:
    """Yield what `step` finds at each exit, called with the exit and the memory of the exit that inputs take before it.

    `start`: the memory before the first exit. A memory is dropped once no later exit follows on it.
    """
    last = {earlier: exit_ for exit_, earlier in enumerate(trace.before)}
    memories = {-1: start}
    for exit_, earlier in enumerate(trace.before):
        before = memories.pop(earlier) if last[earlier] == exit_ else memories[earlier]
        result, after = step(exit_, before)
        if exit_ in last:
            memories[exit_] = after
        yield result


def inverted_exits(trace: ExitTrace, name: str) -> list[int]:
    """Return the exits whose score is lower where they answer well than where they do not.

    Most likely the score is an uncertainty, such as an entropy, and no policy can use it. Needs labels or losses.
    """
    from scipy.stats import rankdata

    ranks, quality = rankdata(trace.scores[name], axis=0), trace.quality
    inverted = []
    for exit_ in range(trace.n_exits):
        weights = quality[:, exit_], 1.0 - quality[:, exit_]
        if min(weight.sum() for weight in weights) >= _FEW:
            right, wrong = (float(weight @ ranks[:, exit_] / weight.sum()) for weight in weights)
            if right < wrong - 0.1 * trace.n:
                inverted.append(exit_)
    return inverted


def cached_on_trace(learn: _Function) -> _Function:
    """Cache the results of a function of a trace and hashable options until the trace is freed.

    Traces are frozen, so the cache compares them by identity. A result must not refer to its trace, or neither is
    ever freed.
    """
    cache: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    @wraps(learn)
    def cached(trace: Any, /, *args: Any, **options: Any) -> Any:
        results = cache.setdefault(trace, {})
        key = (args, tuple(sorted(options.items())))
        if key not in results:
            results[key] = learn(trace, *args, **options)
        return results[key]

    return cast("_Function", cached)


def alike_neighbours(trace: ExitTrace) -> str:
    """Return that neighbouring rows are much more alike than others, and the remedy; "" if not, or with groups."""
    if trace.groups is not None or not (correlation := trace.neighbours):
        return ""
    return (
        f"Neighbouring rows are much more alike than others (correlation {correlation:.2f}). Are they rows of one "
        "document, video or user? Then name the groups (groups=..., --group-column COLUMN of a table): otherwise "
        "certificates do not hold. `exeunt train` takes no groups: let its --calibration-data hold one input of each "
        "group, of groups that are in no other part."
    )


@cached_on_trace
def unlike_copies(trace: ExitTrace) -> float:
    """Return the share of inputs whose id another input has, with a score that differs by more than rounding."""
    order = np.argsort(trace.id, kind="stable")
    ids, score = trace.id[order], next(iter(trace.scores.values()))[order]
    with np.errstate(invalid="ignore"):
        differ = ~np.isclose(score[1:], score[:-1], rtol=1e-3, atol=1e-3).all(axis=1)
    unlike = np.append(False, (ids[1:] == ids[:-1]) & differ)
    return float(np.mean(unlike | np.append(unlike[1:], False))) if trace.n else 0.0


def quality_of_each_exit(trace: ExitTrace, part: str) -> str:
    """Return how good the own answers of each exit are on all inputs of a part, in a line."""
    if trace.reference:
        agree = ", ".join(f"{1 - risk:.1%}" for risk in trace.risk)
        return f"agreement of each exit with {trace.reference} on the {part} part: {agree}"
    if trace.grades is not None:
        qualities = ", ".join(f"{1 - risk:.3f}" for risk in trace.risk)
        return f"{trace.measure} of each exit on the {part} part, per input: {qualities}"
    risks = ", ".join(f"{risk:.3f}" for risk in trace.risk)
    return f"error rate of each exit on the {part} part: {risks}"


def worse_last_exit(trace: ExitTrace) -> str:
    """Return that a network's last exit answers clearly worse than an earlier one, with the usual causes; else ""."""
    if not trace.has_loss or trace.n < 2:
        return ""
    risk = trace.risk
    best, quality = int(risk.argmin()), trace.quality
    lost = float(risk[-1] - risk[best])
    error = np.std(quality[:, best] - quality[:, -1], ddof=1) / n_units(trace.n, trace.groups) ** 0.5
    if lost < _WORSE or lost < _SURELY * error:
        return ""
    kind = "error rate" if trace.grades is None else "mean loss"
    return (
        f"The full network is much worse than exit {best}: its {kind} is {risk[-1]:.3f} on "
        f"{counted(trace.n, 'input')}, that of exit {best} {risk[best]:.3f}. So a loss measured against it, or "
        "agreement with it, promises little. Usual causes: its weights were trained with another mean and std (--mean, "
        "--std), or it was trained for too few epochs (--epochs)."
    )


@cached_on_trace
def worse_than_one_class(trace: ExitTrace) -> str:
    """Return how much worse every exit is than always saying the most frequent label; "" if not, beyond chance."""
    if trace.label is None or trace.grades is not None or trace.n == 0 or one_class_remark(trace):
        return ""
    right, most = (
        float(trace.correct.mean(axis=0).max()),
        np.unique(trace.label, return_counts=True)[1].max() / trace.n,
    )
    if right >= most - 3 * (most * (1 - most) / trace.n) ** 0.5:
        return ""
    return (
        f"is right on {right:.1%} of {counted(trace.n, 'input')}, and always saying the most frequent label on "
        f"{most:.1%}: are its classes in another order, or is one missing?"
    )


@cached_on_trace
def one_class_remark(trace: ExitTrace) -> str:
    """Return what is wrong with labels that are of one class, or nearly so, and what such a table needs; else "".

    An ensemble that is fitted to such labels learns to answer the class whatever the exits predict. The labels are
    nearly of one class if fewer than 10% are of others and these are fewer than 20 inputs, or if fewer than 5% are of
    others and no exit is right more often than "always this class" would be.
    """
    if trace.label is None or trace.n == 0:
        return ""
    classes, counts = np.unique(trace.label, return_counts=True)
    others = trace.n - int(counts.max())
    teach_nothing = others < min(_OTHERS, _RARE * trace.n)
    known_better = trace.correct.sum(axis=0).max() > counts.max()
    if not (teach_nothing or (others < _VERY_RARE * trace.n and not known_better)):
        return ""
    share = "All" if others == 0 else f"All but {others:,}"
    return (
        f"{share} labels of {counted(trace.n, 'input')} are of class {classes[counts.argmax()]}, so no ensemble of "
        "exits is fitted: it would learn to answer this class whatever the exits predict. If the labels are verdicts "
        "on answers, such as a judge's 'good', then accuracies, losses and their certificates do not say how good "
        "answers are: give the loss of each answer instead (loss=..., --loss), or label each input with its right "
        "answer."
    )
