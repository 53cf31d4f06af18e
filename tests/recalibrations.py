"""Recalibrate again and again on logs of a known population: how often is what a certificate says false?

    python -m tests.recalibrations     # 2,000 of each, and the table in docs/explanation/guarantees.md

Some hours of one core. What was measured is kept in docs/results/recalibrations.jsonl: an interrupted command goes on
where it was, and several may run at once. Remove the file when the code changes.

A population is a list of contents with their frequencies, so the true mean cost and the true accuracy of a policy are
sums over contents. A log is a sample of rows from it, in which contents repeat, or of groups of contents, and the truth
is the mean that the guarantee is about. `tests/test_recalibrations.py` does few recalibrations of each by default, and
all of them in the slow set.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

import exeunt as ex
from exeunt._support.files import write_text
from exeunt.policy.calibration import exits_under
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace.derived import score_matrix

DELTA = 0.1
BUDGET = 2.0
COSTS = (1.0, 2.0, 4.0)
DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "explanation" / "guarantees.md"
KEPT = DOCS / "results" / "recalibrations.jsonl"
BEGIN, END = "<!-- recalibrations -->", "<!-- end of recalibrations -->"


@dataclass(frozen=True)
class Population:
    """Contents with frequencies, and how a log of n rows is drawn from them; or contents in groups, and n groups."""

    contents: ex.ExitTrace
    weights: Any
    n: int
    order: str = "random"
    max_loss: float = 0.04

    @property
    def shares(self) -> Any:
        """The share of each content among inputs."""
        n = self.contents.n
        return np.full(n, 1 / n) if self.weights is None else self.weights

    def log(self, seed: int) -> Any:
        """Return the rows of a log: indices of contents."""
        rng = np.random.default_rng([seed, 1])
        if self.order == "distinct":
            return rng.permutation(self.contents.n)[: self.n]
        rows = rng.choice(self.contents.n, self.n, p=self.weights)
        return np.sort(rows) if self.order == "sorted" else rows

    def draw(self, trace: Any, seed: int) -> Any:
        """Return a log: rows of a trace of the contents, or of the models that answer them."""
        if (groups := trace.groups) is None:
            return trace.take(self.log(seed))
        drawn = np.random.default_rng([seed, 1]).integers(0, groups.n, self.n)
        # A group that is drawn twice is two groups.
        number = np.repeat(np.arange(self.n), groups.sizes[drawn])
        named = None if self.order == "unnamed" else ex.Groups(number, groups.rows_per_group)
        return replace(trace.take(groups.rows(drawn)), groups=named)


def contents(seed: int, n: int, *, saturated: bool = False, two_values: bool = False) -> ex.ExitTrace:
    """Return n contents at three exits. With `two_values` an exit is right on all contents or on none."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n)
    right = rng.random((n, 3)) < (0.6, 0.75, 0.85)
    if two_values:
        right[:] = rng.random((n, 1)) < 0.8
        right[:, 0] &= rng.random(n) < 0.95
    score = np.where(right, 1.0, 0.5) * rng.random((n, 3))
    cost = np.cumsum(rng.uniform(0.1, 2.0, (n, 3)) * (1.0, 1.0, 2.0), axis=1)
    return ex.ExitTrace.from_scores(
        np.round(3 * score) / 3 if saturated else score,
        np.where(right, label[:, None], (label[:, None] + 1) % 4),
        cost=ex.CostModel(cost, highest=8.0),
        label=label,
        id=rng.integers(0, 2**63, n).astype(np.uint64),
    )


def videos(seed: int, rows_per_group: int) -> ex.ExitTrace:
    """Return 2,000 groups of 3 contents, one in ten of them of 60 and harder; contents of a group are alike."""
    rng = np.random.default_rng(seed)
    large = rng.random(2_000) < 0.1
    of = np.repeat(np.arange(2_000), np.where(large, 60, 3))
    bare, easy = contents(seed, len(of)), (rng.normal(size=2_000) - large)[of, None]
    right = easy + rng.normal(size=(len(of), 3)) + [0.5, 1.0, 1.5] > 0
    return replace(
        bare,
        prediction=np.where(right, bare.label[:, None], (bare.label[:, None] + 1) % 4),
        scores={"score": easy + rng.normal(size=(len(of), 3)) / 2},
        groups=ex.Groups(of, rows_per_group),
    )


def by_groups(seed: int, rows_per_group: int, n: int, order: str = "groups") -> Population:
    """Return a population of which logs hold n groups. Order "unnamed": a log does not say which."""
    trace = videos(seed, rows_per_group)
    return Population(trace, trace.groups.row_weight / trace.groups.row_weight.sum(), n, order, max_loss=0.1)


def atom(n: int, share: float) -> Any:
    """Return frequencies of n contents, the first of which has this share."""
    return np.r_[share, np.full(n - 1, (1 - share) / (n - 1))]


def zipf(n: int, exponent: float) -> Any:
    """Return Zipf frequencies of n contents."""
    frequencies = np.arange(1, n + 1) ** -exponent
    return frequencies / frequencies.sum()


_N = 2_000
POPULATIONS = {
    "no input twice": Population(contents(1, 20_000), None, 800, "distinct"),
    "one input is 1%": Population(contents(2, _N), atom(_N, 0.01), 800),
    "one input is 10%": Population(contents(3, _N), atom(_N, 0.1), 800),
    "one input is 50%": Population(contents(4, _N), atom(_N, 0.5), 800),
    "Zipf": Population(contents(5, _N), zipf(_N, 1.0), 800),
    "Zipf, saturated scores": Population(contents(6, _N, saturated=True), zipf(_N, 1.0), 800),
    "Zipf, a file sorted by content": Population(contents(7, _N), zipf(_N, 1.3), 800, "sorted"),
    "Zipf, 120 rows": Population(contents(8, _N), zipf(_N, 1.0), 120),
    "all exits right or all wrong": Population(contents(9, _N, two_values=True), zipf(_N, 1.0), 800),
    "two contents": Population(contents(10, 2), np.array([0.5, 0.5]), 800),
    "groups, mean over groups": by_groups(11, 1, 150),
    "groups, at most 20 inputs count": by_groups(12, 20, 400),
}
UNNAMED = by_groups(11, 60, 150, "unnamed")
"""A log of groups that does not say so: certificates are broken, as tests show. The truth weighs inputs equally."""


@dataclass(frozen=True)
class Truth:
    """What a policy really costs and loses on a population: `lost` of all inputs; of the share `early`, what is lost.

    `early_worse`: the share of all inputs that are answered early and worse than by the last exit.
    """

    cost: float
    lost: float
    early: float
    early_lost: float
    early_worse: float


def truth(policy: ex.Policy, population: Population, trace: ex.ExitTrace) -> Truth:
    """Return what is true; `trace`: the contents, with the costs that the policy was made for.

    Keys of rows are uniform: which exit answers changes only where the key passes the tie of a threshold.
    """
    weights = population.shares
    last = trace.quality[:, -1] if isinstance(trace, ex.ExitTrace) else 0.0
    trace = policy.answer.on(trace.along(policy.cascade))
    paid, right = trace.cost.of_inputs(trace.n), trace.quality
    by_content = policy.ties == "content"
    edges = () if by_content else sorted(t for t in policy.limits.tie if 0 < t < 1)
    sums = np.zeros(5)
    for start, end in pairwise((0.0, *edges, 1.0)):
        ties = tie_breaks(trace.id, policy.seed) if by_content else np.full(trace.n, start)
        at = np.arange(trace.n), exits_under(score_matrix(policy.score, trace), ties, policy.limits)
        lost, early = last - right[at], at[1] < trace.n_exits - 1
        values = np.stack([paid[at], lost, early, early * lost, early * (lost > 0)])
        sums += (end - start) * (values @ weights)
    return Truth(*sums.tolist())


# -- certificates: each returns whether what is certified is false, or None where nothing is certified ---------------


def _equal_costs(population: Population) -> ex.ExitTrace:
    return population.contents.with_cost(ex.CostModel(COSTS))


def _parts(trace: ex.ExitTrace, population: Population, seed: int) -> Any:
    return population.draw(trace, seed).split(fit=0.4, calibrate=0.5, test=0.1, seed=seed)


def _too_dear(
    population: Population, seed: int, trace: Any, make: Any = ex.eero, **options: Any
) -> bool | None:
    """Whether a policy that was made on a log costs more than its budget; or one of several policies."""
    fit, calibrate, _ = _parts(trace, population, seed)
    try:
        made = make(fit, calibrate, delta=DELTA, seed=seed, **options)
    except ex.InfeasibleBudget:
        return None
    policies = [made] if isinstance(made, ex.Policy) else made
    return any(truth(one, population, trace).cost > one.budget * (1 + 1e-12) for one in policies)


def cost(population: Population, seed: int) -> bool | None:
    """The mean cost."""
    return _too_dear(population, seed, _equal_costs(population), budget=BUDGET)


def cost_of_rows(population: Population, seed: int) -> bool | None:
    """The mean cost, ties broken by keys of rows."""
    return _too_dear(population, seed, _equal_costs(population), budget=BUDGET, ties="row")


def several_budgets(population: Population, seed: int) -> bool | None:
    """The mean costs of three budgets together."""
    make, budgets = partial(ex.PolicySet.make, ex.eero), [1.5, 2.0, 3.0]
    return _too_dear(population, seed, _equal_costs(population), make, budgets=budgets, jointly=True)


def cost_per_input(population: Population, seed: int) -> bool | None:
    """The mean cost where inputs differ in what they cost."""
    return _too_dear(population, seed, population.contents, budget=BUDGET)


def _promised(
    population: Population, seed: int, make: Callable[..., ex.Policy], **options: Any
) -> bool | None:
    """Whether any promise is broken of a policy with these options."""
    trace = _equal_costs(population)
    fit, calibrate, _ = _parts(trace, population, seed)
    try:
        policy = make(fit, calibrate, delta=DELTA, seed=seed, **options)
    except ex.Infeasible:
        return None
    true = truth(policy, population, trace)
    kept = {
        "max_loss": lambda limit: true.lost <= limit + 1e-12,
        "max_early_loss": lambda limit: true.early_lost <= limit * true.early + 1e-12,
        "max_early_worse": lambda limit: true.early_worse <= limit * true.early + 1e-12,
        "max_tail": lambda tail: (
            1 - true.early <= tail[1] + 1e-12
        ),  # of more than the exits before the last cost
        "budget": lambda limit: true.cost <= limit * (1 + 1e-12),
    }
    return not all(kept[name](limit) for name, limit in options.items() if name in kept)


def _loss(population: Population, seed: int, make: Callable[..., ex.Policy], **options: Any) -> bool | None:
    return _promised(population, seed, make, max_loss=population.max_loss, **options)


def loss(population: Population, seed: int) -> bool | None:
    """The accuracy lost by `cheapest`."""
    return _loss(population, seed, ex.cheapest, policy="eero", points=6)


def loss_of_graded(population: Population, seed: int) -> bool | None:
    """The quality lost by `cheapest`, where answers have grades between right and wrong."""
    bare = population.contents
    noise = np.random.default_rng(0).beta(0.5, 0.5, bare.correct.shape)
    graded = bare.graded(0.7 * ~bare.correct + 0.3 * noise)
    return loss(replace(population, contents=graded), seed)


def loss_and_cost(population: Population, seed: int) -> bool | None:
    """The accuracy lost by `cheapest`, and its mean cost, together."""
    return _loss(population, seed, ex.cheapest, policy="eero", points=6, budget=3.5)


def early_loss(population: Population, seed: int) -> bool | None:
    """The accuracy lost by the early answers of `cheapest`."""
    limit = 2 * population.max_loss
    return _promised(population, seed, ex.cheapest, policy="eero", points=6, max_early_loss=limit)


def early_worse(population: Population, seed: int) -> bool | None:
    """The share of the early answers of `cheapest` that are worse than the last exit's."""
    limit = 5 * population.max_loss
    return _promised(population, seed, ex.cheapest, policy="eero", points=6, max_early_worse=limit)


def all_losses(population: Population, seed: int) -> bool | None:
    """The accuracy lost by `cheapest`, by its early answers, and the share of these that are worse, together."""
    limits = {"max_early_loss": 2 * population.max_loss, "max_early_worse": 5 * population.max_loss}
    return _loss(population, seed, ex.cheapest, policy="eero", points=6, **limits)


def tail(population: Population, seed: int) -> bool | None:
    """The share of the inputs that cost more than 3, and the accuracy lost by `cheapest`, together."""
    return _loss(population, seed, ex.cheapest, policy="eero", points=6, max_tail=(3.0, 0.6))


def loss_of_one_threshold(population: Population, seed: int) -> bool | None:
    """The accuracy lost by `risk_controlled`."""
    return _loss(population, seed, ex.risk_controlled)


def cascade(population: Population, seed: int) -> bool | None:
    """The mean cost of a cascade of two models."""

    def models(whole: ex.ExitTrace) -> ex.CascadeTrace:
        large = whole.exits(2, 3).with_cost(ex.CostModel([3.0]))
        return ex.CascadeTrace({"small": whole.exits(0, 1), "large": large})

    whole = _equal_costs(population)
    drawn = models(population.draw(whole, seed))
    fit, calibrate, _ = drawn.split(fit=0.4, calibrate=0.5, test=0.1, seed=seed)
    try:
        policy = ex.cascade(fit, calibrate, budget=BUDGET, policy="eero", delta=DELTA, seed=seed)
    except ex.InfeasibleBudget:
        return None
    return truth(policy, population, models(whole).along(policy.cascade)).cost > BUDGET * (1 + 1e-12)


def quota(population: Population, seed: int) -> bool:
    """The mean cost of a batch whose shares are met inside it: never more than the budget."""
    batch = population.draw(_equal_costs(population), seed)
    exits = ex.route_batch(batch, [0.5, 0.25, 0.25], seed=seed)
    return float(np.take(COSTS, exits).mean()) > 0.5 * 1 + 0.25 * 2 + 0.25 * 4 + 1e-12


CERTIFICATES: dict[str, Callable[[Population, int], bool | None]] = {
    "cost": cost,
    "cost, keys of rows": cost_of_rows,
    "three budgets together": several_budgets,
    "cost per input": cost_per_input,
    "cost of a cascade": cascade,
    "cost of a batch (quota)": quota,
    "loss": loss,
    "loss, graded answers": loss_of_graded,
    "loss, one threshold": loss_of_one_threshold,
    "loss and cost together": loss_and_cost,
    "early loss": early_loss,
    "early answers that are worse": early_worse,
    "all three losses together": all_losses,
    "tail and loss together": tail,
}


def violations(certificate: str, population: str, recalibrations: int) -> tuple[int, int]:
    """Return in how many recalibrations what was certified was false, and in how many something was certified."""
    drawn_from = UNNAMED if population == "unnamed" else POPULATIONS[population]
    found = [CERTIFICATES[certificate](drawn_from, seed) for seed in range(recalibrations)]
    certified = [one for one in found if one is not None]
    return sum(map(int, certified)), len(certified)


def interval(count: int, n: int, level: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a frequency at this two-sided level of error."""
    low = float(beta.ppf(level / 2, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - level / 2, count + 1, n - count)) if count < n else 1.0
    return low, high


def main() -> None:
    """Recalibrate, and write the table."""
    from experiments.pages import Measurements, table

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--recalibrations", type=int, default=2_000)
    options.add_argument("--only", choices=CERTIFICATES, help="measure this certificate, and write no table")
    given = options.parse_args()

    def frequency(certificate: str, population: str) -> str:
        started, asked = time.monotonic(), (certificate, population, given.recalibrations)
        count, n = Measurements(KEPT).of(*asked, measure=partial(violations, *asked))
        low, high = interval(count, n, 0.05) if n else (0.0, 1.0)
        found = f"{count / n:.1%} ({100 * low:.1f} to {100 * high:.1f})" if n else "none certified"
        print(f"{certificate}; {population}: {found}, {time.monotonic() - started:.0f} s", flush=True)
        return found

    columns = [
        [frequency(certificate, population) for population in POPULATIONS]
        for certificate in ([given.only] if given.only else CERTIFICATES)
    ]
    if given.only:
        return
    found = table(("inputs", *CERTIFICATES), zip(POPULATIONS, *columns, strict=True))
    unnamed = frequency("cost", "unnamed")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    said = f"""{given.recalibrations:,} recalibrations each; of those that certified anything, the share in which it was
false, with 95% intervals. At most {DELTA:.0%} may be.

{found}

Where inputs come in groups that nobody names, a certificate of the cost is false in {unnamed}."""
    write_text(PAGE, f"{before}{BEGIN}\n{said}\n{END}{after}")


if __name__ == "__main__":
    main()
