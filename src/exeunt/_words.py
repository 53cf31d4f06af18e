"""Words that agree with a number."""

from __future__ import annotations

__all__ = ["counted"]


def counted(n: int, one: str, many: str | None = None) -> str:
    """Return a number and what is counted: `one` of them, or `many`, by default with an s.

    >>> counted(1, "text was", "texts were"), counted(3000, "input")
    ('1 text was', '3,000 inputs')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
