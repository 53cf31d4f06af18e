"""The cache of a comparison: one file per split, under the digest of everything that its results depend on.

    traces/DIGEST.parquet               a trace that is compared
    comparison/DIGEST/settings.json     how it is compared
    comparison/DIGEST/split-0007.json   the results of one split

An interrupted run finds the splits that it has measured; more splits with the same settings add files. The folder may
be deleted at any time: everything is then measured again.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from exeunt._support.files import check_writable, make_folder, read_json, write_json
from exeunt._support.sealed_json import content_digest, read_sealed, write_sealed
from exeunt._version import __version__
from exeunt.errors import ArtefactError, InputError
from exeunt.evaluation.one_split import Settings, measure_split
from exeunt.evaluation.results import SplitRecord
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.log_probability import arrays_of

_FORMAT, _VERSION = "exeunt-comparison-split", 1


@dataclass(frozen=True)
class SplitCache:
    """The splits of one trace under one set of settings, in a folder of the cache."""

    folder: Path

    @classmethod
    def create(cls, cache: Path, trace: ExitTrace | CascadeTrace, settings: Settings) -> SplitCache:
        """Write trace and settings, so that any process can measure a split with nothing but the folder."""
        check_writable(cache, "the cache of the comparison")
        body = {**asdict(settings), "trace": _kept(cache, trace)}
        folder = cache / "comparison" / content_digest({**body, "code": code_digest()})[:32]
        make_folder(folder)
        write_json(folder / "settings.json", body)
        return cls(folder)

    def read(self, split: int) -> SplitRecord | None:
        """Return the results of a split, or None if it was not measured or its file is damaged."""
        try:
            return read_sealed(
                self._file(split),
                "record",
                SplitRecord.from_dict,
                kind="split of a comparison",
                format_=_FORMAT,
                version=_VERSION,
                remedy="it is measured again",
            )
        except (InputError, ArtefactError):
            return None

    def measure(self, split: int) -> None:
        """Measure a split and write its file."""
        self.write(split, measure_split(*self.inputs, split))

    @property
    def inputs(self) -> tuple[ExitTrace | CascadeTrace, Settings]:
        """The trace and the settings."""
        return _inputs(self.folder)

    def write(self, split: int, record: SplitRecord) -> None:
        """Write the results of a split."""
        write_sealed(self._file(split), "record", record.to_dict(), format_=_FORMAT, version=_VERSION)

    def _file(self, split: int) -> Path:
        return self.folder / f"split-{split:04d}.json"


def _kept(cache: Path, trace: ExitTrace | CascadeTrace) -> str | dict[str, str]:
    """Write a trace, or those of all models, and return the names of the files."""
    if isinstance(trace, CascadeTrace):
        return {name: str(_kept(cache, trace[name])) for name in trace.names}
    file = make_folder(cache / "traces") / f"{_trace_digest(trace)[:32]}.parquet"
    if not file.exists():
        trace.save(file)
    return file.name


@lru_cache(maxsize=1)
def _inputs(folder: Path) -> tuple[ExitTrace | CascadeTrace, Settings]:
    """Return trace and settings of a folder; those of the last folder stay in memory."""
    body = read_json(folder / "settings.json")
    trace_folder, files = folder.parents[1] / "traces", body.pop("trace")
    trace: ExitTrace | CascadeTrace
    if isinstance(files, dict):
        trace = CascadeTrace({name: ExitTrace.load(trace_folder / file) for name, file in files.items()})
    else:
        trace = ExitTrace.load(trace_folder / files)
    policies, amounts = tuple(body.pop("policies")), tuple(body.pop("amounts"))
    return trace, Settings(policies, amounts, **body)


def _trace_digest(trace: ExitTrace) -> str:
    """Return the digest of everything that a trace holds."""
    features_by_exit = sorted(trace.features.items())
    named = (trace.cost.to_dict(), sorted(trace.scores), [exit_ for exit_, _ in features_by_exit])
    digest = hashlib.sha256(repr(named).encode())
    arrays = [trace.prediction, trace.id, *(trace.scores[name] for name in sorted(trace.scores))]
    arrays += [] if trace.label is None else [trace.label]
    arrays += [] if trace.grades is None else [trace.grades.loss, np.array(trace.measure)]
    arrays += [] if trace.groups is None else [trace.groups.key, np.array(trace.groups.rows_per_group)]
    arrays += [] if trace.log_probability is None else arrays_of(trace.log_probability)
    arrays += [features for _, features in features_by_exit]
    for array in arrays:
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def code_digest(root: Path = Path(__file__).parents[1]) -> str:
    """Return the digest of the package's version and of its source files.

    With the version alone, a development checkout would reuse results of code that has changed since.
    """
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
