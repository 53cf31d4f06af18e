"""What drafts the tokens of exact answers: exits, and what followed the same tokens before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exeunt.errors import InputError

_MATCHED = (3, 2)
"""Prompt lookup: so many last tokens are looked for, the longer first."""


@dataclass(frozen=True)
class Drafts:
    """How exact answers are drafted.

    `length`: most tokens that exits say in a row before the full network checks them. `lookup`: most tokens that are
    drafted at once because they followed the last tokens before, in the prompt or the answer; 0 for none.
    Raises InputError for less than 1 and less than 0.
    """

    length: int = 4
    lookup: int = 0

    def __post_init__(self) -> None:
        for name, number, least in (("length", self.length, 1), ("lookup", self.lookup, 0)):
            if number < least:
                raise InputError(f"{name} of drafts must be at least {least}, got {number}")


def looked_up(text: Sequence[int], most: int) -> list[int]:
    """Return at most `most` tokens that followed the last tokens of a text where they last came before (prompt lookup).

    Nothing where they never did (Saxena 2023; see `_MATCHED` for how many have to be alike).
    """
    tokens = np.asarray(text)
    for size in _MATCHED:
        if len(tokens) > size:
            windows = np.lib.stride_tricks.sliding_window_view(tokens[:-1], size)
            if len(places := np.flatnonzero((windows == tokens[-size:]).all(axis=1))):
                start = int(places[-1]) + size
                return tokens[start : start + most].tolist()  # type: ignore[no-any-return]
    return []
