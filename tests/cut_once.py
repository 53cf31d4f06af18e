"""The network of a run, cut once for many tests: a cut takes half a second."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exeunt.run.folder import RunFolder


@contextmanager
def cut_once(same: Callable[[RunFolder], Any]) -> Iterator[None]:
    """Let runs for which `same` returns the same share an executor on PyTorch for each plan, inside the block."""
    from exeunt.torch import open_run

    opened: dict[Any, Any] = {}
    open_eager = open_run.open_eager

    def open_once(run: RunFolder, *, segments: Any = None, **options: Any) -> Any:
        key = same(run), segments
        if key not in opened:
            opened[key] = open_eager(run, segments=segments, **options)
        return opened[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_run, "open_eager", open_once)
        yield
