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
    `users`. `client`: whose key it is; "" for a key for each unit. `fickle`: asked again, the small model may be wrong
    where it was right. `hours`: of the day in which units begin.
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
    fickle: bool = False
    turns: tuple[int, int] = (1, 1)
    requests: tuple[int, int] = (1, 1)
    gap: float = 20.0
    user: str = ""
    users: int = 0
    client: str = "shop"
    tools: bool = False
    hours: tuple[int, int] = (0, 24)


class Saying(NamedTuple):
    """What the models say to a prompt. The small one is wrong with this `chance`, which a `lot` in [0, 1) decides; None
    where it is drawn each time.

    `score`: the small model's log-probability. `seconds`: until the small and the large model answer. `kind`: its place
    in the world.
    """

    prompt: int
    kind: int
    chance: float
    lot: float | None
    score: float
    tokens: int
    seconds: tuple[float, float]

    def wrong(self, factor: float, now: float) -> bool:
        """Return whether a small model is wrong; `factor`: how much oftener it is than the first one. `now`: a number
        in [0, 1) that is drawn each time.
        """
        return (now if self.lot is None else self.lot) < self.chance * factor

    def expected(self, factor: float = 1.0) -> float:
        """Return how often it is wrong on prompts like this. Of one that comes again nothing is left to chance."""
        decided = self.prompt >= FINITE and self.lot is not None
        return float(self.wrong(factor, 0.0)) if decided else min(1.0, self.chance * factor)


def drawn(kind: Kind, place: int, prompt: int, rng: np.random.Generator, common: float = 0.0) -> Saying:
    """Return what is said to a prompt that was never asked before, or is one of the kind's own.

    `common`: a number in [0, 1) that the requests of a unit share.
    """
    lots = rng.random(4)
    sure = bool(lots[0] < kind.sure)
    low, high = kind.scores[0 if sure else 1]
    score = low + (high - low) * float(kind.alike * common + (1 - kind.alike) * lots[2])
    tokens = max(1, round(kind.tokens * (0.5 + lots[3])))
    factor = kind.slow ** float(rng.random()) if kind.slow > 1 else 1.0
    seconds = kind.seconds[0] * factor, kind.seconds[1] * factor
    lot = None if kind.fickle else float(lots[1])
    return Saying(prompt, place, kind.wrong[0 if sure else 1], lot, score, tokens, seconds)


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
