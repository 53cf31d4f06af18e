"""A network at another precision, which has its stages for ONNX Runtime alone."""

from __future__ import annotations

from exeunt.runs.kinds.kind import ExecutorKind, RunKind

ONNX = "onnx/manifest.json"
ONNX_RUNTIME = ExecutorKind(
    "exeunt.onnx.executor:open_onnx",
    needs=ONNX,
    remedy="run `exeunt export {run}` first",
    package="onnxruntime",
    extra="onnx",
    checker="exeunt.onnx.manifest:check_onnx",
)
KIND = RunKind(
    file=ONNX,
    holds="the manifest of the exported stages",
    made_by="repeat the `exeunt export --precision` that made it",
    executors={"onnx": ONNX_RUNTIME},
)
