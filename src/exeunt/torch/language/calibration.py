"""Thresholds of a language model, certified by really generating.

After a token that differs, everything that follows may differ, and sequences that leave early are another text than the
recorded one. So recorded tokens only propose policies, in an order that is fixed by the fit part: from one that is
surely careful enough down to the cheapest. Each in turn answers the calibration prompts, and a test decides (a fixed
sequence, so no correction is needed). Prompts are the units: tokens of one are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from exeunt._support.arrays import Floats, Integers, check_between, check_delta
from exeunt._support.text import counted
from exeunt.errors import Infeasible, InfeasibleBudget, InputError
from exeunt.guarantees.p_values import betting
from exeunt.policy import Certificate, LossCertificate, Policy
from exeunt.rules.catalogue import preset
from exeunt.torch.language.generation import SCORE, Continuation
from exeunt.trace import ExitTrace
from exeunt.trace.splitting import random_order, shaping_and_testing_rows

Per: TypeAlias = Literal["token", "answer"]
Loss: TypeAlias = Callable[[Sequence[Continuation]], Floats]
"""What each answer loses, (n,) in [-1, 1], of the continuations of n prompts."""

_ASSUMED = (
    "future prompts are exchangeable with these, and that nothing else was fitted on them. A token is counted along "
    "the exit that says it, without layers that are computed later"
)
_PROMPTS: Mapping[str, Any] = {"row": "token", "rows_per_group": 1}
"""What groups are: prompts of tokens, which weigh alike."""
_SPARE = 3.0
"""Standard errors of the mean cost between a budget and the first policy that is tested for it."""
_MANY = 20_000
"""More prompts than that are not looked at, to say how many a certificate takes."""
_SHAPING = 0.5
"""The share of the fit prompts that shape rates; thresholds come from the others."""
_CAREFUL = 0.25
"""The first policy that is tested loses at most this share of what is allowed, on the fit part."""


Generate: TypeAlias = Callable[[Policy], Sequence[Continuation]]


def agreement_to_try(n: int, *, delta: float = 0.05) -> float:
    """Return the largest usual agreement that n calibration prompts could show, if they showed no difference."""
    allowed = (0.02, 0.05, 0.1, 0.2, 0.3)
    return 1 - next((loss for loss in allowed if betting(np.zeros(n), loss, delta=delta) <= delta), 0.5)


class _Asked(NamedTuple):
    """What a policy shall keep, each with probability 1 - `level`: see `Candidates.certified`."""

    max_loss: float | None
    budget: float | None
    level: float
    measure: str
    of: str


@dataclass(frozen=True)
class Candidates:
    """Policies for tokens, from the most careful to the cheapest, and what they would do to the fit part.

    `costs`, `losses`: for each policy, the mean of each fit prompt's tokens, (g,), as recorded. `exits`: for
    each policy, where each fit token leaves, (n,).
    """

    policies: Sequence[Policy]
    costs: Sequence[Floats]
    losses: Sequence[Floats]
    exits: Sequence[Integers] = ()

    @classmethod
    def made(
        cls, fit: ExitTrace, *, policy: str = "auto", points: int = 20, per: Per = "token", seed: int = 0
    ) -> Candidates:
        """Make policies at `points` budgets, on recorded tokens in groups by prompt, measured by agreement."""
        groups, cost = fit.groups, fit.cost
        if groups is None:
            raise InputError("tokens must come in groups, by prompt")
        # What an exit would say is not known when a token leaves, or does not: no score may use it.
        fit = ExitTrace.from_losses(
            fit.scores[SCORE],
            1.0 - fit.quality,
            cost=cost,
            measure="agreement",
            id=fit.id,
            groups=groups,
            name=SCORE,
        )
        shaping, release = shaping_and_testing_rows(fit.n, _SHAPING, seed, groups, part="fit")
        make, parts = preset(policy), (fit.take(shaping), fit.take(release))
        budgets = np.linspace(cost.full, cost.first, points + 1)[:-1].tolist()
        policies = list[Policy]()
        for budget in budgets:
            try:
                policies.append(make(*parts, budget=budget, delta=None, seed=seed))
            except InfeasibleBudget:  # noqa: PERF203 - lower budgets may be infeasible
                if policies:  # then all lower ones are
                    break
        if not policies:
            raise InputError(
                f"{counted(groups.n, 'fit prompt')} are too few to make a policy from: give more (--fit)"
            )
        exits = [policy.route(fit) for policy in policies]
        lost = [groups.means(1.0 - fit.quality[np.arange(fit.n), at]) for at in exits]
        return cls(
            policies,
            [groups.means(cost.cumulative[at]) for at in exits],
            lost if per == "token" else [(one > 0).astype(np.float64) for one in lost],
            exits,
        )

    def certified(
        self,
        generate: Generate,
        n: int,
        *,
        loss: Loss,
        measure: str = "agreement",
        of: str = "tokens",
        max_loss: float | None = None,
        budget: float | None = None,
        delta: float = 0.05,
        seed: int = 0,
    ) -> Policy:
        """Return the cheapest policy that keeps `max_loss`, or the most expensive one that keeps a budget.

        `generate`: answers the n calibration prompts by a policy. `loss`: of an answer, see `differing`. `budget`: mean
        over prompts of the mean cost of their tokens, along the exits that said them. With both, each is tested at half
        of `delta`. Raises Infeasible where no policy passes.
        """
        if max_loss is None and budget is None:
            raise InputError("give a loss, a budget or both")
        check_delta(delta)
        level = delta if max_loss is None or budget is None else delta / 2
        asked = _Asked(max_loss, budget, level, measure, of)
        if (
            max_loss is not None
            and measure == "agreement"
            and betting(np.zeros(n), max_loss, delta=level) > level
        ):
            raise self._infeasible(asked, n)  # before anything is generated

        def paid(found: Sequence[Continuation]) -> float:
            cost = self.policies[0].cost
            shares = (self._paid(found) - cost.first) / (cost.full - cost.first)
            bound = (float(budget or 0.0) - cost.first) / (cost.full - cost.first)
            return betting(shares[random_order(len(shares), seed)], bound, delta=level)

        passed: tuple[Policy, Sequence[Continuation], Floats, float] | None = None
        for candidate in self._in_order(max_loss, budget):
            found, lost = generate(candidate), np.empty(0)
            if max_loss is None:
                p = paid(found)
            else:
                lost = loss(found)  # once: a grade may be expensive
                p = betting(lost[random_order(len(lost), seed)], max_loss, delta=level)
            if p > level:
                break
            passed = candidate, found, lost, p
        if passed is None:
            raise self._infeasible(asked, n)
        candidate, found, lost, p = passed
        # The policy was chosen on these prompts, so its cost is tested as one of all that could have been.
        if max_loss is not None and budget is not None and paid(found) > level / len(self.policies):
            raise self._infeasible(asked, n)
        proof = None
        if max_loss is not None:
            n_tokens = sum(len(continuation.tokens) for continuation in found)
            proof = LossCertificate(
                max_loss,
                delta,
                p,
                "betting",
                float(lost.mean()),
                n_tokens,
                measure=measure,
                of=of,
                **_PROMPTS,
                n_groups=len(found),
            )
        return self._tested(candidate, found, proof, budget, delta)

    def _in_order(self, max_loss: float | None, budget: float | None) -> Iterator[Policy]:
        """Yield policies in the order in which they are tested: the first is very likely to pass."""
        if max_loss is not None:
            lost = [float(loss.mean()) for loss in self.losses]
            start = next((k for k, mean in enumerate(lost) if mean > _CAREFUL * max_loss), len(lost))
            yield from self.policies[max(start - 1, 0) :]
        elif budget is not None:
            high = [cost.mean() + _SPARE * cost.std() / len(cost) ** 0.5 for cost in self.costs]
            start = next((k for k, cost in enumerate(high) if cost <= budget), len(high) - 1)
            yield from reversed(self.policies[: start + 1])

    def _paid(self, found: Sequence[Continuation]) -> Floats:
        cost = self.policies[0].cost.cumulative
        return np.array([cost[one.exits].mean() for one in found])

    def _tested(
        self,
        candidate: Policy,
        found: Sequence[Continuation],
        proof: LossCertificate | None,
        budget: float | None,
        delta: float,
    ) -> Policy:
        """Return a policy with what it did on the calibration prompts, and its guarantees."""
        paid, exits = float(self._paid(found).mean()), np.concatenate([one.exits for one in found])
        certificate = None
        if budget is not None:
            certificate = Certificate(
                budget=budget,
                delta=delta,
                unit=candidate.cost.unit,
                probability=1 - delta,
                expected_cost=paid,
                cost_quantile=budget,
                n_calibration=len(exits),
                assumption=_ASSUMED,
                **_PROMPTS,
                n_groups=len(found),
            )
        return replace(
            candidate,
            budget=paid if budget is None else budget,
            calibration="generation",
            calibration_cost=paid,
            counts=np.bincount(exits, minlength=candidate.n_exits),
            n_calibration=len(exits),
            n_groups=len(found),
            distribution=None,
            certificate=certificate,
            loss_certificate=proof,
        )

    def _infeasible(self, asked: _Asked, n: int) -> Infeasible:
        cost, least, shown, max_loss = self.policies[0].cost, "", list[str](), asked.max_loss
        if max_loss:
            enough = 1
            while enough < _MANY and betting(np.zeros(enough), max_loss, delta=asked.level) > asked.level:
                enough += max(1, enough // 50)
            least = f"; at least about {enough:,}, even if nothing is lost"
        if max_loss is not None and asked.measure == "agreement":
            shown.append(f"that at most {100 * max_loss:.4g}% of the {asked.of} differ")
        elif max_loss is not None:
            shown.append(f"that the mean {asked.measure} falls by at most {100 * max_loss:.4g} points")
        if asked.budget is not None:
            shown.append(f"that the mean cost of a token is at most {cost.show(asked.budget)}")
        return Infeasible(
            f"{counted(n, 'calibration prompt')} cannot show {' and '.join(shown)} for any policy that answers early: "
            f"train with more calibration prompts (--calibrate{least}), or allow more",
            binding="budget" if max_loss is None else "max_loss",
        )


def differing(per: Per) -> Loss:
    """Return the loss of answers: the share of tokens that differ from the full network's, or whether any does."""

    def loss(found: Sequence[Continuation]) -> Floats:
        shares = np.array([np.mean(one.differs) for one in found])
        return shares if per == "token" else np.asarray((shares > 0).astype(np.float64))

    return loss


def graded(
    texts: Sequence[str],
    grade: Callable[[str, str], float],
    text: Callable[[list[int]], str],
    whole: Sequence[Continuation],
) -> Loss:
    """Return the loss of answers: by how much their grades are below those of the full network's, `whole`.

    `grade`: of a prompt and an answer, in [0, 1]; else InputError. `text`: of tokens.
    """

    def grades(found: Sequence[Continuation]) -> Floats:
        given = [grade(prompt, text(one.tokens)) for prompt, one in zip(texts, found, strict=True)]
        return np.array([check_between(one, "a grade", 0.0, 1.0, inclusive=True) for one in given])

    own = grades(whole)

    def loss(answers: Sequence[Continuation]) -> Floats:
        return np.asarray(own - grades(answers))

    return loss
