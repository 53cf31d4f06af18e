"""`exeunt export RUN --to onnx`: files that run without PyTorch."""

from __future__ import annotations

from typing import Annotated

import typer

from exeunt._words import counted
from exeunt.cli.arguments import RunPath, TrustedModel
from exeunt.errors import InputError, require


def export(
    path: RunPath,
    to: Annotated[str, typer.Option(help="Format of the files: onnx.")] = "onnx",
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators.")] = 18,
    trusted: TrustedModel = None,
) -> None:
    """Write one ONNX file per stage to RUN/onnx and compare each with PyTorch.

    The run then answers without PyTorch: NumPy and ONNX Runtime are enough (the extra `onnx`).
    """
    if to != "onnx":
        raise InputError(f"--to must be onnx, got {to!r}")
    require("torch", extra="export")
    from exeunt.run.folder import RunFolder
    from exeunt.torch.export.to_onnx import export_run

    manifest = export_run(RunFolder.open(path), opset=opset, trusted=trusted, say=typer.echo)
    worst = max(stage.max_difference for stage in manifest.stages)
    typer.echo(
        f"{counted(manifest.n_exits, 'stage')} written to {path / 'onnx'}, opset {opset}; they differ from PyTorch "
        f"by at most {worst:.1g}"
    )
