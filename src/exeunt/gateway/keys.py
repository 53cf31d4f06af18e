"""The keys of a gateway's clients and of who administers it. The file holds digests of them."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from exeunt._files import atomic_path, read_json
from exeunt.errors import InputError
from exeunt.ledger import ledger_of

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

    def add(self, name: str, *, admin: bool = False, shadow: bool = True, spend: str | None = None) -> str:
        """Make a key and return it; nobody can tell it again. The same name gets another key in place of its own."""
        if not _NAME.fullmatch(name):
            raise InputError(f"a client's name has up to 64 letters, digits and .@_-, got {name!r:.80}")
        if any(one.name == name and one.admin != admin for one in self.clients):
            raise InputError(f"{name} has a key of the other kind: choose another name, or remove that one")
        if spend is not None and (unit := ledger_of(spend).unit) != "usd":
            raise InputError(f"prices are in usd, and {spend!r} is in {unit}")
        key = f"ex-{secrets.token_urlsafe(32)}"
        self._write(
            Client(name, hashlib.sha256(key.encode()).hexdigest(), admin, shadow, spend), without=name
        )
        return key

    def remove(self, name: str) -> bool:
        """Take the key of a client back; return whether it had one."""
        known = any(client.name == name for client in self.clients)
        if known:
            self._write(without=name)
        return known

    def check(self) -> None:
        """Raise InputError unless there is a key of a client, and one to administer with."""
        for admin, option in ((False, "--add-client NAME"), (True, "--add-admin NAME")):
            if not any(client.admin == admin for client in self.clients):
                whom = "who administers the gateway has" if admin else "clients have"
                raise InputError(f"{whom} no key yet: make one with {option}")

    def _follow(self) -> None:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            self._clients = {}
            return
        if (seen := (stat.st_mtime_ns, stat.st_ino)) != self._seen:
            entries = [Client(**entry) for entry in read_json(self._file)]
            self._clients, self._seen = {one.digest: one for one in entries}, seen

    def _write(self, *more: Client, without: str) -> None:
        kept = [client for client in self.clients if client.name != without]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._file) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps([asdict(client) for client in (*kept, *more)], indent=1))
