"""`exeunt predict RUN --data images/ --out predictions.parquet`: answer inputs within the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exeunt.cli.arguments import ExecutorName, RunPath, TextColumn, TrustedModel, column_names


def predict(
    path: RunPath,
    data: Annotated[
        str,
        typer.Option(
            help="Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt "
            "train` takes.",
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
    text_column: TextColumn = None,
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
    inputs = open_inputs(data, text=column_names(text_column) or run.manifest["data"].get("text", ()))
    summary = predict_inputs(
        run, inputs, out,
        batch_size=batch_size, workers=workers, strict=strict, executor=executor, trusted=trusted, say=typer.echo,
    )  # fmt: skip
    typer.echo(summary)
