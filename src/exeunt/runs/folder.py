"""The run folder: a network's weights, costs, traces and policies on disk, with where they are from.

    bundle.json             manifest: format, version, its own digest and those of the next four, all else as JSON
    weights.safetensors     backbone and heads, of a network that PyTorch trained
    cascade.json            in place of weights: the models of a cascade, each a run folder elsewhere or in models/
    model.skops             in place of weights: an estimator of scikit-learn, such as `--model tfidf`
    models.json             in place of weights: the live models with their highest costs, see `exeunt record`
    decoder.safetensors     in place of weights: a decoder that generates, with its heads
    object.json             in place of weights: a note that the model is an object of your own, which no file holds
    costs.json              what an answer costs at each exit
    traces/PART.parquet     recorded outputs on fit, calibrate and test
    model/, tokenizer/      of Hugging Face models: configuration and tokenizer
    policy.json             the calibrated policy, after `exeunt calibrate`
    policies.json           in its place, after `exeunt calibrate --budgets`: policies for several budgets
    plan-EXECUTOR.json      how to run the network on this machine, after `exeunt bench --profile`
    plan-EXECUTOR-cuda.json the same, measured on an accelerator
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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from exeunt._support.files import make_folder, write_json
from exeunt._support.sealed_json import DIGEST, read_built, read_sealed, write_sealed
from exeunt._support.text import counted
from exeunt.costs.cost_model import CostModel
from exeunt.engine.executor import CPU
from exeunt.engine.plan import Plan
from exeunt.errors import ArtefactError, InputError
from exeunt.policy import Policy
from exeunt.runs import file_digests
from exeunt.runs.kinds import KINDS, RunKind, imported
from exeunt.runs.kinds.pytorch import WEIGHTS
from exeunt.runs.manifest import REMEDY, CascadeEntry, check_entries, read_manifest, sealed_manifest
from exeunt.runs.run_path import at_precision, check_precision, split_budget, why_not_a_run
from exeunt.runs.saved_policies import SavedPolicies, remove_of_policy
from exeunt.timing.timing_tools import is_this_machine
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.derived import worse_last_exit

T = TypeVar("T")

_PLAN = "plan"
_PLAN_FORMAT: dict[str, Any] = {"format_": "exeunt-plan", "version": 1}


@dataclass(frozen=True)
class RunFolder(SavedPolicies):
    """The run folder at `path`, with its `manifest`. `create` makes one, `open` reads one.

    `budget`: which of its policies for several budgets is active, see `SavedPolicies`.
    `steps`: which models of a cascade are run, and which exits of each or of one network; by default all.
    `objects`: by name, the models of a cascade that no file holds.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    budget: str | None = None
    steps: tuple[CascadeStep, ...] = ()
    objects: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Return whether `path` is a complete run folder."""
        return os.path.isfile(Path(path) / file_digests.MANIFEST)  # noqa: PTH113 - without an error where access is denied

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

        `about`: the manifest's other entries, JSON-able: `model` (spec, n_classes, macs), `network` (exits: the names
        of all but the last), `inputs` (kind: "image" or "text"), `class_names`, `data` (name), `split`, `training` and
        `provenance`. `network`: the file that the network is in, which tells its kind. Raises InputError without it,
        and for entries that are missing or of another kind.
        """
        root = Path(path)
        if not (root / network).is_file():
            raise InputError(f"{root} has no {network}: write it before the run folder is made")
        check_entries(sealed_manifest(about, {}))
        if len(names := about["network"]["exits"]) + 1 != cost.n_exits:
            raise InputError(
                f"network.exits names {counted(len(names), 'exit')}, and the costs are of {cost.n_exits}: name all but "
                "the last"
            )
        # A folder with a manifest is complete, and this one is being made again.
        (root / file_digests.MANIFEST).unlink(missing_ok=True)
        remove_of_policy(root)
        make_folder(root / "traces")
        for part, trace in traces.items():
            trace.save(root / file_digests.trace_file(part))
        write_json(root / file_digests.COSTS, cost.to_dict())
        manifest = sealed_manifest(about, file_digests.digests_of(root, traces, network))
        write_json(root / file_digests.MANIFEST, manifest)
        return cls(root, manifest)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Read the manifest of a run folder: "RUN@int8" is RUN at this precision, "RUN@50%" with this policy active.

        Raises InputError if there is none, ArtefactError if the manifest is damaged, of another kind or newer.
        """
        name, budget = split_budget(Path(path))
        root = at_precision(name)
        if not cls.exists(root):
            raise InputError(why_not_a_run(root))
        needed = (file_digests.COSTS, *(file_digests.trace_file(part) for part in file_digests.TRACED))
        manifest = read_manifest(root / file_digests.MANIFEST, files=needed, one_of=[WEIGHTS, *KINDS])
        run = cls(root, manifest, budget)
        check_precision(root, run.manifest)
        return run

    @property
    def digest(self) -> str:  # type: ignore[override]
        """The manifest's own digest, which stands for the whole run: weights, heads, inputs, costs and traces."""
        return str(self.manifest[DIGEST])

    @cached_property
    def files(self) -> file_digests.RunFiles:
        """The files that the manifest names, each checked when it is first needed."""
        return file_digests.RunFiles(self.path, self.manifest["files"])

    @property
    def kind(self) -> RunKind:
        """What commands can do with such a run, and how."""
        return self.files.kind

    def network_file(self, name: str) -> Path:
        """Return the path of the file `name` that holds the network. Raises InputError for a run of another kind."""
        if name != self.kind.file:
            raise InputError(
                f"{self.path} holds {self.kind.holds}, and this takes a run that holds {KINDS[name].holds}"
            )
        return self.files.path(name)

    @property
    def weights(self) -> Path:
        """The safetensors file of backbone and heads. Raises InputError for a run of another kind."""
        return self.network_file(WEIGHTS)

    def refuse(self, verb: str) -> None:
        """Raise InputError if a run of this kind cannot do this, see `RunKind.refuses`."""
        if sentence := self.kind.refuses.get(verb):
            raise InputError(sentence.format(run=self.path, unit=self.cost.unit))

    @property
    def n_exits(self) -> int:  # type: ignore[override]
        """Number of exits; of a cascade those of all models."""
        return len(self.manifest["network"]["exits"]) + 1

    @property
    def has_gate(self) -> bool:
        """Whether the network has a gate, at which policies that look once choose an input's exit."""
        return "gate" in self.manifest["network"]

    @property
    def exit_names(self) -> tuple[str, ...]:
        """What answers at each exit: a head behind a module, the network's last layer, or a model of a cascade."""
        if self.cascade and len(self.cascade) == self.n_exits:
            return tuple(model.name for model in self.cascade)
        network = self.manifest["network"]
        new = network.get("new_classifier")
        own = "own mask decoder" if self.masks else self.kind.last_exit
        last = f"(new classifier: {new})" if new else f"({own})"
        return *network["exits"], f"{self.cascade[-1].name}: last exit" if self.cascade else last

    @cached_property
    def cascade(self) -> tuple[CascadeEntry, ...]:
        """The models of a cascade, in order; none for one network. Live models have one exit each."""
        if not self.kind.models:
            return ()
        file = self.kind.file
        models: tuple[CascadeEntry, ...] = imported(self.kind.models)(self.files.path(file), self.digest)
        self.check_exits(file, sum(model.n_exits for model in models))
        return models

    def open_model(self, name: str) -> RunFolder:
        """Open the run of a model of the cascade; that of a live model is the cascade itself.

        Raises ArtefactError if it was made anew since the cascade was.
        """
        entry = next(entry for entry in self.cascade if entry.name == name)
        model = replace(RunFolder.open(entry.folder(self.path)), objects=self.objects)
        if model.digest != entry.digest:
            raise ArtefactError(
                f"{model.path}, the model {name!r} of {self.path}, was made anew since the cascade was: make the "
                "cascade anew with `exeunt cascade`"
            )
        return model

    @property
    def assumption(self) -> str:  # type: ignore[override]
        """What certificates of its policies assume beside exchangeable inputs, of a log that lacked grades; or ""."""
        return str(self.manifest["data"].get("assumption", ""))

    @property
    def masks(self) -> bool:
        """Whether the network answers with masks."""
        return bool(self.manifest["network"].get("masks"))

    @property
    def runs_whole(self) -> str:
        """Why the network could not be cut, so that every exit costs as much as the last; "" if it could."""
        return str(self.manifest["model"].get("runs_whole", ""))

    @property
    def cost(self) -> CostModel:  # type: ignore[override]
        """Cumulative cost per exit."""
        return read_built(
            self.files.path(file_digests.COSTS), CostModel.from_dict, kind="cost model", remedy=REMEDY
        )

    def check_exits(self, name: str, n_exits: int) -> None:
        """Raise ArtefactError unless the file `name` is for as many exits as the network has."""
        if n_exits != self.n_exits:
            raise ArtefactError(f"{self.path / name} is for {n_exits} exits, the network has {self.n_exits}")

    def trace(self, part: str) -> ExitTrace:
        """Return the recorded outputs on "fit", "calibrate" or "test", of a cascade those of all models in a row.

        In a run without labels, answers are measured by their agreement with the full network.
        """
        trace, reference = self.labelled_trace(part), self.manifest["data"].get("reference")
        return trace if reference is None else trace.with_reference(reference["exit"], reference["name"])

    def labelled_trace(self, part: str) -> ExitTrace:
        """Return the recorded outputs as `trace` does, with the labels of the data, or None."""
        if part not in file_digests.TRACED:
            raise InputError(f"a run folder has traces of {', '.join(file_digests.TRACED)}, not of {part!r}")
        return ExitTrace.load(self.files.path(file_digests.trace_file(part)))

    def worse_last_exit(self, part: str) -> str:
        """Return that the last exit of one network is worse on a part than an earlier one, see there; else ""."""
        return "" if self.cascade else worse_last_exit(self.labelled_trace(part))

    def recorded(self, part: str) -> ExitTrace | CascadeTrace:
        """Return the recorded outputs on a part: of a cascade, as the CascadeTrace that policies choose from."""
        return self.by_model(self.trace(part))

    def by_model(self, trace: ExitTrace) -> ExitTrace | CascadeTrace:
        """Return a trace of all exits; of a cascade, as its CascadeTrace."""
        steps = [model.step for model in self.cascade]
        highest = {model.name: model.highest for model in self.cascade if model.highest is not None}
        return CascadeTrace.of(trace, steps, highest) if steps else trace

    def replayed(self, policy: Policy, part: str) -> ExitTrace:
        """Return the recorded outputs on a part, as `Policy.priced` does."""
        return policy.priced(self.recorded(part))

    def plan(self, executor: str, device: str = CPU) -> Plan | None:
        """Return the plan for this executor on this device (see `Executor.device`).

        Returns None if there is none, or if it was measured on another kind of machine or device. Raises
        ArtefactError if its file is damaged, edited, of another kind or newer.
        """
        file = self.path / plan_file(executor, device)
        if not os.path.lexists(file):
            return None
        plan = read_sealed(file, _PLAN, Plan.from_dict, kind=_PLAN, remedy="measure it again", **_PLAN_FORMAT)
        if plan.executor != executor:
            raise ArtefactError(f"{file} is the plan for {plan.executor}: measure it again")
        return plan if not plan.machine or is_this_machine(plan.machine, device) else None

    def save_plan(self, plan: Plan) -> None:
        """Write the plan for its executor and kind of device; it replaces the one before."""
        file = self.path / plan_file(plan.executor, plan.machine.get("device", CPU))
        write_sealed(file, _PLAN, plan.to_dict(), **_PLAN_FORMAT)

    def folder(self, name: str) -> Path:
        """Return a subfolder, such as that for figures; it is made if it does not exist."""
        return make_folder(self.path / name)


def plan_file(executor: str, device: str) -> str:
    """Return the name of the file of a plan for this executor on this kind of device."""
    return f"plan-{executor}.json" if device == CPU else f"plan-{executor}-{device.split()[0]}.json"
