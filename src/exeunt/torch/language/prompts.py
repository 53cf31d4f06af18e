"""Prompts as tokens of a decoder, and what the whole decoder says after them, kept on disk as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from exeunt._arrays import Keys
from exeunt._files import make_folder, write_text
from exeunt._progress import Progress
from exeunt.data.dataset import content_key
from exeunt.errors import InputError
from exeunt.torch.language.decoder import context_of

T = TypeVar("T")


@dataclass(frozen=True)
class Prompts:
    """n prompts: their `tokens`, at least one each, and the `keys` (n,) of their texts."""

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

    @classmethod
    def for_decoder(cls, config: Any, tokenizer: Any, *, chat: bool, most_tokens: int) -> PromptTokens:
        """Return the way for a decoder of this configuration, which may name several tokens that end a text."""
        named = getattr(config, "eos_token_id", None)
        ends = {*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id} - {None}
        return cls(tokenizer, chat, most_tokens, context_of(config), tuple(sorted(ends)))

    @property
    def job(self) -> list[Any]:
        """What of this changes answers, JSON-able; the tokeniser is of the run."""
        return [self.chat, self.most_tokens, self.context, self.ends]

    def of(self, texts: Iterable[str], name: Callable[[int], str] = "prompt {}".format) -> Prompts:
        """Return texts as prompts. `name`: what errors call the i-th one.

        Raises InputError for one without tokens, and one that leaves no room for a continuation.
        """
        texts = list(texts)
        tokens = [self._tokens(text) for text in texts]
        for i, one in enumerate(tokens):
            if not one:
                raise InputError(f"{name(i)} has no tokens: leave it out")
            if self.context is not None and len(one) + self.most_tokens > self.context:
                raise InputError(
                    f"{name(i)} has {len(one):,} tokens, and the decoder takes {self.context:,}, of which "
                    f"{self.most_tokens:,} are kept for the answer: shorten it, or allow fewer new tokens"
                )
        return Prompts(tokens, np.array([content_key(text) for text in texts], dtype=np.uint64))

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of a continuation, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _tokens(self, text: str) -> list[int]:
        if not self.chat:
            return list(self.tokenizer(text)["input_ids"])
        messages = [{"role": "user", "content": text}]
        filled = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(filled, add_special_tokens=False)["input_ids"])


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
    found: dict[int, T] = {}
    if file is not None:
        make_folder(file.parent)
        lines = (
            file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
        )  # the last may be cut
        lines = lines if lines[:1] == [json.dumps(job)] else [json.dumps(job)]
        write_text(file, "".join(f"{line}\n" for line in lines))
        found = dict(map(json.loads, lines[1:]))
    made = missing([i for i in range(n) if i not in found])
    with nullcontext() if file is None else file.open("a", encoding="utf-8") as out:
        for i, one in Progress(what, made, total=n, done=len(found), show=show):
            found[i] = one
            if out is not None:
                out.write(json.dumps([i, one]) + "\n")
                out.flush()
    return [found[i] for i in range(n)]


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
