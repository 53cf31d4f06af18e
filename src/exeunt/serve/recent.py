"""The last seconds of a server. Its workers tell each other of theirs in files."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from prometheus_client.multiprocess import mark_process_dead

from exeunt._support.files import atomic_path
from exeunt.serve.metrics import SHARED_FOLDER, Counts, sum_of


@dataclass
class Recent:
    """The last seconds of one worker, or of several: `elapsed` seconds, with so many rows `waiting` at their end.

    `policy`: the active one; `budget_active`: its budget. Of several workers it is the one with the smallest budget.
    `drift`: by policy, what an alarm says that stands; `evidence`: the largest one for drift, on a logarithmic scale:
    an alarm comes at 1. `recalibrated`: by policy, the receipt of its calibration after a drift.
    """

    counts: Counts
    elapsed: float
    waiting: int
    policy: str
    budget_active: float
    workers: int = 1
    drift: dict[str, str] = field(default_factory=dict)
    evidence: float = 0.0
    recalibrated: dict[str, str] = field(default_factory=dict)

    def of_all_workers(self) -> Recent:
        """Return the last seconds of all workers of the server, who tell each other once a second."""
        if SHARED_FOLDER not in os.environ:
            return self
        own = Path(os.environ[SHARED_FOLDER], f"{os.getpid()}.recent")
        with atomic_path(own) as temporary:
            temporary.write_bytes(msgspec.msgpack.encode(self))
        workers = []
        for path in own.parent.glob("*.recent"):
            with suppress(FileNotFoundError):  # it has ended meanwhile
                workers.append(_DECODER.decode(path.read_bytes()))
        counts, least = (
            sum_of(worker.counts for worker in workers),
            min(workers, key=lambda worker: worker.budget_active),
        )
        elapsed, waiting = (
            max(worker.elapsed for worker in workers),
            sum(worker.waiting for worker in workers),
        )
        drift, recalibrated = (
            {name: text for worker in workers for name, text in getattr(worker, of).items()}
            for of in ("drift", "recalibrated")
        )
        evidence = max(worker.evidence for worker in workers)
        return Recent(
            counts,
            elapsed,
            waiting,
            least.policy,
            least.budget_active,
            len(workers),
            drift,
            evidence,
            recalibrated,
        )


_DECODER = msgspec.msgpack.Decoder(Recent, dec_hook=lambda kind, text: kind(text))


def forget_worker(pid: int | None) -> None:
    """Leave a worker that has ended out of what all count together now; what it has counted since the start stays."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    Path(os.environ[SHARED_FOLDER], f"{pid}.recent").unlink(missing_ok=True)
