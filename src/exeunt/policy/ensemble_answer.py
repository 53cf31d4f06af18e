"""The kinds of answer: the exit's own, that of the best exit so far, and the ensemble of the exits so far.

An input that reaches exit l has outputs of exits 1..l. The ensemble of these exits answers by

    log p_l(y | x)  =  keep_l * log p_{l-1}(y | x)  +  term_l(y, output of exit l)      (up to a constant)

(docs/explanation/method.md, with weights w_li = a_l * w_{l-1,i}: a running sum, so that a policy remembers one
distribution per input and not one per exit.) The term of an exit with class probabilities is a multiple of their
logarithms. The term of an exit that gives a label and a confidence alone is a table of log-odds by label and
confidence.

An answer of your own implements `Answer`. To be read back from a policy file, its kind needs an entry in `_KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.score.confidence import (
    LOG_PROBABILITY,
    MANY_CLASSES,
    NO_ANSWER,
    Evidence,
    PartialEvidence,
    log_softmax,
    of_top_classes,
)
from exeunt.score.learned import LearnedScore
from exeunt.trace import ExitTrace
from exeunt.trace.derived import along_paths, cached_on_trace, score_matrix
from exeunt.trace.fields import fields_of_evidence
from exeunt.trace.grades import Grades


class Answer(Protocol):
    """The prediction that is returned at an exit, computed from the outputs of the exits so far.

    It turns the evidence of an exit into the evidence of the answer given there: its prediction and its confidences.
    The score, the thresholds and the caller see nothing else. `memory` is as for `Score`.
    """

    @property
    def name(self) -> str:
        """The name that tables and plots show."""

    def needs(self, exit_: int) -> bool:
        """Whether the answer at a later exit needs the evidence of this one, even if no input can answer here."""

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the evidence of the answer at this exit, and the memory for the next one."""

    def on(self, trace: ExitTrace) -> ExitTrace:
        """Return what would be answered at every exit, as a trace of the same inputs and costs."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form with a "kind"."""


@dataclass(frozen=True)
class OwnAnswer:
    """The exit's own answer, as in the paper: the outputs of earlier exits are not used.

    `carries`: where an exit gives no answer, that of the last exit before it which gave one.
    """

    name: str = "own"
    carries: bool = False

    @classmethod
    def for_(cls, trace: ExitTrace) -> OwnAnswer:
        """Return the own answers of exits like these, which carries answers if some give none."""
        return cls(carries=bool((trace.prediction == NO_ANSWER).any()))

    def needs(self, exit_: int) -> bool:  # noqa: ARG002 - part of the protocol
        """Whether an exit is needed for the answer at a later one."""
        return self.carries

    def __call__(
        self,
        exit_: int,  # noqa: ARG002 - part of the protocol
        evidence: Mapping[str, Any],
        memory: Mapping[str, Any],
    ) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the evidence, but for the prediction unchanged."""
        if not self.carries:
            return evidence, {}
        prediction = evidence["prediction"]
        carried = np.where(prediction == NO_ANSWER, memory.get("prediction", prediction), prediction)
        return {**evidence, "prediction": carried}, {"prediction": carried}

    def on(self, trace: ExitTrace) -> ExitTrace:
        """Return what would be answered at every exit, as a trace of the same inputs and costs."""
        return _carried(trace) if self.carries else trace

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form with the kind "own"."""
        return {"kind": "own", **({"carries": True} if self.carries else {})}


@cached_on_trace
def _carried(trace: ExitTrace) -> ExitTrace:
    exits = np.zeros(trace.prediction.shape, dtype=np.int64)
    for exit_, silent in enumerate((trace.prediction == NO_ANSWER).T):
        exits[:, exit_] = np.where(silent, exits[:, max(trace.before[exit_], 0)], exit_)
    return _given_by(exits, trace)


def _given_by(exits: Integers, trace: ExitTrace, **fields: Any) -> ExitTrace:
    """Return a trace with the answers of these exits (n, m), and other fields as given."""
    prediction, grades = np.take_along_axis(trace.prediction, exits, axis=1), trace.grades
    if grades is not None:
        grades = Grades(np.take_along_axis(grades.loss, exits, axis=1), grades.measure)
    differ = trace.disagreement
    if differ is not None:
        differ = differ[np.arange(trace.n)[:, None, None], exits[:, :, None], exits[:, None, :]]
    return replace(trace, prediction=prediction, grades=grades, disagreement=differ, **fields)


@dataclass(frozen=True, eq=False)
class BestAnswer:
    """The answer of the exit so far whose predicted quality is highest, and the last of equals.

    `rule`: predicts the quality of the exit's own answer from the outputs so far, on one scale for all exits.
    """

    rule: LearnedScore
    name: str = "best"

    def needs(self, exit_: int) -> bool:  # noqa: ARG002 - part of the protocol
        """An exit's answer may be the best one later."""
        return True

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the evidence of the best exit so far, which the memory holds beside that of the rule."""
        of_rule = {name: column for name, column in memory.items() if not name.startswith(_BEST)}
        quality, memory_of_rule = self.rule(exit_, evidence, of_rule)
        quality = np.where(np.asarray(evidence["prediction"]) == NO_ANSWER, -np.inf, quality)
        best = {name: np.asarray(column) for name, column in evidence.items() if name != LOG_PROBABILITY}
        best[_QUALITY] = quality
        if memory:
            earlier = memory[_BEST + _QUALITY] > quality
            best = {
                name: np.where(earlier.reshape(-1, *[1] * (column.ndim - 1)), memory[_BEST + name], column)
                for name, column in best.items()
            }
        remembered = {**memory_of_rule, **{_BEST + name: column for name, column in best.items()}}
        del best[_QUALITY]
        return best, remembered

    def on(self, trace: ExitTrace) -> ExitTrace:
        """Return what would be answered at every exit, as a trace of the same inputs and costs."""
        return best_so_far(trace, score_matrix(self.rule, trace))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same answer to the last bit."""
        return {"kind": "best", "rule": self.rule.to_dict()}


_SILENT = "no answer so far"
_BEST, _QUALITY = "best: ", "predicted quality"


def best_so_far(trace: ExitTrace, quality: Floats) -> ExitTrace:
    """Return the trace of the best answers up to each exit, by predicted qualities (n, m)."""
    best = np.where(trace.prediction == NO_ANSWER, -np.inf, quality)
    exits = np.zeros(best.shape, dtype=np.int64)
    for exit_, earlier in enumerate(trace.before):
        if earlier >= 0:
            better = best[:, earlier] > best[:, exit_]
            exits[:, exit_] = np.where(better, exits[:, earlier], exit_)
            best[:, exit_] = np.maximum(best[:, earlier], best[:, exit_])
    scores = {name: np.take_along_axis(score, exits, axis=1) for name, score in trace.scores.items()}
    return _given_by(exits, trace, scores=scores, log_probability=None)


@dataclass(frozen=True)
class LogTerm:
    """What an exit adds to the log-probabilities of the ensemble: a multiple of its own.

    Of more than 256 classes the likeliest 32 count, and the others share the rest: a trace keeps no more.
    """

    weight: float

    def __call__(self, evidence: Mapping[str, Any]) -> Floats:
        """Return weight * log p, (rows, k). Raises InputError for evidence without log-probabilities."""
        if LOG_PROBABILITY not in evidence:
            raise InputError(
                "this policy answers with an ensemble of log-probabilities, which the evidence lacks: make the trace "
                "from probabilities or logits, record it anew, or make a policy with answer='own' "
                "(exeunt calibrate --answer own)"
            )
        logs = evidence[LOG_PROBABILITY].astype(np.float64, copy=False)
        return self.weight * (of_top_classes(logs) if logs.shape[1] > MANY_CLASSES else logs)

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "log", "weight": ...}."""
        return {"kind": "log", "weight": self.weight}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> LogTerm:
        """Rebuild a term from `to_dict`."""
        return cls(float(body["weight"]))


@dataclass(frozen=True, eq=False)
class TableTerm:
    """What an exit with a label and a confidence alone adds: log-odds, linear in it between `knots` (p + 1,).

    `table` (labels, p + 1, k): per predicted label, the log-odds at the lowest knot and what each piece adds. Labels
    beyond the table, or below 0, share its last row: they are not among the classes, and are always wrong.
    """

    score: str
    knots: tuple[float, ...]
    table: Floats

    def __call__(self, evidence: Mapping[str, Any]) -> Floats:
        """Return the table's entries, (rows, k)."""
        label = row_of(np.asarray(evidence["prediction"]), len(self.table) - 1)
        pieces = ramps(np.asarray(evidence[self.score], dtype=np.float64), self.knots)
        term: Floats = np.einsum("rp,rpk->rk", pieces, self.table[label])
        return term

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        knots, table = list(self.knots), self.table.tolist()
        return {"kind": "table", "score": self.score, "knots": knots, "table": table}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> TableTerm:
        """Rebuild a term from `to_dict`."""
        return cls(body["score"], tuple(body["knots"]), np.array(body["table"], dtype=np.float64))


def row_of(label: Integers, k: int) -> Integers:
    """Return the row of a table of k classes for each predicted label, (rows,): the last for no class, such as -1."""
    return np.where((label >= 0) & (label < k), label, k)


def ramps(confidence: Floats, knots: tuple[float, ...]) -> Floats:
    """Return (rows, p + 1): 1, and how far each confidence (rows,) has come through each piece, in [0, 1]."""
    columns = [np.ones(len(confidence))]
    columns += [((confidence - low) / (high - low)).clip(0.0, 1.0) for low, high in pairwise(knots)]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Stage:
    """How one exit joins the ensemble: `keep` times the log-probabilities before it, and its own term."""

    keep: float
    term: LogTerm | TableTerm

    def log_probability(self, evidence: Mapping[str, Any], before: Floats | None) -> Floats:
        """Return the ensemble's log-probabilities (rows, k), from those before this exit, None at the first."""
        total = self.term(evidence)
        if before is not None and self.keep != 0.0:
            total = total + self.keep * before
        return log_softmax(total)


@dataclass(frozen=True)
class EnsembleAnswer:
    """The answer of the ensemble of the exits so far, at each of m exits."""

    stages: tuple[Stage, ...]
    name: str = "ensemble"

    def needs(self, exit_: int) -> bool:
        """Whether the next exit's answer depends on the output of this one."""
        return any(stage.keep != 0.0 for stage in self.stages[exit_ + 1 : exit_ + 2])

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: Mapping[str, Any]
    ) -> tuple[Evidence, dict[str, Any]]:
        """Return the evidence of the ensemble; the memory is its log-probabilities (rows, k).

        Where no exit has given an answer so far there is none; which rows these are is remembered, too.
        """
        logs = self.stages[exit_].log_probability(evidence, memory.get(LOG_PROBABILITY))
        shares, remembered = np.exp(logs), {LOG_PROBABILITY: logs}
        if (memory and _SILENT not in memory) or type(evidence) is Evidence:  # a network answers every row
            return Evidence(shares), remembered
        silent = (evidence["prediction"] == NO_ANSWER) & memory.get(_SILENT, True)
        shown = (
            PartialEvidence(np.where(silent[:, None], np.nan, shares)) if silent.any() else Evidence(shares)
        )
        return shown, {**remembered, _SILENT: silent}

    def on(self, trace: ExitTrace) -> ExitTrace:
        """Return what would be answered at every exit, as a trace of the same inputs and costs.

        Raises InputError for a trace of another number of exits, or without the log-probabilities that are needed.
        """
        return _answered(trace, self)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same answer to the last bit."""
        stages = [{"keep": stage.keep, "term": stage.term.to_dict()} for stage in self.stages]
        return {"kind": "ensemble", "stages": stages}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> EnsembleAnswer:
        """Rebuild an answer from `to_dict`."""
        kinds: dict[str, Any] = {"log": LogTerm, "table": TableTerm}
        stages = [(float(stage["keep"]), stage["term"]) for stage in body["stages"]]
        return cls(tuple(Stage(keep, kinds[term["kind"]].from_dict(term)) for keep, term in stages))


@cached_on_trace
def _answered(trace: ExitTrace, answer: EnsembleAnswer) -> ExitTrace:
    if trace.n_exits != len(answer.stages):
        raise InputError(
            f"the ensemble is of {counted(len(answer.stages), 'exit')}, but the trace has {trace.n_exits}"
        )

    start: dict[str, Any] = {}
    answers = along_paths(trace, start, lambda exit_, before: answer(exit_, trace.evidence(exit_), before))
    fields = fields_of_evidence(answers, trace.n, trace.n_exits)
    return ExitTrace(
        **fields,
        cost=trace.cost,
        label=trace.label,
        id=trace.id,
        row=trace.row,
        groups=trace.groups,
        reference=trace.reference,
        features=trace.features,
        before=trace.before,
    )


_KINDS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "own": lambda body: OwnAnswer(carries=bool(body.get("carries", False))),
    "ensemble": EnsembleAnswer.from_dict,
    "best": lambda body: BestAnswer(LearnedScore.from_dict(body["rule"])),
}


def answer_from_dict(body: dict[str, Any]) -> Answer:
    """Rebuild an answer from its `to_dict`. Raises InputError for a kind that this version does not know."""
    if body["kind"] not in _KINDS:
        raise InputError(f"unknown kind of answer {body['kind']!r}: this version knows {sorted(_KINDS)}")
    return _KINDS[body["kind"]](body)
