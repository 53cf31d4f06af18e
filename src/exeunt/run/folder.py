"""The run folder: a network's weights, costs, traces and policies on disk, with where they are from.

    bundle.json             manifest: format, version, its own digest and those of the next four, all else as JSON
    weights.safetensors     backbone and heads, of what PyTorch trained
    cascade.json              of a cascade, after `exeunt cascade`: its models, each a run folder elsewhere or in models/
    model.skops             of `--model tfidf` and of estimators: what scikit-learn has fitted, in place of weights
    object.json             of a model that no file holds: that it is an object of your own, in place of weights
    costs.json              what an answer costs at each exit
    traces/PART.parquet     recorded outputs on fit, calibrate and test
    model/, tokenizer/      of Hugging Face models: configuration and tokenizer
    policy.json             the calibrated policy, after `exeunt calibrate`
    policies.json           policies for a grid of budgets, after `exeunt calibrate --budgets`
    plan-EXECUTOR.json      how to run the network on this machine, after `exeunt bench --profile`
    profile-EXECUTOR.json   what that plan was made from: seconds per segment and number of rows
    plan-EXECUTOR-cuda.json, profile-EXECUTOR-cuda.json     the same, measured on an accelerator
    onnx/                   the network for ONNX Runtime, after `exeunt export`; its manifest has its digests
    int8/                   after `exeunt export --precision int8`: a run folder whose network is in its onnx/
    serving.json            the budget that was set while `exeunt serve` ran
    training/               checkpoints and history of the training
    config.yaml             the options of `exeunt train`; project.json has them as the library takes them
    figures/                drawn by `exeunt evaluate` and `exeunt bench`

Every file is written under a temporary name and renamed. The manifest is written last, so a folder with a manifest
is complete. A run folder contains no code, and reading it executes none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

from exeunt._files import make_folder, read_json, write_json
from exeunt._sealed import DIGEST, read_sealed, write_sealed
from exeunt.costs import CostModel
from exeunt.engine.executor import CPU
from exeunt.engine.plan import Plan
from exeunt.errors import ArtefactError, InputError
from exeunt.policy import Policy, PolicySet
from exeunt.run.cascade_file import CascadeEntry, read_cascade
from exeunt.run.file_digests import (
    CASCADE,
    COSTS,
    EVALUATED,
    MANIFEST,
    NETWORKS,
    POLICY_INSIDE,
    TRACED,
    WEIGHTS,
    RunFiles,
    digests_of,
    trace_file,
)
from exeunt.run.manifest import read_manifest, sealed_manifest
from exeunt.run.run_path import at_precision, check_precision, why_not_a_run
from exeunt.run.saved_policies import check_made_for, check_replayed
from exeunt.timing.measuring import is_this_machine
from exeunt.timing.profile import Profile
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import CascadeStep

POLICY, POLICIES = "policy.json", "policies.json"
T = TypeVar("T")


@dataclass(frozen=True)
class RunFolder:
    """The run folder at `path`, with its `manifest`. `create` makes one, `open` reads one.

    `steps`: which models of a cascade are run, and which exits of each or of one network; by default all.
    `objects`: by name, the models of a cascade that no file holds.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    steps: tuple[CascadeStep, ...] = ()
    objects: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Return whether `path` is a complete run folder."""
        return os.path.isfile(Path(path) / MANIFEST)  # noqa: PTH113 - without an error where access is denied

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        cost: CostModel,
        traces: Mapping[str, ExitTrace],
        about: Mapping[str, Any],
        network: str = WEIGHTS,
    ) -> RunFolder:
        """Complete the folder `path` to a run folder; it holds its network, and model and tokenizer if there are any.

        `about`: the manifest's other entries, JSON-able: model, heads, data, split, training, provenance.
        `network`: the file that the network is in, one of `file_digests.NETWORKS`. Raises InputError without it.
        """
        root = Path(path)
        if not (root / network).is_file():
            raise InputError(f"{root} has no {network}: write it before the run folder is made")
        # Of a run that is made again: a folder with a manifest is complete.
        (root / MANIFEST).unlink(missing_ok=True)
        _remove_of_policy(root)
        make_folder(root / "traces")
        for part, trace in traces.items():
            trace.save(root / trace_file(part))
        write_json(root / COSTS, cost.to_dict())
        manifest = sealed_manifest(about, digests_of(root, traces, network))
        write_json(root / MANIFEST, manifest)
        return cls(root, manifest)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Read the manifest of a run folder; "RUN@int8" is the run RUN at this precision.

        Raises InputError if there is none, ArtefactError if the manifest is damaged, of another kind or newer.
        """
        root = at_precision(Path(path))
        if not cls.exists(root):
            raise InputError(why_not_a_run(root))
        needed = (COSTS, *(trace_file(part) for part in TRACED))
        run = cls(root, read_manifest(root / MANIFEST, files=needed, one_of=NETWORKS))
        check_precision(root, run.manifest)
        return run

    @property
    def digest(self) -> str:
        """The manifest's own digest, which stands for the whole run: weights, heads, inputs, costs and traces."""
        return str(self.manifest[DIGEST])

    @cached_property
    def files(self) -> RunFiles:
        """The files that training left, each checked when it is first asked for."""
        return RunFiles(self.path, self.manifest["files"])

    @property
    def network_file(self) -> str:
        """The file that the network is in: one of `file_digests.NETWORKS`."""
        return next(name for name in NETWORKS if name in self.files.digests)

    @cached_property
    def cascade(self) -> tuple[CascadeEntry, ...]:
        """The models of a cascade, in order; none for one network."""
        return read_cascade(self.files.path(CASCADE)) if self.network_file == CASCADE else ()

    def open_model(self, name: str) -> RunFolder:
        """Open the run of a model of the cascade. Raises ArtefactError if it was made anew since the cascade was."""
        entry = next(entry for entry in self.cascade if entry.name == name)
        model = replace(RunFolder.open(entry.folder(self.path)), objects=self.objects)
        if model.digest != entry.digest:
            raise ArtefactError(
                f"{model.path}, the model {name!r} of {self.path}, was made anew since the cascade was: make the "
                "cascade anew with `exeunt cascade`"
            )
        return model

    @property
    def runs_whole(self) -> str:
        """Why the network could not be cut when it was trained, so that every exit costs all; "" if it could."""
        return str(self.manifest["model"].get("runs_whole", ""))

    @property
    def weights(self) -> Path:
        """The safetensors file of backbone and heads. Raises InputError if the network is in another file."""
        if self.network_file != WEIGHTS:
            raise InputError(
                f"{self.path} has no weights for PyTorch, its network is in {self.network_file}: this takes runs that "
                "PyTorch trained"
            )
        return self.files.path(WEIGHTS)

    @property
    def cost(self) -> CostModel:
        """Cumulative cost per exit."""
        return CostModel.from_dict(read_json(self.files.path(COSTS)))

    def trace(self, part: str) -> ExitTrace:
        """Return the recorded outputs on "fit", "calibrate" or "test", of a cascade those of all models in a row."""
        if part not in TRACED:
            raise InputError(f"a run folder has traces of {', '.join(TRACED)}, not of {part!r}")
        return ExitTrace.load(self.files.path(trace_file(part)))

    def recorded(self, part: str) -> ExitTrace | CascadeTrace:
        """Return the recorded outputs on a part: of a cascade, its CascadeTrace, of which policies choose."""
        return self.by_model(self.trace(part))

    def by_model(self, trace: ExitTrace) -> ExitTrace | CascadeTrace:
        """Return a trace of all exits; of a cascade, as its CascadeTrace."""
        return CascadeTrace.of(trace, [model.step for model in self.cascade]) if self.cascade else trace

    def replayed(self, policy: Policy, part: str) -> ExitTrace:
        """Return what the exits that a policy runs said of a part, at the policy's costs."""
        return self.recorded(part).along(policy.cascade).with_cost(policy.cost)

    @property
    def policy(self) -> Policy:
        """The calibrated policy. Raises InputError before `exeunt calibrate`."""
        if not self.has_policy:
            budget = f"{self.cost.share_to_try(0.5):.0%}"
            mended = f"run `exeunt calibrate {quote(str(self.path))} --budget {budget}` first"
            raise InputError(f"{self.path} has no policy yet: {mended}")
        policy = Policy.load(self.path / POLICY)
        self._check_own(policy, self.path / POLICY)
        return policy

    @property
    def has_policy(self) -> bool:
        """Whether there is a calibrated policy."""
        return os.path.lexists(self.path / POLICY)

    def save_policy(self, policy: Policy) -> None:
        """Write the policy, bound to this run; it replaces the one before, and numbers, figures and exports of that go.

        Raises as `check_policy` does.
        """
        self.check_policy(policy)
        replace(policy, run=self.digest).save(self.path / POLICY)
        _remove_of_policy(self.path)

    @property
    def policy_set(self) -> PolicySet:
        """The policies for a grid of budgets. Raises InputError before `exeunt calibrate --budgets`."""
        if not self.has_policy_set:
            mended = f"run `exeunt calibrate {quote(str(self.path))} --budgets 20%:95%:5%` first"
            raise InputError(f"{self.path} has no policies for several budgets yet: {mended}")
        policies = PolicySet.load(self.path / POLICIES)
        for policy in policies:
            self._check_own(policy, self.path / POLICIES)
        return policies

    @property
    def has_policy_set(self) -> bool:
        """Whether there are policies for a grid of budgets."""
        return os.path.lexists(self.path / POLICIES)

    def save_policy_set(self, policies: PolicySet) -> None:
        """Write policies for a grid of budgets, bound to this run; they replace those before.

        Raises as `check_policy` does.
        """
        for policy in policies:
            self.check_policy(policy)
        bound = tuple(replace(policy, run=self.digest) for policy in policies)
        PolicySet(bound).save(self.path / POLICIES)

    def plan(self, executor: str, device: str = CPU) -> Plan | None:
        """Return the plan for this executor on this device (see `Executor.device`).

        Returns None if there is none, or if it was measured on another kind of machine or device. Raises
        ArtefactError if its file is damaged, edited, of another kind or newer.
        """
        plan = self._measured("plan", executor, device, Plan.from_dict)
        fits = plan is not None and (not plan.machine or is_this_machine(plan.machine, device))
        return plan if fits else None

    def profile(self, executor: str, device: str = CPU) -> Profile | None:
        """Return what was measured of this executor on this kind of device, on whatever machine; None if nothing was.

        Raises ArtefactError as `plan` does.
        """
        return self._measured("profile", executor, device, Profile.from_dict)

    def save_plan(self, plan: Plan) -> None:
        """Write the plan for its executor and kind of device; it replaces the one before."""
        self._save_measured("plan", plan)

    def save_profile(self, profile: Profile) -> None:
        """Write what was measured of an executor on a kind of device; it replaces what was measured before."""
        self._save_measured("profile", profile)

    def _measured(
        self, kind: str, executor: str, device: str, build: Callable[[Mapping[str, Any]], T]
    ) -> T | None:
        file = self.path / measured_file(kind, executor, device)
        if not os.path.lexists(file):
            return None
        return read_sealed(
            file, kind, build, kind=kind, format_=f"exeunt-{kind}", version=1, remedy="measure it again"
        )

    def _save_measured(self, kind: str, measured: Plan | Profile) -> None:
        file = self.path / measured_file(kind, measured.executor, measured.machine.get("device", CPU))
        write_sealed(file, kind, measured.to_dict(), format_=f"exeunt-{kind}", version=1)

    def folder(self, name: str) -> Path:
        """Return a subfolder, such as that for figures; it is made if it does not exist."""
        return make_folder(self.path / name)

    def check_policy(self, policy: Policy, name: str = "the policy") -> None:
        """Raise ArtefactError if a policy was calibrated for another run than this one."""
        cost = None
        if policy.run is None and bool(self.cascade) <= bool(policy.cascade):
            cost = self.recorded("calibrate").along(policy.cascade).cost if policy.cascade else self.cost
        check_made_for(policy, name, run=self.path, digest=self.digest, cost=cost)

    def _check_own(self, policy: Policy, file: Path) -> None:
        """Raise ArtefactError unless a policy in `file` of this folder was calibrated for this run.

        Files that do not say so, of versions before 0.1 or of `Policy.save`, are replayed.
        """
        self.check_policy(policy, str(file))
        if policy.run is None:
            check_replayed(policy, file, run=self.path, calibrate=self.recorded("calibrate"))


def measured_file(kind: str, executor: str, device: str) -> str:
    """Return the name of the file of a "plan" or "profile" of this executor on this kind of device."""
    return f"{kind}-{executor}.json" if device == CPU else f"{kind}-{executor}-{device.split()[0]}.json"


def _remove_of_policy(run: Path) -> None:
    """Remove what is about the policy of a run, or has it inside."""
    for name in (*EVALUATED, *POLICY_INSIDE):
        with suppress(FileNotFoundError, NotADirectoryError):
            (run / name).unlink()
