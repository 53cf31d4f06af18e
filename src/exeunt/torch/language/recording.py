"""What the exits of a decoder say about its own continuations, token by token; and their confidences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exeunt._arrays import Keys
from exeunt._progress import Progress
from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.generation import SCORE, token_keys
from exeunt.torch.language.prompts import Prompts, padded
from exeunt.trace import ExitTrace, Groups

_SHRINK = 1e-2  # ridge on the weights of a confidence, which read normed hidden states
_STEPS = 100


def learn_confidences(network: DecoderWithExits, texts: Sequence[Sequence[int]], *, show: bool) -> None:
    """Fit the confidence of every head on texts that its adapter has not learned from.

    A logistic regression of the hidden state, by full-batch L-BFGS: does the head say what the whole model says?
    """
    states: list[list[Tensor]] = [[] for _ in network.token_heads]
    right: list[list[Tensor]] = [[] for _ in network.token_heads]
    for tokens in Progress("texts for confidences", texts, show=show):
        with torch.inference_mode():
            reduced, final = network.reduce(**_on(network, [tokens]))
            said = network.decoder.logits(final).argmax(-1)
            for exit_, hidden in enumerate(reduced):
                states[exit_].append(hidden)
                right[exit_].append(network.says(exit_, hidden) == said)
    for head, of_exit, agrees in zip(network.token_heads, states, right, strict=True):
        _fit(head.sure, torch.cat(of_exit).clone(), torch.cat(agrees).clone())  # no longer inference tensors


def _fit(sure: nn.Linear, hidden: Tensor, agrees: Tensor) -> None:
    columns, target = functional.layer_norm(hidden, hidden.shape[-1:]), agrees.float()
    optimiser = torch.optim.LBFGS(sure.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        log_odds = sure(columns)[:, 0]
        value = (
            functional.binary_cross_entropy_with_logits(log_odds, target)
            + _SHRINK * sure.weight.square().sum()
        )
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]


def token_trace(
    network: DecoderWithExits,
    prompts: Prompts,
    continuations: Sequence[Sequence[int]],
    *,
    part: str = "prompt",
    show: bool = False,
) -> ExitTrace:
    """Return the trace of the continuations' tokens: a row per token, in groups by prompt, such as "fit 3".

    Each is what exits say after the same tokens as the whole model. Predictions are tokens; costs are of one token.
    """
    rows = list(_recorded(network, prompts, continuations, show=show))
    score, said = (np.concatenate(part) for part in zip(*((a, b) for _, a, b, _ in rows), strict=True))
    return ExitTrace.from_scores(
        score,
        said,
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
            said = [network.says(exit_, hidden) for exit_, hidden in enumerate(reduced)]
            said.append(network.decoder.logits(final).argmax(-1))
            sure = [
                head.confidence(hidden) for head, hidden in zip(network.token_heads, reduced, strict=True)
            ]
            sure.append(torch.zeros_like(sure[0]))
        keys = token_keys(prompts.keys[[i]].repeat(len(follows)), np.arange(len(follows)))
        yield i, torch.stack(sure, 1).double().cpu().numpy(), torch.stack(said, 1).cpu().numpy(), keys


def _on(network: DecoderWithExits, texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    return {name: value.to(network.decoder.device) for name, value in padded(texts).items()}
