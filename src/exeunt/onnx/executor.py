"""The executor on ONNX Runtime, which needs NumPy and `onnxruntime` only.

There is one session per segment, see `exeunt.onnx.cutting`. The state is a dict of named arrays.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Integers
from exeunt._support.limits import usable_cores
from exeunt.engine.dropping_finished_rows import compacted, moves
from exeunt.engine.executor import BORDER, CPU, Segments
from exeunt.engine.inputs import padded_length
from exeunt.engine.plan import check_segments
from exeunt.errors import ArtefactError, InputError, require
from exeunt.onnx.cutting import cut_between_files, cut_optimised
from exeunt.onnx.manifest import FOLDER, OnnxManifest
from exeunt.onnx.model_file import OnnxGraph, join_graphs
from exeunt.runs.folder import RunFolder

Named: TypeAlias = dict[str, NDArray[Any]]


class OnnxExecutor:
    """Runs the network that `exeunt export` wrote to `folder`.

    `segments`: by default one per exit; a network's gate counts as its exit 0 here. `threads`: per call; None leaves it
    to ONNX Runtime (one per core), within the limit of the container. `spin`: let threads spin within a call while they
    wait for the next operator. On idle cores this saves up to a third of the time of one input; on busy cores a batch
    takes longer. `optimised`: let ONNX Runtime optimise the whole network before it is cut, if possible; else each
    segment is optimised alone.

    Raises InputError for segments that do not fit, ArtefactError for damaged files.
    """

    name, device, restarts, border = "onnx", CPU, (), BORDER

    def __init__(
        self,
        folder: Path,
        *,
        segments: Segments | None = None,
        threads: int | None = None,
        spin: bool = False,
        optimised: bool = True,
    ) -> None:
        self._folder, self.manifest = folder, OnnxManifest.load(folder)
        self.n_exits = len(self.manifest.stages)
        self.segments = tuple((i, i) for i in range(self.n_exits)) if segments is None else segments
        check_segments(self.segments, self.n_exits)
        self._ort = require("onnxruntime", extra="onnx")
        stages = [OnnxGraph.read((folder / stage.file).read_bytes()) for stage in self.manifest.stages]
        self._check_described(stages)
        cut = cut_optimised(self.manifest, stages, self.segments, self._ort) if optimised else None
        self.cut = cut or cut_between_files(self.manifest, stages, self.segments)
        cores = usable_cores()
        by_default = cores if cores < (os.cpu_count() or 1) else 0  # 0 leaves the choice to ONNX Runtime
        self._threads = by_default if threads is None else threads
        self._spin = spin
        self._sessions: dict[tuple[range, tuple[str, ...]], tuple[Any, list[str]]] = {}
        kinds = self.manifest.tensors
        logits, images = kinds[self.manifest.stages[-1].logits].shape, kinds[self.manifest.inputs[0]].shape
        self.mask_scale: int = images[2] // logits[2] if len(logits) == 4 else 1  # type: ignore[operator]

    def start(self, inputs: Any) -> tuple[Named, Booleans]:
        """Return the inputs as arrays by name, and which rows are finite, (n,)."""
        state = {name: self._checked(name, array) for name, array in self._named(inputs).items()}
        sizes = {name: len(array) for name, array in state.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"every input must have the same number of rows, got {sizes}")
        valid = np.ones(next(iter(sizes.values())), dtype=np.bool_)
        for array in state.values():
            if array.dtype.kind == "f":
                valid &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        return state, valid

    def signature(self, state: Named) -> Hashable:
        """Return the sizes of the inputs, without their number. In an export only lengths of texts vary."""
        return tuple(array.shape[1:] for array in state.values())

    def run(self, segment: int, state: Named, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Named]:
        """Run a session that computes the logits of `wanted`, the state after the segment, and nothing else."""
        logits = [self.manifest.stages[exit_].logits for exit_ in wanted]
        passed_on = [name for name in self.cut.states[segment] if name in self.cut.graphs[segment].outputs]
        if outputs := tuple(dict.fromkeys([*logits, *passed_on])):
            state = state | self._computed(range(segment, segment + 1), outputs, state)
        return [state[name] for name in logits], {name: state[name] for name in self.cut.states[segment]}

    def run_through(self, segments: range, state: Named) -> NDArray[Any]:
        """Return the logits of the last exit of these segments, which one session runs without a stop."""
        logits = self.manifest.stages[self.segments[segments[-1]][1]].logits
        return self._computed(segments, (logits,), state)[logits]

    def _computed(self, segments: range, outputs: tuple[str, ...], state: Named) -> Named:
        session, inputs = self._session(segments, outputs)
        results = session.run(outputs, {name: state[name] for name in inputs})
        return dict(zip(outputs, results, strict=True))

    def gather(self, parts: Sequence[tuple[Named, Integers | slice | None]]) -> Named:
        """Return one state with these rows; tensors that all rows share are those of the first state."""
        return {
            name: _gathered([(state[name], rows) for state, rows in parts], self.cut.axis[name])
            for name in parts[0][0]
        }

    def compact(self, state: Named, rows: Integers) -> tuple[Named, Integers]:
        """Drop rows in place, except from arrays that belong to the caller."""
        order = moves(rows)[2]
        compacted_state: Named = {}
        for name, array in state.items():
            axis = self.cut.axis[name]
            if axis == 0 and name not in self.manifest.inputs and array.flags.writeable:
                compacted_state[name] = compacted(array, rows)
            else:
                compacted_state[name] = _gathered([(array, order)], axis)
        return compacted_state, order

    def wait(self) -> None:
        """Do nothing: a session returns when it is done."""

    def _session(self, segments: range, outputs: tuple[str, ...]) -> tuple[Any, list[str]]:
        """Return the session that computes these tensors, opened at the first call, and the names of its inputs.

        There is one for each choice of heads: a session computes everything that its model contains, even if it is not
        fetched.
        """
        if (segments, outputs) in self._sessions:
            return self._sessions[segments, outputs]
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        if _memory_is_shared(self._ort):
            options.add_session_config_entry("session.use_env_allocators", "1")
        if self.cut.optimised:
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Threads that spin between calls take the cores from the session that works.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self._spin)))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        graphs = [self.cut.graphs[segment] for segment in segments]
        model = (graphs[0] if len(graphs) == 1 else join_graphs(graphs)).model(outputs)
        session = self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._sessions[segments, outputs] = session, [get_input.name for get_input in session.get_inputs()]
        return self._sessions[segments, outputs]

    def _check_described(self, stages: Sequence[OnnxGraph]) -> None:
        """Raise ArtefactError unless the manifest describes tensors as the stages declare them."""
        for about, stage in zip(self.manifest.stages, stages, strict=True):
            if {*about.takes} != {*stage.inputs}:
                raise ArtefactError(
                    f"the manifest of {self._folder} says that {about.file} takes {', '.join(about.takes)}, but it "
                    f"takes {', '.join(stage.inputs)}: export it again"
                )
            for name in (*about.takes, *about.gives):
                tensor, (dtype, shape) = self.manifest.tensors[name], stage.declared(name)
                if tensor.shape != shape or (name in self.manifest.inputs and tensor.dtype != dtype):
                    raise ArtefactError(
                        f"the manifest of {self._folder} describes {name} as {tensor.dtype} of shape {tensor.shape}, "
                        f"its stage as {dtype} of shape {shape}: export it again"
                    )

    def _named(self, inputs: Any) -> dict[str, Any]:
        """Return the inputs that the network takes by name, without others."""
        names = self.manifest.inputs
        named = inputs
        if not hasattr(inputs, "items"):
            values = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
            if len(values) != len(names):
                raise InputError(
                    f"the network takes {len(names)} array(s), {', '.join(names)}; got {len(values)}"
                )
            named = dict(zip(names, values, strict=True))
        if absent := [name for name in names if name not in named]:
            raise InputError(f"the network takes {', '.join(names)}; missing: {', '.join(absent)}")
        return {name: named[name] for name in names}

    def _checked(self, name: str, array_like: Any) -> NDArray[Any]:
        """Return an input as an array of the exported type and size."""
        kind = self.manifest.tensors[name]
        array = np.asarray(array_like)
        if array.dtype != kind.dtype:
            # Whole numbers are most likely raw pixels. A NaN among token ids would become an arbitrary number.
            real = np.dtype(kind.dtype).kind == "f"
            if array.dtype.kind not in ("f" if real else "iub"):
                raise InputError(
                    f"{name} must be {'real' if real else 'whole'} numbers ({kind.dtype}), got {array.dtype}: prepare "
                    "raw images or texts with runner.prepare"
                )
            array = array.astype(kind.dtype)
        if kind.pad is not None and array.ndim == 2:
            more = padded_length(array.shape[1], self.manifest.longest_text) - array.shape[1]
            array = np.pad(array, ((0, 0), (0, more)), constant_values=kind.pad) if more else array
        fits = array.ndim == len(kind.shape) and all(
            size is None or size == length for size, length in zip(kind.shape, array.shape, strict=True)
        )
        if not fits:
            sizes = ", ".join("tokens" if size is None else str(size) for size in kind.shape[1:])
            raise InputError(
                f"{name} must have shape (n, {sizes}), the size it was exported for, got {np.shape(array_like)}: bring "
                "the inputs to that size, or use the eager executor"
            )
        return array


def open_onnx(run: RunFolder, *, trusted: str | None = None, **options: Any) -> OnnxExecutor:
    """Open the ONNX files of a run folder. Raises InputError if there are none, or they have other weights.

    `trusted` does nothing: no code of the run folder is run. For other options see `OnnxExecutor`.
    """
    del trusted
    executor = OnnxExecutor(run.path / FOLDER, **options)
    executor.manifest.check_exported_from(run)
    return executor


@cache
def _memory_is_shared(ort: Any) -> bool:
    """Give all sessions of the process one allocator, so that a stage takes the memory that another has freed.

    With an allocator each, a ResNet-56 in 27 stages took 9% longer at batch 64. Returns False if that is refused.
    """
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(place, None)
    except RuntimeError:  # another library registered one already, or this version allows none
        return False
    return True


def _gathered(parts: Sequence[tuple[NDArray[Any], Any]], axis: int | None) -> NDArray[Any]:
    """Return these rows of these arrays as one array, copying each row once."""
    first = parts[0][0]
    if axis is None:
        return first
    rows_of = [(np.moveaxis(array, axis, 0), slice(None) if rows is None else rows) for array, rows in parts]
    if len(rows_of) == 1:
        array, rows = rows_of[0]
        taken = array[rows]
    else:
        counts = [
            len(range(len(array))[rows]) if isinstance(rows, slice) else len(rows) for array, rows in rows_of
        ]
        taken = np.empty((sum(counts), *rows_of[0][0].shape[1:]), first.dtype)
        for place, (array, rows) in zip(np.split(taken, np.cumsum(counts)[:-1]), rows_of, strict=True):
            if isinstance(rows, slice):
                place[:] = array[rows]
            else:
                np.take(array, rows, axis=0, out=place, mode="clip")
    return np.ascontiguousarray(np.moveaxis(taken, 0, axis))
