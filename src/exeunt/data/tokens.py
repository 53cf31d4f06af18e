"""Tokenisers, and texts as tokens: padded to the longest of their batch, and cut to what the network takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Booleans, Integers
from exeunt._hub import hub_access
from exeunt.data.dataset import Dataset
from exeunt.data.raw_inputs import RawTexts
from exeunt.errors import InputError, UnreadableText, require

Text = str | tuple[str, ...]

__all__ = ["content_or_error", "load_tokenizer", "readable_texts", "text_batch", "token_counts", "tokenised"]

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")


def load_tokenizer(name: str) -> Any:
    """Return the tokeniser of this name or folder; code that comes with it is not run, and PyTorch is not needed.

    Raises InputError where there is none.
    """
    auto = require("transformers", extra="hf").AutoTokenizer
    folder = Path(name)
    # Without these files the library silently makes a tokeniser that knows no word.
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise InputError(
            f"there is no tokeniser in {name}: put it there with tokenizer.save_pretrained({name!r})"
        )
    with hub_access(name, f"there is no tokeniser {name!r} here"):
        return auto.from_pretrained(name, trust_remote_code=False)


def tokenised(
    tokenizer: Callable[..., Any],
    texts: Sequence[Text],
    *,
    max_length: int | None = None,
    fixed_length: bool = False,
) -> tuple[dict[str, NDArray[Any]], Booleans]:
    """Return the tokens of texts or pairs of texts (b, t) by name, and which texts were cut (b,).

    `max_length`: in tokens; default the tokeniser's own limit. `fixed_length`: pad to it, else to the longest text.
    A text without any token is one token that is unknown, or padding: a network cannot read nothing.
    """
    if not texts:
        tokens, cut = tokenised(tokenizer, [""], max_length=max_length)
        return {name: rows[:0] for name, rows in tokens.items()}, cut[:0]
    rows = tokenizer(
        *_columns(texts),
        padding="max_length" if fixed_length else "longest",
        truncation=True,
        max_length=max_length,
        return_tensors="np",
    )
    tokens = _without_nothing(dict(rows), tokenizer)
    lengths = tokens["attention_mask"].sum(axis=1)
    limit = getattr(tokenizer, "model_max_length", math.inf) if max_length is None else max_length
    cut = np.asarray(lengths >= limit)
    if cut.any():
        full = [text for text, is_full in zip(texts, cut, strict=True) if is_full]
        cut[cut] = token_counts(tokenizer, full, whole=True) > limit
    return tokens, cut


def text_batch(way: Any, texts: Sequence[Text]) -> tuple[Any, Booleans]:
    """Return texts as a run takes them, and which were cut (b,). `way`: its tokeniser, or RawTexts."""
    return way.batch(texts) if isinstance(way, RawTexts) else tokenised(way, texts)


def token_counts(tokenizer: Callable[..., Any], texts: Sequence[Text], *, whole: bool = False) -> Integers:
    """Return the length of each text in tokens, (n,), special ones included; with `whole` before it is cut."""
    if not texts:
        return np.zeros(0, dtype=np.int64)
    rows = tokenizer(*_columns(texts), truncation=not whole, verbose=False)["input_ids"]
    return np.array([len(row) for row in rows], dtype=np.int64)


def readable_texts(
    data: Dataset, positions: Sequence[int]
) -> tuple[list[int], list[Any], list[tuple[int, UnreadableText]]]:
    """Return the positions that hold texts, these texts, and the other positions, each with why it does not."""
    found = [(place, content_or_error(data, place)) for place in positions]
    bad = [(place, text) for place, text in found if isinstance(text, UnreadableText)]
    good = [(place, text) for place, text in found if not isinstance(text, UnreadableText)]
    return [place for place, _ in good], [text for _, text in good], bad


def content_or_error(data: Dataset, i: int) -> Any:
    """Return the text or texts of a row, or the error of a row that holds none."""
    try:
        return data.content(i)
    except UnreadableText as error:
        return error


def _columns(texts: Sequence[Text]) -> list[list[str]]:
    """Return the texts as a tokeniser takes them: a list, or the two lists of pairs."""
    if isinstance(texts[0], str):
        return [list(texts)]  # type: ignore[arg-type]
    return [list(column) for column in zip(*texts, strict=True)]


def _without_nothing(
    tokens: dict[str, NDArray[Any]], tokenizer: Callable[..., Any]
) -> dict[str, NDArray[Any]]:
    if tokens["input_ids"].shape[1] == 0:
        tokens = {name: np.zeros((len(rows), 1), dtype=np.int64) for name, rows in tokens.items()}
    nothing = tokens["attention_mask"].sum(axis=1) == 0
    if nothing.any():
        known = (getattr(tokenizer, name, None) for name in ("unk_token_id", "pad_token_id"))
        place = 0 if getattr(tokenizer, "padding_side", "right") == "right" else -1
        tokens["input_ids"][nothing, place] = next((token for token in known if token is not None), 0)
        tokens["attention_mask"][nothing, place] = 1
    return tokens
