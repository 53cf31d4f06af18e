"""Kinds of requests: what the models would say to one is drawn from its kind, so the truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FINITE = 1_000_000_000
"""Prompts from this number on come again and again; all others are asked once."""


@dataclass(frozen=True)
class Kind:
    """Requests that are alike. A unit of them is a conversation of `turns`, or `requests` of one user.

    `share`: of the units. `sure`: how often the small model is sure of its answer. `wrong`: how often it is wrong where
    it is sure, and where it is not. `scores`: between which its log-probabilities then lie; `alike`: how much of these
    the requests of a unit have in common. `letters`: of a question. `tokens`: of an answer. `seconds`: until the small
    and the large model answer, up to `slow` times that. `prompts`: from how many a request is drawn, by Zipf's law; 0
    where no prompt comes twice. `turns`, `requests`: the fewest and the most. `gap`: seconds between requests of a
    unit, on average. `user`: whether requests name one: "" names nobody, "new" a user for each unit, "known" one of
    `users`. `client`: whose key it is. `hours`: of the day in which units begin.
    """

    share: float = 1.0
    sure: float = 0.8
    wrong: tuple[float, float] = (0.02, 0.6)
    scores: tuple[tuple[float, float], tuple[float, float]] = ((-0.1, 0.0), (-2.0, -1.0))
    alike: float = 0.0
    letters: int = 120
    tokens: int = 40
    seconds: tuple[float, float] = (0.5, 2.0)
    slow: float = 1.0
    prompts: int = 0
    turns: tuple[int, int] = (1, 1)
    requests: tuple[int, int] = (1, 1)
    gap: float = 20.0
    user: str = ""
    users: int = 0
    client: str = "shop"
    tools: bool = False
    hours: tuple[int, int] = (0, 24)


class Saying(NamedTuple):
    """What the models say to a prompt. The small one is wrong with this `chance`, which a `lot` in [0, 1) decides.

    `score`: the small model's log-probability. `seconds`: until the small and the large model answer. `kind`: its place
    in the world.
    """

    prompt: int
    kind: int
    chance: float
    lot: float
    score: float
    tokens: int
    seconds: tuple[float, float]

    def wrong(self, factor: float = 1.0) -> bool:
        """Return whether a small model is wrong; `factor`: how much oftener it is than the first one."""
        return self.lot < self.chance * factor

    def expected(self, factor: float = 1.0) -> float:
        """Return how often it is wrong on prompts like this. Of one that comes again nothing is left to chance."""
        return float(self.wrong(factor)) if self.prompt >= FINITE else min(1.0, self.chance * factor)


def drawn(kind: Kind, place: int, prompt: int, rng: np.random.Generator, common: float = 0.0) -> Saying:
    """Return what is said to a prompt that was never asked before, or is one of the kind's own.

    `common`: a number in [0, 1) that the requests of a unit share.
    """
    lot = rng.random(4)
    sure = bool(lot[0] < kind.sure)
    low, high = kind.scores[0 if sure else 1]
    score = low + (high - low) * float(kind.alike * common + (1 - kind.alike) * lot[2])
    tokens = max(1, round(kind.tokens * (0.5 + lot[3])))
    factor = kind.slow ** float(rng.random()) if kind.slow > 1 else 1.0
    seconds = kind.seconds[0] * factor, kind.seconds[1] * factor
    return Saying(prompt, place, kind.wrong[0 if sure else 1], float(lot[1]), score, tokens, seconds)


def question(saying: Saying, letters: int) -> str:
    """Return the text of a prompt. The provider knows it by its number."""
    return f"{saying.prompt} ".ljust(letters, "x")


def answer(saying: Saying, wrong: bool) -> str:
    """Return what a model says; a wrong answer is as long as a right one."""
    return f"{'wrong' if wrong else 'right'} {saying.prompt}"


def zipf(n: int, exponent: float = 1.0) -> np.ndarray:
    """Return Zipf frequencies of n prompts."""
    frequencies = np.arange(1, n + 1) ** -exponent
    return frequencies / frequencies.sum()
