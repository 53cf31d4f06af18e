"""The keys of a gateway's clients and of who administers it. The file holds digests of them."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from exeunt._files import atomic_path, read_json
from exeunt.errors import ArtefactError, InputError
from exeunt.gateway.config import check_limit

_NAME = re.compile(r"[\w.@-]{1,64}")


@dataclass(frozen=True)
class Client:
    """Who has a key. `admin`: administers the gateway, and asks no models. `shadow`: whether requests may be sent to
    other models for comparison. `spend`: what the requests may cost, in place of the file's limit for each key.
    """

    name: str
    digest: str
    admin: bool = False
    shadow: bool = True
    spend: str | None = None


class Keys:
    """The keys in a file, `keys.json`, which is read again when it changes. Digests of random keys need no salt."""

    def __init__(self, file: Path) -> None:
        self._file, self._seen = file, (0, 0)
        self._clients: dict[str, Client] = {}

    @property
    def clients(self) -> tuple[Client, ...]:
        """All who have keys."""
        self._follow()
        return tuple(self._clients.values())

    def of(self, key: bytes) -> Client | None:
        """Return whose key this is. Digests are looked up, so the time tells nothing of keys."""
        self._follow()
        return self._clients.get(hashlib.sha256(key).hexdigest())

    def add(
        self, name: str, *, admin: bool = False, shadow: bool | None = None, spend: str | None = None
    ) -> str:
        """Make a key and return it; nobody can tell it again. The same name gets another key in place of its own, and
        keeps what is not given.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"a client's name has up to 64 letters, digits and .@_-, got {name!r:.80}")
        if (known := self.named(name) or Client(name, "", admin)).admin != admin:
            raise InputError(
                f"{name} has a key of the other kind: choose another name, or remove that one with --forget"
            )
        if spend is not None:
            check_limit(spend, "spend")
        key = f"ex-{secrets.token_urlsafe(32)}"
        given: dict[str, Any] = {
            "digest": hashlib.sha256(key.encode()).hexdigest(),
            "shadow": shadow,
            "spend": spend,
        }
        made = replace(known, **{option: value for option, value in given.items() if value is not None})
        self._write(made, without=name)
        return key

    def named(self, name: str) -> Client | None:
        """Return who has this name; None if nobody has."""
        return next((client for client in self.clients if client.name == name), None)

    def remove(self, name: str) -> bool:
        """Take the key of a client back; return whether it had one."""
        if (known := self.named(name)) is not None:
            self._write(without=name)
        return known is not None

    def check(self) -> None:
        """Raise InputError unless there is a key of a client, and one to administer with."""
        kinds = {"clients have": "--add-client NAME", "who administers the gateway has": "--add-admin NAME"}
        there = [client.admin for client in self.clients]
        if missing := [
            f"{whom} no key yet: make one with `exeunt gateway FILE {option}`"
            for admin, (whom, option) in enumerate(kinds.items())
            if admin not in there
        ]:
            raise InputError("; ".join(missing))

    def _follow(self) -> None:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            self._clients = {}
            return
        if (seen := (stat.st_mtime_ns, stat.st_ino)) != self._seen:
            remedy = "restore it, or remove it and make all keys anew with --add-client and --add-admin"
            try:
                entries = [Client(**entry) for entry in read_json(self._file, remedy=remedy)]
            except TypeError:
                raise ArtefactError(f"{self._file} holds no keys of a gateway: {remedy}") from None
            self._clients, self._seen = {one.digest: one for one in entries}, seen

    def _write(self, *more: Client, without: str) -> None:
        kept = [client for client in self.clients if client.name != without]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._file) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps([asdict(client) for client in (*kept, *more)], indent=1))
