"""RequestStream made of graded questions: each once, repeated prompts, users, conversations; and what is true of it.

What a policy loses on a question does not depend on what came before, so the mean over a long run is a sum over
questions, weighed by how often each is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

DAY_S = 86_400.0
TASKS = 12
"""Groups of questions with embeddings that are alike: what one conversation or one integration is about."""
PROMPTS, MOST_SHARE = 1_500, 0.4
"""Prompts that repeat, and the share of the most frequent one."""
USERS, INTEGRATION, WEIGHT = (1, 3), (40, 100), 0.05
"""Requests of a user and of an integration, and the share of integrations among all users."""
TURNS = (1, 6)
MOST_ROWS = 20
NAMES = ("each question once", "repeats", "users", "conversations")
UNITS = dict(zip(NAMES, ("request", "conversation", "user", "conversation"), strict=True))


class Asked(NamedTuple):
    """A request: when, in which unit of the world, its place there, and which question."""

    time: float
    unit: int
    turn: int
    question: int


@dataclass(frozen=True)
class Weights:
    """How often questions are asked in the long run, (q,) each, as requests per unit: `answered` are those that a
    policy may answer, `every` are all.
    """

    answered: Any
    every: Any


@dataclass(frozen=True)
class RequestStream:
    """So many units of traffic of the kind `name`, `pace` of them begin on a day. `task` (q,): of each question."""

    name: str
    seed: int
    n_units: int
    pace: float
    task: Any

    def requests(self) -> list[Asked]:
        """Return the requests in order of their times, in seconds from the start."""
        rng = np.random.default_rng([self.seed, 1])
        starts = np.sort(rng.random(self.n_units)) * self.n_units / self.pace * DAY_S
        if self.name == "each question once":
            order = rng.permutation(len(self.task))[: self.n_units]
            return [
                Asked(*of, 0, question)
                for *of, question in zip(starts.tolist(), range(self.n_units), order.tolist(), strict=True)
            ]
        if self.name == "repeats":
            drawn = rng.choice(len(self.task), self.n_units, p=self._share)
            return [
                Asked(*of, 0, question)
                for *of, question in zip(starts.tolist(), range(self.n_units), drawn.tolist(), strict=True)
            ]
        made = []
        for unit, start in enumerate(starts.tolist()):
            made += (
                self._user(unit, start, rng) if self.name == "users" else self._conversation(unit, start, rng)
            )
        return sorted(made)

    def _user(self, unit: int, start: float, rng: Any) -> list[Asked]:
        """Return the requests of a user within two days, or of an integration, which asks about one task for six."""
        heavy = rng.random() < WEIGHT
        n, days = int(rng.integers(*(INTEGRATION if heavy else USERS), endpoint=True)), 6 if heavy else 2
        times = [start, *np.sort(start + days * DAY_S * rng.random(n - 1)).tolist()]
        drawn = self._about(rng, n) if heavy else rng.integers(0, len(self.task), n)
        return [Asked(time, unit, turn, int(drawn[turn])) for turn, time in enumerate(times)]

    def _conversation(self, unit: int, start: float, rng: Any) -> list[Asked]:
        n = int(rng.integers(*TURNS, endpoint=True))
        times = start + np.cumsum(rng.exponential(120.0, n))
        return [
            Asked(float(times[turn]), unit, turn, q) for turn, q in enumerate(self._about(rng, n).tolist())
        ]

    def _about(self, rng: Any, n: int) -> Any:
        """Return n questions of one task, drawn by lot."""
        return rng.choice(np.flatnonzero(self.task == rng.integers(TASKS)), n)

    # -- what is true ---------------------------------------------------------------------------------------------

    @cached_property
    def _share(self) -> Any:
        """How often each question is asked where prompts repeat, by Zipf's law after the most frequent one."""
        share, rank = np.zeros(len(self.task)), np.arange(1, PROMPTS)
        prompts = np.random.default_rng([self.seed, 2]).permutation(len(self.task))[:PROMPTS]
        share[prompts] = [MOST_SHARE, *(1 - MOST_SHARE) / rank / (1 / rank).sum()]
        return share

    def weights(self, rows: int, fitted: Any) -> Weights:
        """Return how often questions are asked of which a policy may answer the first `rows` of a unit.

        `fitted`: the questions that fit the policy, which come only once where each is asked once.
        """
        n = len(self.task)
        if self.name == "each question once":
            share = np.ones(n)
            share[fitted] = 0.0
            return Weights(share / share.sum(), share / share.sum())
        if self.name == "repeats":
            return Weights(self._share, self._share)
        uniform, of_task = np.full(n, 1 / n), 1 / (TASKS * np.bincount(self.task, minlength=TASKS)[self.task])
        if self.name == "conversations":
            return Weights(of_task * _mean(TURNS, rows), of_task * _mean(TURNS, TURNS[1]))
        answered, every = (
            (1 - WEIGHT) * _mean(USERS, most) * uniform + WEIGHT * _mean(INTEGRATION, most) * of_task
            for most in (rows, INTEGRATION[1])
        )
        return Weights(answered, every)


def _mean(sizes: tuple[int, int], most: int) -> float:
    """Return the mean of sizes between two, of which no more than `most` count."""
    return float(np.minimum(np.arange(sizes[0], sizes[1] + 1), most).mean())


def tasks_of(embedding: Any) -> Any:
    """Return the task of each question: k-means of the embeddings."""
    from sklearn.cluster import KMeans

    return KMeans(TASKS, n_init=4, random_state=0).fit_predict(embedding)
