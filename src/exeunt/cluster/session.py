"""Connecting to a Ray cluster, and the check that its machines have the same code as this one."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from exeunt._version import __version__
from exeunt.errors import InputError, one_line, require

_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def ray_module() -> Any:
    """Return the module `ray`. Raises MissingExtra without it."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
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


@lru_cache(maxsize=1)
def package_digest() -> str:
    """Return the digest of the version and of all source files, since a checkout changes without a new version."""
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
