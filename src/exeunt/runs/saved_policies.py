"""The policies of a run folder. A policy is calibrated for one run, and means nothing for another.

A run has the policy, or the policies for several budgets, of its latest `exeunt calibrate`. Of several, the one of the
largest budget is active, unless another is named: "RUN@50%".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import ROUND_CEILING, Context
from pathlib import Path
from shlex import quote
from typing import Any, TypedDict

from exeunt._support.checked_types import check_kind
from exeunt._support.files import read_json
from exeunt._support.sealed_json import read_built
from exeunt.costs.cost_model import CostModel
from exeunt.errors import ArtefactError, InputError
from exeunt.policy import Policy, PolicySet
from exeunt.runs.file_digests import EVALUATED, EVALUATION, POLICY_INSIDE, TIMING
from exeunt.trace import CascadeTrace, ExitTrace

POLICY, POLICIES = "policy.json", "policies.json"


class _Timing(TypedDict):
    machine: Mapping[str, Any]
    original: str
    time: Mapping[str, str]


class SavedPolicies:
    """The policies of the run folder at `path`, which `RunFolder` inherits."""

    path: Path
    budget: str | None

    digest: str
    assumption: str
    cost: CostModel
    cascade: Any
    recorded: Callable[[str], ExitTrace | CascadeTrace]  # see `RunFolder`
    n_exits: int
    check_exits: Callable[[str, int], None]

    @property
    def policy(self) -> Policy:
        """The active policy. Raises InputError before `exeunt calibrate`."""
        return self.policies[-1]

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies to choose from, for ascending budgets; one if it is named or alone."""
        if self.budget is not None:
            return (self.policy_set.at(self.budget),)
        if self.has_policy_set:
            return self.policy_set.policies
        if not self.has_policy:
            budget = f"{self.cost.share_to_try(0.5):.0%}"
            mended = f"run `exeunt calibrate {quote(str(self.path))} --budget {budget}` first"
            raise InputError(f"{self.path} has no policy yet: {mended}")
        policy = Policy.load(self.path / POLICY)
        self._check_own(policy, self.path / POLICY)
        return (policy,)

    @property
    def has_policy(self) -> bool:
        """Whether there is a calibrated policy."""
        return self.has_policy_set or os.path.lexists(self.path / POLICY)

    @property
    def active_text(self) -> str:
        """Which of the policies is active, in a sentence, and how another is named."""
        *others, largest = named_by_budget(self.policies)
        another = f"; for another give {quote(f'{self.path}@{others[0]}')} as the run" if others else ""
        return f"active: the policy for {largest}{another}"

    def save_policy(self, policy: Policy) -> list[str]:
        """Write the policy, bound to this run, in place of those before.

        Removes what was made with those, and returns the names of these files. Raises as `check_policy` does.
        """
        self._bound(policy).save(self.path / POLICY)
        return remove_of_policy(self.path, POLICIES)

    @property
    def policy_set(self) -> PolicySet:
        """The policies for several budgets. Raises InputError before `exeunt calibrate --budgets`."""
        if not self.has_policy_set:
            mended = f"run `exeunt calibrate {quote(str(self.path))} --budgets 20%:95%:5%` first"
            raise InputError(f"{self.path} has no policies for several budgets yet: {mended}")
        policies = PolicySet.load(self.path / POLICIES)
        for policy in policies:
            self._check_own(policy, self.path / POLICIES)
        return policies

    @property
    def has_policy_set(self) -> bool:
        """Whether there are policies for several budgets."""
        return os.path.lexists(self.path / POLICIES)

    def save_policy_set(self, policies: PolicySet) -> list[str]:
        """Write policies for several budgets, as `save_policy` does."""
        PolicySet(tuple(map(self._bound, policies))).save(self.path / POLICIES)
        return remove_of_policy(self.path, POLICY)

    def _bound(self, policy: Policy) -> Policy:
        """Return the policy with this run's digest, and certificates that say what its data assume."""
        self.check_policy(policy)
        if not self.assumption:
            return replace(policy, run=self.digest)
        cost, loss = (
            certificate and replace(certificate, further=self.assumption)
            for certificate in (policy.certificate, policy.loss_certificate)
        )
        promises = tuple(replace(promise, further=self.assumption) for promise in policy.promises)
        return replace(
            policy,
            run=self.digest,
            certificate=cost,  # type: ignore[arg-type]
            loss_certificate=loss,  # type: ignore[arg-type]
            promises=promises,
        )

    @property
    def timing(self) -> dict[str, Any]:
        """What `exeunt bench` measured of the policy: machine, original (model), and time (shares by batch size).

        {} before. Raises ArtefactError if the file is damaged.
        """

        def build(body: Any) -> dict[str, Any]:
            check_kind(body, _Timing, "timing")
            return dict(body)

        file = self.path / TIMING
        if not os.path.lexists(file):
            return {}
        return read_built(file, build, kind="timing", remedy="repeat `exeunt bench`")

    @property
    def evaluation_warning(self) -> str:
        """How the test part differs from the calibration part, as `exeunt evaluate` found; "" if it did not."""
        file = self.path / EVALUATION
        evaluation = read_json(file, remedy="repeat `exeunt evaluate`") if os.path.lexists(file) else {}
        return str(evaluation.get("warning") or "") if isinstance(evaluation, dict) else ""

    def check_policy(self, policy: Policy, name: str = "the policy") -> None:
        """Raise ArtefactError, starting with `name`, unless a policy was calibrated for this run.

        A policy that names no run was made from traces: it must have this run's exits, and its costs if they are in
        the same unit.
        """
        if policy.run == self.digest or (policy.run is None and self._has_costs_of(policy)):
            return
        raise ArtefactError(
            f"{name} was calibrated for another network than that of {self.path}, where its thresholds and guarantees "
            f"mean nothing: {self._calibrate_again(policy)}"
        )

    def _has_costs_of(self, policy: Policy) -> bool:
        if self.cascade and not policy.cascade:
            return False
        cost = self.recorded("calibrate").along(policy.cascade).cost if policy.cascade else self.cost
        cost = cost.of_one_look if policy.looks_once else cost
        same_costs = policy.cost.unit != cost.unit or policy.cost == cost
        return same_costs and policy.cost.n_exits == cost.n_exits

    def _check_own(self, policy: Policy, file: Path) -> None:
        """Raise ArtefactError unless a policy in `file` was calibrated for this run.

        A file of `Policy.save` names no run: each exit must answer as many calibration inputs as the policy counted.
        """
        self.check_policy(policy, str(file))
        exits = {model.name: model.n_exits for model in self.cascade}
        own = 0 if exits else self.n_exits  # one network's policy may name which of its exits are run
        if not exits and not policy.cascade:
            self.check_exits(file.name, policy.n_exits)
        elif not policy.cascade or any(
            max(step.exits) >= exits.get(step.model, own) for step in policy.cascade
        ):
            raise ArtefactError(
                f"{file} is of other models than {self.path} has: {self._calibrate_again(policy)}"
            )
        if policy.run is None and not policy.was_calibrated_on(self.recorded("calibrate")):
            raise ArtefactError(
                f"{file} does not say for which run it was calibrated, and replaying it on the calibration inputs of "
                f"{self.path} does not show that it was this one: {self._calibrate_again(policy)}"
            )

    def _calibrate_again(self, policy: Policy) -> str:
        percent = 100 * policy.cost.share(policy.budget)
        return f"run `exeunt calibrate {quote(str(self.path))} --budget {percent:.4g}%` again"


def remove_of_policy(run: Path, *others: str) -> list[str]:
    """Remove the files that are about the policy of a run, or hold it, and these others; return the names of all."""
    removed = []
    for name in (*others, *EVALUATED, TIMING, *POLICY_INSIDE):
        with suppress(FileNotFoundError, NotADirectoryError):
            (run / name).unlink()
            removed.append(name)
    return removed


def named_by_budget(policies: Iterable[Policy]) -> dict[str, Policy]:
    """Name policies by their budgets, as "45%", in their order. Shares are rounded up: `PolicySet.at` finds them."""
    six_digits = Context(prec=6, rounding=ROUND_CEILING)

    def name(policy: Policy) -> str:
        share = 100 * float(policy.cost.share(policy.budget))
        return f"{six_digits.create_decimal_from_float(share * (1 - 1e-12)).normalize():f}%"

    return {name(policy): policy for policy in policies}


def name_at(policies: Mapping[str, Policy], budget: float | str) -> str:
    """Return the name of the policy of the largest budget that is not above this one.

    Raises InfeasibleBudget below the smallest, InputError for what is no budget.
    """
    chosen = PolicySet(tuple(policies.values())).at(budget)
    return next(name for name, policy in policies.items() if policy.budget == chosen.budget)
