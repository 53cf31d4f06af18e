"""Generated answers: what they cost, and how they differ from the full network's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.generation import Continuation


@dataclass(frozen=True)
class GeneratedText:
    """An answer: its `text`, its tokens and the exit that said each; see `Continuation`."""

    text: str
    continuation: Continuation
    cost: float
    """Mean cost of its tokens, along the exits that said them, in the unit of the run; of an exact answer the full
    network's."""


def summarise(
    network: DecoderWithExits, answers: Sequence[Continuation], *, exact: bool = False
) -> dict[str, Any]:
    """Return what answers cost and how they differ, JSON-able.

    `shares` (m,): of the tokens, by exit. `cost`: mean over answers of the mean cost of their tokens, along the exits
    that said them. `spent`, `prompt_spent`: multiply-adds on answers and prompts, as shares of the full network's.
    `tokens_differ`, `answers_differ`: in the mean over answers; only where they were compared. `drafted`, `accepted`:
    tokens of `exact` answers, which all cost what the full network's do.
    """
    exits = np.concatenate([answer.exits for answer in answers])
    macs, n_tokens = network.macs, np.array([len(answer.tokens) for answer in answers])
    layers = float(macs.layers.sum())
    full_macs = layers * (n_tokens - 1) + macs.vocabulary * n_tokens  # the last token is not read
    prompts = (
        sum(answer.prompt_macs for answer in answers),
        layers * sum(answer.n_prompt for answer in answers),
    )
    compared = all(answer.full for answer in answers)
    shares = [float(np.mean(answer.differs)) for answer in answers] if compared else []
    differ = (
        {"tokens_differ": np.mean(shares), "answers_differ": np.mean(np.sign(shares))} if compared else {}
    )
    drafts = (
        {name: sum(getattr(one, name) for one in answers) for name in ("drafted", "accepted")}
        if exact
        else {}
    )
    along = [network.cost.full if exact else network.cost.cumulative[one.exits].mean() for one in answers]
    return {
        "answers": len(answers),
        "tokens": len(exits),
        "shares": (np.bincount(exits, minlength=network.n_exits) / len(exits)).tolist(),
        "cost": float(np.mean(along)),
        "spent": float(sum(answer.macs for answer in answers) / full_macs.sum()),
        "prompt_spent": float(prompts[0] / prompts[1]),
        **{name: float(share) for name, share in differ.items()},
        **drafts,
    }
