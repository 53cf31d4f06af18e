"""`exeunt predict RUN --data images/ --out predictions.parquet`: answer inputs within the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exeunt.cli.arguments import ExecutorName, RunPath, TrustedModel


def predict(
    path: RunPath,
    data: Annotated[
        str,
        typer.Option(
            help="Inputs: an image, a folder of images, or any data that `exeunt train` takes.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.", show_default=False)],
    batch_size: Annotated[int, typer.Option(help="Inputs per batch.", min=1)] = 128,
    workers: Annotated[
        int,
        typer.Option(
            help="Threads that decode images while the network runs; 0 decodes between its calls.", min=0
        ),
    ] = 0,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at the first input that cannot be read; else its row says why it has no answer.",
        ),
    ] = False,
    executor: ExecutorName = None,
    trusted: TrustedModel = None,
) -> None:
    """Answer inputs: label, class name, confidence, exit and cost of each, in order.

    If interrupted, the same command resumes.
    """
    from exeunt.data import open_inputs
    from exeunt.predicting import predict_inputs
    from exeunt.run.folder import RunFolder

    run = RunFolder.open(path)
    inputs = open_inputs(data)
    summary = predict_inputs(
        run, inputs, out,
        batch_size=batch_size, workers=workers, strict=strict, executor=executor, trusted=trusted, say=typer.echo,
    )  # fmt: skip
    typer.echo(summary)
