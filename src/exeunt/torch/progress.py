"""Showing how far a training is: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from exeunt.torch.batches import length_of

__all__ = ["Progress", "periodic_lines"]

T = TypeVar("T")


class Progress:
    """Reports on a run of `epochs` epochs, or of as many of another `unit`.

    `show`: False for silence. On a terminal with `rich` installed, bars; else one line per epoch.
    """

    def __init__(self, epochs: int, *, show: bool = True, unit: str = "epoch") -> None:
        self.epochs = epochs
        self.unit = unit
        self.done = 0
        self.show = show
        self._started = time.monotonic()
        self._bars = _bars() if show and sys.stderr.isatty() else None
        self._total = None if self._bars is None else self._bars.add_task("training", total=epochs)

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def resume(self, done: int) -> None:
        """Start counting the time after `done` epochs that an earlier run finished."""
        self.done, self._started = done, time.monotonic()
        if done:
            self.say(f"resumes after {self.unit} {done}/{self.epochs}")
        if self._bars is not None and self._total is not None:
            self._bars.update(self._total, completed=done)

    def track(self, batches: Iterable[T], what: str, length: int | None = None) -> Iterator[T]:
        """Yield the batches, moving a bar named `what`; off a terminal, with a line now and then.

        `length`: their number, where it is known.
        """
        total = length_of(batches) if length is None else length
        if self._bars is None:
            report = periodic_lines(self.say, f"batches of {what}")
            for number, batch in enumerate(batches, 1):
                yield batch
                report(number, total)
            return
        task = self._bars.add_task(what, total=total)
        try:
            for batch in batches:
                yield batch
                self._bars.advance(task)
        finally:
            self._bars.remove_task(task)

    def say(self, text: str) -> None:
        """Print a line."""
        if self._bars is not None:
            self._bars.console.print(text, highlight=False, markup=False)
        elif self.show:
            print(text, file=sys.stderr, flush=True)

    def epoch(self, epoch: int, summary: str, seconds: float) -> None:
        """Report that epoch (or other unit) number `epoch`, counted from 0, has finished in so many seconds."""
        now = epoch + 1
        per_epoch = (time.monotonic() - self._started) / max(now - self.done, 1)
        left = _clock(per_epoch * (self.epochs - now))
        self.say(f"{self.unit} {now}/{self.epochs}  {summary}  {seconds:.0f} s  {left} left")
        if self._bars is not None and self._total is not None:
            self._bars.update(self._total, completed=now)


def periodic_lines(
    say: Callable[[str], None],
    what: str,
    *,
    every_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[int, int | None], None]:
    """Return a function of (done, n or None) that says a line, at most once in `every_s` seconds."""
    last = clock()

    def report(done: int, n: int | None) -> None:
        nonlocal last
        if clock() - last >= every_s:
            last = clock()
            say(f"{done:,} {what}" if n is None else f"{done:,} of {n:,} {what}")

    return report


def _bars() -> Any:
    """Return rich's progress display on the error stream, or None where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
    except ModuleNotFoundError:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bars(*columns, console=Console(stderr=True))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
