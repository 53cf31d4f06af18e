"""The names of a server, and how much of it one client may take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network

from exeunt.errors import InputError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EVERY_ADDRESS = re.compile(r"(?i)(::ffff:)?(0x)?[0.:]*")
"""Hosts that stand for every address: 0.0.0.0, 0, ::, and no host at all."""
_HOST = re.compile(r"(?a)[\w.*-]+|\[?[\da-fA-F.]*(:[\da-fA-F.]*){2,}\]?")
"""Names, patterns of names, and addresses of IPv6."""
PART = 4
"""One client may have one in so many of the connections, and of the bodies that come in."""
_FEW = 8
"""One client may always have so many."""
_NETWORK_BITS = 64
"""Bits of an IPv6 address that identify a client: all addresses that begin with them are usually one client's."""


TOO_MANY = "there are too many connections: try again soon"
"""The error of a connection for which there is no room."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of requests to a server, of each worker where there are several.

    `hosts`: names by which they may call it, as patterns. `max_body`: bytes of a request. `max_open`: requests that are
    open at a time. `slow_s`: seconds in which a request must have come in. `log_requests`: each one. `proxies`:
    addresses, or networks, of proxies in front of the server, which bring the requests of many.
    """

    hosts: tuple[str, ...]
    max_body: int
    max_open: int
    slow_s: float = 30.0
    log_requests: bool = False
    proxies: tuple[str, ...] = ()

    @property
    def of_one(self) -> int:
        """How many bodies one client may be sending at a time."""
        return part_of(self.max_open)


def part_of(total: int) -> int:
    """Return how many of a total one client may have."""
    return max(_FEW, total // PART)


def listens_everywhere(host: str) -> bool:
    """Return whether a host stands for every address of the machine."""
    return _EVERY_ADDRESS.fullmatch(host) is not None


def host_names(host: str, allowed: tuple[str, ...], *, option: str = "--allowed-host") -> tuple[str, ...]:
    """Return the names, as patterns, by which requests may call a server that listens at `host`: any name if it listens
    at every address and only keys protect it. Raises InputError, about the `option`, if one is not a host name.
    """
    for name in allowed:
        if not _HOST.fullmatch(name):
            raise InputError(
                f"{option} must be a name or an address without port, such as example.com, got {name!r}"
            )
    if listens_everywhere(host) and not allowed:
        return ("*",)
    return tuple(name.lower().strip("[]") for name in (*_LOOPBACK, host, *allowed))


def check_proxies(proxies: Sequence[str], *, option: str) -> None:
    """Raise InputError, about the `option`, unless each proxy is an address or a network."""
    for proxy in proxies:
        try:
            network, address = ip_network(proxy, strict=False), ip_interface(proxy).ip
        except ValueError:
            raise InputError(
                f"{option} must be an address or a network, such as 10.0.0.7 or 10.0.0.0/8, got {proxy!r:.80}"
            ) from None
        if network.network_address != address:
            raise InputError(
                f"{option}: {proxy} is within a network: write {network} for all of it, or {address} alone"
            )


@lru_cache(1024)
def client_of(address: str, proxies: tuple[str, ...]) -> str:
    """Return the client that an address identifies; "" for a proxy, and for what is not an address.

    A socket of both versions has addresses of IPv4 as ::ffff:10.0.0.7; they count as 10.0.0.7.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return ""
    client = getattr(ip, "ipv4_mapped", None) or ip
    networks = [ip_network(proxy, strict=False) for proxy in proxies]
    if any(known_as in network for network in networks for known_as in (ip, client)):
        return ""
    return str(ip_network((client, _NETWORK_BITS), strict=False)) if client.version == 6 else str(client)
