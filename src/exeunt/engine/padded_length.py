"""The length in tokens that executors pad the texts of a batch to."""

from __future__ import annotations

from exeunt.errors import InputError

__all__ = ["padded_length"]


def padded_length(tokens: int, most: int | None) -> int:
    """Return a multiple of 8 tokens, above 64 tokens one of 32, but at most `most` (None: no limit).

    So there are few lengths, and rows of several batches can be joined. Raises InputError for more than `most` tokens.
    """
    if most is not None and tokens > most:
        raise InputError(
            f"these texts have {tokens} tokens and the network takes {most}: truncate them first"
        )
    multiple = 8 if tokens <= 64 else 32
    rounded = max(1, -(-tokens // multiple)) * multiple
    return rounded if most is None else min(rounded, most)
