"""Scoring of given continuations: which of k choices does a decoder find likeliest after a prompt, at each exit?

An exit's log-likelihood of a choice is the sum over its tokens. So an exit answers with a class among k, and everything
that takes a classifier takes this executor.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exeunt._support.arrays import Booleans, Integers
from exeunt.costs.cost_model import CostModel
from exeunt.engine.executor import BORDER, Segments
from exeunt.engine.inputs import input_keys, raw_batch, raw_rows
from exeunt.errors import InputError
from exeunt.torch.devices import device_name, wait_for
from exeunt.torch.language.decoder import KeyValues, ragged
from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.prompts import PromptTokens
from exeunt.trace import ExitTrace


@dataclass(frozen=True)
class _Text:
    """A prompt with one of its choices: all tokens (t,), where the choice begins, and the hidden states (t, d)."""

    tokens: Tensor
    begins: int
    hidden: Tensor


class ChoiceExecutor:
    """Scores k choices of each question, exit by exit (see `exeunt.engine.executor`).

    An input is a tuple of texts (prompt, choice, ..., choice). All choices of all questions of a batch go through a
    segment in one pass. Logits are log-likelihoods, so probabilities compare the choices with one another.
    """

    name, restarts, border, mask_scale = "choices", (), BORDER, 1

    def __init__(self, network: DecoderWithExits, prompts: PromptTokens, k: int) -> None:
        if k < 2:
            raise InputError(f"a question needs 2 choices or more, got {k}")
        self._network, self._prompts, self._k = network.eval(), replace(prompts, most_tokens=0), k
        layers = network.decoder.layers
        self._stops = [*(layers.index(name) + 1 for name in network.exit_names), len(layers)]
        self.n_exits = network.n_exits
        self.segments: Segments = tuple((exit_, exit_) for exit_ in range(self.n_exits))
        self.device = device_name(network.decoder.device)

    @torch.inference_mode()
    def start(self, inputs: Any) -> tuple[list[list[_Text]], Booleans]:
        """Return the texts of each question. Raises InputError for another number of choices or an empty one."""
        rows, valid = raw_batch(inputs)
        return [self._texts(row) for row in rows], valid

    def signature(self, state: list[list[_Text]]) -> Hashable:
        """Return the number of choices."""
        del state
        return self._k

    @torch.inference_mode()
    def run(
        self, segment: int, state: list[list[_Text]], wanted: Sequence[int]
    ) -> tuple[list[NDArray[Any]], list[list[_Text]]]:
        """Run the layers of a segment, and its head if it is wanted."""
        texts = [text for row in state for text in row]
        hidden, _ = ragged([text.hidden for text in texts])
        n, t, _ = hidden.shape
        index, places = torch.arange(n, device=hidden.device), torch.arange(t, device=hidden.device)
        first = self._stops[segment - 1] if segment else 0
        hidden_states = self._network.decoder.run(
            hidden, first, self._stops[segment], index, places.expand(n, -1), KeyValues(n, t)
        )
        after = [
            replace(text, hidden=hidden[: len(text.tokens)])
            for text, hidden in zip(texts, hidden_states, strict=True)
        ]
        likelihoods = [self._likelihoods(segment, after) for _ in wanted]
        return likelihoods, [after[start : start + self._k] for start in range(0, n, self._k)]

    def gather(self, parts: Sequence[tuple[list[list[_Text]], Integers | slice | None]]) -> list[list[_Text]]:
        """Return these questions of these states."""
        return [
            state[i]
            for state, rows in parts
            for i in np.arange(len(state))[slice(None) if rows is None else rows]
        ]

    def compact(self, state: list[list[_Text]], rows: Integers) -> tuple[list[list[_Text]], Integers]:
        """Return these questions, in their order."""
        return self.gather([(state, rows)]), rows

    def wait(self) -> None:
        """Return once all that was begun is computed."""
        wait_for(self._network.decoder.device)

    def _texts(self, row: Any) -> list[_Text]:
        if not isinstance(row, tuple) or len(row) != self._k + 1:
            raise InputError(f"a question is a prompt and {self._k} choices, a tuple of texts, got {row!r}")
        prompt, texts = self._prompts.of(row[:1]).tokens[0], []
        for choice in row[1:]:
            follows = self._prompts.tokenizer(choice, add_special_tokens=False)["input_ids"]
            if not follows:
                raise InputError(
                    f"the choice {choice!r} of {row[0]!r} has no tokens: every choice must be a text"
                )
            tokens = torch.tensor([*prompt, *follows], device=self._network.decoder.device)
            if self._prompts.context is not None and len(tokens) > self._prompts.context:
                raise InputError(
                    f"a prompt and its choice have {len(tokens):,} tokens, and the decoder takes "
                    f"{self._prompts.context:,}: shorten the prompt"
                )
            texts.append(_Text(tokens, len(prompt), self._network.decoder.embed(tokens)))
        return texts

    def _likelihoods(self, exit_: int, texts: Sequence[_Text]) -> NDArray[np.float32]:
        """Return the log-likelihood of each choice, (rows, k)."""
        says_next = torch.cat([text.hidden[text.begins - 1 : -1] for text in texts])
        target = torch.cat([text.tokens[text.begins :] for text in texts])
        log_p = self._network.logits(exit_, says_next).float().log_softmax(-1)
        of_tokens = log_p.gather(1, target[:, None])[:, 0]
        likelihoods = torch.stack(
            [part.sum() for part in torch.split(of_tokens, [len(x.tokens) - x.begins for x in texts])]
        )
        return likelihoods.reshape(-1, self._k).cpu().numpy()


def choice_trace(
    network: DecoderWithExits,
    prompts: PromptTokens,
    questions: Sequence[tuple[str, ...]],
    *,
    batch_size: int = 8,
) -> ExitTrace:
    """Return the trace of n questions (prompt, choice, ..., choice), without labels: the choice of every exit.

    `ExitTrace.with_reference` measures agreement with the full network. Costs are of a question, on average: its texts
    in the layers, and its choices in every head up to the exit.
    """
    executor = ChoiceExecutor(network, prompts, len(questions[0]) - 1) if questions else None
    if executor is None:
        raise InputError("there are no questions to score")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    logits, counts = [], []
    for start in range(0, len(questions), batch_size):
        state, _ = executor.start(raw_rows(questions[start : start + batch_size]))
        counts += [[(len(text.tokens), len(text.tokens) - text.begins) for text in row] for row in state]
        outputs_by_exit = []
        for segment in range(executor.n_exits):
            outputs, state = executor.run(segment, state, [segment])
            outputs_by_exit += outputs
        logits.append(np.stack(outputs_by_exit, axis=1))
    n_tokens, n_choice = np.array(counts).sum(axis=1).mean(axis=0)
    macs = network.macs
    heads = np.r_[np.full(network.n_exits - 1, macs.adapter + macs.vocabulary), macs.vocabulary] * n_choice
    cumulative = np.cumsum(macs.layers) * n_tokens + np.cumsum(heads)
    cost = CostModel(cumulative, source=network.cost.source, heads=[*heads[:-1], 0.0])
    return ExitTrace.from_logits(
        np.concatenate(logits), cost=cost, id=input_keys(raw_rows(questions), len(questions))
    )
