"""`exeunt record RUN --data images/ --out recorded/`: the outputs of every exit for any number of inputs."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from exeunt.cli.failures import interruptible
from exeunt.cli.options import Answering, ClusterWorkers, RunPath, given, option, options_under, with_groups
from exeunt.cli.terminal import echo
from exeunt.errors import InputError

_output = options_under("Output")


@dataclass(frozen=True, kw_only=True)
class _Options:
    data: str = option(
        "Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt train` "
        "takes.",
        default=MISSING,
    )
    strict: bool = option("Stop at the first input that cannot be read; else it is left out.", default=False)
    out: str = _output("Folder to write, or an address such as s3://bucket/folder.", default=MISSING)
    force: bool = _output("Replace what another recording left there.", default=False)
    probabilities: bool = _output(
        "Keep the probabilities of the classes (of more than 256, the likeliest 32), however many numbers these are: "
        "ensembles need them. Else up to 2^28 are kept.",
        default=False,
    )
    block_size: int = _output("Inputs per part that is written.", default=8192, min=1)


@with_groups
def record(path: RunPath, options: _Options, answering: Answering, cluster: ClusterWorkers) -> None:
    """Record the outputs of every exit, in a folder that `exeunt calibrate --traces` takes.

    If interrupted, the same command resumes.
    """
    from exeunt.predicting.record import record_inputs
    from exeunt.predicting.summary import recorded_text
    from exeunt.run.folder import RunFolder

    run = RunFolder.open(path)
    out = options.out
    chosen = {**given(options, without=("data", "out")), **answering.options(cluster), "say": echo}
    with interruptible(lambda: f"parts that were recorded are kept in {out}: the same command goes on"):
        inputs = answering.inputs(options.data, run)
        if cluster.is_ray:
            from exeunt.cluster.jobs import record_on_cluster

            total = record_on_cluster(run, inputs, out, **chosen)
        else:
            total = record_inputs(run, inputs, out, **chosen)
    echo(recorded_text(total, out, run))
    if total.n_answered == 0 and total.first_error is not None:
        raise InputError(f"no input could be recorded; the first: {total.first_error[1]}")
