"""`exeunt predict` with live models whose total is spent evenly: a policy is chosen for each next input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exeunt._support.paths import AnyPath
from exeunt._support.sealed_json import content_digest
from exeunt.data import Dataset
from exeunt.errors import InputError
from exeunt.jobs.blocks import Block
from exeunt.jobs.predict_live import LiveJob
from exeunt.jobs.summary import PredictionSummary, Tally
from exeunt.ledger import Ledger
from exeunt.policy import Pace, PolicySet


@dataclass(frozen=True, kw_only=True)
class PacedJob(LiveJob):
    """A job that answers each input under one of `policies`: the one that what is left for the inputs to come allows.

    `pace`: what chooses, once the job has begun; `kept`: money for the `spare`. The ledger knows what is left and how
    many inputs are to come, whatever other workers do and whatever was killed. The pace follows it before each block.

    Raises InputError without a ledger.
    """

    policies: PolicySet
    pace: Pace | None = None
    kept: float = 0.0

    def begin(self, inputs: Dataset, left: Sequence[Block], **options: Any) -> PacedJob:
        """Begin as a `LiveJob` does, with money for the cheapest first answer of all policies."""
        job = super().begin(inputs, left, **options)
        if (ledger := job.live.ledger) is None:
            raise InputError("a pace spends what a ledger holds: give money=partial(Ledger, total='5 usd')")
        job = replace(job, kept=job.spare * min(job.firsts))
        if ledger.to_come == job.spare:
            return job
        return replace(job, pace=Pace(self.policies, firsts=job.firsts, **job._to_spend(ledger, 1)))

    def _to_spend(self, ledger: Ledger, n: int) -> dict[str, Any]:
        """Return what is left for how many inputs to come, at least `n`."""
        return {"total": max(0.0, ledger.left - self.kept), "inputs": max(n, ledger.to_come - self.spare)}

    @property
    def firsts(self) -> list[float]:
        """The most that a first answer to an input may cost, by policy."""
        return [self.live.cheapest_answer(self.most, policy) for policy in self.policies]

    @property
    def model_names(self) -> Sequence[str]:
        """Names of the models that any policy asks."""
        return self.policies.models

    def pace_for(self, ledger: Ledger | None, n: int) -> Pace | None:
        """Return the pace, for what is left now."""
        if self.pace is not None and ledger is not None:
            self.pace.update(**self._to_spend(ledger, n))
        return self.pace

    @property
    def planned(self) -> None:
        """None: no policy says what all inputs will cost."""

    def summary(
        self,
        total: Tally,
        out: Path | str | None,
        files: Sequence[AnyPath] = (),  # noqa: ARG002 - a watch is of inputs under one policy
    ) -> PredictionSummary:
        """Return the summary of all inputs, without the budget of a policy."""
        return replace(PredictionSummary.of_job(total, self.policy, out), budget=None)

    def describe(self, inputs: Dataset, *, by_content: bool) -> dict[str, Any]:
        """Return everything that the results depend on, but for the total, which may be raised."""
        policies = content_digest([policy.to_dict() for policy in self.policies])
        return {**super().describe(inputs, by_content=by_content), "policy": policies}
