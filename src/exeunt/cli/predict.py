"""`exeunt predict RUN --data images/ --out predictions.parquet`: answer inputs within the budget."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

from exeunt.cli.failures import interruptible
from exeunt.cli.options import (
    STANDARD,
    Answering,
    ClusterWorkers,
    RunPath,
    cluster_option,
    given,
    option,
    options_under,
    with_groups,
)
from exeunt.cli.terminal import echo
from exeunt.errors import InputError

_output = options_under("Output")


@dataclass(frozen=True, kw_only=True)
class _Options:
    data: str = option(
        "Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt train` "
        "takes; '-' reads standard input, a path or for texts a text per line.",
        default=MISSING,
    )
    strict: bool = option(
        "Stop at the first input that cannot be read; else its row says why it has no answer.",
        default=False,
    )
    out: str = _output(
        "File to write: Parquet, or by its ending .csv or .jsonl; '-' prints CSV. Its folder is made. With --engine "
        "ray a folder, or an address such as s3://bucket/folder.",
        default=STANDARD,
    )
    force: bool = _output("Replace a file that does not hold predictions.", default=False)
    top: int = _output(
        "Also write this number of most probable classes, with their probabilities.", default=0, min=0
    )
    probabilities: bool = _output("Also write the probability of every class.", default=False)


@dataclass(frozen=True, kw_only=True)
class _Cluster(ClusterWorkers):
    block_size: int | None = cluster_option("Inputs per part that is written.", min=1, show_default="2048")


@with_groups
def predict(path: RunPath, options: _Options, answering: Answering, cluster: _Cluster) -> None:
    """Answer inputs: label, class name, confidence, exit and cost of each, in order.

    Says the accuracy where the inputs have labels, or lie in folders named like the classes. If interrupted while it
    writes a file, the same command resumes.
    """
    from exeunt.run.folder import RunFolder

    out = options.out
    prints = out == STANDARD
    if cluster.is_ray and prints:
        raise InputError("--engine ray writes a folder: name one with --out, such as predictions/")
    if not cluster.is_ray and "://" in out:
        raise InputError(f"one process writes a file, not {out}: add --engine ray, or name a file")
    run = RunFolder.open(path)
    chosen = {
        **given(options, without=("data", "out")), **answering.options(cluster),
        "say": lambda text: echo(text, err=prints),
    }  # fmt: skip
    kept = "" if prints else f"parts that were answered are kept in or beside {out}: the same command goes on"
    with interruptible(lambda: kept):
        inputs = answering.inputs(options.data, run)
        if cluster.is_ray:
            from exeunt.cluster.jobs import predict_on_cluster

            summary = predict_on_cluster(run, inputs, out, **chosen)
        else:
            from exeunt.predicting import predict_inputs

            summary = predict_inputs(run, inputs, sys.stdout if prints else Path(out), **chosen)
    echo(summary, err=prints)
    if summary.n_answered == 0 and summary.first_error is not None:
        raise InputError(f"no input could be answered; the first: {summary.first_error[1]}")
