"""What an executor takes on this machine: seconds per segment, head and copy, by the number of rows.

It is measured once and kept in the run folder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt import _arrays
from exeunt._sealed import read_sealed, write_sealed
from exeunt.errors import ArtefactError, InputError
from exeunt.score.confidence import Evidence, softmax
from exeunt.timing.measurement import describe_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

    from exeunt._arrays import Floats
    from exeunt.engine.executor import Executor, Segments

__all__ = ["SIZES", "Profile", "measure_profile", "rows_of"]

_FORMAT, _VERSION = "exeunt-profile", 1


@dataclass(frozen=True, eq=False)
class Profile:
    """Seconds per call, each a median over repeats, on one machine.

    `executor`: its name. `segments`: s of them. `sizes` (b,): rows of a call, ascending, at least 1.
    `run` (s, b): a segment without its heads. `head` (m, b): what an exit's head adds, scores and decision
    included. `gather` (s, b): putting that many rows together for this segment (0 before the first).
    `whole` (b,): the uncut network, without heads, on the same executor; None where it was not measured.
    `spread` (s, b): relative half-width of `run`, from the 10 % to the 90 % quantile of repeats; None if unknown.
    `machine`: what it was measured on, JSON-able.
    """

    executor: str
    segments: Segments
    sizes: tuple[int, ...]
    run: Floats
    head: Floats
    gather: Floats
    whole: Floats | None = None
    spread: Floats | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = tuple(int(size) for size in self.sizes)
        if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
            raise InputError(f"sizes must be ascending numbers of rows from 1 on, got {self.sizes}")
        object.__setattr__(self, "sizes", sizes)
        segments = tuple((int(first), int(last)) for first, last in self.segments)
        object.__setattr__(self, "segments", segments)
        shapes = {
            "run": (len(segments), len(sizes)),
            "head": (self.n_exits, len(sizes)),
            "gather": (len(segments), len(sizes)),
            "whole": (len(sizes),),
            "spread": (len(segments), len(sizes)),
        }
        for name, shape in shapes.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _table(getattr(self, name), name, shape))

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self.segments[-1][1] + 1

    def seconds(self, segment: int, rows: Any, heads: Any = ()) -> Any:
        """Return the seconds of one call with `rows` rows (a number or an array), the `heads` of it included.

        Linear between the sizes measured; beyond them in proportion to the rows. Part of a row (an expected
        number below 1) takes that part of a call with one.
        """
        table = self.run[segment] + self.head[list(heads)].sum(axis=0)
        return interpolated(self.sizes, table, rows)

    def gather_seconds(self, segment: int, rows: Any) -> Any:
        """Return the seconds of putting `rows` rows together for a segment, as `seconds` does."""
        return interpolated(self.sizes, self.gather[segment], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back an equal profile."""
        tables = ("run", "head", "gather", "whole", "spread")
        return {
            "executor": self.executor,
            "segments": [list(segment) for segment in self.segments],
            "sizes": list(self.sizes),
            **{name: None if (value := getattr(self, name)) is None else value.tolist() for name in tables},
            "machine": dict(self.machine),
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Profile:
        """Rebuild a profile from `to_dict`."""
        return cls(**body)

    def save(self, path: str | Path) -> None:
        """Write the profile as sealed JSON, atomically."""
        write_sealed(path, "profile", self.to_dict(), format_=_FORMAT, version=_VERSION)

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile. Raises ArtefactError if the file is damaged, edited, foreign or newer."""
        body = read_sealed(
            path, "profile", kind="profile", format_=_FORMAT, version=_VERSION, remedy="measure it again"
        )
        try:
            return cls.from_dict(body)
        except (TypeError, ValueError, LookupError) as error:
            raise ArtefactError(f"{path} cannot be read as a profile: {error!r}") from error


def interpolated(sizes: ArrayLike, seconds: Floats, rows: Any) -> Any:
    """Return the seconds of calls with `rows` rows: linear in between, in proportion outside the sizes."""
    grid, wanted = np.asarray(sizes, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    beyond = np.maximum(wanted / grid[-1], 1.0) * np.minimum(wanted, 1.0)
    return np.interp(wanted, grid, seconds) * beyond


def _table(value: Any, name: str, shape: tuple[int, ...]) -> Floats:
    table = _arrays.floats(value, name, ndim=len(shape))
    if table.shape != shape or (table < 0).any() or not np.isfinite(table).all():
        raise InputError(
            f"{name} must have shape {shape} and hold finite seconds of 0 or above, got {table.shape}"
        )
    return _arrays.frozen(table)


SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FEWEST_ROUNDS = 3
_SMALL = 16  # rows: calls this small are cheap and their times uncertain, so they are taken more often
_OFTEN = 4
_SCORE = "margin"  # any score will do: all of them take microseconds


def measure_profile(
    executor: Executor,
    inputs: Any,
    *,
    sizes: Sequence[int] = SIZES,
    whole: Callable[[Any], Any] | None = None,
    repeats: int = 9,
    max_seconds: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure what an executor takes on this machine.

    `inputs`: some of the inputs that it will run on, or such as these; their values do not matter. `sizes`: numbers
    of rows per call. `whole`: runs the uncut network on such inputs, to compare with.
    All cells are measured in turns, `repeats` rounds of them after one that is not counted, so that whatever else
    the machine does falls on all alike; medians are kept. After `max_seconds` no new round begins, from the third
    on. Small calls are made four times a round.

    Raises InputError for sizes below 1, no inputs, or fewer than one repeat.
    """
    wanted = sorted({int(size) for size in sizes})
    state, valid = executor.start(inputs)
    if not wanted or wanted[0] < 1 or repeats < 1 or not len(valid):
        raise InputError(
            f"measuring needs inputs, sizes and repeats of at least 1, got {len(valid)} inputs, "
            f"sizes {wanted}, repeats {repeats}"
        )
    states = [rows_of(executor, state, len(valid), size) for size in wanted]
    wholes = [] if whole is None else [_repeated(inputs, len(valid), size) for size in wanted]
    samples: list[list[Floats]] = [[] for _ in wanted]
    end = clock() + max_seconds
    for number in range(repeats + 1):
        if number > _FEWEST_ROUNDS and clock() > end:
            break
        for place, size in enumerate(wanted):
            for _ in range(_OFTEN if size <= _SMALL else 1):
                cells = _one_pass(executor, states[place], size, clock)
                cells.append(0.0 if whole is None else _seconds(whole, wholes[place], clock))
                if number:
                    samples[place].append(np.array(cells))
        progress(f"round {number} of {repeats} measured")
    return _summary(executor, wanted, samples, with_whole=whole is not None)


def rows_of(executor: Executor, state: Any, n: int, size: int) -> Any:
    """Return a state of `size` rows made of those of a state of n, repeated if need be."""
    full, rest = divmod(size, n)
    parts: list[tuple[Any, Any]] = [(state, None)] * full + ([(state, slice(0, rest))] if rest else [])
    return executor.gather(parts)


def _repeated(inputs: Any, n: int, size: int) -> Any:
    """Return `size` rows of the inputs, repeated if need be."""
    rows = np.arange(size) % n
    if hasattr(inputs, "items"):
        return {name: value[rows] for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(value[rows] for value in inputs)
    return inputs[rows]


def _one_pass(executor: Executor, state: Any, size: int, clock: Callable[[], float]) -> list[float]:
    """Return the seconds of gather and run of each segment, then of each head."""
    gathers, runs, heads = [], [], []
    for segment, (first, last) in enumerate(executor.segments):
        gathers.append(0.0)
        if segment:
            began = clock()
            state = executor.gather([(state, np.arange(size))])
            gathers[-1] = clock() - began
        ends = [last] if segment == len(executor.segments) - 1 else []
        began = clock()
        logits, after = executor.run(segment, state, ends)
        runs.append(clock() - began)
        for exit_ in range(first, last + 1):
            if [exit_] != ends:
                began = clock()
                logits, _ = executor.run(segment, state, [exit_, *ends])
                heads.append(clock() - began - runs[-1])
            else:
                heads.append(0.0)
            heads[-1] += _seconds(_decide, logits[0], clock)
        state = after
    return [*gathers, *runs, *heads]


def _seconds(call: Callable[[Any], Any], argument: Any, clock: Callable[[], float]) -> float:
    began = clock()
    call(argument)
    return clock() - began


def _decide(logits: Any) -> Any:
    evidence = Evidence(softmax(np.asarray(logits, dtype=np.float64)))
    return evidence[_SCORE], evidence["prediction"], evidence["max_probability"]


def _summary(
    executor: Executor, sizes: Sequence[int], samples: Sequence[Sequence[Floats]], *, with_whole: bool
) -> Profile:
    s, m = len(executor.segments), executor.n_exits
    table = np.stack([np.median(rows, axis=0) for rows in samples], axis=1)
    low, high = (np.stack([np.quantile(rows, q, axis=0) for rows in samples], axis=1) for q in (0.1, 0.9))
    run = np.maximum(table[s : 2 * s], 0.0)
    return Profile(
        executor=executor.name,
        segments=executor.segments,
        sizes=tuple(sizes),
        run=run,
        head=np.maximum(
            table[2 * s : 2 * s + m], 0.0
        ),  # a difference of two times: noise may make it negative
        gather=np.maximum(table[:s], 0.0),
        whole=table[-1] if with_whole else None,
        spread=(high - low)[s : 2 * s] / (2 * np.maximum(run, 1e-12)),
        machine=describe_machine(),
    )
