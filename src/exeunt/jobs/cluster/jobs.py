"""`--engine ray`: the machines of a Ray cluster predict, record and compare as one process does."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from exeunt._support.text import counted
from exeunt.data import Dataset
from exeunt.errors import ExeuntError, InputError, one_line, require
from exeunt.evaluation.cache import SplitCache, code_digest
from exeunt.evaluation.compare import Measure
from exeunt.evaluation.one_split import Settings, measure_split
from exeunt.evaluation.processes import ONE_THREAD
from exeunt.evaluation.results import SplitRecord
from exeunt.jobs.blocks import Block, Job
from exeunt.jobs.cluster.scheduler import WINDOW, BlockScheduler
from exeunt.jobs.cluster.worker import Worker, check_code, packed_job
from exeunt.jobs.parts import Parts
from exeunt.jobs.summary import JobProgress
from exeunt.trace import CascadeTrace, ExitTrace

_AGAIN = 20  # how often a split is measured again after its machine or process died
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def ray_module() -> Any:
    """Return the module `ray`. Raises MissingExtra without it."""
    for name, setting in _SETTINGS.items():
        os.environ.setdefault(name, setting)
    return require("ray", extra="ray")


@contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """Yield the module `ray`, connected until the block ends; a connection that was there before stays.

    `address`: of a cluster, as Ray takes it: "auto" for the one that this machine belongs to, "HOST:6379". By
    default a cluster of this machine alone is started, and stopped at the end.

    Raises MissingExtra without Ray, InputError if there is no such cluster, or Ray does not start here.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    local = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if not address:
            raise InputError(
                f"Ray does not start on this machine: {one_line(error)}; start a cluster with `ray start --head` and "
                "give --address auto, or work without Ray"
            ) from error
        raise InputError(
            f"there is no Ray cluster at {address!r}: {one_line(error)}; start one with `ray start --head`, or leave "
            "the address out to work on this machine alone"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass(frozen=True, kw_only=True)
class RayWorkers:
    """Workers of a Ray cluster, which do the blocks of a job; see `DoBlocks`.

    `address`: of the cluster, see `connected`. `workers`: number of workers; each holds the network, and takes
    `cpus_per_worker` cores and `gpus_per_worker` GPUs. Other processes read and prepare the inputs.

    Raises InputError without workers, MissingExtra without Ray.
    """

    address: str | None = None
    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0

    def __post_init__(self) -> None:
        ray_module()
        if self.workers < 1:
            raise InputError(f"workers must be at least 1, got {self.workers}")

    def __call__(
        self,
        job: Job,
        inputs: Dataset,
        blocks: Sequence[Block],
        parts: Parts,
        progress: JobProgress,
        say: Callable[[str], None],
    ) -> None:
        """Do blocks. A cluster is started, or connected to, if there are any."""
        if not blocks:
            return
        with connected(self.address) as ray:
            tell_lack(ray, self.workers, {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}, say)
            left = ray.cluster_resources().get("CPU", 1) - self.workers * self.cpus_per_worker
            # With two readers, one begins while the other ends.
            readers = min(WINDOW, max(2, int(left / self.workers)))
            run = replace(job.run, path=job.run.path.absolute())  # workers have working folders of their own
            sent = ray.put(packed_job(replace(job, run=run)))
            make = ray.remote(
                num_cpus=self.cpus_per_worker,
                num_gpus=self.gpus_per_worker,
                max_concurrency=WINDOW + 2,
                scheduling_strategy="SPREAD",
            )(Worker)
            scheduler = BlockScheduler(
                ray,
                self.workers,
                start=lambda: make.remote(sent, parts, readers=readers, threads=self.cpus_per_worker),
                give=lambda actor, block: actor.answer.remote(block, inputs.block(block.start, block.n)),
                repeat=job.is_repeatable,
            )
            try:
                for tally, unreadable in scheduler.results(blocks):
                    for why in unreadable:
                        say(why)
                    progress.add(tally)
            finally:
                scheduler.close()


def tell_lack(ray: Any, workers: int, each: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Say which resources the cluster lacks. `each`: the resources of a worker, which must be on one machine."""
    resources = ray.cluster_resources()
    for resource, n in each.items():
        if (lack := workers * n - resources.get(resource, 0)) > 0:
            say(
                f"{resource}: the cluster has {lack:g} fewer than {counted(workers, 'worker')} take, some wait"
            )
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(has.get(resource, 0) >= n for resource, n in each.items()) for has in machines):
        takes = ", ".join(f"{resource}: {n:g}" for resource, n in each.items() if n)
        say(f"no machine of the cluster has what a worker takes ({takes}): nothing is done until one joins")


@contextmanager
def measuring_on_cluster(address: str | None = None) -> Iterator[Measure]:
    """Yield the argument `measure` of `exeunt.compare` that measures splits on all cores of a Ray cluster.

    `address`: see `connected`. Except for times, the results equal those of this machine to the last bit if the other
    machines have the same kind of processor. A split whose machine dies is measured by another machine. Only this
    process writes to the cache.
    """
    with connected(address) as ray:

        def measure(jobs: Sequence[tuple[SplitCache, int]]) -> Iterator[None]:
            # One thread each, as in the processes of one machine, so that sums are the same.
            task = ray.remote(num_cpus=1, max_retries=_AGAIN, runtime_env={"env_vars": ONE_THREAD})(_measured)
            sent = {cache: ray.put(cache.inputs) for cache in dict.fromkeys(cache for cache, _ in jobs)}
            # If this ends early, splits beyond these do not run.
            limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            left: deque[tuple[SplitCache, int]] = deque(jobs)
            waiting: dict[Any, tuple[SplitCache, int]] = {}
            while left or waiting:
                while left and len(waiting) < limit:
                    cache, split = left.popleft()
                    waiting[task.remote(sent[cache], split, code_digest())] = cache, split
                done, _ = ray.wait(list(waiting), num_returns=1)
                cache, split = waiting.pop(done[0])
                cache.write(split, _record(ray, done[0]))
                yield

        yield measure


def _measured(inputs: tuple[ExitTrace | CascadeTrace, Settings], split: int, code: str) -> SplitRecord:
    """Measure a split, on some machine. Raises InputError if that has another version of the code."""
    check_code(code)
    return measure_split(*inputs, split)


def _record(ray: Any, ref: Any) -> SplitRecord:
    try:
        record: SplitRecord = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, ExeuntError) else error from None
    except ray.exceptions.RayError as error:
        raise ExeuntError(
            f"a split was lost again and again: {one_line(error)}; what was measured is kept, the same command goes on"
        ) from error
    return record
