"""`exeunt compare --engine ray`: splits are independent, so any machine may measure one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from exeunt.cluster.sent_job import check_code, package_digest
from exeunt.cluster.session import connected
from exeunt.comparison.cache import SplitCache
from exeunt.comparison.compare import Measure
from exeunt.comparison.one_split import Settings, measure_split
from exeunt.comparison.processes import ONE_THREAD
from exeunt.comparison.results import SplitRecord
from exeunt.errors import ExeuntError, one_line
from exeunt.trace import CascadeTrace, ExitTrace

__all__ = ["measured", "measuring"]

_AGAIN = 20  # how often a split is measured again whose machine or process died


@contextmanager
def measuring(address: str | None = None) -> Iterator[Measure]:
    """Yield what `exeunt.compare` takes as `measure`: it measures splits on all cores of a Ray cluster.

    `address`: see `exeunt.cluster.session.connected`. The results, but for times, are those of this machine to the last
    bit if the others compute like it. A split whose machine dies is measured by another; only this process writes.
    """
    with connected(address) as ray:

        def measure(jobs: Sequence[tuple[SplitCache, int]]) -> Iterator[None]:
            # One thread each, as in processes: sums come out the same.
            task = ray.remote(num_cpus=1, max_retries=_AGAIN, runtime_env={"env_vars": ONE_THREAD})(measured)
            sent = {cache: ray.put(cache.inputs) for cache in dict.fromkeys(cache for cache, _ in jobs)}
            waiting = {
                task.remote(sent[cache], split, package_digest()): (cache, split) for cache, split in jobs
            }
            try:
                while waiting:
                    done, _ = ray.wait(list(waiting), num_returns=1)
                    record = _outcome(ray, done[0])
                    cache, split = waiting.pop(done[0])
                    cache.write(split, record)
                    yield
            finally:
                for left in waiting:
                    ray.cancel(left, force=True)

        yield measure


def measured(inputs: tuple[ExitTrace | CascadeTrace, Settings], split: int, code: str) -> SplitRecord:
    """Measure a split, on some machine. Raises InputError if that has another version of the code."""
    check_code(code)
    return measure_split(*inputs, split)


def _outcome(ray: Any, ref: Any) -> SplitRecord:
    try:
        record: SplitRecord = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, ExeuntError) else error from None
    except ray.exceptions.RayError as error:
        raise ExeuntError(
            f"a split was lost again and again: {one_line(error)}; what was measured is kept, the same command goes on"
        ) from error
    return record
