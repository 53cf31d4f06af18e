"""The links of a chain."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Link"]


@dataclass(frozen=True)
class Link:
    """A member of a chain: its name, and how many of its exits are run, from the first on."""

    member: str
    n_exits: int
