"""Exporting a network with exits to ONNX files, one per stage, which are compared with PyTorch before they are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from exeunt._support.files import atomic_folder, check_writable, file_digest
from exeunt._support.text import counted
from exeunt.errors import InputError, require
from exeunt.onnx.manifest import FOLDER, OnnxManifest, OnnxStage, OnnxTensor
from exeunt.onnx.model_file import OnnxGraph, rename_inputs
from exeunt.runs.folder import RunFolder
from exeunt.runs.manifest import package_versions
from exeunt.runs.run_inputs import load_preparation
from exeunt.runs.run_path import refuse_precision
from exeunt.torch.calls import Inputs
from exeunt.torch.cutting.torch_export import quiet
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.models.hugging_face import longest_text
from exeunt.torch.named_inputs import read_example, token_inputs
from exeunt.torch.open_run import load_network, run_example
from exeunt.torch.stages_with_heads import StagesWithHeads, stages_with_heads

OPSET = 18
"""Version of the ONNX operators."""
BATCHES = (1, 2, 5)  # rows of the batches that stages are compared with PyTorch on
TOLERANCE = 1e-4
_PACKAGES = ("exeunt", "torch", "onnx", "onnxscript", "onnxruntime")


def export_run(
    run: RunFolder,
    *,
    trusted: str | None = None,
    say: Callable[[str], None] = print,
) -> OnnxManifest:
    """Write the folder `onnx/` of a run folder, one file per stage and a manifest; it replaces the one before.

    Images have the size that they are resized to; texts have any length that the network takes.
    Raises InputError if the network cannot be cut or exported, or if ONNX Runtime computes other values.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, extra="export")
    check_writable(run.path, f"cannot export {run.path}")
    refuse_precision(run.path, run.manifest)
    prepare = load_preparation(run)
    network = load_network(run, trusted=trusted).cpu()
    with atomic_folder(run.path / FOLDER) as folder:
        return export_network(
            network,
            run_example(run, prepare),
            folder,
            prepare=run.manifest["inputs"],
            weights=run.manifest["files"][run.weights.name],
            padding=_padding(prepare),
            say=say,
        )


def export_network(
    network: EarlyExitNetwork,
    example: Inputs,
    folder: Path,
    *,
    prepare: Mapping[str, Any] | None = None,
    weights: str = "",
    padding: Mapping[str, int] | None = None,
    say: Callable[[str], None] = print,
) -> OnnxManifest:
    """Write a network's stages to `folder`, with a manifest, and compare them with PyTorch.

    `example`: a batch of its inputs, which fixes every size except the number of rows and the length of texts.
    `prepare`, `weights`: copied into the manifest. `padding`: what inputs of tokens (n, t) are padded with, by name.
    Raises InputError (see `export_run`).
    """
    staged = network.stages(example)
    batch = read_example(network.backbone, example).at_least_two()
    if batch.n_tokens is not None and not staged.length_is_open:
        raise InputError(
            "this network's code makes the length of texts a constant, so its stages cannot be exported: answer with "
            "PyTorch (--executor eager)"
        )
    stages = stages_with_heads(network, staged)
    say(f"translating {counted(len(stages.parts), 'stage')}")
    models = _split(stages, _translate(stages, batch.named))
    say(f"comparing each with PyTorch, in batches of {', '.join(map(str, BATCHES))}")
    differences = differences_from_pytorch(network, stages, models, batch.named)
    refuse_differences(differences)
    manifest = OnnxManifest(
        inputs=batch.names,
        tensors={
            name: OnnxTensor(
                str(tensor.dtype).removeprefix("torch."),
                tensor.shape,
                tensor.batch_dim,
                (padding or {}).get(name),
            )
            for name, tensor in stages.tensors.items()
        },
        stages=tuple(_write(folder, i, stages, model, differences[i]) for i, model in enumerate(models)),
        weights=weights,
        longest_text=None if batch.n_tokens is None else longest_text(network.backbone),
        prepare=prepare or {},
        gate=network.gate is not None,
        provenance={"opset": OPSET, "batches": BATCHES, "packages": package_versions(_PACKAGES)},
    )
    manifest.save(folder)
    return manifest


def _translate(stages: StagesWithHeads, inputs: Mapping[str, Tensor]) -> Any:
    """Return one ONNX model of all stages side by side, each with its own inputs."""
    with torch.no_grad():
        known = stages.run_in_sequence(inputs)
    arguments = []
    for i, part in enumerate(stages.parts):
        rows = torch.arange(i + 2) % 2  # a different number for each stage, so that sizes cannot be mixed up
        # Clones, because the exporter takes one tensor in two places for one input.
        arguments += [stages.tensors[name].take(known[name], rows).clone() for name in part.takes]
    try:
        # The exporter takes attention apart by its plain formula; other kernels leave results in another layout.
        with quiet(), sdpa_kernel(SDPBackend.MATH):
            program = torch.onnx.export(
                stages.eval(),
                tuple(arguments),
                dynamo=True,
                input_names=[_own(i, name) for i, part in enumerate(stages.parts) for name in part.takes],
                output_names=[name for part in stages.parts for name in part.gives],
                dynamic_shapes=stages.dynamic_shapes(),
                opset_version=OPSET,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise InputError(f"PyTorch cannot translate this network to ONNX: {error}") from error
    assert program is not None  # noqa: S101 - never None with dynamo=True
    return program.model_proto


def _own(i: int, name: str) -> str:
    """Return the name of a stage's input in the model of all stages."""
    return f"stage{i}/in/{name}"


def _split(stages: StagesWithHeads, model_of_all: Any) -> list[Any]:
    """Return each stage's part of the model of all stages, with the names that its tensors have in the network.

    Raises InputError for a part that takes one number of rows or tokens only.
    """
    from onnx import load_from_string
    from onnx.checker import check_model

    graph = OnnxGraph.read(model_of_all.SerializeToString())
    models = []
    for i, part in enumerate(stages.parts):
        model = load_from_string(graph.model(part.gives))
        rename_inputs(model.graph, {_own(i, name): name for name in part.takes})
        # The exporter may have fixed the number of rows or tokens, which it does silently.
        for tensor_info in model.graph.input:
            tensor = stages.tensors[tensor_info.name]
            for axis, size in enumerate(tensor.shape):
                if size is None and not tensor_info.type.tensor_type.shape.dim[axis].dim_param:
                    axis_name = "rows" if axis == tensor.batch_dim else "tokens"
                    raise InputError(
                        f"exit {i} works for one number of {axis_name} only when it is exported (its code turns the "
                        "number into a constant, as len(x) does, unlike x.shape[0]): it cannot be exported"
                    )
        check_model(model, full_check=True)
        models.append(model)
    return models


def _write(folder: Path, i: int, stages: StagesWithHeads, model: Any, difference: float) -> OnnxStage:
    from onnx import save

    file = folder / f"stage-{i:02d}.onnx"
    save(model, str(file))
    return OnnxStage(
        file=file.name,
        sha256=file_digest(file),
        takes=tuple(info.name for info in model.graph.input),
        gives=tuple(stages.parts[i].gives),
        logits=stages.parts[i].logits,
        max_difference=difference,
    )


def _padding(prepare: Any) -> dict[str, int]:
    """Return what a tokeniser pads each of its outputs with; nothing for images."""
    if (pad := getattr(prepare, "pad_token_id", None)) is None:
        return {}
    return {"input_ids": int(pad), "attention_mask": 0, "token_type_ids": int(prepare.pad_token_type_id)}


def differences_from_pytorch(
    network: EarlyExitNetwork, stages: StagesWithHeads, models: Sequence[Any], example: Mapping[str, Tensor]
) -> list[float]:
    """Return each stage's largest difference from PyTorch, relative to values above 1 in size.

    A stage is compared in all that it computes from PyTorch's own values (but for padding), and in its logits when all
    stages run in sequence. Batches have 1, 2 and 5 rows: noise, and smooth images or texts of several lengths, padded
    to about half the length of the example.
    """
    runtime = require("onnxruntime", extra="export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = [
        runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for model in models
    ]
    largest = np.zeros(len(models))
    shorter = {
        name: tensor[:, : -(-tensor.shape[1] // 2)] if name in token_inputs(example) else tensor
        for name, tensor in example.items()
    }
    for seed, (smooth, like) in enumerate([(False, example), (True, shorter)]):
        rng = torch.Generator().manual_seed(seed)
        rows = {name: _random_like(name, tensor, rng, smooth=smooth) for name, tensor in like.items()}
        for start, size in zip(accumulate(BATCHES, initial=0), BATCHES, strict=False):
            batch = {name: tensor[start : start + size] for name, tensor in rows.items()}
            largest = np.maximum(largest, _batch_differences(batch, network, stages, sessions))
    return [float(difference) for difference in largest]


def refuse_differences(differences: Sequence[float]) -> None:
    """Raise InputError, naming the exit, for a difference above the tolerance."""
    for exit_, difference in enumerate(differences):
        if not difference <= TOLERANCE:
            raise InputError(
                f"exit {exit_} computes other values in ONNX Runtime than in PyTorch: they differ by "
                f"{difference:.2g}, allowed are {TOLERANCE:g}; nothing was exported. Try other versions "
                "of onnxruntime and torch"
            )


@torch.no_grad()
def _batch_differences(
    batch: Mapping[str, Tensor], network: EarlyExitNetwork, stages: StagesWithHeads, sessions: Sequence[Any]
) -> list[float]:
    known = stages.run_in_sequence(batch)
    with network.reading_gate(batch.get("attention_mask")) as told:
        logits = network(**batch) if len(batch) > 1 else network(*batch.values())
    expected = [*told, *logits]
    in_sequence = {name: tensor.numpy() for name, tensor in batch.items()}
    mask, worst = batch.get("attention_mask"), []

    def apart(values: Any, expected: Tensor) -> float:
        # Padding that sees nothing but padding has no attention that runtimes would agree on.
        if mask is not None and mask.shape == expected.shape[:2] == values.shape[:2]:
            return _distance(values[mask.numpy() > 0], expected[mask > 0])
        return _distance(values, expected)

    for stage, session, logits in zip(stages.parts, sessions, expected, strict=True):
        takes = [get_input.name for get_input in session.get_inputs()]
        from_known = session.run(stage.gives, {name: known[name].contiguous().numpy() for name in takes})
        distances = [apart(array, known[name]) for name, array in zip(stage.gives, from_known, strict=True)]
        outputs = session.run(stage.gives, {name: in_sequence[name] for name in takes})
        in_sequence |= dict(zip(stage.gives, outputs, strict=True))
        worst.append(max(*distances, _distance(in_sequence[stage.logits], logits), 0.0))
    return worst


def _distance(array: Any, expected: Tensor) -> float:
    """Return the largest difference relative to max(1, largest value).

    It is infinite for any NaN, and if shapes, types or infinite values differ.
    """
    reference = expected.numpy()
    if array.shape != reference.shape or array.dtype != reference.dtype:
        return float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.abs(array.astype(np.float64) - reference.astype(np.float64))
    apart = np.where(array == reference, 0.0, np.nan_to_num(apart, nan=np.inf, posinf=np.inf))
    scale = max(1.0, float(np.abs(reference[np.isfinite(reference)]).max(initial=0)))
    return float(apart.max(initial=0.0)) / scale


def _random_like(name: str, tensor: Tensor, rng: torch.Generator, *, smooth: bool) -> Tensor:
    """Return inputs like the example's: noise or smooth images, random tokens, masks of one or several lengths."""
    shape = (sum(BATCHES), *tensor.shape[1:])
    if tensor.is_floating_point():
        noise = torch.randn(shape, generator=rng, dtype=torch.float32)
        if smooth and noise.ndim == 4:
            small = torch.nn.functional.interpolate(noise, size=(4, 4))
            noise = torch.nn.functional.interpolate(small, size=shape[2:], mode="bilinear")
        return noise.to(tensor.dtype)
    if name == "attention_mask":
        lengths = torch.randint(1, shape[1] + 1, (sum(BATCHES), 1), generator=rng) if smooth else shape[1]
        return (torch.arange(shape[1]).expand(shape) < lengths).to(tensor.dtype)
    return torch.randint(0, int(tensor.max()) + 1, shape, generator=rng).to(tensor.dtype)
