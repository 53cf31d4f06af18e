"""`exeunt record --engine ray`: the same recording as one process makes, by workers of a cluster."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from exeunt.cluster.block_work import check_sizes, do_blocks
from exeunt.data import Dataset
from exeunt.predicting.recording_inputs import BLOCK, record_inputs
from exeunt.predicting.tally import Tally
from exeunt.run.folder import RunFolder

__all__ = ["record_on_cluster"]


def record_on_cluster(
    run: RunFolder,
    inputs: Dataset,
    out: str,
    *,
    address: str | None = None,
    workers: int = 1,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
    block_size: int = BLOCK,
    **options: Any,
) -> Tally:
    """Record inputs as `record_inputs` does, whose options these are, with workers of a Ray cluster.

    `address`, `workers`, `cpus_per_worker`, `gpus_per_worker`: as for `predict_on_cluster`.

    Raises as `record_inputs` does, and MissingExtra without Ray.
    """
    check_sizes(gpus_per_worker, workers=workers, cpus_per_worker=cpus_per_worker, block_size=block_size)
    run = replace(run, path=run.path.absolute())  # workers have folders of their own
    do = partial(do_blocks, address=address, workers=workers, cores=cpus_per_worker, gpus=gpus_per_worker)
    return record_inputs(run, inputs, out, block_size=block_size, do_blocks=do, **options)
