"""How far a long piece of work is: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tqdm import tqdm


class Progress(tqdm):  # type: ignore[misc]
    """Counts what is done: a tqdm bar on a terminal, elsewhere lines such as "300 of 1,000 images, 00:12 left".

    `what`: what is counted, in the plural. `iterable`: counted while it is iterated over. `total`: how many there are,
    by default the length of `iterable`; None where it is not known. `done`: how many were done by an earlier run.
    `say`: gets the lines, on a terminal too; by default they go to standard error. `every_s`: at most one line in so
    many seconds, so that quick work prints none. `show`: False for silence.

    What tqdm offers besides serves here too: `update(n)` counts n more, `set_postfix_str` adds a text to the line.
    """

    monitor_interval = 0  # without tqdm's own thread, beside which a process must not fork

    def __init__(
        self,
        what: str,
        iterable: Iterable[Any] | None = None,
        *,
        total: int | None = None,
        done: int = 0,
        say: Callable[[str], None] | None = None,
        every_s: float = 10.0,
        show: bool = True,
    ) -> None:
        self._in_lines = say is not None or not sys.stderr.isatty()
        self._say = say or partial(print if self._in_lines else self.write, file=sys.stderr)
        wait = {"mininterval": every_s, "delay": every_s} if self._in_lines else {}
        options: dict[str, Any] = {"leave": False, "miniters": 1, "disable": not show, **wait}
        super().__init__(iterable, desc=what, total=total, initial=done, **options)

    def line(self) -> str:
        """Return how far the work is, in words."""
        of = "" if self.total is None else f" of {self.total:,}"
        left = ", {remaining} left" if self.total is not None and self.n < self.total else ""
        words = f"{self.n:,}{of} {self.desc}{{postfix}}{left}"
        return str(self.format_meter(**{**self.format_dict, "ncols": None, "bar_format": words}))

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the bar, or say the line."""
        if not self._in_lines:
            return super().display(msg, pos)
        return self._say(self.line()) if msg is None else None

    def say(self, text: str) -> None:
        """Print a line, above the bars where there are any."""
        if not self.disable:
            self._say(text)

    def step(self, about: str) -> None:
        """Count one more, and say a line about it."""
        self.set_postfix_str(about, refresh=False)
        self.update()
        if not self.disable:
            self._say(self.line())

    def report(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self.total = total
        self.update(done - self.n)
