"""`exeunt record RUN --data images/ --out recorded/`: the outputs of every exit for any number of inputs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from exeunt.cli.arguments import Answering, ClusterWorkers, RunPath
from exeunt.cli.failures import interruptible
from exeunt.errors import InputError

_output = partial(typer.Option, rich_help_panel="Output")


def record(
    path: RunPath,
    data: Annotated[
        str,
        typer.Option(
            help="Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt "
            "train` takes."
        ),
    ],
    out: Annotated[str, _output(help="Folder to write, or an address such as s3://bucket/folder.")],
    answering: Answering,
    cluster: ClusterWorkers,
    force: Annotated[bool, _output("--force", help="Replace what another recording left there.")] = False,
    probabilities: Annotated[
        bool,
        _output(
            "--probabilities",
            help="Keep the probabilities of the classes (of more than 256, the likeliest 32), however many numbers "
            "these are: ensembles need them. Else up to 2^28 are kept.",
        ),
    ] = False,
    block_size: Annotated[int, _output(help="Inputs per part that is written.", min=1)] = 8192,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Stop at the first input that cannot be read; else it is left out."),
    ] = False,
) -> None:
    """Record the outputs of every exit, in a folder that `exeunt calibrate --traces` takes.

    If interrupted, the same command resumes.
    """
    from exeunt.predicting.record import record_inputs
    from exeunt.predicting.summary import recorded_text
    from exeunt.run.folder import RunFolder

    run = RunFolder.open(path)
    options: dict[str, Any] = {
        "block_size": block_size, "strict": strict, "force": force, "probabilities": probabilities,
        "say": typer.echo, **answering.options(cluster),
    }  # fmt: skip
    with interruptible(lambda: f"parts that were recorded are kept in {out}: the same command goes on"):
        inputs = answering.inputs(data, run)
        if cluster.is_ray:
            from exeunt.cluster.jobs import record_on_cluster

            total = record_on_cluster(run, inputs, out, **options)
        else:
            total = record_inputs(run, inputs, out, **options)
    typer.echo(recorded_text(total, out, run))
    if total.n_answered == 0 and total.first_error is not None:
        raise InputError(f"no input could be recorded; the first: {total.first_error[1]}")
