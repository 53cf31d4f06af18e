"""What both sides of a comparison, the gateway before and after, tell of themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.gateway.simulation.provider import SECOND
from tests.gateway.simulation.worlds import Event, Look, World

from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.key_store import Client, write_keys


@dataclass(frozen=True)
class Printed:
    """What is printed of a policy: the mean loss and what is saved of the reference's cost, each with its 95% interval;
    the mean cost in US dollars for a request, with its own; by which models requests are answered; notes.

    `probability`: with which the `budget` is kept, in US dollars for a request; None where it is not certified.
    """

    loss: Sequence[float]
    saved: Sequence[float]
    cost: Sequence[float]
    shares: dict[str, float]
    notes: list[str]
    probability: float | None = None
    budget: float | None = None


@dataclass(frozen=True)
class Found:
    """What a look has found. `name`: of the policy that is certified; "" for none. `more`: about how many units more it
    would take, if that is said. `limit`: what was promised of the loss, where it is not what the look has asked.
    """

    name: str = ""
    printed: Printed | None = None
    said: str = ""
    more: int | None = None
    policy: Any = field(default=None, repr=False)
    limit: float | None = None


class Truth(NamedTuple):
    """The mean loss per request over all requests; the mean cost in US dollars, and that of the reference alone.

    `share`: of the reference's cost, for the requests that the policy may answer, of which a budget is certified.
    """

    loss: float
    cost: float
    reference: float
    share: float | None = None


class Side(Protocol):
    """A gateway in a world. `pause_s`: for how long nobody asks before the owner does anything."""

    name: str
    pause_s: float

    def __init__(self, world: World, file: Path, clients: Collection[str]) -> None: ...
    async def answer(self, request: ChatRequest, client: str) -> Any: ...
    async def settle(self) -> None: ...
    async def advance(self) -> None: ...
    async def change(self, what: str) -> None: ...
    def look(self, look: Look) -> Found: ...
    def use(self, found: Found) -> None: ...
    @property
    def answers(self) -> bool: ...
    @property
    def alarms(self) -> list[str]: ...
    def bill(self) -> dict[str, Any]: ...
    @property
    def compared(self) -> dict[str, int]: ...
    async def close(self) -> None: ...
    def truth(self, found: Found, population: list[Event]) -> Truth: ...


def given_keys(folder: Path, names: Collection[str], private: Collection[str]) -> dict[str, Client]:
    """Write the keys of a gateway that is not open yet, thousands at once; return whose they are by name."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    clients = {name: Client(name, digest, shadow=name not in private) for name, digest in digests.items()}
    write_keys(folder, clients.values())
    return clients


def config_text(world: World, changed: Collection[str] = (), **more: str) -> str:
    """Return the file of a world's gateway. `changed`: what the owner has changed."""
    small, large = (
        f"provider: one, price: {{input: {price}, output: {4 * price}}}, max_tokens: 64, template_tokens: 16, "
        f"retries: {world.retries}"
        for price in world.prices
    )
    model, grader = SECOND if "model" in changed else "small", "lenient" if "grader" in changed else "grade"
    entries = {
        "providers": "{one: {base_url: 'http://provider.invalid/v1'}}",
        "models": (
            f"{{small: {{{small}, model: {model}, logprobs: {str(world.scored).lower()}}},"
            f" large: {{{large}, tools: true}}}}"
        ),
        "reference": "large",
        "shadow": (
            f"{{models: [small], share: {world.share}, audit: {world.audit}, spend: '{world.money}', "
            f"grader: 'tests.gateway.simulation.grading:{grader}'}}"
        ),
        "run_length": f"{world.run_length:g}",
        **({"spend": f"{{request: '{world.request}'}}"} if world.request else {}),
        **more,
    }
    return "\n".join(f"{name}: {value}" for name, value in entries.items())
