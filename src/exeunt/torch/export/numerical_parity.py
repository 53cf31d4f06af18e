"""Comparing exported stages with PyTorch: each on PyTorch's values, and all in sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from exeunt.errors import InputError, require
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.named_inputs import token_inputs

if TYPE_CHECKING:
    from exeunt.torch.export.stages_with_heads import StagesWithHeads

BATCHES = (1, 2, 5)
TOLERANCE = 1e-4
_ROWS = sum(BATCHES)


def differences_from_pytorch(
    network: EarlyExitNetwork, stages: StagesWithHeads, models: Sequence[Any], example: Mapping[str, Tensor]
) -> list[float]:
    """Return each stage's largest difference from PyTorch, relative to values above 1 in size.

    A stage is compared in all that it computes from PyTorch's own values, and in its logits when all stages run in
    sequence. Batches have 1, 2 and 5 rows: noise, and smooth images or texts of several lengths, padded to about half
    the length of the example.
    """
    sessions = [_session(model) for model in models]
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
                f"{difference:.2g}, allowed are {TOLERANCE:g}; nothing was exported. Try another --opset, or "
                "other versions of onnxruntime and torch"
            )


@torch.no_grad()
def _batch_differences(
    batch: Mapping[str, Tensor], network: EarlyExitNetwork, stages: StagesWithHeads, sessions: Sequence[Any]
) -> list[float]:
    known = stages.run_in_sequence(batch)
    expected = network(**batch) if len(batch) > 1 else network(*batch.values())
    in_sequence = {name: tensor.numpy() for name, tensor in batch.items()}
    worst = []
    for stage, session, logits in zip(stages.parts, sessions, expected, strict=True):
        takes = [value.name for value in session.get_inputs()]
        from_known = session.run(stage.gives, {name: known[name].contiguous().numpy() for name in takes})
        apart = [_distance(value, known[name]) for name, value in zip(stage.gives, from_known, strict=True)]
        given = session.run(stage.gives, {name: in_sequence[name] for name in takes})
        in_sequence |= dict(zip(stage.gives, given, strict=True))
        worst.append(max(*apart, _distance(in_sequence[stage.logits], logits), 0.0))
    return worst


def _distance(value: Any, expected: Tensor) -> float:
    """Return the largest difference relative to max(1, largest value).

    It is infinite for any NaN, and if shapes, types or infinite values differ.
    """
    reference = expected.numpy()
    if value.shape != reference.shape or value.dtype != reference.dtype:
        return float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.abs(value.astype(np.float64) - reference.astype(np.float64))
    apart = np.where(value == reference, 0.0, np.nan_to_num(apart, nan=np.inf, posinf=np.inf))
    scale = max(1.0, float(np.abs(reference[np.isfinite(reference)]).max(initial=0)))
    return float(apart.max(initial=0.0)) / scale


def _random_like(name: str, tensor: Tensor, rng: torch.Generator, *, smooth: bool) -> Tensor:
    """Return inputs like the example's: noise or smooth images, random tokens, masks of one or several lengths."""
    shape = (_ROWS, *tensor.shape[1:])
    if tensor.is_floating_point():
        noise = torch.randn(shape, generator=rng, dtype=torch.float32)
        if smooth and noise.ndim == 4:
            small = torch.nn.functional.interpolate(noise, size=(4, 4))
            noise = torch.nn.functional.interpolate(small, size=shape[2:], mode="bilinear")
        return noise.to(tensor.dtype)
    if name == "attention_mask":
        lengths = torch.randint(1, shape[1] + 1, (_ROWS, 1), generator=rng) if smooth else shape[1]
        return (torch.arange(shape[1]).expand(shape) < lengths).to(tensor.dtype)
    return torch.randint(0, int(tensor.max()) + 1, shape, generator=rng).to(tensor.dtype)


def _session(model: Any) -> Any:
    runtime = require("onnxruntime", extra="export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
