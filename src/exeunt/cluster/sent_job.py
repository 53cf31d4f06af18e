"""A job as it is sent to other machines, which refuse it if their code or their run differs."""

from __future__ import annotations

import hashlib
import pickle
import platform
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from exeunt._version import __version__
from exeunt.errors import InputError
from exeunt.run.folder import RunFolder

if TYPE_CHECKING:
    from exeunt.predicting.blocks import Job

__all__ = ["check_code", "opened_job", "package_digest", "packed_job"]


@lru_cache(maxsize=1)
def package_digest() -> str:
    """Return the digest of the version and of all source files: a checkout may change without a new version."""
    root, digest = Path(__file__).parents[1], hashlib.sha256(__version__.encode())
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def check_code(code: str) -> None:
    """Raise InputError unless this machine has the code of this digest."""
    if package_digest() != code:
        raise InputError(
            f"the machine {platform.node()} of the cluster has another version of exeunt, {__version__} or a changed "
            "one: install the same on all"
        )


def packed_job(job: Job) -> bytes:
    """Return a job as bytes, for `opened_job`."""
    return pickle.dumps((package_digest(), pickle.dumps(job)))


@lru_cache(maxsize=4)
def opened_job(sent: bytes) -> Job:
    """Return a job that was sent here; its tokeniser is opened once.

    Raises InputError if this machine has other code, or no run or another one where the job's run is.
    """
    code, packed = pickle.loads(sent)  # noqa: S301 - of the process that started this one
    check_code(code)
    job: Job = pickle.loads(packed)  # noqa: S301 - likewise
    path = job.run.path
    if not RunFolder.exists(path) or RunFolder.open(path).digest != job.run.digest:
        raise InputError(
            f"the machine {platform.node()} of the cluster has {'another' if RunFolder.exists(path) else 'no'} run at "
            f"{path}: put the run folder on a disk that all share, or a copy in the same place on each"
        )
    return job
