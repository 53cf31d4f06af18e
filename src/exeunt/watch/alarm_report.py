"""An alarm of the watch: since when inputs differ from those of calibration, how, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt._support.checked_types import of_kinds
from exeunt._support.text import counted
from exeunt.policy.calibration import of_those_left
from exeunt.trace.cascade_step import is_tree

if TYPE_CHECKING:
    from exeunt.policy import Policy

_NOTED = 3.0
"""Standard errors by which the share of an exit must differ to be named."""
_PRIORS = (10.0, 40.0, 160.0, 640.0)
"""How many inputs the shares before a change count as, in guesses at those after it: large and small changes."""
_LEVEL = 0.95
REMEDY = (
    "Record recent inputs (exeunt record) and calibrate on them (ex.recalibrate). Until then, batches can keep the "
    "budget by shares (ex.route_batch), or the full network can answer."
)


@dataclass(frozen=True)
class Alarm:
    """What the watch noticed. Inputs are numbered from 1, in the order in which the watch was told of them.

    `at`: the input at which the evidence reached the threshold. `since`: the input at which the change most likely
    began, and with probability 95% between `earliest` and `latest`, if it came all at once and any input is as likely
    to have been the first; the watch remembers some 4,000 inputs. `kind`: "inputs", "repetition" where copies are more
    or fewer than in calibration, or "loss". `planned`, `shares` (m,): of the exits, in calibration and since.
    `expected_cost`, `cost`: mean per input, as expected and since, at the mean costs of the exits. `void`: whether a
    guarantee of the policy no longer describes the inputs; False where there is none. `what`: how inputs or losses
    differ, in words.
    """

    at: int
    since: int
    earliest: int
    latest: int
    kind: str
    planned: tuple[float, ...]
    shares: tuple[float, ...]
    expected_cost: float
    cost: float
    void: bool
    what: str

    @property
    def sentences(self) -> str:
        """What was noticed, without what to do about it."""
        noticed = f"noticed at {self.at:,}"
        if self.kind == "loss":
            since = f"Loss: since about labelled or graded input {self.since:,} ({noticed})"
            return f"{since} {self.what}"
        since = f"since about input {self.since:,} (between {self.earliest:,} and {self.latest:,}; {noticed})"
        return f"Drift: {since} inputs are not like those of calibration. {self.what}"

    def __str__(self) -> str:
        return f"{self.sentences} {REMEDY}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Alarm:
        """Rebuild from `to_dict`, also after JSON. Raises InputError for what is no alarm."""
        return of_kinds(cls(**{**body, "planned": tuple(body["planned"]), "shares": tuple(body["shares"])}))


def drift_alarm(
    policy: Policy, place: int, period: tuple[int, int, int], exits: Integers, *, surer: float, repeated: str
) -> Alarm:
    """Return the alarm of a change of inputs.

    `period`: `since`, `earliest` and `latest`. `exits` (n,): of the inputs since. `surer`: by how many standard errors
    they lie in earlier or surer cells than planned. `repeated`: a sentence on copies, if these changed.
    """
    m, n = policy.n_exits, len(exits)
    planned = policy.planned_shares
    shares = np.bincount(exits, minlength=m) / n
    cost = float(shares @ policy.cost.cumulative)
    lines = [
        *([repeated] if repeated else []),
        _how(policy, planned, shares, n, surer),
        _costs(policy, cost),
        *_guarantees(policy),
    ]
    return Alarm(
        place,
        *period,
        "repetition" if repeated else "inputs",
        tuple(planned.tolist()),
        tuple(shares.tolist()),
        policy.expected_cost,
        cost,
        bool(_voided(policy)),
        " ".join(lines),
    )


def _how(policy: Policy, planned: Floats, shares: Floats, n: int, surer: float) -> str:
    errors = _errors(shares, planned, n)
    named = [exit_ for exit_ in np.argsort(-abs(errors)).tolist() if abs(errors[exit_]) >= _NOTED]
    names = policy.exit_names if policy.cascade else [f"exit {k}" for k in range(policy.n_exits)]
    moved = [f"{shares[k]:.1%} instead of {planned[k]:.1%} at {names[k]}" for k in named]
    direction = "surer" if surer > 0 else "less sure"
    since = counted(n, "input")
    if moved:
        text = f"Exits are {direction} of them: of {since} since, {', '.join(moved)}."
        return text + ("" if is_tree(policy.cascade) else _where(names, planned, shares, n))
    return f"Of {since} since, each exit answers about its share, and exits are {direction} of them."


def _where(names: Sequence[str], planned: Floats, shares: Floats, n: int) -> str:
    """Return a sentence on the first exit that answers another share of the inputs that come to it, if one does.

    Later exits get other inputs because of it, so their shares differ too.
    """
    (before, expected), (came, leaving) = of_those_left(planned), of_those_left(shares)
    changed = (before > 0) & (abs(_errors(leaving, expected, np.maximum(n * came, 1))) >= _NOTED)
    if not changed[:-1].any():
        return ""
    first = int(np.argmax(changed))
    return (
        f" It shows first at {names[first]}, which answers {leaving[first]:.1%} instead of {expected[first]:.1%} of "
        "the inputs that come there."
    )


def _errors(shares: Floats, planned: Floats, n: int | Floats) -> Floats:
    """Return by how many standard errors shares of n inputs differ from those planned."""
    errors: Floats = (shares - planned) / np.sqrt(np.maximum(planned * (1 - planned), 1 / n) / n)
    return errors


def _costs(policy: Policy, cost: float) -> str:
    show, expected = policy.cost.show, policy.expected_cost
    change = cost / expected - 1
    text = f"They cost {show(cost)} on average, {abs(change):.1%} {'more' if change >= 0 else 'less'} than expected"
    if policy.limit is None:
        return f"{text}."
    where = "above" if cost > policy.budget else "within"
    return f"{text}, {where} the budget of {show(policy.budget)}."


def _guarantees(policy: Policy) -> list[str]:
    voided = _voided(policy)
    lines = [f"The guarantee of {' and '.join(voided)} no longer describes them."] if voided else []
    return lines + ["The budget is kept for certain all the same."] * policy.is_certain


def _voided(policy: Policy) -> list[str]:
    """Return what the policy guarantees by its calibration inputs."""
    cost = ["the cost"] if policy.cost_certificate is not None and not policy.is_certain else []
    return cost + [f"the {certificate.subject}" for certificate in policy.tested_certificates]


def loss_alarm(policy: Policy, place: int, since: int, mean: float, certified: float) -> Alarm:
    """Return the alarm that answers lose more than certified. `mean`: the loss of the inputs since."""
    planned = tuple(policy.planned_shares.tolist())
    text = (
        f"answers lose {mean:.2%} on average, and at most {certified:.2%} was certified. The guarantee of the loss no "
        "longer describes them."
    )
    expected = policy.expected_cost
    return Alarm(
        place, since, since, place, "loss", planned, planned, expected, expected, void=True, what=text
    )


def changed_since(before: Floats, cells: Integers) -> tuple[int, int, int]:
    """Return at which of the inputs a change most likely began, and an interval of 95%, as places from 0.

    `before` (c,): what the urn held before the first of them. `cells` (n,): where they fell. The likelihood of each
    place is that of the urn up to there, and of new shares from there on, whose prior is a mixture of Dirichlet
    distributions around the urn's.
    """
    from scipy.special import gammaln

    n = len(cells)
    indicator = np.zeros((n + 1, len(before)))
    indicator[np.arange(1, n + 1), cells] = 1.0
    counts_before = np.cumsum(indicator, axis=0)[:n]  # before each place
    urn = before + counts_before
    after = np.bincount(cells, minlength=len(before)) - counts_before
    shares = urn / urn.sum(axis=1, keepdims=True)

    def log_likelihood(counts: Floats, of: Floats) -> Floats:
        """Of the counts (n, c) under a Dirichlet distribution of the shares."""
        total = of.sum(axis=-1)
        prior = gammaln(total) - gammaln(total + counts.sum(axis=1))
        likelihood: Floats = prior + (gammaln(of + counts) - gammaln(of)).sum(axis=1)
        return likelihood

    changed = np.logaddexp.reduce([log_likelihood(after, prior * shares) for prior in _PRIORS])
    likelihood = log_likelihood(counts_before, before) + changed
    weights = np.exp(likelihood - likelihood.max())
    reached = np.cumsum(weights) / weights.sum()
    tails = (1 - _LEVEL) / 2
    low, high = (int(np.searchsorted(reached, share)) for share in (tails, 1 - tails))
    return int(np.argmax(weights)), low, min(high, n - 1)
