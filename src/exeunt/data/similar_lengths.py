"""Batches of texts of similar length: little of them is padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from exeunt._arrays import Integers
from exeunt.data.dataset import Dataset
from exeunt.data.tokens import content_or_error
from exeunt.errors import UnreadableText

__all__ = ["by_length"]

_WINDOW = 64
"""Batches whose texts are sorted by length together: all of a large data set would fill the memory."""


def by_length(data: Dataset, batch_size: int, order: Integers | None = None) -> Integers:
    """Return the positions of texts so that a batch has texts of similar length: of 64 batches, short ones first.

    `order`: the positions (n,) to begin with, by default all in the order of the data.
    Length counts in characters, which tokens follow closely.
    """
    order = np.arange(len(data)) if order is None else order
    lengths = np.array([_n_characters(content_or_error(data, i)) for i in order.tolist()], dtype=np.int64)
    windows = np.arange(len(order)) // (_WINDOW * batch_size)
    return order[np.lexsort((lengths, windows))]


def _n_characters(content: Any) -> int:
    if isinstance(content, UnreadableText):
        return 0
    return len(content) if isinstance(content, str) else sum(map(len, content))
