"""`exeunt predict RUN --data images/ --out predictions.parquet`: answer inputs within the budget."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from exeunt.cli.arguments import STANDARD, Answering, ClusterWorkers, RunPath
from exeunt.cli.failures import interruptible
from exeunt.errors import InputError

_output = partial(typer.Option, rich_help_panel="Output")


def predict(
    path: RunPath,
    data: Annotated[
        str,
        typer.Option(
            help="Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt "
            "train` takes; '-' reads standard input, a path or for texts a text per line."
        ),
    ],
    answering: Answering,
    cluster: ClusterWorkers,
    out: Annotated[
        str,
        _output(
            help="File to write: Parquet, or by its ending .csv or .jsonl; '-' prints CSV. Its folder is made. With "
            "--engine ray a folder, or an address such as s3://bucket/folder."
        ),
    ] = STANDARD,
    force: Annotated[bool, _output("--force", help="Replace a file that does not hold predictions.")] = False,
    top: Annotated[
        int, _output(help="Also write the so many most probable classes, with probabilities.", min=0)
    ] = 0,
    probabilities: Annotated[
        bool, _output("--probabilities", help="Also write the probability of every class.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at the first input that cannot be read; else its row says why it has no answer.",
        ),
    ] = False,
    block_size: Annotated[
        int | None,
        typer.Option(
            help="With --engine ray: inputs per part that is written.",
            rich_help_panel="Many machines",
            min=1,
            show_default="2048",
        ),
    ] = None,
) -> None:
    """Answer inputs: label, class name, confidence, exit and cost of each, in order.

    Says the accuracy where the inputs have labels, or lie in folders named like the classes. If interrupted while it
    writes a file, the same command resumes.
    """
    from exeunt.run.folder import RunFolder

    prints = out == STANDARD
    if cluster.is_ray and prints:
        raise InputError("--engine ray writes a folder: name one with --out, such as predictions/")
    if not cluster.is_ray and "://" in out:
        raise InputError(f"one process writes a file, not {out}: add --engine ray, or name a file")
    if not cluster.is_ray and block_size is not None:
        raise InputError("--block-size is of a cluster: add --engine ray, or leave it out")
    run = RunFolder.open(path)
    options: dict[str, Any] = {
        "strict": strict, "force": force, "top": top, "probabilities": probabilities,
        "say": lambda text: typer.echo(text, err=prints), **answering.options(cluster),
    }  # fmt: skip
    kept = "" if prints else f"parts that were answered are kept in or beside {out}: the same command goes on"
    with interruptible(lambda: kept):
        inputs = answering.inputs(data, run)
        if cluster.is_ray:
            from exeunt.cluster.jobs import predict_on_cluster

            if block_size is not None:
                options["block_size"] = block_size
            summary = predict_on_cluster(run, inputs, out, **options)
        else:
            from exeunt.predicting import predict_inputs

            summary = predict_inputs(run, inputs, sys.stdout if prints else Path(out), **options)
    typer.echo(summary, err=prints)
    if summary.n_answered == 0 and summary.first_error is not None:
        raise InputError(f"no input could be answered; the first: {summary.first_error[1]}")
