"""`exeunt export RUN --to onnx`: files that run without PyTorch."""

from __future__ import annotations

from typing import Annotated

import typer

from exeunt.cli.arguments import Run, TrustedModel
from exeunt.errors import InputError, require


def export(
    path: Run,
    to: Annotated[str, typer.Option(help="The format; there is one, onnx.")] = "onnx",
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators.")] = 18,
    trusted: TrustedModel = None,
) -> None:
    """Write one ONNX file per stage into RUN/onnx, each checked against PyTorch.

    The run then answers with `pip install exeunt[onnx]` alone: NumPy and onnxruntime, no PyTorch.
    """
    if to != "onnx":
        raise InputError(f"--to must be onnx, got {to!r}")
    require("torch", extra="export")
    from exeunt.run.folder import RunFolder
    from exeunt.torch.export.to_onnx import export_run

    run = RunFolder.open(path)
    manifest = export_run(run, opset=opset, trusted=trusted, say=typer.echo)
    worst = max(stage.max_difference for stage in manifest.stages)
    typer.echo(
        f"{manifest.n_exits} stages written to {path / 'onnx'}, opset {opset}; they differ from PyTorch by at "
        f"most {worst:.1g}"
    )
