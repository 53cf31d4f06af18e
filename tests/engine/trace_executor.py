"""An executor that reads logits off a record and is as hard on the loop as real executors are.

Like those on PyTorch and ONNX Runtime it keeps the caller's arrays instead of copies, hands memory on from state to
state, returns views where rows lie together, drops rows in place, and gives sure answers for rows that it should not
have been asked about. It stops at once where the loop breaks the protocol. A real one would compute with the rows of
other inputs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

import exeunt as ex

if TYPE_CHECKING:
    from collections.abc import Mapping


class Misuse(BaseException):
    """The loop broke the protocol. Not an `Exception`: those the loop takes for the failure of a batch."""


class PoisonError(RuntimeError):
    """One of `rows`, those of the call, breaks the executor."""

    def __init__(self, rows):
        super().__init__("this row breaks the executor")
        self.rows = rows


class SpaceError(MemoryError):
    """There is no memory for a call on `rows`."""

    def __init__(self, rows):
        super().__init__("no memory is left")
        self.rows = rows


@dataclass(eq=False)
class TraceState:
    """Rows before `segment`. Both arrays hold each row's number in all columns, and NaN where a row was dropped.

    `carried` (rows, w): the inputs, handed on in the same memory. `made` (rows, w): new from every segment.
    `lent`: the caller's array, which is never written to. `usable`: False once rows were dropped in place.
    """

    segment: int
    carried: np.ndarray
    made: np.ndarray
    lent: np.ndarray
    usable: bool = True

    @property
    def numbers(self) -> np.ndarray:
        """Number of each row; -1 for an input that is not finite, for what dropping left behind, and for rows mixed up.

        Rows that were run in a part of their own may have been moved since in the memory that they share with this one.
        """
        there = np.isfinite(self.carried).all(axis=1) & np.isfinite(self.made).all(axis=1)
        for array in (self.carried, self.made):
            there &= (array == self.made[:, :1]).all(axis=1)
        return np.where(there, self.made[:, 0], -1).astype(np.int64)

    @property
    def own(self) -> list[np.ndarray]:
        """Arrays that may be written to."""
        return [array for array in (self.carried, self.made) if not np.may_share_memory(array, self.lent)]


@dataclass
class TraceExecutor:
    """Reads logits off a record (n, m, k); the numbers in an input say which row. Inputs differ in width only.

    `fails`: row -> segment at which a call that holds the row raises, whether the row has answered or not.
    `faults`: "start", "gather", "compact" or "run" -> which calls of that kind raise, counted from 0 by `counts`.
    `noise`: most that is added to or taken from a logit.
    `calls`: (segment, rows, wanted) of each call of `run` that succeeded. `failed`: (kind, rows) of each call that
    raised. `restarts`: segments with which models of a cascade begin; rows may skip those between. `due`: by row, the
    segment that runs it next, from its last `start` on.
    """

    logits: np.ndarray
    segments: tuple[tuple[int, int], ...] = ()
    fails: Mapping[int, int] = field(default_factory=dict)
    faults: Mapping[str, frozenset[int]] = field(default_factory=dict)
    noise: float = 0.0
    name: str = "trace"
    device: str = "cpu"
    restarts: tuple[int, ...] = ()
    border: float = 1e-5
    mask_scale: int = 1
    calls: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    failed: list[tuple[str, frozenset[int]]] = field(default_factory=list)
    due: dict[int, int] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.segments = self.segments or tuple((i, i) for i in range(self.logits.shape[1]))

    @property
    def n_exits(self):
        return self.logits.shape[1]

    def start(self, inputs):
        if inputs.ndim != 2:
            raise ex.InputError(f"inputs must have 2 axes, got {inputs.shape}")
        state = TraceState(self._before(0), inputs, inputs, inputs)
        self._stop("start", state.numbers.tolist())
        self.due |= dict.fromkeys(state.numbers.tolist(), 0)
        return state, np.isfinite(inputs).all(axis=1)

    def signature(self, state):
        return None if state is None else state.carried.shape[1]

    def skip(self, state):
        """Return the state before another model."""
        return TraceState(self._before(self.restarts[0]), state.carried, state.made, state.lent)

    def _before(self, segment):
        """What a state before a segment says: those before the first segments of models are all alike."""
        return -1 if segment in self.restarts else segment

    def run(self, segment, state, wanted):
        numbers = self._numbers(state)
        first, last = self.segments[segment]
        if state.segment != self._before(segment) or len(numbers) == 0 or list(wanted) != sorted(set(wanted)):
            raise Misuse(f"run({segment}, {state}, {wanted})")
        if not all(first <= exit_ <= last for exit_ in wanted):
            raise Misuse(f"exits {wanted} are not in segment {segment}: {first} to {last}")
        there = numbers[numbers >= 0].tolist()
        self._stop("run", there, any(self.fails.get(number) == segment for number in there))
        self._once(np.array(there))
        skips = segment in self.restarts
        due = {number: self.due[number] for number in there}
        if wrong := {row: at for row, at in due.items() if at > segment or (at < segment and not skips)}:
            raise Misuse(f"run by segment {segment}, but due (row: segment): {wrong}")
        self.due |= dict.fromkeys(there, segment + 1)
        self.calls.append((segment, len(numbers), tuple(wanted)))
        if segment == len(self.segments) - 1:
            return self._logits(numbers, wanted), None
        made = np.where(numbers >= 0, numbers, np.nan)[:, None].repeat(state.made.shape[1], axis=1)
        after = TraceState(self._before(segment + 1), state.carried, made, state.lent)
        return self._logits(numbers, wanted), after

    def gather(self, parts):
        if len({(state.segment, state.carried.shape[1]) for state, _ in parts}) != 1:
            raise Misuse("rows before different segments, or of different widths, cannot be joined")
        numbers = [self._kept(state, rows) for state, rows in parts]
        self._once(np.concatenate(numbers))
        self._stop("gather", np.concatenate(numbers).tolist())
        first = parts[0][0]
        taken = [(state, slice(None) if rows is None else rows) for state, rows in parts]
        columns = [(state.carried[rows], state.made[rows]) for state, rows in taken]
        carried, made = columns[0] if len(parts) == 1 else map(np.concatenate, zip(*columns, strict=True))
        return TraceState(first.segment, carried, made, first.lent)

    def compact(self, state, rows):
        """The last rows move into the places of those that leave, in an order of the executor's own."""
        kept = self._kept(state, rows)
        leaving = np.setdiff1d(np.arange(len(state.made)), rows)
        try:
            self._stop("compact", kept.tolist())
        except MemoryError:  # half-way through: whatever is not kept may be gone
            for array in state.own:
                array[leaving] = np.nan
            raise
        count = len(rows)
        order = np.arange(count)
        order[leaving[leaving < count]] = rows[rows >= count][::-1]
        own, arrays = state.own, []
        for array in (state.carried, state.made):
            if any(array is mine for mine in own):
                array[:count] = array[order]
                array[count:] = np.nan
                arrays.append(array[:count])
            else:
                arrays.append(array[order])
        state.usable = False
        return TraceState(state.segment, *arrays, state.lent), order

    def wait(self):
        pass

    def _numbers(self, state):
        if not state.usable:
            raise Misuse("the rows of this state were dropped in place: there is a new one")
        return state.numbers

    def _kept(self, state, rows):
        """Return the numbers of rows that are to be kept: they must all be there."""
        numbers = self._numbers(state)
        if isinstance(rows, np.ndarray) and (np.diff(rows) <= 0).any():
            raise Misuse(f"rows must ascend, got {rows}")
        kept = numbers if rows is None else numbers[rows]
        if len(kept) == 0 or (kept < 0).any():
            raise Misuse(f"rows {rows} of {numbers} were dropped before, or are not finite")
        return kept

    @staticmethod
    def _once(numbers):
        if len(set(numbers.tolist())) != len(numbers):
            raise Misuse(f"a row comes twice: {numbers}")

    def _stop(self, kind, rows, fails=False):
        """Raise if this call is one of those that do."""
        count = self.counts[kind]
        self.counts[kind] += 1
        if fails or count in self.faults.get(kind, ()):
            self.failed.append((kind, frozenset(rows)))
            raise (PoisonError if fails else SpaceError)(frozenset(rows))

    def _logits(self, numbers, wanted):
        k, rng = self.logits.shape[2], np.random.default_rng(len(self.calls))
        shift = self.noise * rng.uniform(-1, 1, (len(numbers), k))
        sure = np.eye(k)[0] * 100  # a ReLU makes something of a NaN too
        there = (numbers >= 0)[:, None]
        found = [np.where(there, self.logits[numbers, exit_] + shift, sure) for exit_ in wanted]
        return [logits.astype(np.float32) for logits in found]
