"""What is written down of a world: what was printed or promised, and what is true."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from tests.gateway.simulation.drive import Drive, Outcome
from tests.gateway.simulation.sides import Found
from tests.gateway.simulation.worlds import Event, World

_PATH = re.compile(r"/\S+/")
_TEXT = 120
"""Letters of what is said, at most."""


def measured(drive: Drive) -> dict[str, Any]:
    """Return the raw numbers of a world, JSON-able."""
    found = {
        "requests": len(drive.outcomes),
        "days": drive.clock.passed / 86_400,
        "looks": _looks(drive),
        "alarms": [{**asdict(alarm), "said": _PATH.sub("", alarm.said)[:_TEXT]} for alarm in drive.alarms],
        "compared": drive.side.compared,
        "included": _included(drive),
        "live": _live(drive),
        "private": _private(drive),
        "units": _units(drive),
    }
    return _rounded(found)


def _looks(drive: Drive) -> list[dict[str, Any]]:
    populations: dict[tuple[bool, bool], list[Event]] = {}
    made, world = [], drive.world
    for look, found, told in drive.looks:
        changed = told.pop("changed")
        drifted = world.drift_at is not None and look.at > world.drift_at
        alarmed = any(alarm.at >= (world.drift_at or 0) for alarm in drive.alarms if alarm.at <= look.at)
        line = {**look._asdict(), **told, "name": found.name, "more": found.more}
        line["scarce"] = "fewer and fewer users are new" in found.said
        line["stale"] = drifted and not alarmed
        if found.name:
            now = drifted, "model" in changed
            if now not in populations:
                populations[now] = _population(world, *now)
            line |= _true(drive, found, populations[now], worth=0.5 if "grader" in changed else 1.0)
        made.append(line)
    return made


def _population(world: World, drifted: bool, second: bool) -> list[Event]:
    """Return requests that tell the truth; with the `second` small model if a change has put it in place."""
    factor, made = world.second if second else 1.0, []
    for event in world.population(drifted=drifted):
        said = event.saying
        made.append(event._replace(saying=said._replace(chance=min(1.0, said.chance * factor))))
    return made


def _true(drive: Drive, found: Found, population: list[Event], worth: float) -> dict[str, Any]:
    """Return what is printed and true of a policy; `worth`: what a grader takes off for a wrong answer."""
    true = drive.side.truth(found, population)
    printed = None if found.printed is None else asdict(found.printed)
    limits = {} if found.limit is None else {"max_loss": found.limit}
    return {"printed": printed, **true._asdict(), "loss": worth * true.loss, **limits}


def _loss(outcomes: list[Outcome]) -> float | None:
    return sum(one.wrong for one in outcomes) / len(outcomes) if outcomes else None


def _live(drive: Drive) -> dict[str, Any] | None:
    """Return the bill since a policy was chosen first: what is printed, and what the provider's books say."""
    if not drive.used:
        return None
    outcomes = drive.outcomes[drive.used[0] :]
    before, spent = drive.snapshots[0], drive.provider.spent
    earlier = _reference_alone(drive.world, drive.outcomes[: drive.used[0]])
    alone = _reference_alone(drive.world, outcomes)
    bill = drive.side.bill()
    return {
        "requests": len(outcomes), "by_policy": sum(one.by_policy for one in outcomes), "loss": _loss(outcomes),
        "reference_alone": alone, "spent": spent - before, "answers": sum(one.cost for one in outcomes),
        "spent_before": before, "reference_alone_before": earlier,
        "printed_saved": bill.get("saved"), "printed_lost": bill.get("lost"), "printed_cost": bill.get("cost"),
        "printed_requests": bill.get("n"), "printed_in_all": bill.get("in_all"),
    }  # fmt: skip


def _reference_alone(world: World, outcomes: list[Outcome]) -> float:
    return sum(world.costs(one.event)[1] for one in outcomes)


def _included(drive: Drive) -> list[dict[str, Any]]:
    """Return, by kind of request, how many came before a policy answered, and how many of these were compared."""
    before = drive.outcomes[: drive.used[0] if drive.used else None]
    made: dict[int, list[int]] = {}
    for one in before:
        counts = made.setdefault(one.event.saying.kind, [0, 0])
        counts[0] += 1
        counts[1] += len(drive.provider.asked[one.event.saying.prompt]) > 1
    return [{"kind": kind, "came": came, "compared": n} for kind, (came, n) in sorted(made.items())]


def _private(drive: Drive) -> dict[str, Any]:
    """Return what became of requests of clients who refuse comparison."""
    since = drive.outcomes[drive.used[0] :] if drive.used else []
    own = [one for one in since if one.event.client in drive.world.private]
    compared = sum(len(drive.provider.asked[one.event.saying.prompt]) > 1 for one in own)
    by_policy = sum(one.by_policy for one in own)
    return {"requests": len(own), "by_policy": by_policy, "loss": _loss(own), "compared": compared}


def _units(drive: Drive) -> dict[str, int]:
    """Return how many users and units there have been."""
    events = [one.event for one in drive.outcomes]
    users = {event.user for event in events if event.user}
    return {"users": len(users), "units": len({event.unit for event in events})}


def _rounded(value: Any) -> Any:
    """Return numbers to six digits, which is what a file of a thousand worlds keeps."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
