"""How policies are made: a score, an allocation, a calibration and an answer put together.

`compose` makes one policy of an allocation. `composed` turns a rule, which learns a score and an allocation from the
fit part, into a function that makes policies and takes the same arguments as all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from inspect import Parameter, signature
from typing import Any, Protocol, TypeAlias, get_args

import numpy as np

from exeunt._support.arrays import Floats, Integers, check_delta
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError
from exeunt.policy.calibration import (
    Calibration,
    Slack,
    checked_rates,
    marginal_thresholds,
    sequential_thresholds,
)
from exeunt.policy.certificate_search import SMALLEST_DELTA, Costed, plan_by_cost, plan_cost
from exeunt.policy.ensemble_fitting import AnswerChoice, choose_answer, remark_on_labels
from exeunt.policy.external_calibration import ranked
from exeunt.policy.policy import Policy
from exeunt.policy.watched_cells import cells_of_first_exit, cells_of_plan, scored_exits
from exeunt.score.confidence import NamedScore
from exeunt.score.kinds import Derived, Score
from exeunt.score.learned import LearnedScore
from exeunt.score.tie_breaking import Ties, tie_breaks
from exeunt.trace import ExitTrace, StoredTrace, check_disjoint
from exeunt.trace.derived import alike_neighbours, as_score, cached_on_trace, score_matrix, unlike_copies
from exeunt.trace.groups import n_groups

_OFTEN = 0.1  # from this share on, inputs with one id and other scores are noted
Allocation: TypeAlias = Callable[[float], Floats]
"""Maps a mean cost per input to rates (m,) that cost at most that on average."""


@dataclass(frozen=True, eq=False)
class FitPart:
    """What a rule learns from: the fit part with the outputs of the chosen answer, and what was asked for.

    `main`: the confidence asked for. `budget`: mean cost per input, in the unit of the costs.
    """

    trace: ExitTrace
    main: Score
    budget: float
    seed: int

    @cached_property
    def scored(self) -> tuple[ExitTrace, str]:
        """The fit part with the values of the main confidence, and their name in it."""
        if isinstance(self.main, NamedScore):
            return self.trace, self.main.name
        name = self.main.name
        while name in self.trace.scores:
            name += "'"
        # By the values: a score may be unhashable, or change between two calls.
        return _holding(self.trace, name, score_matrix(self.main, self.trace).tobytes()), name


@dataclass(frozen=True, eq=False)
class Composition:
    """What a rule learns: an allocation, a score (None for the main confidence), and notes for the policy."""

    allocate: Allocation
    score: Score | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class PolicyFunction(Protocol):
    """How every policy is made; see `compose` for the arguments. `options`: the rule's own."""

    __name__: str

    def __call__(
        self,
        fit: ExitTrace,
        calibrate: ExitTrace | StoredTrace,
        *,
        budget: float | str,
        score: str | Score | None = None,
        calibration: Calibration = "sequential",
        delta: float | None = None,
        slack: Slack = None,
        seed: int = 0,
        answer: AnswerChoice = "own",
        ties: Ties = "content",
        **options: Any,
    ) -> Policy:
        """Return the policy for a budget."""


def composed(
    rule: Callable[..., Composition],
    *,
    usual_answer: str = "own",
    own_score: bool = False,
    one_look: bool = False,
) -> PolicyFunction:
    """Make a function that makes policies of a rule `(part: FitPart, *, options) -> Composition`, under its name.

    `usual_answer`: the default of `answer`. `own_score`: the rule ranks inputs by a score of its own, so none can be
    asked for. `one_look`: the score is known at the network's gate, so that an input runs one exit alone: that is what
    it costs, and there is no other answer than the exit's own.
    """

    @wraps(rule, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def composed_rule(
        fit: ExitTrace,
        calibrate: ExitTrace | StoredTrace,
        *,
        budget: float | str,
        score: str | Score | None = None,
        calibration: Calibration = "sequential",
        delta: float | None = None,
        slack: Slack = None,
        seed: int = 0,
        answer: AnswerChoice = usual_answer,
        ties: Ties = "content",
        **options: Any,
    ) -> Policy:
        if own_score and score is not None:
            raise InputError(f"{rule.__name__} has a score of its own: leave out score={score!r}")
        if ties not in get_args(Ties):
            raise InputError(f"ties must be broken by the keys of 'content' or 'row', got {ties!r}")
        if one_look and answer != "own":
            raise InputError(
                f"with {rule.__name__} an input runs one exit alone and gets its own answer: leave out "
                f"answer={answer!r}"
            )
        check_disjoint(fit, calibrate)
        rows = {"calibrated": calibrate.some_rows, "fitted": fit.some_rows}
        if one_look:
            fit = fit.with_cost(fit.cost.of_one_look)
        remarks = {**remark_on_labels(fit), **_neighbours_note(fit, calibrate), **_ids_note(fit, calibrate)}
        amount = fit.cost.budget(budget, warn=not one_look)  # shares are of all heads, which it does not run
        chosen, fit, calibrate = choose_answer(answer, fit, calibrate, score=score, amount=amount)
        part = FitPart(fit, as_score(score, fit), amount, seed)
        learned = rule(part, **options)
        own = learned.score
        if isinstance(own, LearnedScore) and not len(own.intercept):
            own = None  # one exit answers everything: nothing is ranked, but the watch looks at the confidence there
        ranking = own or part.main
        if own is not None and not isinstance(part.main, NamedScore):
            ranking = Derived(part.main, part.scored[1], own)
        fields = _calibrated(learned.allocate, ranking, part, calibrate, calibration, ties, delta, slack)
        return Policy(
            name=rule.__name__,
            score=ranking,
            cost=fit.cost.means,
            budget=amount,
            n_calibration=calibrate.n,
            seed=seed,
            answer=chosen,
            notes={**learned.notes, **remarks, **fields.pop("notes", {}), "rows": rows},
            ties=ties,
            n_groups=n_groups(calibrate.groups),
            **fields,
        )

    shared, (_, *own) = signature(composed_rule, follow_wrapped=False), signature(rule).parameters.values()
    parameters = [
        parameter for parameter in shared.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD
    ]
    composed_rule.__signature__ = shared.replace(parameters=[*parameters, *own])  # type: ignore[attr-defined]
    return composed_rule


def compose(
    name: str,
    allocate: Allocation,
    fit: ExitTrace,
    calibrate: ExitTrace | StoredTrace,
    *,
    budget: float | str,
    **options: Any,
) -> Policy:
    """Make a policy of an allocation (budget -> rates (m,)), a score, a calibration and an answer.

    This is how to plug in an idea of your own; the other policies are made in the same way. `allocate` must return
    shares that sum to 1 and whose mean cost is at most the budget it is called with. All policies take:

    `fit`: labelled outputs to learn from. `calibrate`: other outputs, which give the thresholds; labels are not needed.
    A `StoredTrace` where it does not fit in memory; the policy is the same.
    `budget`: mean cost per input in the unit of the costs, or "50%", or "30 MMACs".
    `score`: the confidence that ranks inputs, by default "margin", or the trace's only score.
    `calibration`: "sequential", or "marginal" for the paper's Algorithm 1 with `slack` "paper" (its default), a number,
    or 0. `delta`: with it the policy carries a certificate P(mean cost <= budget) >= 1 - delta. `seed`: breaks ties.
    `ties`: they are broken by the keys of an input's "content", so that copies leave together, or of its "row": then
    copies may part, and all of the budget is used where inputs repeat.
    `answer`: "own", each exit's own prediction, as in the paper; "best", that of the exit so far whose predicted
    quality is highest; "ensemble", the prediction of all exits so far together; "auto", own or ensemble, whichever is
    right more often within the budget, cross-validated on `fit`.

    Raises InputError for parts that overlap or are empty, InfeasibleBudget for a budget that cannot be met or
    certified.
    """

    def rule(part: FitPart) -> Composition:  # noqa: ARG001 - nothing is learned
        return Composition(allocate)

    rule.__name__ = name
    return composed(rule)(fit, calibrate, budget=budget, **options)


@cached_on_trace
def _holding(trace: ExitTrace, name: str, values: bytes) -> ExitTrace:
    """Return the trace with one more score: the same object each time, since results are cached on it."""
    matrix = np.frombuffer(values).reshape(trace.n, trace.n_exits)
    return replace(trace, scores={**trace.scores, name: matrix})


def _calibrated(
    allocate: Allocation,
    score: Score,
    part: FitPart,
    calibrate: ExitTrace | StoredTrace,
    calibration: Calibration,
    ties: Ties,
    delta: float | None,
    slack: Slack,
) -> dict[str, Any]:
    """Return the fields of a policy that calibration decides: rates, thresholds, distribution of the mean cost."""
    cost, budget, seed = part.trace.cost, part.budget, part.seed
    if calibration == "marginal":
        if delta is not None:
            raise InputError(
                "marginal calibration has no exact distribution to certify: use calibration='sequential'"
            )
        return _by_marginal_quantiles(allocate, score, part, calibrate, ties, slack)
    if calibration != "sequential":
        raise InputError(f"calibration must be 'sequential' or 'marginal', got {calibration!r}")
    if slack is not None:
        raise InputError(
            f"slack={slack!r} belongs to calibration='marginal'; sequential calibration needs none"
        )
    if delta is not None:
        check_delta(delta, low=SMALLEST_DELTA)
    # Where everything is answered at the first exit, the cost is certain.
    grouped = part.trace.groups is not None and checked_rates(allocate(budget), cost.n_exits)[0] < 1
    if (cost.varies or grouped) and isinstance(calibrate, ExitTrace):  # a StoredTrace has neither
        fit, tested = (
            Costed(
                score_matrix(score, part),
                tie_breaks(part.keys(ties), seed),
                part.cost.of_inputs(part.n),
                part.groups,
            )
            for part in (part.trace, calibrate)
        )
        return plan_by_cost(allocate, cost, budget, fit, tested, delta, seed)
    plan = plan_cost(allocate, cost, budget, calibrate.n, delta)
    used = np.flatnonzero(plan.counts[: plan.last]).tolist()
    with ranked(score, calibrate, ties, seed, scored_exits(used, plan.last, calibrate.n)) as inputs:
        limits = sequential_thresholds(inputs, plan.counts, plan.last)
        counts = inputs.counts(limits)
        watched = cells_of_plan(inputs, plan.counts, plan.last, limits, counts, seed)
    return {
        "rates": plan.rates,
        "limits": limits,
        "counts": counts,
        "notes": _copies_note(calibrate, cost, plan.counts, counts),
        "calibration": calibration,
        "distribution": plan.distribution(cost),
        "certificate": None if delta is None else plan.certificate(cost, budget, delta),
        "watched": watched,
    }


def _by_marginal_quantiles(
    allocate: Allocation,
    score: Score,
    part: FitPart,
    calibrate: ExitTrace | StoredTrace,
    ties: Ties,
    slack: Slack,
) -> dict[str, Any]:
    """Return the fields of a policy whose thresholds are quantiles of all inputs at each exit (Eq. 8-9)."""
    rates = checked_rates(allocate(part.budget), part.trace.cost.n_exits)
    used = np.flatnonzero(rates > 0).tolist()
    exits = scored_exits(used[:-1], used[-1], calibrate.n) if len(used) == 1 else used[:-1]
    with ranked(score, calibrate, ties, part.seed, exits) as inputs:
        limits = marginal_thresholds(inputs, rates, slack)
        return {
            "rates": rates,
            "limits": limits,
            "counts": inputs.counts(limits),
            "calibration": "marginal",
            "watched": cells_of_first_exit(inputs, limits, calibrate.groups, part.seed),
        }


def _neighbours_note(*parts: ExitTrace | StoredTrace) -> dict[str, Any]:
    """Return the note that rows seem to come in groups, which nobody named."""
    texts = [text for part in parts if isinstance(part, ExitTrace) and (text := alike_neighbours(part))]
    return {"neighbours": {"text": texts[0]}} if texts else {}


def _ids_note(*parts: ExitTrace | StoredTrace) -> dict[str, Any]:
    """Return the note that inputs which are no copies of each other seem to have one id."""
    share = max(unlike_copies(part) for part in parts if isinstance(part, ExitTrace))
    if share < _OFTEN:
        return {}
    text = (
        f"{share:.1%} of the inputs have the id of another input that gets other scores. Copies of an input have one "
        "id, so that they leave together. Where these are different inputs, give each its own: id=range(n)."
    )
    return {"ids": {"share": share, "text": text}}


def _copies_note(
    calibrate: ExitTrace | StoredTrace, cost: CostModel, planned: Integers, answered: Integers
) -> dict[str, Any]:
    """Return the note on how many calibration inputs are copies, and what it costs that they leave together."""
    before = float((planned - answered) @ cost.cumulative) / float(planned @ cost.cumulative)
    if before <= 0:
        return {}
    text = f"Copies of an input leave together, which leaves about {before:.1%} of the budget unused. "
    note: dict[str, Any] = {"unused": before}
    if isinstance(calibrate, ExitTrace):
        copies = 1 - len(np.unique(calibrate.id)) / calibrate.n
        text = f"{copies:.1%} of the calibration inputs are copies of others. {text}"
        note["share"] = copies
    return {"copies": {**note, "text": text + 'Keys per request use it (ties="row").'}}
