"""`exeunt predict RUN --data images/ --out predictions.parquet`: answer inputs within the budget."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt.cli.arguments import ExecutorName, RunPath, TrustedModel, column_names
from exeunt.cli.failures import interruptible
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt.data import Dataset
    from exeunt.run.folder import RunFolder

_STANDARD = "-"  # standard input, or standard output
_output = partial(typer.Option, rich_help_panel="Output")


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
        Path,
        _output(
            help="File to write: Parquet, or by its ending .csv or .jsonl; '-' prints CSV. Its folder is made.",
            show_default="-",
        ),
    ] = Path(_STANDARD),
    force: Annotated[bool, _output("--force", help="Replace a file that does not hold predictions.")] = False,
    top: Annotated[
        int, _output(help="Also write the so many most probable classes, with probabilities.", min=0)
    ] = 0,
    probabilities: Annotated[
        bool, _output("--probabilities", help="Also write the probability of every class.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Inputs per batch.", min=1)] = 128,
    workers: Annotated[
        int,
        typer.Option(
            help="Threads that decode images while the network runs; 0 decodes between its calls.", min=0
        ),
    ] = 0,
    text_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the texts, or two for pairs of texts: premise,hypothesis. Default: that of the training."
        ),
    ] = None,
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

    Says the accuracy where the inputs have labels, or lie in folders named like the classes. If interrupted while it
    writes a file, the same command resumes.
    """
    from exeunt.predicting import predict_inputs
    from exeunt.run.folder import RunFolder

    run = RunFolder.open(path)
    prints = str(out) == _STANDARD
    kept = "" if prints else f"parts that were answered are kept beside {out}: the same command goes on"
    with interruptible(lambda: kept):
        summary = predict_inputs(
            run, _inputs(data, run, column_names(text_column)), sys.stdout if prints else out,
            batch_size=batch_size, workers=workers, strict=strict, force=force, top=top, probabilities=probabilities,
            executor=executor, trusted=trusted, say=lambda text: typer.echo(text, err=prints),
        )  # fmt: skip
    typer.echo(summary, err=prints)
    if summary.n_unanswered == summary.n:
        raise InputError(f"no input could be answered; the first: {summary.first_error}")


def _inputs(data: str, run: RunFolder, text: Sequence[str]) -> Dataset:
    from exeunt.data import open_inputs, open_lines

    if data == _STANDARD:
        content = b"" if sys.stdin is None else sys.stdin.buffer.read()
        return open_lines(content, run.manifest["inputs"]["kind"])
    trained_on = run.manifest["data"]
    return open_inputs(data, label=trained_on.get("label"), text=text or trained_on.get("text", ()))
