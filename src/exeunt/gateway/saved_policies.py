"""The policies in a gateway's folder, and which of them answers.

`policies/p1.json`, `p2.json`, ... are plans that were certified (see `exeunt.gateway.certifier`). A router's policy
holds features of some requests, so only its owner can read it; `p1.clients` names the clients whose they are. Once one
of these is forgotten, an empty `p1.forgotten` is in place of both. `active.json` holds what was activated, and when:
[[time, name], ...]; [time, name, "back"] where the activation before it was undone. Before the first one, the reference
answers alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypedDict

from exeunt._support.checked_types import check_kind
from exeunt._support.files import locked, read_json, write_json
from exeunt._support.sealed_json import built, read_built
from exeunt.errors import ArtefactError, InputError
from exeunt.gateway.folder import ACTIVE, POLICIES, GatewayModels
from exeunt.policy import Policy

REFERENCE = "reference"
"""The name under which the reference answers alone, in place of a policy's."""
_NAME = re.compile(r"p(\d+)\.(?:json|forgotten)")
_BACK = "back"


class GatewayPolicies:
    """The policies of the gateway in `folder`, for its models."""

    def __init__(self, folder: Path, models: GatewayModels) -> None:
        self.folder, self.models = folder, models

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the policies, the oldest first."""
        return _names(self.folder)

    def add(self, policy: Policy, clients: Collection[str] | None = None) -> str:
        """Keep a policy, which is not active yet, and return its name.

        `clients`: whose requests it was made of; None if nobody knows, so that it may be anybody's.

        Raises ArtefactError if it was made for other models.
        """
        bound = replace(policy, run=self.models.digest)
        self._check(bound, "the policy")
        if self.models.features not in bound.models:
            clients = ()  # it holds nothing of anybody
        folder = self.folder / POLICIES
        with locked(folder / ".lock", folder):
            folder.chmod(0o700)
            name = f"p{int(self.names[-1][1:]) + 1 if self.names else 1}"
            if clients is not None:
                write_json(folder / f"{name}.clients", sorted(clients))
            file = folder / f"{name}.json"
            bound.save(file)
            file.chmod(0o600)
        return name

    def load(self, name: str) -> Policy:
        """Return a policy. Raises InputError for an unknown name, ArtefactError if it is for other models, and for
        one that held features of requests of a client that was forgotten.
        """
        if name not in self.names:
            raise InputError(
                f"{self.folder} has no policy {name!r}: there are {', '.join((REFERENCE, *self.names))}"
            )
        if self.is_forgotten(name):
            raise ArtefactError(
                f"{name} held features of requests of a client that was forgotten: take another certified policy"
            )
        file = self.folder / POLICIES / f"{name}.json"
        policy = Policy.load(file, remedy="restore it, or take another certified policy")
        self._check(policy, str(file))
        note = policy.notes.get("gateway")
        if note is not None:  # else it is older than units
            remedy = "take another policy"
            built(
                file, note, lambda _: check_kind(note, _Note, "note"), kind="certified policy", remedy=remedy
            )
        return policy

    def is_forgotten(self, name: str) -> bool:
        """Whether a policy was removed because a client was forgotten."""
        return (self.folder / POLICIES / f"{name}.forgotten").exists()

    @property
    def history(self) -> list[list[Any]]:
        """What was activated and when, the latest last, as `active.json` holds it."""
        file = self.folder / ACTIVE
        entries = read_json(file, remedy=_remedy(file)) if os.path.lexists(file) else []
        if not isinstance(entries, list) or not all(map(_is_entry, entries)) or _goes_back_too_far(entries):
            raise ArtefactError(f"{file} does not say what was activated: {_remedy(file)}")
        return entries

    def active(self) -> str:
        """Return the name of the policy that answers, or "reference"."""
        return _stack(self.history)[-1]

    def activate(self, name: str, now: float) -> None:
        """Let a policy answer, or the "reference" alone. `now`: in seconds since 1970. Raises as `load` does."""
        if name != REFERENCE:
            self.load(name)
        self._write([now, name])

    def roll_back(self, now: float) -> str:
        """Undo the latest activation that has not been undone, and return the name of what answers now.

        Raises InputError if there is none, and as `load` does.
        """
        stack = _stack(self.history)
        if len(stack) == 1:
            raise InputError(f"there is nothing to roll back: {REFERENCE} has answered from the beginning")
        if stack[-2] != REFERENCE:
            self.load(stack[-2])
        self._write([now, stack[-2], _BACK])
        return stack[-2]

    def _write(self, entry: list[Any]) -> None:
        with locked(self.folder / f".{ACTIVE}.lock", self.folder / ACTIVE):
            write_json(self.folder / ACTIVE, [*self.history, entry])

    def _check(self, policy: Policy, source: str) -> None:
        """Raise ArtefactError, starting with `source`, unless a policy was made for these models."""
        strange = strange_models(policy, self.models)
        if strange:
            why = f"it asks {', '.join(sorted(strange))}, and there are {', '.join(self.models.highest)}"
        elif policy.run == self.models.digest and policy.models:
            return
        else:
            why = "its models, or what they answer with, have changed"
        raise ArtefactError(
            f"{source} is not for the models of {self.folder}: {why}. Others are certified on records of these models"
        )


def strange_models(policy: Policy, models: GatewayModels) -> set[str]:
    """Return the models that a policy asks and the gateway does not have."""
    return {*policy.models} - {*models.highest, models.features}


class _Note(TypedDict):
    """How a policy was certified, as its note has it."""

    rows: int
    max_loss: float | None
    share: float
    cost: float


def clients_of(file: Path) -> list[str]:
    """Return the clients that a file names whose requests a plan was made of.

    Raises ArtefactError, which says how plans are removed of which nobody knows that.
    """
    remedy = f"restore it, or remove {file.with_suffix('')}[-.]* to forget what was made of these requests"
    clients: list[str] = read_built(
        file, lambda body: check_kind(body, list[str], "clients"), kind="list of clients", remedy=remedy
    )
    return clients


def forget_policies(folder: Path, client: str) -> list[str]:
    """Remove the policies in a gateway's folder that hold features of a client's requests, and return their names.

    Nobody can load them any more, and their names are not given again.
    """
    within, removed = folder / POLICIES, []
    if not within.is_dir():
        return []
    with locked(within / ".lock", within):
        for name in _names(folder):
            policy, clients, mark = (within / f"{name}.{kind}" for kind in ("json", "clients", "forgotten"))
            if not policy.exists() or (clients.exists() and client not in clients_of(clients)):
                continue
            mark.touch(0o600)
            policy.unlink()
            clients.unlink(missing_ok=True)
            removed.append(name)
    return removed


def _names(folder: Path) -> tuple[str, ...]:
    matches = (_NAME.fullmatch(file.name) for file in (folder / POLICIES).glob("p*"))
    return tuple(f"p{number}" for number in sorted({int(match[1]) for match in matches if match}))


def _stack(history: Sequence[Sequence[Any]]) -> list[str]:
    """Return what would answer if activations were undone one after the other, the latest last."""
    stack = [REFERENCE]
    for _, name, *back in history:
        if back:
            stack.pop()
        else:
            stack.append(str(name))
    return stack


def _is_entry(entry: Any) -> bool:
    kinds = [type(part) for part in entry] if isinstance(entry, list) else []
    return kinds[:1] in ([int], [float]) and kinds[1:] in ([str], [str, str])


def _goes_back_too_far(history: Sequence[Sequence[Any]]) -> bool:
    """Whether more activations are undone than there were."""
    return min(accumulate(-1 if back else 1 for _, _, *back in history), default=0) < 0


def _remedy(file: Path) -> str:
    return f"remove {file}, and activate a policy again; until then the reference answers"
