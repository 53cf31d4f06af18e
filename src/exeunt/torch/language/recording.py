"""What the exits of a decoder say about its own continuations, token by token; and their confidences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from exeunt._support.arrays import Keys
from exeunt._support.progress import Progress
from exeunt.torch.devices import seeded
from exeunt.torch.language.exits import DecoderWithExits, TokenHead
from exeunt.torch.language.generation import SCORE, token_keys
from exeunt.torch.language.prompts import Prompts, padded
from exeunt.torch.training.recipe import rate_factor
from exeunt.trace import ExitTrace, Groups

_EPOCHS, _STEPS, _BATCH, _RATE, _DECAY = 20, 1_000, 256, 1e-3, 0.1  # at least so many steps


def learn_confidences(
    network: DecoderWithExits, texts: Sequence[Sequence[int]], *, seed: int = 0, show: bool = False
) -> None:
    """Train the confidence of every head on texts that its adapter has not learned from.

    It learns whether the head says what the full network says, and in equal parts how sure the head is: the largest
    probability tells more, but it takes the vocabulary layer.
    """
    states: list[list[Tensor]] = [[] for _ in network.heads]
    right: list[list[Tensor]] = [[] for _ in network.heads]
    for tokens in Progress("texts for confidences", texts, show=show):
        with torch.inference_mode():
            reduced, final = network.reduce(**_on(network, [tokens]))
            own_tokens = network.decoder.logits(final).argmax(-1)
            for exit_, hidden in enumerate(reduced):
                likeliest = network.logits(exit_, hidden).softmax(-1).max(-1)
                states[exit_].append(hidden)
                right[exit_].append((likeliest.values + (likeliest.indices == own_tokens)) / 2)
    for (
        head
    ) in network.token_heads:  # in order, so that the states of an exit are let go after it has learned
        hidden, target = (
            torch.cat(states.pop(0)).clone(),
            torch.cat(right.pop(0)).clone(),
        )  # no inference tensors
        with seeded(seed, network.decoder.device):
            _fit(head, hidden, target)


def _fit(head: TokenHead, hidden: Tensor, target: Tensor) -> None:
    """Train the confidence of a head on hidden states (n, d) and probabilities (n,)."""
    optimiser = torch.optim.AdamW(head.sure.parameters(), lr=_RATE, weight_decay=_DECAY)
    starts = range(0, len(hidden), _BATCH)
    epochs = max(_EPOCHS, _STEPS // len(starts))
    head.sure.train()
    for epoch in range(epochs):
        order = torch.randperm(len(hidden), device=hidden.device)
        for start in starts:
            share = rate_factor((epoch + start / len(hidden)) / epochs, "one_cycle")
            optimiser.param_groups[0]["lr"] = _RATE * share
            batch = order[start : start + _BATCH]
            optimiser.zero_grad()
            log_odds = head.confidence(hidden[batch])
            functional.binary_cross_entropy_with_logits(log_odds, target[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    head.sure.eval()


def token_trace(
    network: DecoderWithExits,
    prompts: Prompts,
    continuations: Sequence[Sequence[int]],
    *,
    part: str = "prompt",
    show: bool = False,
) -> ExitTrace:
    """Return the trace of the continuations' tokens: a row per token, in groups by prompt, such as "fit 3".

    Each is what exits say after the same tokens as the full network. Predictions are tokens; costs are of one token.
    """
    rows = list(_recorded(network, prompts, continuations, show=show))
    score, exit_tokens = (np.concatenate(part) for part in zip(*((a, b) for _, a, b, _ in rows), strict=True))
    return ExitTrace.from_scores(
        score,
        exit_tokens,
        cost=network.cost,
        id=np.concatenate([keys for *_, keys in rows]),
        groups=Groups(np.concatenate([np.full(len(keys), f"{part} {i}") for i, *_, keys in rows])),
        name=SCORE,
    )


def _recorded(
    network: DecoderWithExits, prompts: Prompts, continuations: Sequence[Sequence[int]], *, show: bool
) -> Iterator[tuple[int, np.ndarray, np.ndarray, Keys]]:
    """Yield each prompt's number, the scores and tokens (t, m) of its continuation, and the tokens' keys (t,)."""
    pairs = list(zip(prompts.tokens, continuations, strict=True))
    for i, (prompt, follows) in enumerate(Progress("continuations recorded", pairs, show=show)):
        with torch.inference_mode():
            arguments = _on(network, [[*prompt, *follows]])
            says_next = torch.zeros_like(arguments["input_ids"], dtype=torch.bool)
            says_next[0, len(prompt) - 1 : -1] = True
            reduced, final = network.states(says_next, **arguments)
            predictions = [network.says(exit_, hidden) for exit_, hidden in enumerate(reduced)]
            predictions.append(network.decoder.logits(final).argmax(-1))
            sure = [
                head.confidence(hidden) for head, hidden in zip(network.token_heads, reduced, strict=True)
            ]
            sure.append(torch.zeros_like(sure[0]))
        keys = token_keys(prompts.keys[[i]].repeat(len(follows)), np.arange(len(follows)))
        yield i, torch.stack(sure, 1).cpu().double().numpy(), torch.stack(predictions, 1).cpu().numpy(), keys


def _on(network: DecoderWithExits, texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    return {name: tensor.to(network.decoder.device) for name, tensor in padded(texts).items()}
