"""Worlds: the requests of an owner's weeks, and what the owner does, of parameters and a seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from tests.gateway.simulation.kinds import FINITE, Kind, Saying, answer, drawn, question, zipf

_DAY_S = 86_400.0
_TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]


class Event(NamedTuple):
    """A request. `unit`: of the world; `turn`: its place in a conversation of so many `turns`. `letters`: of the
    messages before it, and `messages` how many these are. `again`: it is the same body as the one before in its unit.
    """

    time: float
    client: str
    user: str
    unit: int
    turn: int
    saying: Saying
    text: str
    letters: int
    messages: int
    turns: int
    tools: bool
    again: bool = False

    @property
    def n_input(self) -> int:
        """Tokens of the messages, as the provider counts them."""
        return tokens_of(self.letters + len(self.text), self.messages + 1)


def body_of(event: Event, before: Sequence[Mapping[str, str]] = ()) -> bytes:
    """Return the body of a request after these messages."""
    body: dict[str, Any] = {"model": "auto", "messages": [*before, {"role": "user", "content": event.text}]}
    if event.user:
        body["user"] = event.user
    if event.tools:
        body["tools"] = _TOOLS
    return json.dumps(body).encode()


class Look(NamedTuple):
    """The owner asks what is certified, before the request of number `at`. `use`: and lets it answer; "again" where
    the reference has answered since an alarm.
    """

    at: int
    max_loss: float = 0.05
    budget: str | None = None
    use: str = ""


class Change(NamedTuple):
    """The owner changes the gateway's file before the request of number `at`: the small "model", the "grader", or the
    "promise", which then is that of the first look with another limit.
    """

    at: int
    what: str


@dataclass(frozen=True)
class World:
    """A world of `n` requests, `pace` a second.

    `kinds`: of which units are drawn; from request `drift_at` on `after` is in their place. `prices`: US dollars for a
    million tokens of the small model and of the large one. `scored`: whether the small one tells log-probabilities.
    `share`, `audit`, `money`: of the comparisons. `looks`, `changes`: what the owner does. `second`: how much oftener
    than the first the small model is wrong that a change puts in its place. `until_alarm`: nothing is asked after an
    alarm. `again`: the share of requests that are sent twice. `fails`: the share of the provider's calls that end with
    status 500, and `hangs` of those that do not end; `grader_fails`: of the grades that do not come. `private`: clients
    who refuse comparison. `request`: the most that an attempt may cost, of which there are as many more as `retries`.
    `units`, `period`, `idle`, `time`, `cap`: of the gateway's file; `spend`: the money for comparisons where there is a
    cap. `promises`: the limits of the loss, and the budgets, that the file promises at first and after a change of it;
    by default those of the first look.
    """

    name: str
    seed: int
    kinds: tuple[Kind, ...]
    n: int = 3_000
    pace: float = 5.0
    drift_at: int | None = None
    after: tuple[Kind, ...] = ()
    prices: tuple[float, float] = (0.1, 10.0)
    scored: bool = True
    share: float = 1.0
    audit: float = 0.1
    money: str = "1000 usd"
    run_length: float = 100_000
    looks: tuple[Look, ...] = ()
    changes: tuple[Change, ...] = ()
    second: float = 1.0
    until_alarm: bool = False
    again: float = 0.0
    fails: float = 0.0
    hangs: float = 0.0
    grader_fails: float = 0.0
    private: tuple[str, ...] = ()
    request: str = ""
    retries: int = 1
    units: str = "conversation"
    period: str = "30 s"
    idle: str = "1 min"
    time: str = ""
    cap: str = ""
    spend: str = ""
    promises: tuple[tuple[float, str | None], ...] = ()

    def costs(self, event: Event) -> tuple[float, float]:
        """Return the US dollars of the small and of the large model's answer."""
        small, large = (price * (event.n_input + 4 * event.saying.tokens) / 1e6 for price in self.prices)
        return small, large

    def is_measured(self, event: Event) -> bool:
        """Return whether a policy is measured on a request: its client is compared and, where users are the units, it
        names one who is new, if new ones come: known ones have come, and the reference answers them.
        """
        new = "new" if any(kind.user == "new" for kind in self.kinds) else ""
        of_unit = self.units != "user" or (event.user and event.user.startswith(new))
        return bool(of_unit) and event.client not in self.private

    def events(self, pause_s: float = 600.0) -> list[Event]:
        """Return the requests as they come. For `pause_s` nobody asks before the owner does anything."""
        units = _Drawing(self, np.random.default_rng([self.seed, 1])).units(self.n)
        made = sorted(units, key=lambda event: event.time)
        acts = sorted({act.at for act in (*self.looks, *self.changes)})
        waits = np.searchsorted(acts, np.arange(self.n), side="right").tolist()
        return [event._replace(time=event.time + pause_s * n) for event, n in zip(made, waits, strict=False)]

    def population(self, n: int = 10_000, *, drifted: bool = False) -> list[Event]:
        """Return other requests of the same kinds, which tell the truth about a policy; those after a change."""
        kinds = self.after if drifted else self.kinds
        other = replace(self, kinds=kinds, after=(), drift_at=None, again=0.0)
        return _Drawing(other, np.random.default_rng([self.seed, 2])).units(n)


def tokens_of(letters: int, messages: int) -> int:
    """Return how many tokens messages are, by the provider's count."""
    return letters // 4 + 4 * messages


class _Drawing:
    """Draws the units of a world."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world, self._rng = world, rng
        self._next, self._known = int(rng.integers(1, 1_000)), dict[int, Saying]()

    def units(self, n: int) -> list[Event]:
        """Return units of at least so many requests, one after the other."""
        world, made, unit, start = self._world, list[Event](), 0, 0.0
        shares = {}
        for kinds in (world.kinds, world.after):
            weights = np.array([kind.share for kind in kinds])
            shares[kinds] = np.cumsum(weights / weights.sum()) if kinds else weights
        size = _size(world.kinds)
        while len(made) < n:
            start += float(self._rng.exponential(size / world.pace))
            drifted = world.drift_at is not None and len(made) >= world.drift_at
            kinds = world.after if drifted else world.kinds
            place = int(np.searchsorted(shares[kinds], self._rng.random(), side="right"))
            kind = kinds[place]
            if kind.hours[0] <= start % _DAY_S / 3600 < kind.hours[1]:
                made += self._unit(kind, place + drifted * len(world.kinds), unit, start)
                unit += 1
        return made

    def _unit(self, kind: Kind, place: int, unit: int, start: float) -> list[Event]:
        rng = self._rng
        turns = int(rng.integers(kind.turns[0], kind.turns[1] + 1))
        requests = int(rng.integers(kind.requests[0], kind.requests[1] + 1))
        known = f"known {int(rng.integers(max(kind.users, 1)))}"
        user = {"": "", "new": f"new {unit}", "known": known}[kind.user]
        made, now, letters, common = list[Event](), start, 0, float(rng.random())
        for turn in range(turns * requests):
            saying = self._said(kind, place, common)
            text, at = question(saying, kind.letters), turn if turns > 1 else 0
            event = Event(
                now, kind.client or f"client-{unit}", user, unit, at, saying, text, letters, 2 * at, turns, kind.tools,
            )  # fmt: skip
            made.append(event)
            if self._world.again and rng.random() < self._world.again:
                made.append(event._replace(time=now + float(rng.uniform(0.1, 3.0)), again=True))
            letters += (len(text) + len(answer(saying, False))) if turns > 1 else 0
            now += float(rng.exponential(kind.gap))
        return made

    def _said(self, kind: Kind, place: int, common: float) -> Saying:
        if not kind.prompts:
            self._next += 1
            return drawn(kind, place, self._next, self._rng, common)
        rank = int(self._rng.choice(kind.prompts, p=zipf(kind.prompts))) if kind.prompts > 1 else 0
        prompt = FINITE + 1_000_000 * place + rank
        if prompt not in self._known:
            own = np.random.default_rng([self._world.seed, 3, prompt])
            self._known[prompt] = drawn(kind, place, prompt, own)
        return self._known[prompt]


def _size(kinds: tuple[Kind, ...]) -> float:
    """Return the mean number of requests of a unit."""
    weights = sum(kind.share for kind in kinds)
    return sum(kind.share * sum(kind.turns) / 2 * sum(kind.requests) / 2 for kind in kinds) / weights
