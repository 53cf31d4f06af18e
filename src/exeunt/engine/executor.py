"""The protocol that an executor keeps, so that one loop serves PyTorch, ONNX Runtime and whatever comes next.

An executor runs a network with m exits piece by piece. A *segment* is a run of neighbouring exits, from `first`
to `last` inclusive, executed at one go; rows can be dropped only between segments. One segment per exit is the
finest cut; a network that cannot be cut is one segment with all its exits.

The loop calls `start` once per batch, and then, segment after segment, `run` on some rows, `compact` to drop rows
that have answered, and `gather` to join rows of several batches. Executors keep nothing between calls but caches. But
for `compact` they change neither a state that they were given nor the caller's inputs, also where they raise: a call
that failed is made again on fewer rows.

An executor is opened by a function `open_x(run, *, threads=None, trusted=None, segments=None) -> Executor`
named in `exeunt.run.executors`; a third executor is one file and one line there. `threads`: how many to
compute with, None leaves it to the library. `trusted`: see `load`. `segments`: those asked for by a plan; None is
the executor's own choice (the finest cut), and others than it can give raise InputError.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from numpy.typing import NDArray

from exeunt._arrays import Booleans, Integers

__all__ = ["BORDER", "CPU", "Executor", "Segments"]

Segments: TypeAlias = "tuple[tuple[int, int], ...]"
"""(first exit, last exit), both inclusive, per segment: in order, without gaps, from exit 0 to exit m - 1."""


BORDER: Final = 1e-5
"""Scores this close to a threshold, and classes this close to each other, may change places with the arithmetic of
another batch, in 32 bits."""

CPU: Final = "cpu"
"""The device of an executor that computes on the processor."""


class Executor(Protocol):
    """Runs the segments of a network with m exits. `state` is its own business: it holds one row per input."""

    @property
    def name(self) -> str:
        """Short name, as in the registry: "eager", "onnx"."""
        ...

    @property
    def device(self) -> str:
        """What it computes on: "cpu", or a kind and a name such as "cuda (NVIDIA H100)". Times are of one device."""
        ...

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        ...

    @property
    def segments(self) -> Segments:
        """The segments, in order; together they hold every exit once."""
        ...

    @property
    def restarts(self) -> Collection[int]:
        """Segments whose calls make new inputs of the rows, so that states after them have signatures of their own.

        None in one network; in a cascade the first segment of each model.
        """
        ...

    @property
    def border(self) -> float:
        """How far probabilities may move with the arithmetic of another batch: `BORDER`, or more with fewer bits."""
        ...

    def start(self, inputs: Any) -> tuple[Any, Booleans]:
        """Return the state before the first segment, and which inputs can be answered, (n,).

        `inputs`: a NumPy array or a tensor with one row per input, a tuple or list of such, one for each input of the
        network, or a mapping of names to such. Inputs with NaN or infinite values cannot be answered: a ReLU may
        swallow them and an answer would come out. The state keeps their rows; the loop drops them. n may be 0.
        Raises InputError for inputs that the network does not take.
        """
        ...

    def signature(self, state: Any) -> Hashable:
        """Return what two states before the first segment must share for their rows to be joined.

        It is asked of `start`'s states, and of those after a segment in `restarts`. It must decide for all that comes
        of them up to the next such segment: names, types and sizes of the inputs but for the number of rows (images of
        two sizes cannot be joined).
        """
        ...

    def run(self, segment: int, state: Any, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Any]:
        """Run a segment on a state with at least one row.

        `wanted`: exits of this segment, ascending, whose logits are wanted; other heads need not be run.
        Returns the logits of each wanted exit, float32 (rows, k) in NumPy, and the state before the next
        segment (after the last one: anything, it is not used). Rows stay in order.
        The state given stays as it was, since it is run again, whole or in part, if this raises: what is computed in
        place is computed on a copy.
        """
        ...

    def gather(self, parts: Sequence[tuple[Any, Integers | slice | None]]) -> Any:
        """Return one state with these rows of these states, in order: dropping and joining in one copy.

        `parts`: at least one (state, rows), all before the same segment and of one signature; rows are
        ascending indices, a slice, or None for all. A single part that is a slice or None need not be copied.
        """
        ...

    def compact(self, state: Any, rows: Integers) -> tuple[Any, Integers]:
        """Return the state with these rows alone, ascending indices, and these in the order that they then have.

        The state given is used again only if this fails: what it holds may be changed in place, but for the
        caller's inputs and the rows kept themselves. To gather the rows will do, see `compaction` for what is
        faster.
        """
        ...

    def wait(self) -> None:
        """Return once all that was begun is computed. Accelerators go on after a call has returned."""
        ...
