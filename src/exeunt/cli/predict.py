"""`exeunt predict RUN --data images/ --out predictions.parquet`: answer inputs within the budget."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exeunt.cli.arguments import (
    BatchSize,
    ClusterAddress,
    CpusPerWorker,
    EngineName,
    ExecutorName,
    GpusPerWorker,
    InputColumn,
    InputWorkers,
    RunPath,
    TrustedModel,
    column_names,
    of_cluster,
)
from exeunt.cli.failures import interruptible
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.data import Dataset
    from exeunt.run.folder import RunFolder

_STANDARD = "-"  # standard input, or standard output
_output = partial(typer.Option, rich_help_panel="Output")
_cluster = partial(typer.Option, rich_help_panel="Many machines")


def predict(
    path: RunPath,
    data: Annotated[
        str,
        typer.Option(
            help="Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt "
            "train` takes; '-' reads standard input, a path or for texts a text per line.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        _output(
            help="File to write: Parquet, or by its ending .csv or .jsonl; '-' prints CSV. Its folder is made. With "
            "--engine ray a folder, or an address such as s3://bucket/folder.",
        ),
    ] = _STANDARD,
    force: Annotated[bool, _output("--force", help="Replace a file that does not hold predictions.")] = False,
    top: Annotated[
        int, _output(help="Also write the so many most probable classes, with probabilities.", min=0)
    ] = 0,
    probabilities: Annotated[
        bool, _output("--probabilities", help="Also write the probability of every class.")
    ] = False,
    batch_size: BatchSize = 128,
    workers: InputWorkers = None,
    text_column: InputColumn = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at the first input that cannot be read; else its row says why it has no answer.",
        ),
    ] = False,
    executor: ExecutorName = None,
    trusted: TrustedModel = None,
    engine: EngineName = "local",
    address: ClusterAddress = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    block_size: Annotated[
        int | None, _cluster(help="Inputs per part that is written.", min=1, show_default="2048")
    ] = None,
) -> None:
    """Answer inputs: label, class name, confidence, exit and cost of each, in order.

    Says the accuracy where the inputs have labels, or lie in folders named like the classes. If interrupted while it
    writes a file, the same command resumes.
    """
    from exeunt.run.folder import RunFolder

    chosen = _chosen_engine(
        engine,
        out,
        address=address,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        block_size=block_size,
    )
    run = RunFolder.open(path)
    prints = out == _STANDARD
    options: dict[str, Any] = {
        "batch_size": batch_size, "strict": strict, "force": force, "top": top, "probabilities": probabilities,
        "executor": executor, "trusted": trusted,
        "say": lambda text: typer.echo(text, err=prints), **chosen,
    }  # fmt: skip
    kept = "" if prints else f"parts that were answered are kept in or beside {out}: the same command goes on"
    with interruptible(lambda: kept):
        inputs = opened_inputs(data, run, column_names(text_column))
        if engine == "ray":
            from exeunt.cluster.prediction import predict_on_cluster

            summary = predict_on_cluster(
                run, inputs, out, workers=1 if workers is None else workers, **options
            )
        else:
            from exeunt.predicting import predict_inputs

            summary = predict_inputs(
                run, inputs, sys.stdout if prints else Path(out), workers=workers or 0, **options
            )
    typer.echo(summary, err=prints)
    if summary.n_unanswered == summary.n:
        raise InputError(f"no input could be answered; the first: {summary.first_error}")


def _chosen_engine(engine: str, out: str, **options: Any) -> dict[str, Any]:
    """Return the options for a cluster that were given. Raises InputError for an engine that does not take them."""
    given = of_cluster(engine, **options)
    if engine == "ray" and out == _STANDARD:
        raise InputError("--engine ray writes a folder: name one with --out, such as predictions/")
    if engine == "local" and "://" in out:
        raise InputError(f"one process writes a file, not {out}: add --engine ray, or name a file")
    return given


def opened_inputs(data: str, run: RunFolder, text: Sequence[str]) -> Dataset:
    """Open the inputs that `--data` names, as the run was trained on."""
    from exeunt.data import open_inputs, open_lines

    if data == _STANDARD:
        content = b"" if sys.stdin is None else sys.stdin.buffer.read()
        return open_lines(content, run.manifest["inputs"]["kind"])
    trained_on = run.manifest["data"]
    label, known = trained_on.get("label"), trained_on.get("text", ())
    return open_inputs(data, label=label, text=text or known, of_training=not text)
