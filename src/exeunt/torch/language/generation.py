"""Greedy generation with exits: in a batch, each sequence leaves each token at a depth of its own.

A token that leaves early has no keys and values in the layers that it skipped. These are computed when a later token of
its sequence goes deeper, for all tokens that wait there in one block. So a token that goes deeper sees what it would
see without exits, to rounding. Prompts wait in the same way.

Exact answers take such tokens as drafts: the block that goes through the last layers, which happens anyhow, gets the
vocabulary layer, and from the first token on that the full network would not say, all is taken back (self-speculative
decoding: LayerSkip, Elhoushi et al. 2024). Drafts may also be what followed the same tokens before (prompt lookup).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from exeunt._support.arrays import Booleans, Integers, Keys
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.score.tie_breaking import row_keys
from exeunt.torch.language.decoder import KeyValues, ragged
from exeunt.torch.language.drafts import Drafts, looked_up
from exeunt.torch.language.exits import DecoderWithExits

SCORE = "agreement"
"""The name of the confidence in traces: the log-odds that an exit says what the full network says."""


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt.

    `tokens`, `exits`: the tokens, at most one of them an end, as the last; and the exit that said each.
    `macs`, `prompt_macs`: multiply-adds spent on these tokens, and on the prompt. `full`: the token that the whole
    model chooses after the same tokens, for each, if that was asked for. `n_prompt`: tokens of the prompt.
    `drafted`, `accepted`: of an exact answer, tokens that the full network checked, and those that it would have said.
    """

    tokens: list[int] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    macs: float = 0.0
    prompt_macs: float = 0.0
    full: list[int] = field(default_factory=list)
    n_prompt: int = 0
    drafted: int = 0
    accepted: int = 0

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
    exact: Drafts | None = None,
) -> Iterator[tuple[int, Continuation]]:
    """Yield what follows each prompt, with the prompt's number, in batches of prompts of similar length.

    `prompts`: their tokens, at least one each. `keys` (n,): of the prompts' contents; they break ties. `policy`: which
    tokens leave where; None for the full network alone. `most_tokens`: of a continuation. `ends`: tokens that end one.
    `compare`: also find what the full network chooses; it costs more, which `macs` does not count. `exact`: tokens that
    leave are drafts, which the full network checks, so the answers are its own, to rounding.
    """
    if compare and exact is not None:
        raise InputError("exact answers are the full network's own: leave out compare")
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
            some = [prompts[i] for i in chosen]
            batch = _Batch(network, some, keys[chosen], policy, most_tokens, frozenset(ends), compare, exact)
            batch_continuations = batch.run()
        yield from zip(chosen, batch_continuations, strict=True)


class _Batch:
    """The state of a batch of n sequences.

    `exits` (s,): those that the policy needs; segment s ends behind `stops[s]` layers, where exit `exits[s]` is.
    `waiting[s][i]`: hidden states of sequence i that segment s has not seen; `done[s]` (n,): how many it has seen.
    `read[s]` (n,): how many it ran on, with those that were taken back. `heads` (n,): multiply-adds of heads.
    `checked` (n,): tokens of the answer that are surely the full network's.
    """

    def __init__(
        self,
        network: DecoderWithExits,
        prompts: Sequence[Sequence[int]],
        keys: Keys,
        policy: Policy | None,
        most_tokens: int,
        ends: frozenset[int],
        compare: bool,
        exact: Drafts | None,
    ) -> None:
        self.network, self.policy, self.compare, self.exact = network, policy, compare, exact
        self.prompts, self.keys, self.most, self.ends = prompts, keys, most_tokens, ends
        self.full = network.n_exits - 1
        needed = set[int]() if policy is None else {*np.flatnonzero(policy.needs).tolist()}
        self.exits = sorted(needed | ({self.full} if policy is None or exact else set()))
        depths = [network.decoder.layers.index(name) + 1 for name in network.exit_names]
        self.stops = [[*depths, len(network.decoder.layers)][exit_] for exit_ in self.exits]
        n, device = len(prompts), network.decoder.device
        self.kept = KeyValues(n, max(map(len, prompts)) + most_tokens)
        self.done = torch.zeros(len(self.exits), n, dtype=torch.long, device=device)
        self.waiting: list[list[list[Tensor]]] = [[[] for _ in prompts] for _ in self.exits]
        self.found = [Continuation() for _ in prompts]
        self.read = np.zeros((len(self.exits), n), dtype=np.int64)
        self.heads = np.zeros(n)
        self.checked, self.drafted, self.accepted = (np.zeros(n, dtype=np.int64) for _ in range(3))
        for i, prompt in enumerate(prompts):
            self._feed(i, prompt)

    def run(self) -> list[Continuation]:
        """Generate until every sequence has ended, and return the continuations."""
        going = np.arange(len(self.prompts))
        while len(going):
            if self.exact is None:
                self._say(going, np.ones(len(self.prompts), dtype=bool))
            else:
                self._say_exactly(going, self.exact)
            going = np.array([i for i in going.tolist() if not self._ended(i)], dtype=np.int64)
            for i in going.tolist():
                self._feed(i, self.found[i].tokens[-1:])
        tokens_read = self.read.copy()  # what is compared afterwards does not count
        if self.compare:
            self._run_rest(np.arange(len(self.prompts)))
        return [self._priced(i, tokens_read[:, i]) for i in range(len(self.prompts))]

    def _feed(self, i: int, tokens: Sequence[int]) -> None:
        embedded = torch.tensor([list(tokens)], device=self.done.device)
        self.waiting[0][i].append(self.network.decoder.embed(embedded)[0])

    def _ended(self, i: int) -> bool:
        tokens = self.found[i].tokens
        return tokens[-1] in self.ends or len(tokens) == self.most

    def _say_exactly(self, going: Integers, drafts: Drafts) -> None:
        """Draft tokens, or have the full network say the next one and check what was drafted before it."""
        may_leave = np.zeros(len(self.prompts), dtype=bool)
        for i in going.tolist():
            tokens = self.found[i].tokens
            may_leave[i] = len(tokens) - self.checked[i] < drafts.length
            room = min(drafts.lookup, self.most - len(tokens) - 1)
            if room > 0 and (follow := looked_up([*self.prompts[i], *tokens], room)):
                self._feed(i, follow)
                tokens.extend(follow)
                self.found[i].exits.extend([self.full] * len(follow))
                may_leave[i] = False
        whole = self._say(going, may_leave)
        ending = [
            i for i in going.tolist() if i not in whole and self._ended(i)
        ]  # no later token will check them
        self._run_rest(np.array(ending, dtype=np.int64))
        for i in (*whole, *ending):
            self._take_back(i)

    def _say(self, rows: Integers, may_leave: Booleans) -> set[int]:
        """Let exits say the next token of these sequences, or the full network; return those that went all the way.

        `may_leave` (n,): which sequences may leave early. The full network's tokens of exact answers are only kept in
        `full`.
        """
        state, whole = None, set[int]()
        if self.policy is not None and may_leave[rows].any():
            asked = rows[may_leave[rows]]
            n_tokens = np.array([len(self.found[i].tokens) for i in asked.tolist()], dtype=np.int64)
            state = self.policy.init(len(asked), id=token_keys(self.keys[asked], n_tokens))
        for s, exit_ in enumerate(self.exits):
            last = self._run_segment(s, rows)
            leave = np.full(len(rows), exit_ == self.full)
            asking = may_leave[rows]
            if self.policy is not None and state is not None and exit_ < self.full and asking.any():
                sure = self.network.token_heads[exit_].confidence(last[torch.from_numpy(asking)])
                unknown = np.zeros(
                    asking.sum(), dtype=np.int64
                )  # what the exit would say is not computed yet
                evidence = {SCORE: sure.cpu().double().numpy(), "prediction": unknown}
                leave[asking], state = self.policy.step(exit_, evidence, state)
                state = state.take(~leave[asking])
                self.heads[rows[asking]] += self.network.macs.confidence
            if self.exact is not None and exit_ == self.full:
                whole = set(rows.tolist())
            elif leave.any():
                self._append(rows[leave], exit_, last[torch.from_numpy(leave)])
            rows = rows[~leave]
            if not len(rows):
                break
        return whole

    def _append(self, rows: Integers, exit_: int, last: Tensor) -> None:
        """Let an exit say a token of these sequences, of the last hidden state of each (n, d)."""
        for i, token in zip(rows.tolist(), self.network.says(exit_, last).tolist(), strict=True):
            self.found[i].tokens.append(token)
            self.found[i].exits.append(exit_)
        macs = self.network.macs
        self.heads[rows] += macs.vocabulary + (macs.adapter if exit_ < self.full else 0.0)

    def _run_rest(self, rows: Integers) -> None:
        """Run the later segments on all that waits for them in these sequences."""
        for s in range(1, len(self.exits)):
            if len(waits := rows[[bool(self.waiting[s][i]) for i in rows.tolist()]]):
                self._run_segment(s, waits)

    def _run_segment(self, s: int, rows: Integers) -> Tensor:
        """Run a segment on all that waits for it in these sequences; return the last hidden state of each, (n, d)."""
        which = rows.tolist()
        hidden, lengths = ragged([torch.cat(self.waiting[s][i]) for i in which])
        index = torch.from_numpy(rows).to(lengths.device)
        places = self.done[s, index][:, None] + torch.arange(hidden.shape[1], device=lengths.device)
        first = self.stops[s - 1] if s else 0
        output = self.network.decoder.run(hidden, first, self.stops[s], index, places, self.kept)
        self.done[s, index] += lengths
        self.read[s, rows] += lengths.cpu().numpy()
        blocks = [states[:length] for states, length in zip(output, lengths.tolist(), strict=True)]
        for i, states in zip(which, blocks, strict=True):
            self.waiting[s][i] = []
            if s < len(self.exits) - 1:
                self.waiting[s + 1][i].append(states)
        if s == len(self.exits) - 1 and (self.compare or self.exact is not None):
            self._compare(which, blocks)
        return output[torch.arange(len(which), device=lengths.device), lengths - 1]

    def _compare(self, which: Sequence[int], blocks: Sequence[Tensor]) -> None:
        """Keep what the full network says of the last hidden states (t, d) of these sequences that come now."""
        saying = []
        for i, states in zip(which, blocks, strict=True):
            # Behind all tokens of the prompt but the last, another token of the prompt follows.
            before = int(self.done[-1, i]) - len(states)
            saying.append(states[max(len(self.prompts[i]) - 1 - before, 0) :])
        if not any(map(len, saying)):
            return
        tokens = iter(self.network.says(self.full, torch.cat(saying)).tolist())
        for i, states in zip(which, saying, strict=True):
            self.found[i].full.extend(islice(tokens, len(states)))
            if self.exact is not None:
                self.heads[i] += self.network.macs.vocabulary * len(states)

    def _take_back(self, i: int) -> None:
        """Keep the tokens of a sequence up to the first that the full network does not say, and say that one right."""
        tokens, exits, full = self.found[i].tokens, self.found[i].exits, self.found[i].full
        checked = int(self.checked[i])
        agreed = next(
            (t for t, pair in enumerate(zip(tokens, full, strict=False)) if pair[0] != pair[1]), len(tokens)
        )
        self.drafted[i] += len(tokens) - checked
        self.accepted[i] += agreed - checked
        said = full[: agreed + 1]
        stop = next((t + 1 for t in range(checked, len(said)) if said[t] in self.ends), len(said))
        exits[:] = [*exits[:agreed], self.full][:stop]
        tokens[:] = full[:] = said[:stop]
        self.checked[i] = stop
        self.done[:, i] = len(self.prompts[i]) + stop - 1  # later tokens overwrite the keys and values behind

    def _priced(self, i: int, tokens_read: Integers) -> Continuation:
        """Return a continuation with what it cost. `tokens_read` (s,): how many of its tokens each segment ran on."""
        cumulative = np.cumsum(self.network.macs.layers)[self.exits]
        per_token = np.diff(cumulative, prepend=0.0)
        of_prompt = np.minimum(tokens_read, len(self.prompts[i]))
        return replace(
            self.found[i],
            macs=float((tokens_read - of_prompt) @ per_token + self.heads[i]),
            prompt_macs=float(of_prompt @ per_token),
            full=[] if self.exact is not None else self.found[i].full,
            n_prompt=len(self.prompts[i]),
            drafted=int(self.drafted[i]),
            accepted=int(self.accepted[i]),
        )


def token_keys(keys: Keys, places: Integers) -> Keys:
    """Return keys of the tokens at these places after prompts of these keys."""
    return row_keys(SCORE, keys + places.astype(np.uint64))
