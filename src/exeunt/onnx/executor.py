"""The executor on ONNX Runtime: NumPy arrays and `onnxruntime`, nothing else.

One session per segment, made from the files of its stages (see `onnx_cut`). The state is a dict of named arrays.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.engine.plan import check_segments
from exeunt.engine.row_dropping import compacted, moves
from exeunt.errors import InputError, require
from exeunt.onnx.cutting import cut_at_seams, cut_optimised
from exeunt.onnx.manifest import FOLDER, OnnxManifest
from exeunt.onnx.model_file import OnnxPart

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from numpy.typing import NDArray

    from exeunt._arrays import Booleans, Integers
    from exeunt.engine.executor import Segments
    from exeunt.onnx.manifest import OnnxTensor
    from exeunt.run.folder import RunFolder

    Named: TypeAlias = dict[str, NDArray[Any]]

__all__ = ["OnnxExecutor", "open_onnx"]


class OnnxExecutor:
    """Runs what `exeunt export` wrote to `folder`. `segments`: by default one per exit.

    `threads`: per call; None leaves it to ONNX Runtime (one per core). `optimised`: cut the whole network's graph
    as ONNX Runtime optimises it, where that can be done; else each segment is optimised on its own.
    Raises InputError for segments that do not fit, ArtefactError if files are damaged.
    """

    name = "onnx"

    def __init__(
        self,
        folder: Path,
        *,
        segments: Segments | None = None,
        threads: int | None = None,
        optimised: bool = True,
    ) -> None:
        self.manifest = OnnxManifest.load(folder)
        self.n_exits = self.manifest.n_exits
        self.segments = tuple((i, i) for i in range(self.n_exits)) if segments is None else segments
        check_segments(self.segments, self.n_exits)
        self._ort = require("onnxruntime", extra="onnx")
        parts = [OnnxPart.read((folder / stage.file).read_bytes()) for stage in self.manifest.stages]
        cut = cut_optimised(self.manifest, parts, self.segments, self._ort) if optimised else None
        self.cut = cut or cut_at_seams(self.manifest, parts, self.segments)
        self._threads = threads
        self._sessions: dict[tuple[int, tuple[str, ...]], Any] = {}

    def start(self, inputs: Any) -> tuple[Named, Booleans]:
        """Return the inputs as arrays by name, and which rows are finite."""
        state = {name: self._checked(name, value) for name, value in self._named(inputs).items()}
        sizes = {name: len(array) for name, array in state.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"every input must have the same number of rows, got {sizes}")
        valid = np.ones(next(iter(sizes.values())), dtype=np.bool_)
        for array in state.values():
            if array.dtype.kind == "f":
                valid &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        return state, valid

    def signature(self, state: Named) -> Hashable:  # noqa: ARG002 - an export fixes all sizes
        """Return the same for all: an export takes inputs of one size only."""
        return None

    def run(self, segment: int, state: Named, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Named]:
        """Run a session that computes the logits wanted, the state behind the segment, and nothing else."""
        asked = self._asked(segment, wanted)
        if asked:
            session = self._session(segment, tuple(asked))
            made = session.run(asked, {value.name: state[value.name] for value in session.get_inputs()})
            state = state | dict(zip(asked, made, strict=True))
        logits = [state[self.manifest.stages[exit_].logits] for exit_ in wanted]
        return logits, {name: state[name] for name in self.cut.live[segment]}

    def gather(self, parts: Sequence[tuple[Named, Integers | slice | None]]) -> Named:
        """Put rows of several states together; tensors that all rows share are the first's."""
        return {
            name: _gathered([(state[name], rows) for state, rows in parts], self.cut.axis[name])
            for name in parts[0][0]
        }

    def compact(self, state: Named, rows: Integers) -> tuple[Named, Integers]:
        """Drop rows in place, but from the caller's own arrays."""
        order = moves(rows)[2]
        kept: Named = {}
        for name, array in state.items():
            axis = self.cut.axis[name]
            if axis == 0 and name not in self.manifest.inputs and array.flags.writeable:
                kept[name] = compacted(array, rows)
            else:
                kept[name] = _gathered([(array, order)], axis)
        return kept, order

    def _asked(self, segment: int, wanted: Iterable[int]) -> list[str]:
        """Return the tensors that the segment must make."""
        made = self.cut.parts[segment].outputs
        logits = [self.manifest.stages[exit_].logits for exit_ in wanted]
        return list(dict.fromkeys([*logits, *(name for name in self.cut.live[segment] if name in made)]))

    def _session(self, segment: int, asked: tuple[str, ...]) -> Any:
        """Return the session that makes these tensors, opened when first asked for.

        There is one for each choice of heads: a session computes all that its model holds, whatever is fetched.
        """
        if (segment, asked) not in self._sessions:
            self._sessions[segment, asked] = self._open(self.cut.parts[segment].model(asked), self._threads)
        return self._sessions[segment, asked]

    def _open(self, model: bytes, threads: int | None) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        if _share_memory(self._ort):
            options.add_session_config_entry("session.use_env_allocators", "1")
        if self.cut.optimised:
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Threads of several sessions that spin while they wait take the cores from the one that works.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _named(self, inputs: Any) -> dict[str, Any]:
        """Return inputs by name, all that the network takes and no others."""
        names = self.manifest.inputs
        if hasattr(inputs, "items"):
            named = dict(inputs.items())
        else:
            values = list(inputs) if isinstance(inputs, (tuple, list)) and len(names) > 1 else [inputs]
            named = dict(zip(names, values, strict=False)) if len(values) == len(names) else {}
        absent = [name for name in names if name not in named]
        if absent:
            raise InputError(f"the network takes {', '.join(names)}; missing: {', '.join(absent)}")
        return {name: named[name] for name in names}

    def _checked(self, name: str, value: Any) -> NDArray[Any]:
        """Return an input as an array of the size and type that was exported."""
        kind = self.manifest.tensors[name]
        array = np.asarray(value)
        if array.dtype != kind.dtype:
            # A NaN among token numbers would become some number.
            if not np.can_cast(array.dtype, kind.dtype, "same_kind"):
                raise InputError(f"{name} must be of type {kind.dtype}, got {array.dtype}")
            array = array.astype(kind.dtype)
        array = _padded(array, kind)
        wanted = tuple(size for size in kind.shape[1:])
        if array.ndim != len(kind.shape) or array.shape[1:] != wanted:
            raise InputError(
                f"{name} must have shape (n, {', '.join(map(str, wanted))}), the size it was exported for, got "
                f"{np.shape(value)}: bring the inputs to that size, or use the eager executor"
            )
        return array


def open_onnx(
    run: RunFolder,
    *,
    threads: int | None = None,
    trusted: str | None = None,  # noqa: ARG001 - no code of the run folder's is run
    segments: Segments | None = None,
) -> OnnxExecutor:
    """Open the ONNX files of a run folder. Raises InputError if it was not exported, or trained anew since."""
    folder = run.path / FOLDER
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{run.path} was not exported: run `exeunt export {run.path} --to onnx` first")
    executor = OnnxExecutor(folder, segments=segments, threads=threads)
    if executor.manifest.weights != run.manifest["files"]["weights.safetensors"]:
        raise InputError(f"{folder} was exported from other weights than {run.path} has now: export it again")
    return executor


@cache
def _share_memory(ort: Any) -> bool:
    """Give the process one store of memory for all sessions: what a stage has just freed, the next one takes.

    With a store each, a ResNet-56 in 27 stages took another 9 % of its time at batch 64. False if refused.
    """
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(place, None)
    except RuntimeError:  # there is one already, of somebody else's making, or this version allows none
        return False
    return True


def _padded(array: NDArray[Any], kind: OnnxTensor) -> NDArray[Any]:
    """Fill tokens (n, t) up to the length that was exported; the mask's zeros take them out again."""
    if kind.pad is None or array.ndim != 2 or array.shape[1] >= (kind.shape[1] or 0):
        return array
    return np.pad(array, ((0, 0), (0, (kind.shape[1] or 0) - array.shape[1])), constant_values=kind.pad)


def _gathered(parts: Sequence[tuple[NDArray[Any], Any]], axis: int | None) -> NDArray[Any]:
    """Put rows of arrays together along `axis`, copying each row once."""
    if axis is None:
        return parts[0][0]
    whole = [(np.moveaxis(array, axis, 0), rows) for array, rows in parts]
    if len(whole) == 1:
        array, rows = whole[0]
        taken = array if rows is None else array[rows]
    else:
        counts = [len(a) if r is None else len(range(*r.indices(len(a)))) if isinstance(r, slice) else len(r)
                  for a, r in whole]  # fmt: skip
        first = whole[0][0]
        taken = np.empty((sum(counts), *first.shape[1:]), first.dtype)
        at = 0
        for (array, rows), count in zip(whole, counts, strict=True):
            if rows is None or isinstance(rows, slice):
                taken[at : at + count] = array[slice(None) if rows is None else rows]
            else:
                np.take(array, rows, axis=0, out=taken[at : at + count], mode="clip")
            at += count
    return np.ascontiguousarray(np.moveaxis(taken, 0, axis))
