"""Greedy generation with exits: in a batch, each sequence leaves each token at a depth of its own.

A token that leaves early has no keys and values in the layers that it skipped. These are computed when a later token of
its sequence goes deeper, for all tokens that wait there in one block. So a token that goes deeper sees what it would
see without exits, to rounding. Prompts wait in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from exeunt._support.arrays import Integers, Keys
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.score.tie_breaking import row_keys
from exeunt.torch.language.decoder import KeyValues, ragged
from exeunt.torch.language.exits import DecoderWithExits

SCORE = "agreement"
"""The name of the confidence in traces: the log-odds that an exit says what the full network says."""


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt.

    `tokens`, `exits`: the tokens, at most one of them an end, as the last; and the exit that said each.
    `macs`, `prompt_macs`: multiply-adds spent on these tokens, and on the prompt. `full`: the token that the whole
    model chooses after the same tokens, for each, if that was asked for. `n_prompt`: tokens of the prompt.
    """

    tokens: list[int] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    macs: float = 0.0
    prompt_macs: float = 0.0
    full: list[int] = field(default_factory=list)
    n_prompt: int = 0

    @property
    def differs(self) -> list[bool]:
        """Whether each token is another one than the full network chooses after the same tokens."""
        return [a != b for a, b in zip(self.tokens, self.full, strict=True)]


def continuations(
    network: DecoderWithExits,
    prompts: Sequence[Sequence[int]],
    keys: Keys,
    policy: Policy | None,
    *,
    most_tokens: int,
    ends: Sequence[int] = (),
    batch_size: int = 16,
    compare: bool = False,
) -> Iterator[tuple[int, Continuation]]:
    """Yield what follows each prompt, with the prompt's number, in batches of prompts of similar length.

    `prompts`: their tokens, at least one each. `keys` (n,): of the prompts' contents; they break ties. `policy`: which
    tokens leave where; None for the full network alone. `most_tokens`: of a continuation. `ends`: tokens that end one.
    `compare`: also find what the full network chooses; it costs more, which `macs` does not count.
    """
    for name, number in (("batch_size", batch_size), ("most_tokens", most_tokens)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    known = network.decoder.n_tokens
    if unknown := [token for prompt in prompts for token in prompt if token >= known]:
        raise InputError(
            f"a prompt has the token {unknown[0]}, and the decoder knows {known:,}: use its own tokeniser"
        )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        with torch.inference_mode():  # not while the caller has the answers
            batch = _Batch(network, [prompts[i] for i in chosen], keys[chosen], policy, most_tokens, compare)
            batch_continuations = batch.run(frozenset(ends))
        yield from zip(chosen, batch_continuations, strict=True)


class _Batch:
    """The state of a batch of n sequences.

    `exits` (s,): those that the policy needs; segment s ends behind `stops[s]` layers, where exit `exits[s]` is.
    `waiting[s][i]`: hidden states of sequence i that segment s has not seen; `done[s]` (n,): how many it has seen.
    """

    def __init__(
        self,
        network: DecoderWithExits,
        prompts: Sequence[Sequence[int]],
        keys: Keys,
        policy: Policy | None,
        most_tokens: int,
        compare: bool,
    ) -> None:
        self.network, self.policy, self.compare = network, policy, compare
        self.prompts, self.keys, self.most = prompts, keys, most_tokens
        last = network.n_exits - 1
        self.exits = [last] if policy is None else np.flatnonzero(policy.needs).tolist()
        depths = [network.decoder.layers.index(name) + 1 for name in network.exit_names]
        self.stops = [[*depths, len(network.decoder.layers)][exit_] for exit_ in self.exits]
        n, device = len(prompts), network.decoder.device
        self.kept = KeyValues(n, max(map(len, prompts)) + most_tokens)
        self.done = torch.zeros(len(self.exits), n, dtype=torch.long, device=device)
        self.waiting: list[list[list[Tensor]]] = [[[] for _ in prompts] for _ in self.exits]
        self.found = [Continuation() for _ in prompts]
        for i, prompt in enumerate(prompts):
            self._feed(i, prompt)

    def run(self, ends: frozenset[int]) -> list[Continuation]:
        """Generate until every sequence has ended, and return the continuations."""
        going = np.arange(len(self.prompts))
        while len(going):
            for i, (token, exit_) in zip(going.tolist(), self._next(going), strict=True):
                self.found[i].tokens.append(token)
                self.found[i].exits.append(exit_)
                if token not in ends and len(self.found[i].tokens) < self.most:
                    self._feed(i, [token])
            going = np.array([i for i in going.tolist() if self.waiting[0][i]], dtype=np.int64)
        tokens_read = self.done.cpu().numpy().copy()  # what is compared afterwards does not count
        if self.compare:
            for s in range(1, len(self.exits)):
                if len(rows := np.flatnonzero([bool(chunks) for chunks in self.waiting[s]])):
                    self._run_segment(s, rows)
        return [self._priced(i, tokens_read[:, i]) for i in range(len(self.prompts))]

    def _feed(self, i: int, tokens: Sequence[int]) -> None:
        embedded = torch.tensor([list(tokens)], device=self.done.device)
        self.waiting[0][i].append(self.network.decoder.embed(embedded)[0])

    def _next(self, going: Integers) -> list[tuple[int, int]]:
        """Return the next token of each of these sequences, and the exit that says it."""
        next_tokens: dict[int, tuple[int, int]] = {}
        state, rows = None, going
        if self.policy is not None:
            n_tokens = np.array([len(self.found[i].tokens) for i in going.tolist()])
            state = self.policy.init(len(going), id=token_keys(self.keys[going], n_tokens))
        for s, exit_ in enumerate(self.exits):
            last = self._run_segment(s, rows)
            leave = np.ones(len(rows), dtype=bool)
            if self.policy is not None and state is not None and exit_ < self.network.n_exits - 1:
                sure = self.network.token_heads[exit_].confidence(last).cpu().double().numpy()
                unknown = np.zeros(len(rows), dtype=np.int64)  # what the exit would say is not computed yet
                leave, state = self.policy.step(exit_, {SCORE: sure, "prediction": unknown}, state)
                state = state.take(~leave)
            if leave.any():
                tokens = self.network.says(exit_, last[torch.from_numpy(leave)]).tolist()
                next_tokens.update(
                    zip(rows[leave].tolist(), [(token, exit_) for token in tokens], strict=True)
                )
            rows = rows[~leave]
            if not len(rows):
                break
        return [next_tokens[i] for i in going.tolist()]

    def _run_segment(self, s: int, rows: Integers) -> Tensor:
        """Run a segment on all that waits for it in these sequences; return the last hidden state of each, (n, d)."""
        which = rows.tolist()
        hidden, lengths = ragged([torch.cat(self.waiting[s][i]) for i in which])
        index = torch.from_numpy(rows).to(lengths.device)
        places = self.done[s, index][:, None] + torch.arange(hidden.shape[1], device=lengths.device)
        first = self.stops[s - 1] if s else 0
        output = self.network.decoder.run(hidden, first, self.stops[s], index, places, self.kept)
        self.done[s, index] += lengths
        is_last = s == len(self.exits) - 1
        for i, states, length in zip(which, output, lengths.tolist(), strict=True):
            self.waiting[s][i] = []
            if not is_last:
                self.waiting[s + 1][i].append(states[:length])
            elif self.compare:
                self._compare(i, states[:length])
        return output[torch.arange(len(which), device=lengths.device), lengths - 1]

    def _compare(self, i: int, states: Tensor) -> None:
        """Keep what the full network says of the last hidden states (t, d) of a sequence that come now."""
        stop = int(self.done[-1, i])
        # Behind all tokens of the prompt but the last, another token of the prompt follows.
        says_next = max(len(self.prompts[i]) - 1 - (stop - len(states)), 0)
        if len(states) > says_next:
            self.found[i].full.extend(
                self.network.says(self.network.n_exits - 1, states[says_next:]).tolist()
            )

    def _priced(self, i: int, tokens_read: Integers) -> Continuation:
        """Return a continuation with what it cost. `tokens_read` (s,): how many of its tokens each segment ran on."""
        continuation, costs = self.found[i], self.network.macs
        cumulative = np.cumsum(costs.layers)[self.exits]
        per_token = np.diff(cumulative, prepend=0.0)
        of_prompt = np.minimum(tokens_read, len(self.prompts[i]))
        n_early = sum(exit_ < self.network.n_exits - 1 for exit_ in continuation.exits)
        asked = np.searchsorted(self.exits, continuation.exits)  # exits before the one that answered
        n_confidences = int(np.minimum(asked + 1, len(self.exits) - 1).sum())
        heads = (
            n_early * costs.adapter
            + n_confidences * costs.confidence
            + len(continuation.tokens) * costs.vocabulary
        )
        return Continuation(
            continuation.tokens,
            continuation.exits,
            float((tokens_read - of_prompt) @ per_token + heads),
            float(of_prompt @ per_token),
            continuation.full,
            len(self.prompts[i]),
        )


def token_keys(keys: Keys, places: Integers) -> Keys:
    """Return keys of the tokens at these places after prompts of these keys."""
    return row_keys(SCORE, keys + places.astype(np.uint64))
