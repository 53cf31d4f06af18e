"""`exeunt predict --engine ray`: the same answers as one process gives, from many machines, in a folder of parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from exeunt.cluster.block_work import check_sizes, do_blocks
from exeunt.data import Dataset
from exeunt.predicting.answering import BLOCK, check_inputs, predict_job
from exeunt.predicting.blocks import blocks_of
from exeunt.predicting.part_folder import done_in, finish_folder, open_folder
from exeunt.predicting.parts import describe_job
from exeunt.predicting.progress import Progress
from exeunt.predicting.summary import PredictionSummary
from exeunt.run.folder import RunFolder

__all__ = ["predict_on_cluster"]


def predict_on_cluster(
    run: RunFolder,
    inputs: Dataset,
    out: str,
    *,
    address: str | None = None,
    workers: int = 1,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
    block_size: int = BLOCK,
    force: bool = False,
    say: Callable[[str], None] = print,
    **options: Any,
) -> PredictionSummary:
    """Answer every input as `exeunt.predicting.predict_inputs` does, whose options these are, with a Ray cluster.

    `out`: a folder, here or in an object store: a Parquet part for each block of inputs, and a manifest once all are
    there. Whatever dies, the same call goes on with the blocks that are missing.
    `address`: of the cluster, see `connected`. `workers`: each holds the network, on so many cores and GPUs; inputs are
    read and prepared by other processes. `block_size`: inputs per part.

    Raises InputError as `predict_inputs` does, or for a folder that holds something else; MissingExtra without Ray.
    """
    check_sizes(gpus_per_worker, workers=workers, cpus_per_worker=cpus_per_worker, block_size=block_size)
    check_inputs(run, inputs)
    run = replace(run, path=run.path.absolute())  # workers have folders of their own
    job = predict_job(run, **options)
    about = {**describe_job(job, inputs, by_content=False), "block": block_size}
    parts = open_folder(out, about, force=force)
    blocks = list(blocks_of(len(inputs), block_size))
    total, left = done_in(parts, blocks)
    progress = Progress(job.policy, len(inputs), total, block=block_size, say=say)
    do_blocks(
        job, inputs, left, parts, progress, say,
        address=address, workers=workers, cores=cpus_per_worker, gpus=gpus_per_worker,
    )  # fmt: skip
    total = finish_folder(parts, blocks)
    if total.note:
        say(total.note)
    return total.summary(job.policy, out)
