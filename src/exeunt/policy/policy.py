"""A policy: which inputs answer at which exit. Frozen, serialisable, one decision rule written once."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypedDict, get_args

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt._support.checked_types import check_kind, check_unchanged, of_kinds
from exeunt._support.sealed_json import read_sealed, write_sealed
from exeunt._support.text import counted, html_table, text_table
from exeunt.costs.cost_model import CostModel
from exeunt.costs.mean_cost import MeanCostDistribution
from exeunt.errors import InputError
from exeunt.policy.calibration import ALWAYS, NEVER, WORDS, Thresholds, at_least
from exeunt.policy.certificates import (
    Certificate,
    EarlyCertificate,
    LossCertificate,
    PromiseCertificate,
    TailCertificate,
)
from exeunt.policy.ensemble_answer import Answer, OwnAnswer, answer_from_dict
from exeunt.policy.state import Decision, PolicyState
from exeunt.policy.watched_cells import MOST_COUNTED, WatchedCells
from exeunt.score.confidence import FEATURES, GATE
from exeunt.score.kinds import Score, score_from_dict
from exeunt.score.router_score import NEXT
from exeunt.score.tie_breaking import Ties, tie_breaks
from exeunt.trace import ExitTrace
from exeunt.trace.cascade_step import CascadeStep, check_steps, is_tree, models_in_order, path_to
from exeunt.trace.cascade_trace import CascadeTrace
from exeunt.trace.groups import units_text

VERSION = 3
"""Version of policy files and of files of policy sets."""


class _Note(TypedDict, total=False):
    text: str
    unasked: Mapping[str, str]


_NOTES = Mapping[str, _Note]
AGAIN = "calibrate again"
read_policies = partial(read_sealed, version=VERSION, oldest=VERSION)


@dataclass(frozen=True, eq=False)
class Policy:
    """Score, thresholds and where they come from.

    `rates` (m,): planned shares. `limits`: per exit the least (score, tie) that answers; `thresholds` (m,) shows the
    scores of these pairs. `ties`: the keys that break ties, of the content or of the row. `budget`: the mean cost per
    input asked for, in the unit of `cost`. `counts` (m,): calibration inputs answered per exit. `distribution`: of the
    mean cost (sequential calibration only); where copies leave together, one that it stays below.
    `certificate`: the guarantee on the mean cost made with `delta`, and that on accuracy within it (`loss`); without
    the first, the second alone; without either, None. `loss_certificate`: the guarantee on accuracy, or None.
    `promises`: further guarantees, of what is answered early, and of the tail of the cost. `notes`: how the policy was
    made, by name of the rule, as JSON can hold it; a note's "text" is shown with the policy.
    `answer`: the prediction returned at an exit, by default its own. `cascade`: the models that its exits belong to,
    and which exits of each; empty for one network.
    `calibration_cost`: what calibration inputs cost on average, where inputs differ in that. `run`: digest of the run
    that it was calibrated for, see `RunFolder.save_policy`; None if made from traces. `n_groups`: of the calibration
    inputs, if they come in groups. `watched`: what `exeunt.Watch` needs of the calibration inputs; None where nothing
    is watched.
    """

    name: str
    score: Score
    rates: Floats
    limits: Thresholds
    cost: CostModel
    budget: float
    calibration: str
    n_calibration: int
    seed: int = 0
    counts: Integers | None = None
    distribution: MeanCostDistribution | None = None
    certificate: Certificate | LossCertificate | None = None
    loss_certificate: LossCertificate | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    answer: Answer = field(default_factory=OwnAnswer)
    cascade: tuple[CascadeStep, ...] = ()
    calibration_cost: float | None = None
    ties: Ties = "content"
    n_groups: int | None = None
    watched: WatchedCells | None = None
    promises: tuple[PromiseCertificate, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rates", "counts"):
            if (array := getattr(self, name)) is not None:
                object.__setattr__(self, name, arrays.frozen(array))
        cost, loss = self.cost_certificate, self.loss_certificate
        object.__setattr__(self, "certificate", replace(cost, loss=loss) if cost and loss else cost or loss)

    @property
    def cost_certificate(self) -> Certificate | None:
        """The guarantee on the mean cost, or None."""
        return replace(self.certificate, loss=None) if isinstance(self.certificate, Certificate) else None

    @property
    def tested_certificates(self) -> tuple[LossCertificate | PromiseCertificate, ...]:
        """All guarantees by a test of the policy on calibration inputs: `loss_certificate`, and `promises`."""
        loss = () if self.loss_certificate is None else (self.loss_certificate,)
        return (*loss, *self.promises)

    @property
    def thresholds(self) -> Floats:
        """Least score that answers at each exit, (m,); +inf is never, -inf always. `limits` breaks its ties."""
        return self.limits.score

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self.cost.n_exits

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Names of the exits for tables, (m,): their numbers, or with a cascade each model's name and its exits'."""
        if is_tree(self.cascade):
            paths = (path_to(self.cascade, place) for place in range(self.n_exits))
            return tuple(" > ".join(self.cascade[step].exit_name for step in path) for path in paths)
        names = tuple(name for step in self.cascade for name in step.exit_names)
        return names or tuple(map(str, range(self.n_exits)))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models of its cascade, in the order in which they are asked; none for one network."""
        return models_in_order(self.paths)

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Names of the models on each path through its cascade: one path, unless it is a router."""
        if not is_tree(self.cascade):
            return (tuple(step.model for step in self.cascade if step.model),)
        ends = (path_to(self.cascade, place) for place in range(self.n_exits))
        return tuple(tuple(dict.fromkeys(self.cascade[step].model for step in path)) for path in ends)

    @property
    def unasked(self) -> Mapping[str, str]:
        """Why a model of its cascade is never asked, by name."""
        return self.notes.get("cascade", {}).get("unasked", {})  # type: ignore[no-any-return]

    @property
    def active(self) -> Booleans:
        """Which exits can answer anything, (m,)."""
        return np.asarray(self.limits.tie < NEVER)

    @property
    def needs(self) -> Booleans:
        """Which exits' evidence decisions need, (m,): those where inputs can answer; all if the score remembers."""
        for_answers = np.array([self.answer.needs(exit_) for exit_ in range(self.n_exits)])
        needed: Booleans = self.active | getattr(self.score, "remembers", True) | for_answers
        needed[-1] = True
        return needed

    @property
    def limit(self) -> float | None:
        """The mean cost that was asked for; None where losses alone were limited, and `budget` is what that costs."""
        return None if self.tested_certificates and not self.cost_certificate else self.budget

    @property
    def expected_cost(self) -> float:
        """Expected mean cost per input: by the distribution, else of the calibration inputs, else as planned."""
        if self.distribution is not None:
            return self.distribution.mean
        if self.calibration_cost is not None:
            return self.calibration_cost
        return float(self.planned_shares @ self.cost.cumulative)

    @property
    def planned_shares(self) -> Floats:
        """Shares of inputs answered at each exit (m,): of the calibration inputs, or as planned without them."""
        return self.rates if self.counts is None else self.counts / self.counts.sum()

    @property
    def guarantee(self) -> str:
        """Whether the budget is certain, certified or neither, and why, in a sentence."""
        if self.is_certain:
            return (
                f"The budget is kept for certain: no input costs more than {self.cost.show(self.costliest)}."
            )
        if self.cost_certificate is not None:
            return str(self.cost_certificate)
        expected = self.cost.show(self.expected_cost)
        if self.limit is None:
            return f"The mean cost is not certified: {expected} is expected. Give a budget to certify it."
        if self.distribution is not None or self.calibration.startswith("cost-per-"):
            reason = f"a mean cost of {expected} is expected, but may be higher. Give a delta to certify it."
        else:
            reason = f"{self.calibration} calibration has no exact distribution of the mean cost."
            if self.counts is not None:
                reason += f" The calibration inputs cost {expected} on average."
        return f"The budget is not certified: {reason}"

    @property
    def is_certain(self) -> bool:
        """Whether no input can cost more than the budget."""
        return self.costliest <= self.budget * (1 + 1e-12)

    @property
    def costliest(self) -> float:
        """The most that an input can cost: the cost of the first exit that answers everything which reaches it."""
        return self.cost.highest if self.cost.varies else float(self.cost.cumulative[self.last])

    @property
    def last(self) -> int:
        """The first exit that answers everything which reaches it; of a router the last exit."""
        if is_tree(self.cascade):
            return self.n_exits - 1
        return int(np.argmax((self.limits.score == ALWAYS) & (self.limits.tie == ALWAYS)))

    def init(self, n: int, *, id: ArrayLike) -> PolicyState:  # noqa: A002
        """Return the state of n inputs before the first exit. `id` (n,): their keys, whole numbers of 64 bits.

        The key breaks ties between equal scores. With `ties` "content" it must be a hash of the input's content, or
        its number in a table. With "row" it must be another one for each row or request, never one used in calibration.
        It must not be the place in a batch, which the first input of every batch shares.
        Where the evidence is of another array type than NumPy's, turn `state.tie` into that type first.
        """
        return PolicyState(tie_breaks(arrays.keys(id, "id", n=n), self.seed), self.score.init(n), {})

    def step(self, exit_: int, evidence: Mapping[str, Any], state: PolicyState) -> tuple[Any, PolicyState]:
        """Decide which rows answer at this exit: (leave (rows,) of booleans, state for the next exit).

        `evidence`: the outputs of this exit for the rows of `state`, by name. The caller drops rows that leave from
        evidence and state alike. The last exit answers everything. Exits that the policy does not need (`needs`) may
        be left out.
        """
        decision = self.decide(exit_, evidence, state)
        return decision.leave, decision.state

    def decide(self, exit_: int, evidence: Mapping[str, Any], state: PolicyState) -> Decision:
        """Decide as `step` does, and return the score and the answer too. Raises InputError for classes as texts,
        and for outputs that are missing.
        """
        try:
            answer, outputs = self.answer(exit_, evidence, state.outputs)
            features = (
                {FEATURES: evidence[FEATURES]} if answer is not evidence and FEATURES in evidence else {}
            )
            with_features: Mapping[str, Any] = ChainMap(features, answer) if features else answer  # type: ignore[arg-type]
            score, memory = self.score(exit_, with_features, state.memory)
        except KeyError as error:
            if error.args[0] in evidence:
                raise
            raise InputError(
                f"the evidence of exit {exit_} lacks {error.args[0]!r}, and has {', '.join(evidence) or 'nothing'}: "
                "give the outputs of a trace's exit by name, as trace.evidence(exit) does, or ask models with "
                "exeunt.load(policy, models=...)"
            ) from None
        except TypeError:
            classes = evidence.get("prediction")
            if not isinstance(classes, np.ndarray) or classes.dtype.kind not in "UO":
                raise
            raise InputError(
                f"this policy computes with predictions, which must be class numbers, got {str(classes[0])!r}: give "
                "its place among the classes that the traces were made with"
            ) from None
        if exit_ == self.n_exits - 1:
            leave = state.tie >= 0  # every tie is: even a NaN score must be answered here
        else:
            leave = at_least(score, state.tie, float(self.limits.score[exit_]), float(self.limits.tie[exit_]))
        return Decision(leave, score, answer, PolicyState(state.tie, memory, outputs))

    @property
    def looks_once(self) -> bool:
        """Whether an input's exit is chosen at the network's gate, before any exit is run: see `look`."""
        return getattr(self.score, "looks_once", False)

    def look(self, features: Any, state: PolicyState) -> tuple[Any, PolicyState]:
        """Choose the exit of each row at the gate; returns the exits (rows,) and the state for that exit.

        `features` (rows, d): what the gate tells. Only for a policy that `looks_once`. The exit is the one at which
        `step` would let the row leave if it were asked at every exit.
        """
        _, memory = self.score(0, {GATE: features}, state.memory)
        exits = np.full(len(features), self.n_exits - 1)
        for exit_ in reversed(range(self.n_exits - 1)):
            score, _ = self.score(exit_, {}, memory)
            limit = float(self.limits.score[exit_]), float(self.limits.tie[exit_])
            exits[at_least(score, state.tie, *limit)] = exit_
        return exits, PolicyState(state.tie, memory, {})

    def following(self, exit_: int, state: PolicyState) -> Iterator[tuple[int, Any]]:
        """Yield the exits that follow an exit, and which rows of the state after it go there.

        It is the next exit for all rows, unless the policy is a router, which chooses for each.
        """
        if NEXT not in state.memory:
            yield exit_ + 1, slice(None)
        else:
            chosen = state.memory[NEXT]
            for following in np.unique(chosen).tolist():
                yield following, np.flatnonzero(chosen == following)

    def along(self, inputs: ExitTrace | CascadeTrace) -> ExitTrace:
        """Return a trace of the exits that the policy runs, at what they cost: of one look, without other heads."""
        trace = inputs.along(self.cascade)
        return trace.with_cost(trace.cost.of_one_look) if self.looks_once else trace

    def priced(self, inputs: ExitTrace | CascadeTrace) -> ExitTrace:
        """Return a trace of the exits that the policy runs, at its costs; where inputs differ in cost, at their own.

        Shares of the costs of a cascade's models then refer to the policy's model, at its mean cost on these inputs.
        """
        trace = self.along(inputs)
        if not self.cost.varies:
            return trace.with_cost(self.cost)
        if isinstance(inputs, ExitTrace):
            return trace
        reference = self.notes.get("reference", {}).get("model") or inputs.most_expensive
        return trace.with_cost(trace.cost.relative_to(inputs[reference].cost.full))

    def route(self, inputs: ExitTrace | CascadeTrace) -> Integers:
        """Return the exit that answers each input of a trace, or of a cascade's models, (n,), 0 = first exit.

        The decision depends on scores alone, so the trace may have costs in another unit.
        """
        trace = self.along(inputs)
        if trace.cost.n_exits != self.n_exits:
            raise InputError(f"the policy has {counted(self.n_exits, 'exit')}, the trace {trace.n_exits}")
        exits = np.empty(trace.n, dtype=np.int64)
        coming = {0: (np.arange(trace.n), self.init(trace.n, id=trace.keys(self.ties)))}
        for exit_ in range(self.n_exits):
            if exit_ not in coming:
                continue
            rows, state = coming.pop(exit_)
            leave, state = self.step(exit_, trace.evidence(exit_, rows), state)
            exits[rows[leave]] = exit_
            rows, state = rows[~leave], state.take(~leave)
            if len(rows):
                for following, some in self.following(exit_, state):
                    coming[following] = rows[some], state.take(some)
        return exits

    def answers(self, inputs: ExitTrace | CascadeTrace) -> Integers:
        """Return the class that is answered to each input of a trace, or of a cascade's models, (n,)."""
        predictions = self.answer.on(self.along(inputs)).prediction
        return predictions[np.arange(len(predictions)), self.route(inputs)]

    def was_calibrated_on(self, trace: ExitTrace | CascadeTrace) -> bool:
        """Return whether each exit answers as many inputs of this trace as it did in calibration, by `counts`.

        False if there are no counts to compare with.
        """
        counts = np.bincount(self.route(trace), minlength=self.n_exits)
        return self.counts is not None and np.array_equal(counts, self.counts)

    def save(self, path: str | Path) -> None:
        """Write the policy as JSON with a digest, atomically; `load` gives it back to the last bit.

        Raises InputError for a score of your own that `exeunt.score.kinds.KINDS` does not know.
        """
        write_sealed(path, "policy", body_to_save(self), format_="exeunt-policy", version=VERSION)

    @classmethod
    def load(cls, path: str | Path, *, remedy: str = AGAIN) -> Policy:
        """Read a policy. Raises ArtefactError if the file is truncated, edited, foreign, or of another version.

        `remedy`: what the error says to do.
        """
        return read_policies(
            path, "policy", cls.from_dict, kind="policy", format_="exeunt-policy", remedy=remedy
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form of everything in the policy."""
        names = ("name", "budget", "calibration", "n_calibration", "seed", "run", "calibration_cost", "ties")
        return {
            **{name: getattr(self, name) for name in names},
            **({} if self.n_groups is None else {"n_groups": self.n_groups}),
            **({} if self.watched is None else {"watched": self.watched.to_dict()}),
            **({"promises": [promise.to_dict() for promise in self.promises]} if self.promises else {}),
            "score": self.score.to_dict(),
            "rates": self.rates.tolist(),
            "thresholds": self.limits.to_dict(),
            "cost": self.cost.to_dict(),
            "counts": None if self.counts is None else self.counts.tolist(),
            "planned_counts": None if self.distribution is None else self.distribution.counts.tolist(),
            "certificate": None if self.cost_certificate is None else self.cost_certificate.to_dict(),
            "loss_certificate": None if self.loss_certificate is None else self.loss_certificate.to_dict(),
            "notes": dict(self.notes),
            "answer": self.answer.to_dict(),
            "cascade": [
                [
                    step.model,
                    step.n_exits if step.is_prefix else step.exits,
                    *[step.after] * (step.after is not None),
                ]
                for step in self.cascade
            ],
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Policy:
        """Rebuild a policy from `to_dict`. Raises KeyError, TypeError or InputError for anything else."""
        fields = dict(body)
        thresholds, planned, counts = map(fields.pop, ("thresholds", "planned_counts", "counts"))
        certificate, loss = fields["certificate"], fields["loss_certificate"]
        cost = CostModel.from_dict(fields["cost"])
        if fields["ties"] not in get_args(Ties):
            raise InputError(f"ties must be one of {', '.join(get_args(Ties))}, got {fields['ties']!r}")
        fields |= {
            "cost": cost,
            "score": score_from_dict(fields["score"]),
            "answer": answer_from_dict(fields["answer"]),
            "rates": arrays.floats(fields["rates"], "rates", ndim=1),
            "limits": Thresholds.from_dict(thresholds),
            "counts": None if counts is None else arrays.integers(counts, "counts", ndim=1),
            "certificate": None if certificate is None else of_kinds(Certificate(**certificate)),
            "loss_certificate": None if loss is None else of_kinds(LossCertificate(**loss)),
            "promises": tuple(
                of_kinds(TailCertificate(**promise) if "amount" in promise else EarlyCertificate(**promise))
                for promise in fields.get("promises", ())
            ),
            "cascade": tuple(of_kinds(CascadeStep(*step)) for step in fields["cascade"]),
        }
        if fields.get("watched") is not None:
            fields["watched"] = WatchedCells.from_dict(fields["watched"])
        if planned is not None:
            fields["distribution"] = MeanCostDistribution(planned, cost.cumulative[: len(planned)])
        policy = of_kinds(cls(**fields))
        policy._check()
        check_unchanged(policy.to_dict(), body)
        return policy

    def _check(self) -> None:
        """Raise InputError for what is read of a file and fits nowhere."""
        lengths = {
            "rates": self.rates,
            "counts": self.rates if self.counts is None else self.counts,
            "score of thresholds": self.limits.score,
            "tie of thresholds": self.limits.tie,
        }
        for name, values in lengths.items():
            arrays.check_length(values, name, self.n_exits)
        if not np.isfinite(self.rates).all():
            raise InputError("rates must be finite")
        if self.counts is not None and (self.counts.min() < 0 or not 0 < self.counts.sum() < MOST_COUNTED):
            raise InputError("counts must be 0 or above, and not all 0")
        if self.watched is not None:
            self.watched.check_exits(self.n_exits)
        check_kind(self.notes, _NOTES, "notes")
        check_steps(self.cascade, self.n_exits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "\n".join([self._title(), text_table(*self._table()), *self._remarks()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        remarks = "".join(f"<p>{escape(remark)}</p>" for remark in self._remarks())
        return html_table(self._title(), *self._table()) + remarks

    def _title(self) -> str:
        cost, row = self.cost, "input" if self.certificate is None else self.certificate.row
        return (
            f"{self.name}: {counted(self.n_exits, 'exit')}, "
            f"{'mean cost' if self.limit is None else 'budget'} {cost.show(self.budget)} "
            f"({cost.share(self.budget):.1%} of {cost.whole}), score {self.score.name}, {self.answer.name} answers, "
            f"{self.calibration} calibration on {units_text(self.n_calibration, self.n_groups, row=row)}"
        )

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows, one per exit. A score has no unit: "of those asked" shows how strict it is."""
        size, unit = self.cost.scale
        answered = shares_asked = ["-"] * self.n_exits
        if self.counts is not None:
            reached = self.counts[::-1].cumsum()[::-1]
            answered = [f"{count / reached[0]:.1%}" for count in self.counts]
            shares_asked = [
                f"{n / of:.1%}" if of else "-" for n, of in zip(self.counts, reached, strict=True)
            ]
        columns = {
            "exit": list(self.exit_names),
            f"cost ({unit})": [f"{amount / size:.4g}" for amount in self.cost.cumulative],
            "planned": [f"{rate:.1%}" for rate in self.rates],
            "answered": answered,
            "of those asked": shares_asked,
            "answers if score >=": [WORDS.get(least, f"{least:.6g}") for least in self.thresholds],
        }
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]

    def _remarks(self) -> list[str]:
        """Return the notes on how the policy was made, and what is guaranteed."""
        notes = [note["text"] for note in self.notes.values() if "text" in note]
        return [*notes, *map(str, self.tested_certificates), self.guarantee]


def body_to_save(policy: Policy) -> dict[str, Any]:
    """Return what a file keeps of a policy. Raises InputError for a score that could not be read back."""
    body = policy.to_dict()
    score_from_dict(body["score"])
    return body
