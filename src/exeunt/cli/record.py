"""`exeunt record RUN --data images/ --out recorded/`: what every exit says of inputs of any number."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

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
from exeunt.cli.predict import opened_inputs
from exeunt.errors import InputError

_output = partial(typer.Option, rich_help_panel="Output")


def record(
    path: RunPath,
    data: Annotated[
        str,
        typer.Option(
            help="Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt "
            "train` takes.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        _output(help="Folder to write, or an address such as s3://bucket/folder.", show_default=False),
    ],
    force: Annotated[bool, _output("--force", help="Replace what another recording left there.")] = False,
    probabilities: Annotated[
        bool,
        _output(
            "--probabilities",
            help="Keep the probabilities of the classes (of more than 256, the likeliest 32), however many numbers "
            "these are: ensembles need them. Else up to 2^28 are kept.",
        ),
    ] = False,
    batch_size: BatchSize = 128,
    block_size: Annotated[
        int | None, _output(help="Inputs per part that is written.", min=1, show_default="8192")
    ] = None,
    workers: InputWorkers = None,
    text_column: InputColumn = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Stop at the first input that cannot be read; else it is left out."),
    ] = False,
    executor: ExecutorName = None,
    trusted: TrustedModel = None,
    engine: EngineName = "local",
    address: ClusterAddress = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
) -> None:
    """Record what every exit says of inputs, in a folder that `exeunt calibrate --traces` takes.

    If interrupted, the same command goes on.
    """
    from exeunt.predicting.recording_inputs import BLOCK, record_inputs, recorded_text
    from exeunt.run.folder import RunFolder

    chosen = of_cluster(
        engine, address=address, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker
    )
    run = RunFolder.open(path)
    options: dict[str, Any] = {
        "block_size": BLOCK if block_size is None else block_size, "batch_size": batch_size, "strict": strict,
        "force": force, "probabilities": probabilities, "executor": executor, "trusted": trusted, "say": typer.echo,
    }  # fmt: skip
    with interruptible(lambda: f"parts that were recorded are kept in {out}: the same command goes on"):
        inputs = opened_inputs(data, run, column_names(text_column))
        if engine == "ray":
            from exeunt.cluster.recording import record_on_cluster

            copies = 1 if workers is None else workers
            total = record_on_cluster(run, inputs, out, workers=copies, **chosen, **options)
        else:
            total = record_inputs(run, inputs, out, workers=workers or 0, **options)
    typer.echo(recorded_text(total, out, run))
    if total.n_answered == 0 and total.first_error is not None:
        raise InputError(f"no input could be recorded; the first: {total.first_error[1]}")
