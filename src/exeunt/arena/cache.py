"""Results on disk: one file per split, under the digest of all they depend on.

    traces/DIGEST.parquet          the traces compared
    arena/DIGEST/settings.json     what was done to one of them
    arena/DIGEST/split-0007.json   what came out

A run that was broken off finds what it had; more splits of the same settings add files. The folder may be deleted
at any time, at the price of computing anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from exeunt._files import check_writable, read_json, write_json
from exeunt._sealed import read_sealed, write_sealed
from exeunt.arena.one_split import SplitRecord, measure_split
from exeunt.arena.settings import Settings, trace_digest
from exeunt.errors import ArtefactError, InputError
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Shelf"]

_FORMAT, _VERSION = "exeunt-arena-split", 1


@dataclass(frozen=True)
class Shelf:
    """Where the splits of one trace under one set of settings lie."""

    folder: Path

    @classmethod
    def prepare(cls, cache: Path, trace: ExitTrace, settings: Settings) -> Shelf:
        """Put down trace and settings, so that any process can measure a split from the folder alone."""
        check_writable(cache, "the cache of the arena")
        digest = trace_digest(trace)
        folder = cache / "arena" / settings.digest(digest)[:32]
        folder.mkdir(parents=True, exist_ok=True)
        file = cache / "traces" / f"{digest[:32]}.parquet"
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            trace.save(file)
        write_json(folder / "settings.json", {**settings.to_dict(), "trace": file.name})
        return cls(folder)

    def record(self, split: int) -> SplitRecord | None:
        """Return what a split came to, or None if it was not measured or its file is damaged."""
        try:
            body = read_sealed(
                self._file(split), "record", kind="split of an arena", format_=_FORMAT, version=_VERSION,
                remedy="it is measured again",
            )  # fmt: skip
            return SplitRecord.from_dict(body)
        except (InputError, ArtefactError, KeyError, TypeError, ValueError):
            return None

    def measure(self, split: int) -> None:
        """Measure a split and put it down."""
        trace, settings = _opened(self.folder)
        record = measure_split(trace, settings, split)
        write_sealed(self._file(split), "record", record.to_dict(), format_=_FORMAT, version=_VERSION)

    def _file(self, split: int) -> Path:
        return self.folder / f"split-{split:04d}.json"


@lru_cache(maxsize=1)
def _opened(folder: Path) -> tuple[ExitTrace, Settings]:
    """Return trace and settings of a folder, kept while its splits are measured one after the other."""
    body = read_json(folder / "settings.json")
    trace = ExitTrace.load(folder.parents[1] / "traces" / body.pop("trace"))
    return trace, Settings.from_dict(body)
