"""`exeunt predict RUN --data images/` answers inputs; `exeunt record` keeps the outputs of every exit for them."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exeunt._text import echo
from exeunt.cli import interruptible
from exeunt.cli.options import (
    Cluster,
    Execution,
    RunPath,
    cluster_option,
    column_names,
    given,
    option,
    options_under,
    with_groups,
)
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt.data import Dataset
    from exeunt.run.folder import RunFolder

_STANDARD = "-"
"""The standard input, or the standard output."""
_output = options_under("Output")


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """The inputs, and how they are read."""

    data: str = option(
        "Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt train` "
        "takes; '-' reads standard input, a path or for texts a text per line.",
        default=MISSING,
    )
    strict: bool = option(
        "Stop at the first input that cannot be read; else `predict` writes a row that says why it has no answer, and "
        "`record` leaves it out.",
        default=False,
    )
    batch_size: int = option("Inputs per batch.", default=128, min=1)
    workers: int | None = option(
        "Threads that decode images while the network runs; 0 decodes between its calls. With --engine ray: the number "
        "of workers, each with a copy of the network.",
        min=0,
        show_default="0, or 1 with ray",
    )
    text_column: str | None = option(
        "Column of the texts, or two for pairs of texts: premise,hypothesis. Default: as in training."
    )

    def opened(
        self, path: Path, execution: Execution, cluster: _Workers, keep: Sequence[str] = ()
    ) -> tuple[RunFolder, Dataset, dict[str, Any]]:
        """Open the run, and the inputs as it was trained on them; return the options as the library takes them, too."""
        from exeunt.data import open_inputs, open_lines
        from exeunt.run.folder import RunFolder

        run = RunFolder.open(path)
        own = {"strict": self.strict, "batch_size": self.batch_size, **cluster.of_job(self.workers)}
        options = {**own, **vars(execution)}
        if self.data == _STANDARD:
            if keep:
                raise InputError(
                    f"the standard input has no column {keep[0]!r}: name a table with --data, or leave out --keep"
                )
            content = b"" if sys.stdin is None else sys.stdin.buffer.read()
            return run, open_lines(content, run.manifest["inputs"]["kind"]), options
        trained_on, text = run.manifest["data"], column_names(self.text_column)
        known, label = trained_on.get("text", ()), trained_on.get("label")
        inputs = open_inputs(self.data, label=label, text=text or known, of_training=not text, keep=keep)
        return run, inputs, options


@dataclass(frozen=True, kw_only=True)
class _Workers(Cluster):
    """A cluster whose workers hold the network."""

    cpus_per_worker: int | None = cluster_option(
        "Cores that each worker computes on.", min=1, max=4096, show_default="1"
    )
    gpus_per_worker: float | None = cluster_option("GPUs of each worker.", min=0, max=64, show_default="0")

    def of_job(self, workers: int | None) -> dict[str, Any]:
        """Return the options of a job: what does its blocks and their size, or threads that decode images."""
        if not self.is_ray:
            return {"workers": workers or 0}
        from exeunt.cluster.jobs import RayWorkers

        options = self.given
        size = {name: options.pop(name) for name in ("block_size",) if name in options}
        return {"do_blocks": RayWorkers(workers=1 if workers is None else workers, **options), **size}


@dataclass(frozen=True, kw_only=True)
class _WorkersOnParts(_Workers):
    block_size: int | None = cluster_option("Inputs per part that is written.", min=1, show_default="2048")


@dataclass(frozen=True, kw_only=True)
class _Predictions:
    out: str = _output(
        "File to write: Parquet, or by its ending .csv or .jsonl; '-' prints CSV. Its folder is made. With --engine "
        "ray a folder, or an address such as s3://bucket/folder.",
        default=_STANDARD,
    )
    force: bool = _output("Replace a file that does not hold predictions.", default=False)
    top: int = _output(
        "Also write this number of most probable classes, with their probabilities.", default=0, min=0
    )
    probabilities: bool = _output("Also write the probability of every class.", default=False)
    keep: list[str] | None = _output(
        "Columns of the table that come back beside the predictions as they are, such as id,customer; may be repeated."
    )


@with_groups
def predict(
    path: RunPath, inputs: _Inputs, execution: Execution, output: _Predictions, cluster: _WorkersOnParts
) -> None:
    """Answer inputs: label, class name, confidence, exit and cost of each, in order.

    Says the accuracy where the inputs have labels, or lie in folders named like the classes. If interrupted while it
    writes a file, the same command resumes.
    """
    out, prints = output.out, output.out == _STANDARD
    if cluster.is_ray and prints:
        raise InputError("--engine ray writes a folder: name one with --out, such as predictions/")
    if not cluster.is_ray and "://" in out:
        raise InputError(f"one process writes a file, not {out}: add --engine ray, or name a file")
    kept = "" if prints else f"parts that were answered are kept in or beside {out}: the same command goes on"
    with interruptible(lambda: kept):
        keep = [name for text in output.keep or () for name in column_names(text)]
        run, data, options = inputs.opened(path, execution, cluster, keep)
        options |= {**given(output, without=("out", "keep")), "say": lambda text: echo(text, err=prints)}
        if cluster.is_ray:
            from exeunt.predicting.predict import predict_folder

            summary = predict_folder(run, data, out, **options)
        else:
            from exeunt.predicting import predict_inputs

            summary = predict_inputs(run, data, sys.stdout if prints else Path(out), **options)
    echo(summary, err=prints)
    if summary.n_answered == 0 and summary.first_error is not None:
        raise InputError(f"no input could be answered; the first: {summary.first_error[1]}")


@dataclass(frozen=True, kw_only=True)
class _Recording:
    out: str = _output("Folder to write, or an address such as s3://bucket/folder.", default=MISSING)
    force: bool = _output("Replace what another recording left there.", default=False)
    probabilities: bool = _output(
        "Keep the probabilities of the classes (of more than 256, the likeliest 32), however many numbers these are: "
        "ensembles need them. Else up to 2^28 are kept.",
        default=False,
    )
    block_size: int = _output("Inputs per part that is written.", default=8192, min=1)


@with_groups
def record(
    path: RunPath, inputs: _Inputs, execution: Execution, output: _Recording, cluster: _Workers
) -> None:
    """Record the outputs of every exit, in a folder that `exeunt calibrate --traces` takes.

    If interrupted, the same command resumes.
    """
    from exeunt.predicting.record import record_inputs
    from exeunt.predicting.summary import recorded_text

    out = output.out
    with interruptible(lambda: f"parts that were recorded are kept in {out}: the same command goes on"):
        run, data, options = inputs.opened(path, execution, cluster)
        options |= {**given(output, without=("out",)), "say": echo}
        total = record_inputs(run, data, out, **options)
    echo(recorded_text(total, out, run))
    if total.n_answered == 0 and total.first_error is not None:
        raise InputError(f"no input could be recorded; the first: {total.first_error[1]}")
