"""Doing the blocks of a job with workers of a cluster."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from exeunt._words import counted
from exeunt.cluster.crew import WINDOW, Crew
from exeunt.cluster.worker import Worker
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exeunt.data import Dataset
    from exeunt.predicting.blocks import Block, Job
    from exeunt.predicting.live_budget import LiveBudget
    from exeunt.predicting.parts import Parts
    from exeunt.predicting.progress import Progress

__all__ = ["check_sizes", "do_blocks"]


def check_sizes(**sizes: int) -> None:
    """Raise InputError for one that is below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def do_blocks(
    ray: Any,
    job: Job,
    inputs: Dataset,
    blocks: Sequence[Block],
    parts: Parts,
    progress: Progress,
    say: Callable[[str], None],
    *,
    workers: int,
    cores: int = 1,
    gpus: float = 0,
    live: LiveBudget | None = None,
) -> None:
    """Do these blocks and keep their parts, whoever dies meanwhile. `live`: says which policy a block is
    done under. `cores`, `gpus`: of each worker.
    """
    if not blocks:
        return
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

    def give(actor: Any, block: Block) -> tuple[Any, Block]:
        # One that is given again keeps its policy: whoever is last writes the part, whoever is first is counted.
        named = block if live is None or block.policy else block._replace(policy=live.name)
        return actor.answer.remote(named, inputs.block(block.start, block.n)), named

    crew = Crew(ray, workers, start=start, give=give)
    try:
        for tally, unreadable in crew.answered(blocks):
            for why in unreadable:
                say(why)
            progress.add(tally)
    finally:
        crew.dismiss()
