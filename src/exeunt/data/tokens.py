"""Texts as inputs of a network: tokenisers, tokens padded to the longest text of a batch, batches by length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Integers
from exeunt._support.hub import hub_access
from exeunt.data.dataset import Dataset
from exeunt.engine.inputs import raw_rows
from exeunt.errors import InputError, UnreadableText, require

Text = str | tuple[str, ...]

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")
_WINDOW = 64
"""Batches whose texts are sorted by length together: all texts of a large data set would fill the memory."""


class RawTexts:
    """Texts unchanged, in the place of a tokeniser: each model of a cascade prepares them itself."""

    def batch(self, texts: Sequence[Any]) -> tuple[NDArray[Any], Booleans]:
        """Return texts or pairs of texts as objects (n,), and that none was cut."""
        return raw_rows(texts), np.zeros(len(texts), dtype=np.bool_)


def load_tokenizer(name: str) -> Any:
    """Return the tokeniser of this name or folder, without running code that comes with it and without PyTorch.

    Raises InputError if there is none.
    """
    auto = require("transformers", extra="hf").AutoTokenizer
    folder = Path(name)
    # Without these files the library silently makes a tokeniser without a vocabulary.
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise InputError(f"{name} has no tokeniser: put it there with tokenizer.save_pretrained({name!r})")
    with hub_access(name, f"there is no tokeniser {name!r} here"):
        return auto.from_pretrained(name, trust_remote_code=False)


def tokenised(
    tokenizer: Callable[..., Any],
    texts: Sequence[Text],
    *,
    max_length: int | None = None,
) -> tuple[dict[str, NDArray[Any]], Booleans]:
    """Return the tokens of texts or pairs of texts (b, t) by name, and which texts were cut (b,).

    `max_length`: in tokens; default the tokeniser's own limit.
    A text without tokens becomes one unknown or padding token: a network needs at least one.
    """
    if not texts:
        tokens, cut = tokenised(tokenizer, [""], max_length=max_length)
        return {name: rows[:0] for name, rows in tokens.items()}, cut[:0]
    rows = tokenizer(
        *_columns(texts),
        padding="longest",
        truncation=True,
        max_length=max_length,
        return_tensors="np",
    )
    tokens = _without_empty_rows(dict(rows), tokenizer)
    lengths = tokens["attention_mask"].sum(axis=1)
    limit = getattr(tokenizer, "model_max_length", math.inf) if max_length is None else max_length
    cut = np.asarray(lengths >= limit)
    if cut.any():
        full = [text for text, is_full in zip(texts, cut, strict=True) if is_full]
        cut[cut] = token_counts(tokenizer, full, whole=True) > limit
    return tokens, cut


def text_batch(way: Any, texts: Sequence[Text]) -> tuple[Any, Booleans]:
    """Return texts as inputs of a run, and which were cut (b,). `way`: its tokeniser, or RawTexts."""
    return way.batch(texts) if isinstance(way, RawTexts) else tokenised(way, texts)


def token_counts(tokenizer: Callable[..., Any], texts: Sequence[Text], *, whole: bool = False) -> Integers:
    """Return the length of each text in tokens, (n,), with special tokens; with `whole` before it is cut."""
    if not texts:
        return np.zeros(0, dtype=np.int64)
    rows = tokenizer(*_columns(texts), truncation=not whole, verbose=False)["input_ids"]
    return np.array([len(row) for row in rows], dtype=np.int64)


def readable_texts(
    data: Dataset, positions: Sequence[int]
) -> tuple[list[int], list[Any], list[tuple[int, UnreadableText]]]:
    """Return the positions that hold texts, their texts, and the other positions with their errors."""
    good, texts, bad = [], [], []
    for position in positions:
        try:
            texts.append(data.content(position))
            good.append(position)
        except UnreadableText as error:  # noqa: PERF203 - each row may hold none
            bad.append((position, error))
    return good, texts, bad


def by_length(data: Dataset, batch_size: int, order: Integers | None = None) -> Integers:
    """Return the positions of texts, sorted so that a batch has texts of similar length and little padding.

    Within every 64 batches short texts come first. `order`: the positions (n,) to sort, by default all in the order
    of the data. Lengths are in characters, which the number of tokens follows closely.
    """
    order = np.arange(len(data)) if order is None else order
    lengths = np.array([_n_characters(data, i) for i in order.tolist()], dtype=np.int64)
    windows = np.arange(len(order)) // (_WINDOW * batch_size)
    return order[np.lexsort((lengths, windows))]


def _n_characters(data: Dataset, i: int) -> int:
    try:
        content = data.content(i)
    except UnreadableText:
        return 0
    return len(content) if isinstance(content, str) else sum(map(len, content))


def _columns(texts: Sequence[Text]) -> list[list[str]]:
    """Return the arguments of a tokeniser: a list of texts, or two lists for pairs."""
    if isinstance(texts[0], str):
        return [list(texts)]  # type: ignore[arg-type]
    return [list(column) for column in zip(*texts, strict=True)]


def _without_empty_rows(
    tokens: dict[str, NDArray[Any]], tokenizer: Callable[..., Any]
) -> dict[str, NDArray[Any]]:
    if tokens["input_ids"].shape[1] == 0:
        tokens = {name: np.zeros((len(rows), 1), dtype=np.int64) for name, rows in tokens.items()}
    empty = tokens["attention_mask"].sum(axis=1) == 0
    if empty.any():
        known = (getattr(tokenizer, name, None) for name in ("unk_token_id", "pad_token_id"))
        place = 0 if getattr(tokenizer, "padding_side", "right") == "right" else -1
        tokens["input_ids"][empty, place] = next((token for token in known if token is not None), 0)
        tokens["attention_mask"][empty, place] = 1
    return tokens
