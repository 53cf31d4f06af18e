"""A network that PyTorch trained; after `exeunt export` ONNX Runtime runs it, too."""

from __future__ import annotations

from exeunt.runs.kinds.kind import ExecutorKind, RunKind
from exeunt.runs.kinds.onnx import ONNX_RUNTIME

WEIGHTS = "weights.safetensors"
EAGER = ExecutorKind(
    "exeunt.torch.open_run:open_eager",
    needs=WEIGHTS,
    remedy="it has no weights for PyTorch; answer with --executor onnx",
    package="torch",
    extra="torch",
    device="exeunt.torch.open_run:eager_device",
)
KIND = RunKind(
    file=WEIGHTS,
    holds="the weights of backbone and heads",
    executors={"onnx": ONNX_RUNTIME, "eager": EAGER},
)
