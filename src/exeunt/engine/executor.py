"""The protocol of executors, so that one engine serves PyTorch, ONNX Runtime and whatever comes next.

An executor runs a network with m exits piece by piece. A *segment* is a run of neighbouring exits, from `first`
to `last` inclusive, that one call executes; rows can be dropped only between segments. One segment per exit is the
finest cut; a network that cannot be cut is one segment with all its exits.

The engine calls `start` once per batch, and then, segment after segment, `run` on some rows, `compact` to drop finished
rows, and `gather` to join rows of several batches. Executors keep nothing between calls but caches. Except in
`compact`, they change neither a state that they were given nor the caller's inputs, even if they raise: a call that
failed is repeated on fewer rows.

An executor is opened by a function `open_x(run, *, threads=None, trusted=None, segments=None) -> Executor`
that a kind of run names (see `exeunt.runs.kinds.kind.ExecutorKind`). `threads`: how many to compute with, None leaves
it to the library. `trusted`: see `load`. `segments`: those of a plan; None is the executor's own choice (the finest
cut). Segments that it cannot run raise InputError.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Hashable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Integers
from exeunt.errors import InputError
from exeunt.score.confidence import BEFORE_EXITS

Segments: TypeAlias = "tuple[tuple[int, int], ...]"
"""(first exit, last exit), both inclusive, per segment: in order, without gaps, from exit 0 to exit m - 1."""

BORDER: Final = 1e-5
"""With 32-bit arithmetic, another batch may move scores and class probabilities by this much."""

CPU: Final = "cpu"
"""The device of an executor that computes on the processor."""


class Executor(Protocol):
    """Runs the segments of a network with m exits. Only executors look into a `state`, which has a row per input."""

    @property
    def name(self) -> str:
        """Short name, as in the registry: "eager", "onnx"."""

    @property
    def device(self) -> str:
        """What it computes on: "cpu", or a kind and a name such as "cuda (NVIDIA H100)". Durations are per device."""

    @property
    def n_exits(self) -> int:
        """Number of exits m."""

    @property
    def segments(self) -> Segments:
        """The segments, in order; together they hold every exit once."""

    @property
    def restarts(self) -> Collection[int]:
        """Segments whose calls prepare new inputs for the rows, so that states after them have signatures of their own.

        None in one network; in a cascade the first segment of each model.
        """

    @property
    def border(self) -> float:
        """How far probabilities may move with the arithmetic of another batch: `BORDER`, or more with fewer bits."""

    @property
    def mask_scale(self) -> int:
        """How many times as high and wide masks are as the logits of them; 1 too where answers are classes."""

    def start(self, inputs: Any) -> tuple[Any, Booleans]:
        """Return the state before the first segment, and which inputs can be answered, (n,).

        `inputs`: a NumPy array or a tensor with one row per input, a tuple or list of such, one for each input of the
        network, or a mapping of names to such. Inputs with NaN or infinite values cannot be answered: a ReLU may
        swallow them, and the network would return an answer. The state keeps their rows; the engine drops them. n may
        be 0.
        Raises InputError for inputs that the network does not take.
        """

    def signature(self, state: Any) -> Hashable:
        """Return what two states before the first segment must share for their rows to be joined.

        The engine asks for it after `start` and after a segment in `restarts`. It must hold up to the next such
        segment: names, types and sizes of the inputs except the number of rows (images of two sizes cannot be joined).
        """

    def run(self, segment: int, state: Any, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Any]:
        """Run a segment on a state with at least one row.

        `wanted`: exits of this segment, ascending, whose logits are wanted; other heads need not be run.
        Returns the logits of each wanted exit, float32 (rows, k) in NumPy, or of a network that answers with masks
        (rows, k, h, w), and the state before the next segment (after the last one: anything, it is not used). Rows stay
        in order.
        The given state stays unchanged, because it is run again, whole or in part, if this raises: whatever computes
        in place computes on a copy.
        """

    def gather(self, parts: Sequence[tuple[Any, Integers | slice | None]]) -> Any:
        """Return one state with these rows of these states, in order: dropping and joining in one copy.

        `parts`: at least one (state, rows), all before the same segment and of one signature; rows are
        ascending indices, a slice, or None for all. A single part that is a slice or None need not be copied.
        """

    def compact(self, state: Any, rows: Integers) -> tuple[Any, Integers]:
        """Return the state with these rows alone, ascending indices, and these in the order that they then have.

        The given state is used again only if this fails: it may be changed in place, except for the caller's inputs and
        the rows that are kept. Gathering the rows would do; `exeunt.engine.dropping_finished_rows` is faster.
        """

    def wait(self) -> None:
        """Wait until all calls are computed. Accelerators go on computing after a call has returned."""


class SelectedExits:
    """An executor of some exits of another one, `exits`, ascending. The other heads and all after the last do not run.

    `has_gate`: the other one's exit 0 is the network's gate, whose features are wanted as those of exit -1.

    Raises InputError if a segment up to there holds none of the exits: rows can be dropped only between segments.
    """

    def __init__(self, executor: Executor, exits: Sequence[int], *, has_gate: bool = False) -> None:
        self._executor, self._exits, self.n_exits = executor, tuple(exits), len(exits)
        self.name, self.device, self.restarts = executor.name, executor.device, executor.restarts
        self.border, self.mask_scale = executor.border, executor.mask_scale
        self.start, self.signature = executor.start, executor.signature
        self.gather, self.compact, self.wait = executor.gather, executor.compact, executor.wait
        self.has_gate = has_gate
        ends = [last for _, last in executor.segments]
        places = [bisect_left(ends, exit_) for exit_ in self._exits]
        used = range(places[-1] + 1)
        if sorted({*places}) != list(used):
            raise InputError(
                f"segments {executor.segments} are finer than the exits that are run, {self._exits}"
            )
        self.segments: Segments = tuple((places.index(k), bisect_right(places, k) - 1) for k in used)

    def run(self, segment: int, state: Any, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Any]:
        """Run a segment for the wanted ones of the exits."""
        return self._executor.run(
            segment, state, [0 if place == BEFORE_EXITS else self._exits[place] for place in wanted]
        )


class OneLookExecutor:
    """Runs each input straight to one exit, which is chosen at the gate.

    `executor`: its exit 0 is the network's gate, and it has a segment for each exit. Segment 0 here is up to the gate,
    whose features are the outputs of exit 0. Segment l is all between the gate and exit l: it takes and returns the
    state at the gate, so that rows go from segment 0 to the segment of their exit. Heads on the way do not run.
    """

    one_look = True

    def __init__(self, executor: Executor) -> None:
        self._executor, self.n_exits, self.segments = executor, executor.n_exits, executor.segments
        self.name, self.device, self.restarts = executor.name, executor.device, executor.restarts
        self.border, self.mask_scale = executor.border, executor.mask_scale
        self.start, self.signature = executor.start, executor.signature
        self.gather, self.wait = executor.gather, executor.wait
        self.compact = executor.compact

    def run(self, segment: int, state: Any, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Any]:
        """Run the stages from the gate to an exit, or up to the gate."""
        if segment == 0:
            return self._executor.run(0, state, wanted)
        if (run_through := getattr(self._executor, "run_through", None)) is not None:
            return [run_through(range(1, segment + 1), state)], state
        along = state
        for before in range(1, segment):
            _, along = self._executor.run(before, along, [])
        return self._executor.run(segment, along, wanted)[0], state

    @staticmethod
    def skip(state: Any) -> Any:
        """Return the state at the gate as it is: every segment begins there."""
        return state


def looks_once(executor: Any) -> bool:
    """Whether an executor, or what wraps one, is a `OneLookExecutor`."""
    return bool(getattr(executor, "one_look", False))
