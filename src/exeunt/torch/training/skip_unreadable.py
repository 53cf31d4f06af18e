"""Images that cannot be read: left out of a training if asked to, else the first is an error that says how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from exeunt._text import counted
from exeunt.data import DataSource, UnreadableImage
from exeunt.errors import InputError
from exeunt.torch.progress import periodic_lines

__all__ = ["unreadable_may_be_skipped", "without_unreadable"]

_SHOWN = 20  # the manifest names all


@contextmanager
def unreadable_may_be_skipped() -> Iterator[None]:
    """Say with an image that cannot be read how to do without it."""
    try:
        yield
    except UnreadableImage as error:
        raise InputError(f"{error}. Mend it, or leave out what cannot be read: --skip-unreadable") from error


def without_unreadable(source: DataSource, say: Callable[[str], None]) -> tuple[DataSource, list[str]]:
    """Return the source without images that cannot be read, and the names of these; say how many, and why."""
    rest, refused = source.without_unreadable(progress=periodic_lines(say, "images looked at"))
    for part, errors in refused.items():
        if errors:
            n = len(source.dataset(part))
            left_out = "is left out" if len(errors) == 1 else "are left out"
            lines = [f"{len(errors):,} of {counted(n, f'{part} image')} cannot be read and {left_out}:"]
            lines += [f"  {error.name}: {error.reason}" for error in errors[:_SHOWN]]
            lines += [f"  and {len(errors) - _SHOWN:,} more"] if len(errors) > _SHOWN else []
            say("\n".join(lines))
    return rest, [error.name for errors in refused.values() for error in errors]
