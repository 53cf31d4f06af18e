"""The audit log: who has used keys to administer a gateway for what. Lines are only ever added, and hold no keys."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from exeunt._support.files import open_to_add, why_it_failed
from exeunt.errors import FileError

AUDIT = "audit.jsonl"


class AuditLog:
    """A file in a gateway's folder. `clock`: the time in seconds since 1970."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._file, self._clock = folder / AUDIT, clock

    @asynccontextmanager
    async def use(self, by: str, action: str) -> AsyncIterator[Callable[..., Awaitable[None]]]:
        """Give what adds a line about a use, to be awaited with its details before anything is done. What raises an
        error adds a line that says its kind: its text may hold anything.

        Raises FileError where a line cannot be kept.
        """

        async def note(**details: Any) -> None:
            line = {"time": self._clock(), "by": by, "action": action, **details}
            await asyncio.to_thread(append_line, self._file, line)

        try:
            yield note
        except Exception as error:
            await note(refused=type(error).__name__)
            raise


def append_line(file: Path, line: Mapping[str, Any]) -> None:
    """Add a line of JSON to a log, before what it says is done. Raises FileError if it cannot be kept."""
    try:
        with open_to_add(file, 0o600) as log:
            log.write(json.dumps(line) + "\n")
            log.flush()
            os.fsync(log.fileno())
    except OSError as error:
        raise FileError(f"cannot write {file}, so nothing was done: {why_it_failed(error)}") from None
