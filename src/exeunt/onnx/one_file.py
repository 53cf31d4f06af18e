"""The stages of a run, or of the models of a cascade, and its policy as one file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from onnx import compose, load, save

from exeunt._support.files import atomic_path
from exeunt.errors import InputError
from exeunt.onnx.manifest import FOLDER, OnnxManifest, check_onnx
from exeunt.onnx.model_file import rename_inputs
from exeunt.onnx.nested_if import ModelStage, model_with_policy
from exeunt.policy import Policy
from exeunt.runs.executors import EXECUTORS, is_exported
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_path import refuse_masks, refuse_precision
from exeunt.trace.cascade_step import CascadeStep


@dataclass(frozen=True)
class Preparation:
    """Names of inputs of the model that are made of the raw input in one way, and a run that prepares them."""

    inputs: tuple[str, ...]
    run: RunFolder


class RunInOneFile:
    """The model of a run and its policy. `preparations`: how its inputs are made.

    A cascade takes the inputs of all its models, named MODEL/INPUT. Models that prepare inputs alike share those of
    the first of them.

    Raises InputError if there is no policy, or if a network was not exported or cannot be, ArtefactError if stages are
    damaged, and what `model_with_policy` raises.
    """

    def __init__(self, run: RunFolder) -> None:
        stages: list[ModelStage] = []
        exits: list[int] = []
        preparations: dict[Any, Preparation] = {}
        for name, model, step in _models(run, run.policy):
            prefix = f"{name}/" if name else ""
            inputs = OnnxManifest.load(model.path / FOLDER).inputs
            own = tuple(prefix + name for name in inputs)
            shared = preparations.setdefault((inputs, _way(model)), Preparation(own, model)).inputs
            before = len(stages) + model.has_gate
            exits += [before + exit_ for exit_ in step.exits]
            renames = dict(zip(own, shared, strict=True))
            read = read_stages(model.path / FOLDER)[: model.has_gate + step.exits[-1] + 1]
            stages += [_renamed(stage, prefix, renames) for stage in read]
        self.model = model_with_policy(
            stages, run.policy, exits=exits, about={"class_names": run.manifest["class_names"]}
        )
        taken = {
            tensor.name for tensor in self.model.graph.input
        }  # not those of a model that no input reaches
        self.preparations = tuple(
            Preparation(names, preparation.run)
            for preparation in preparations.values()
            if (names := tuple(name for name in preparation.inputs if name in taken))
        )
        ways = [
            {"inputs": preparation.inputs, **preparation.run.manifest["inputs"]}
            for preparation in self.preparations
        ]
        self.model.metadata_props.add(key="prepare", value=json.dumps(ways))

    def save(self, file: Path) -> None:
        """Write the model to a file, atomically."""
        with atomic_path(file) as temporary:
            save(self.model, str(temporary))


def read_stages(folder: Path) -> list[ModelStage]:
    """Read the stages that `exeunt export` wrote to a folder."""
    manifest = OnnxManifest.load(folder)
    return [ModelStage(load(str(folder / stage.file)), stage.logits) for stage in manifest.stages]


def _models(run: RunFolder, policy: Policy) -> Iterator[tuple[str, RunFolder, CascadeStep]]:
    """Yield (name, run, step) of each model of a cascade; of another run, the run itself with the name ""."""
    steps = policy.cascade or (CascadeStep("", policy.n_exits),)
    for step in steps:
        model = run.open_model(step.model) if run.cascade else run
        refuse_masks(model.path, model.manifest)
        if not is_exported(model, EXECUTORS["onnx"]):
            refuse_precision(model.path, model.manifest)
            why = f"was not exported: run `exeunt export {quote(str(model.path))}` first"
            if "onnx" not in model.kind.executors:
                why = (
                    f"holds no network of PyTorch, which one file needs, but {model.kind.holds}: make a cascade "
                    "without it, or answer with `exeunt predict` or exeunt.load"
                )
            raise InputError(f"{model.path} {why}")
        check_onnx(model)
        yield step.model if run.cascade else "", model, step


def _way(run: RunFolder) -> Any:
    """Return a key that is equal for two runs that prepare inputs alike."""
    entry = {name: setting for name, setting in run.manifest["inputs"].items() if name != "length"}
    tokenizer = {name: digest for name, digest in run.files.digests.items() if name.startswith("tokenizer/")}
    return str(sorted(entry.items())), str(sorted(tokenizer.items()))


def _renamed(stage: ModelStage, prefix: str, inputs: Mapping[str, str]) -> ModelStage:
    """Return a stage with a prefix before every name, and the network's inputs renamed by `inputs`."""
    rename_inputs(compose.add_prefix_graph(stage.model.graph, prefix, inplace=True), inputs)
    return ModelStage(stage.model, prefix + stage.logits)
