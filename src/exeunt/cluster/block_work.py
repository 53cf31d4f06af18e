"""Doing the blocks of a job with workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exeunt._text import counted
from exeunt.cluster.crew import WINDOW, Crew
from exeunt.cluster.sent_job import packed_job
from exeunt.cluster.session import connected, ray_module
from exeunt.cluster.worker import Worker
from exeunt.data import Dataset
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.predicting.blocks import Block, Job
    from exeunt.predicting.parts import Parts
    from exeunt.predicting.progress import Progress

__all__ = ["check_sizes", "do_blocks", "tell_lack"]


def check_sizes(gpus_per_worker: float, **sizes: int) -> None:
    """Raise InputError for one that is below 1, or GPUs below 0; MissingExtra without Ray."""
    ray_module()
    if not gpus_per_worker >= 0:
        raise InputError(f"gpus_per_worker must be at least 0, got {gpus_per_worker}")
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def tell_lack(ray: Any, workers: int, each: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Say what the cluster has too little of. `each`: what a worker takes, which must be on one machine."""
    found = ray.cluster_resources()
    for what, n in each.items():
        if (lack := workers * n - found.get(what, 0)) > 0:
            say(
                f"{what}: the cluster has {lack:g} fewer than {counted(workers, 'worker')} take, some will wait"
            )
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(has.get(what, 0) >= n for what, n in each.items()) for has in machines):
        takes = ", ".join(f"{what}: {n:g}" for what, n in each.items() if n)
        say(
            f"no machine of the cluster has what a worker takes ({takes}): nothing is done until one joins it"
        )


def do_blocks(
    job: Job,
    inputs: Dataset,
    blocks: Sequence[Block],
    parts: Parts,
    progress: Progress,
    say: Callable[[str], None],
    *,
    address: str | None,
    workers: int,
    cores: int = 1,
    gpus: float = 0,
) -> None:
    """Do these blocks and keep their parts, whichever workers die meanwhile.

    `address`: of the cluster, see `connected`; without blocks no cluster is asked for. `cores`, `gpus`: of each worker.
    """
    if not blocks:
        return
    with connected(address) as ray:
        tell_lack(ray, workers, {"CPU": cores, "GPU": gpus}, say)
        left = ray.cluster_resources().get("CPU", 1) - workers * cores
        readers = min(WINDOW, max(2, int(left / workers)))  # two: one begins while the other ends
        sent = ray.put(packed_job(job))
        make = ray.remote(
            num_cpus=cores, num_gpus=gpus, max_concurrency=WINDOW + 2, scheduling_strategy="SPREAD"
        )(Worker)

        def start() -> Any:
            return make.remote(sent, parts, window=WINDOW, readers=readers, threads=cores)

        def give(actor: Any, block: Block) -> Any:
            return actor.answer.remote(block, inputs.block(block.start, block.n))

        crew = Crew(ray, workers, start=start, give=give)
        try:
            for tally, unreadable in crew.answered(blocks):
                for why in unreadable:
                    say(why)
                progress.add(tally)
        finally:
            crew.dismiss()
