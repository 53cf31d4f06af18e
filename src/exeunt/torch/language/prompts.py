"""Prompts as tokens of a decoder, and what the full network says after them, kept on disk as it comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from exeunt._support.arrays import Keys
from exeunt._support.files import locked, make_folder
from exeunt._support.journal import Journal
from exeunt._support.progress import Progress
from exeunt._support.text import counted
from exeunt.data.dataset import content_key
from exeunt.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Prompts:
    """n prompts: their `texts`, the `tokens` of each, at least one, and the `keys` (n,) of the texts."""

    texts: list[str]
    tokens: list[list[int]]
    keys: Keys

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class PromptTokens:
    """How texts become prompts of a decoder.

    `chat`: put each into the tokeniser's chat template, as a user's message. `most_tokens`: of a continuation.
    `context`: tokens that the decoder takes, None without a limit. `ends`: tokens that end a continuation.
    """

    tokenizer: Any
    chat: bool
    most_tokens: int
    context: int | None = None
    ends: tuple[int, ...] = ()

    @property
    def job(self) -> list[Any]:
        """What of this changes answers, JSON-able; the tokeniser is of the run."""
        return [self.chat, self.most_tokens, self.context, self.ends]

    def of(self, texts: Iterable[str], name: Callable[[int], str] = "prompt {}".format) -> Prompts:
        """Return texts as prompts. `name`: what errors call the i-th one.

        Raises InputError for a chat template that the tokeniser lacks, texts without tokens, and texts that leave no
        room for a continuation.
        """
        if self.chat and not self.tokenizer.chat_template:
            raise InputError("the tokeniser has no chat template: leave out --chat (chat=True)")
        if isinstance(texts, str):
            raise InputError(f"prompts must be a list of texts, got one text: {texts!r}")
        texts = list(texts)
        if wrong := [i for i, text in enumerate(texts) if not isinstance(text, str)]:
            raise InputError(f"{name(wrong[0])} must be a text, got {texts[wrong[0]]!r}")
        tokens = [self._tokens(text) for text in texts]
        if empty := [i for i, token in enumerate(tokens) if not token]:
            raise InputError(f"{_first_of(empty, name)} no tokens: leave it out")
        room = math.inf if self.context is None else self.context - self.most_tokens
        if room <= 0:
            raise InputError(
                f"the decoder takes {self.context:,} tokens, and answers of {self.most_tokens:,} leave none for the "
                "prompt: allow shorter answers (most_tokens)"
            )
        if long := [i for i, token in enumerate(tokens) if len(token) > room]:
            raise InputError(
                f"{_first_of(long, name)} {len(tokens[long[0]]):,} tokens, and the decoder takes {self.context:,}, of "
                f"which {self.most_tokens:,} are kept for the answer: shorten it, or allow shorter answers "
                "(most_tokens)"
            )
        return Prompts(texts, tokens, np.array([content_key(text) for text in texts], dtype=np.uint64))

    def of_data(self, data: Any) -> Prompts:
        """Return the texts of a `Dataset` as prompts, as `of` does."""
        return self.of(map(data.content, range(len(data))), data.name)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of a continuation, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _tokens(self, text: str) -> list[int]:
        if not self.chat:
            tokens = list(self.tokenizer(text, verbose=False)["input_ids"])
            while tokens and tokens[-1] in self.ends:  # some tokenisers end every text
                tokens.pop()
            return tokens
        messages = [{"role": "user", "content": text}]
        filled = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(filled, add_special_tokens=False, verbose=False)["input_ids"])


def _first_of(numbers: Sequence[int], name: Callable[[int], str]) -> str:
    """Return the first of these prompts, and how many more there are: "new.txt#3 (and 2 more prompts) has"."""
    more = f" (and {counted(len(numbers) - 1, 'more prompt')})" if len(numbers) > 1 else ""
    return f"{name(numbers[0])}{more} has"


def kept(
    file: Path | None,
    job: str,
    n: int,
    missing: Callable[[list[int]], Iterable[tuple[int, T]]],
    *,
    what: str,
    show: bool,
) -> list[T]:
    """Return what is made of each of n prompts, as JSON has it. Each is written to `file` as it comes, and made once.

    `job`: what tells this work from other work; what a file holds of other work is dropped. `missing`: makes what is
    made of the prompts with these numbers, and yields it with its number. `what`: what is counted, in the plural.
    """
    if file is not None:
        make_folder(file.parent)
    with nullcontext() if file is None else locked(file.with_name(f".{file.name}.lock"), file):
        journal = Journal(file, job)
        if journal.of_another_job:
            journal.remove()
        results: dict[int, T] = journal.found
        left = [i for i in range(n) if i not in results]
        for i, result in Progress(what, missing(left), total=n, done=n - len(left), show=show):
            journal.add(i, result)
        return [results[i] for i in range(n)]


@dataclass(frozen=True)
class TokenBatches:
    """Batches of texts as tokens, padded on the right: a loader for features that are computed once.

    `fingerprint`: of the texts.
    """

    texts: Sequence[Sequence[int]]
    fingerprint: str
    batch_size: int = 16

    @property
    def dataset(self) -> TokenBatches:
        """Itself: what the loader reads."""
        return self

    def __len__(self) -> int:
        return -(-len(self.texts) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], None]]:
        for start in range(0, len(self.texts), self.batch_size):
            yield padded(self.texts[start : start + self.batch_size]), None


def padded(texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return texts (n, t) padded on the right, and where they have tokens, as arguments of a decoder."""
    rows = [torch.tensor(list(text)) for text in texts]
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": nn.utils.rnn.pad_sequence(rows, batch_first=True), "attention_mask": mask}
