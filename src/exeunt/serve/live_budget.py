"""The live budget: a file that all servers of a run watch. Whoever changes it changes the budget of all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from exeunt._support.files import locks, open_regular, read_json, why_it_failed, write_json
from exeunt.errors import ArtefactError, FileError

_AGAIN_S, _PATIENCE_S = 0.01, 10.0


@dataclass(frozen=True, config={"strict": True})
class LiveBudget:
    """`budget`: as people write it; None if nobody has set one.

    `loads`: a new number each time that the run is to be reloaded; 0 if it never was.
    """

    budget: str | float | None = None
    loads: int = 0


class LiveBudgetFile:
    """The live budget, in a file that others may change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> LiveBudget:
        """Return what the file says, or the default without a file. Raises ArtefactError for anything else."""
        self._seen = self._stamp()
        if self._seen is None:
            return LiveBudget()
        try:
            return LiveBudget(**read_json(self.path, remedy="remove it"))
        except (TypeError, ValidationError):
            raise ArtefactError(f"{self.path} does not say what budget is active: remove it") from None

    def changed(self) -> bool:
        """Whether the file is another one than was last read."""
        return self._stamp() != self._seen

    def set_budget(self, budget: str | float | None) -> None:
        """Write another budget."""
        with self._locked():
            write_json(self.path, asdict(replace(self._before(), budget=budget)))

    def request_reload(self) -> int:
        """Ask all servers to reload their run; returns a number that none of them has seen.

        A count would not do: if the run folder is a link, every folder that it has led to has a file of its own.
        """
        with self._locked():
            now = self._before()
            loads = max(now.loads + 1, time.time_ns() // 1_000_000)
            write_json(self.path, asdict(replace(now, loads=loads)))
        return loads

    def _before(self) -> LiveBudget:
        """Return what the file says; nothing if it is damaged, for it is to be replaced."""
        try:
            return self.read()
        except ArtefactError:
            return LiveBudget()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process change the file meanwhile: one of both changes would be lost."""
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            file = open_regular(lock, "ab")
        except OSError as error:
            raise FileError(f"cannot write {lock}: {why_it_failed(error)}") from error
        with file:
            end = time.monotonic() + _PATIENCE_S
            while not locks(file):
                if time.monotonic() > end:
                    raise FileError(f"cannot change {self.path}: another process has locked {lock}")
                time.sleep(_AGAIN_S)
            yield

    def _stamp(self) -> tuple[int, int, int] | None:
        with suppress(OSError):
            status = self.path.stat()
            return status.st_mtime_ns, status.st_ino, status.st_size
        return None
