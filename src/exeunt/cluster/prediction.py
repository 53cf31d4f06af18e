"""`exeunt predict --engine ray`: the same answers as one process gives, from many machines, in a folder of parts."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exeunt._words import counted
from exeunt.cluster.crew import WINDOW, Crew
from exeunt.cluster.session import connected
from exeunt.cluster.worker import Worker
from exeunt.errors import InputError
from exeunt.predicting.answering import check_inputs
from exeunt.predicting.blocks import Block, Job, blocks_of
from exeunt.predicting.columns import Columns
from exeunt.predicting.live_budget import LiveBudget
from exeunt.predicting.part_folder import finish_folder, open_folder
from exeunt.predicting.parts import Parts, describe_job
from exeunt.predicting.progress import Progress
from exeunt.run.executors import default_executor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exeunt.data import Dataset
    from exeunt.predicting.summary import PredictionSummary
    from exeunt.run.folder import RunFolder

__all__ = ["BLOCK", "predict_on_cluster"]

BLOCK = 2048
"""Inputs of a part: the death of a worker costs at most so many answers for each block that it was given."""


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
    batch_size: int = 128,
    strict: bool = False,
    force: bool = False,
    top: int = 0,
    probabilities: bool = False,
    executor: str | None = None,
    trusted: str | None = None,
    policies: Path | None = None,
    live_file: Path | None = None,
    say: Callable[[str], None] = print,
) -> PredictionSummary:
    """Answer every input as `exeunt.predicting.predict_inputs` does, with workers of a Ray cluster.

    `out`: a folder, here or in an object store: a Parquet part for each block of inputs, and a manifest once all are
    there. Whatever dies, the same call goes on with the blocks that are missing.
    `address`: of the cluster, see `connected`. `workers`: each holds the network, on so many cores and GPUs; inputs are
    read and prepared by other processes. `block_size`: inputs per part.

    Raises InputError as `predict_inputs` does, or for a folder that holds something else; MissingExtra without Ray.
    """
    for name, value in {
        "workers": workers,
        "cpus_per_worker": cpus_per_worker,
        "block_size": block_size,
    }.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    check_inputs(run, inputs)
    run = replace(run, path=run.path.absolute())  # workers have folders of their own
    live = LiveBudget(run, policies, live_file, say)
    job = Job(
        run=run, policies=live.policies, batch_size=batch_size, strict=strict, trusted=trusted,
        columns=Columns(run.manifest["class_names"], top, probabilities, budget=live_file is not None),
        executor=default_executor(run) if executor is None else executor,
    )  # fmt: skip
    about = {**describe_job(job, inputs, by_content=False), "block": block_size}
    with connected(address) as ray:
        parts = open_folder(out, about, force=force)
        total, left = parts.done(blocks_of(len(inputs), block_size))
        progress = Progress(live.policy, len(inputs), total, block=block_size, say=say)
        if left:
            crew = _crew(
                ray, job, inputs, parts, live,
                workers=workers, cores=cpus_per_worker, gpus=gpus_per_worker, say=say,
            )  # fmt: skip
            try:
                for tally, unreadable in crew.answered(left):
                    for why in unreadable:
                        say(why)
                    progress.add(tally)
            finally:
                crew.dismiss()
        finish_folder(parts, progress.total)
    if progress.total.note:
        say(progress.total.note)
    return progress.total.summary(live.policy, out)


def _crew(
    ray: Any,
    job: Job,
    inputs: Dataset,
    parts: Parts,
    live: LiveBudget,
    *,
    workers: int,
    cores: int,
    gpus: float,
    say: Callable[[str], None],
) -> Crew:
    left = ray.cluster_resources().get("CPU", 1) - workers * cores
    if left < 0:
        say(
            f"the cluster has {-left:g} cores fewer than {counted(workers, 'worker')} take: some will wait for them"
        )
    readers = min(WINDOW, max(2, int(left / workers)))  # two: one begins while the other ends
    sent = ray.put(pickle.dumps(job))
    make = ray.remote(
        num_cpus=cores, num_gpus=gpus, max_concurrency=WINDOW + 2, scheduling_strategy="SPREAD"
    )(Worker)

    def start() -> Any:
        return make.remote(sent, parts, window=WINDOW, readers=readers, threads=cores)

    def give(actor: Any, block: Block) -> Any:
        return actor.answer.remote(block._replace(policy=live.name), inputs.block(block.start, block.n))

    return Crew(ray, workers, start=start, give=give)
