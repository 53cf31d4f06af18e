"""Which drafts make exact answers quicker: a profile of a decoder's parts, and of what would be accepted.

What is recorded of the fit prompts says which tokens each exit would have drafted, and the texts what prompt lookup
would have. With the times of layers and vocabulary layer for one and for several tokens this gives the time of a token.
After a wrong draft the text is another one: the profile counts what follows as recorded, up to the next check. The best
drafts are then timed beside plain decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from exeunt._support.arrays import Floats, Integers
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.torch.language.calibration import Candidates
from exeunt.torch.language.decoder import KeyValues
from exeunt.torch.language.drafts import Drafts, looked_up
from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.prompts import Prompts
from exeunt.trace import ExitTrace, Groups

PLAIN = "plain"
_BLOCKS = (1, 2, 4, 8, 16)
_ROUNDS = 7
_LENGTHS, _LOOKUPS = (1, 2, 4, 8), (0, 4, 8)
_PROFILED, _POLICIES = 40, 6
"""Fit prompts that are profiled, and policies that are tried on them."""
_LEAST = 0.97
"""Drafts are taken where they need at most this share of the time of plain decoding."""


@dataclass(frozen=True)
class DecodingTimes:
    """Seconds of a step of a batch, by the tokens that each of its sequences brings.

    `layers` (b, m): of the layers from exit to exit on blocks of `blocks` (b,) tokens. `vocabulary` (b,): of the last
    exit's vocabulary layer. `head`: of an early exit's adapter and vocabulary layer. `confidence`: of an exit.
    """

    blocks: Integers
    layers: Floats
    vocabulary: Floats
    head: float
    confidence: float

    @classmethod
    def measured(cls, network: DecoderWithExits, batch_size: int) -> DecodingTimes:
        """Time the parts of a network in turns, the quickest of some rounds each, behind texts of its `length`."""
        decoder, device = network.decoder, network.decoder.device
        depths = [decoder.layers.index(name) + 1 for name in network.exit_names]
        parts = [*zip([0, *depths], [*depths, len(decoder.layers)], strict=True)]
        kept = KeyValues(batch_size, network.length + max(_BLOCKS))
        rows = torch.arange(batch_size, device=device)
        calls: list[Callable[[], object]] = []
        with torch.inference_mode():
            for block in _BLOCKS:
                places = network.length + torch.arange(block, device=device).expand(batch_size, -1)
                hidden = decoder.embed(torch.zeros(batch_size, block, dtype=torch.long, device=device))
                calls += [partial(decoder.run, hidden, *part, rows, places, kept) for part in parts]
                calls.append(partial(network.says, network.n_exits - 1, hidden.flatten(0, 1)))
            if depths:
                calls += [partial(network.says, 0, hidden[:, 0])]
                calls += [partial(network.token_heads[0].confidence, hidden[:, 0])]
            rounds = [[_seconds(call) for call in calls] for _ in range(_ROUNDS + 1)]
        quickest = np.min(rounds[1:], axis=0)  # the first one warms up
        head, sure = quickest[-2:].tolist() if depths else (0.0, 0.0)
        of_blocks = quickest[: len(_BLOCKS) * (len(parts) + 1)].reshape(len(_BLOCKS), -1)
        return cls(np.array(_BLOCKS), of_blocks[:, :-1], of_blocks[:, -1], head, sure)

    def of_blocks(self, most: int) -> tuple[Floats, Floats]:
        """Return the seconds of layers (most + 1, m) and vocabulary layer (most + 1,) for 0, 1, ... tokens."""
        tokens = np.arange(most + 1)
        beyond = np.maximum(tokens / self.blocks[-1], 1.0)

        def between(seconds: Floats) -> Floats:
            line: Floats = np.interp(tokens, self.blocks, seconds) * beyond
            line[0] = 0.0
            return line

        return np.stack([between(part) for part in self.layers.T], axis=1), between(self.vocabulary)


@dataclass(frozen=True)
class RecordedAnswer:
    """What is known of a full network's answer: `prompt`, its `tokens` (t,), what exits would say (t, m)."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    exit_tokens: Integers

    def drafted(
        self, times: DecodingTimes, drafts: Drafts, exits: Sequence[int] | None
    ) -> tuple[float, int, int]:
        """Return the seconds of this answer, and how many tokens are drafted and accepted.

        `exits` (t,): where each token would leave; the last exit where none is sure. None where exits draft nothing.
        """
        t, m = len(self.tokens), times.layers.shape[1]
        layers, vocabulary = times.of_blocks(t)
        right = [self.exit_tokens[k][exit_] == self.tokens[k] for k, exit_ in enumerate(exits or [])]
        seconds, n_drafted, n_accepted, place = 0.0, 0, 0, 0
        while place < t:
            waits, stop = np.zeros(m, dtype=np.int64), place
            while True:
                follow = self._follow[stop][: drafts.lookup]
                may_leave = stop < t and stop - place < drafts.length and not follow
                if exits is None or not may_leave or exits[stop] == m - 1:
                    break
                waits += 1
                early = exits[stop] + 1
                seconds += (
                    layers[waits[:early], np.arange(early)].sum() + early * times.confidence + times.head
                )
                waits[:early] = 0
                stop += 1
            new = len(follow) + (stop < t)  # behind a drafted end nothing comes
            waits += new
            seconds += layers[waits, np.arange(m)].sum() + vocabulary[stop - place + new]
            seconds += (m - 1) * times.confidence if exits and may_leave else 0.0
            kept = next((k for k in range(place, stop) if not right[k]), stop)
            if kept == stop:
                pairs = zip(follow, self.tokens[stop:], strict=False)
                kept += next((k for k, pair in enumerate(pairs) if pair[0] != pair[1]), len(follow))
            n_drafted += stop - place + len(follow)
            n_accepted += kept - place
            place = kept + 1
        return seconds, n_drafted, n_accepted

    @cached_property
    def _follow(self) -> list[list[int]]:
        """What prompt lookup drafts at each place and behind the last, as many tokens as there is room for."""
        rooms = [*range(len(self.tokens) - 1, -1, -1), 0]
        return [
            looked_up([*self.prompt, *self.tokens[:place]], room) if room else []
            for place, room in enumerate(rooms)
        ]


@dataclass(frozen=True)
class DraftPlan:
    """How exact answers are drafted.

    `drafts`: None for plain decoding. `policy`: which tokens leave where; None for prompt lookup alone. `seconds`: of a
    token by the profile, of plain decoding, lookup alone, exits alone and both, with the best drafts of each. `share`:
    of the time of plain decoding, as timed; None where the profile says that nothing is gained. `accepted`: the share
    of drafts that the profile expects to be right.
    """

    drafts: Drafts | None
    policy: Policy | None
    seconds: Mapping[str, float]
    share: float | None
    accepted: float

    def __str__(self) -> str:
        others = {name: value for name, value in self.seconds.items() if name != PLAIN}
        best = min(others, key=others.__getitem__)
        expected = others[best] / self.seconds[PLAIN]
        timed = "" if self.share is None else f", and {self.share:.0%} as timed"
        if self.drafts is None:
            return (
                f"exact answers by plain decoding: the best drafts ({best}) would take {expected:.0%} of its time by "
                f"the profile{timed}"
            )
        return (
            f"exact answers, drafted by {best}: {expected:.0%} of the time of plain decoding by the profile{timed}; "
            f"{self.accepted:.0%} of the drafts are expected to be right"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        drafts = None if self.drafts is None else asdict(self.drafts)
        policy = None if self.policy is None else self.policy.to_dict()
        return {**self.__dict__, "drafts": drafts, "policy": policy, "seconds": {**self.seconds}}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> DraftPlan:
        """Rebuild a plan from `to_dict`. Raises KeyError, TypeError or InputError for anything else."""
        drafts, policy = body["drafts"], body["policy"]
        made = {
            "drafts": None if drafts is None else Drafts(**drafts),
            "policy": None if policy is None else Policy.from_dict(policy),
        }
        return cls(**{**body, **made})


def recorded_answers(
    fit: ExitTrace, prompts: Prompts, candidates: Candidates
) -> tuple[list[RecordedAnswer], list[tuple[Policy, list[list[int]]]]]:
    """Return some answers of the fit part, and some policies from careful to cheap with the exits of their tokens."""
    groups, predictions = fit.groups, fit.prediction
    if groups is None or predictions is None:
        raise InputError("tokens must come with what exits say, and in groups by prompt")
    tokens = prompts.tokens[:_PROFILED]
    keys = Groups(np.array([f"fit {i}" for i in range(len(tokens))])).key
    rows = [np.flatnonzero(groups.key == key) for key in keys]
    answers = [
        RecordedAnswer(prompt, predictions[at, -1].tolist(), predictions[at])
        for prompt, at in zip(tokens, rows, strict=True)
    ]
    spread = np.linspace(0, len(candidates.policies) - 1, _POLICIES).round().astype(int)
    leaving = [
        (candidates.policies[i], [candidates.exits[i][at].tolist() for at in rows])
        for i in sorted(set(spread.tolist()))
    ]
    return answers, leaving


class Profiled(NamedTuple):
    """Drafts, and what the profile expects: seconds of a token, and the share of drafted tokens that are right."""

    seconds: float
    accepted: float
    drafts: Drafts
    policy: Policy | None


def profiled(
    times: DecodingTimes,
    answers: Sequence[RecordedAnswer],
    leaving: Sequence[tuple[Policy, Sequence[Sequence[int]]]],
) -> dict[str, Profiled]:
    """Return the best drafts of each kind: none, lookup, exits, and both.

    `leaving`: policies, each with the exits of the tokens of every answer.
    """
    n_tokens = sum(len(answer.tokens) for answer in answers)
    found: dict[str, Profiled] = {}
    without: tuple[Policy | None, Sequence[Sequence[int] | None]] = (None, [None] * len(answers))
    tried = [(1, lookup, without) for lookup in _LOOKUPS]
    tried += [(length, lookup, one) for length, lookup, one in product(_LENGTHS, _LOOKUPS, leaving)]
    for length, lookup, (policy, exits) in tried:
        drafting = [name for name, drafts in (("exits", policy is not None), ("lookup", lookup)) if drafts]
        name, drafts = " and ".join(drafting) or PLAIN, Drafts(length, lookup)
        results = [one.drafted(times, drafts, at) for one, at in zip(answers, exits, strict=True)]
        seconds, drafted, accepted = (sum(part) for part in zip(*results, strict=True))
        if name not in found or seconds / n_tokens < found[name].seconds:
            found[name] = Profiled(seconds / n_tokens, accepted / max(drafted, 1), drafts, policy)
    return found


def draft_plan(
    found: Mapping[str, Profiled], timed: Callable[[Drafts | None, Policy | None], float]
) -> DraftPlan:
    """Return the quickest way to exact answers, of what was profiled.

    `timed`: seconds in which some prompts are answered exactly, by plain decoding for None.
    """
    seconds = {name: one.seconds for name, one in found.items()}
    best = found[min((name for name in found if name != PLAIN), key=seconds.__getitem__)]
    share = None
    if best.seconds <= _LEAST * seconds[PLAIN]:
        rounds = [(timed(None, None), timed(best.drafts, best.policy)) for _ in range(2)]
        own, others = (min(one) for one in zip(*rounds, strict=True))
        share = others / own
    drafts, policy = (best.drafts, best.policy) if share is not None and share <= _LEAST else (None, None)
    return DraftPlan(drafts, policy, seconds, share, best.accepted)


def _seconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start
