"""What can be compared: traces in memory, and the files and run folders that hold some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from exeunt.errors import InputError
from exeunt.run.folder import TRACED, RunFolder
from exeunt.trace import ExitTrace, concatenate

__all__ = ["named_traces", "open_trace"]


def open_trace(path: str | Path) -> ExitTrace:
    """Read a trace: a Parquet file of `ExitTrace.save`, an .npz of arrays, or a run folder.

    Of a run folder it is all that was recorded: fit, calibrate and test inputs, none of which the network has
    learned from. Raises InputError for a file that is something else.
    """
    file = Path(path)
    if file.is_dir():
        run = RunFolder.open(file)
        return concatenate([run.trace(part) for part in TRACED])
    if file.suffix == ".npz":
        return ExitTrace.from_archive(file)
    return ExitTrace.load(file)


def named_traces(
    traces: ExitTrace | str | Path | Mapping[str, ExitTrace | str | Path] | Iterable[str | Path],
) -> dict[str, ExitTrace]:
    """Return labelled traces by name; a path is named for its file or folder.

    Raises InputError for none, for an unlabelled one, or for two of one name.
    """
    found: dict[str, ExitTrace] = {}
    for name, value in _pairs(traces):
        if name in found:
            raise InputError(f"two traces are named {name!r}: give a mapping with a name for each")
        trace = value if isinstance(value, ExitTrace) else open_trace(value)
        if trace.label is None:
            raise InputError(
                f"the trace {name!r} has no labels: policies are compared by accuracy, which needs them"
            )
        found[name] = trace
    if not found:
        raise InputError("there is no trace to compare policies on")
    return found


def _pairs(
    traces: ExitTrace | str | Path | Mapping[str, ExitTrace | str | Path] | Iterable[str | Path],
) -> list[tuple[str, ExitTrace | str | Path]]:
    if isinstance(traces, ExitTrace):
        return [("trace", traces)]
    if isinstance(traces, Mapping):
        return [(str(name), value) for name, value in traces.items()]
    paths = [traces] if isinstance(traces, str | Path) else list(traces)
    if any(isinstance(path, ExitTrace) for path in paths):
        raise InputError("several traces need a name each: give a mapping, such as {'resnet': trace, ...}")
    return [(_name(Path(path)), path) for path in paths]


def _name(path: Path) -> str:
    whole = path.resolve()
    return whole.name if whole.is_dir() else whole.stem
