"""Connections to a server: how many there may be, and requests that are sent ahead of answers."""

from __future__ import annotations

import json
import random
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from exeunt.errors import InputError
from exeunt.web import connection, limits
from exeunt.web.connection import Room
from exeunt.web.server import uvicorn_config

TOGETHER, EACH = 400, 2_000


async def _said(request: Request) -> JSONResponse:
    """Answer with the place of the request and the length of its body."""
    return JSONResponse([int(request.query_params["n"]), len(await request.body())])


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"live": True})


def made_app() -> Starlette:
    return Starlette(routes=[Route("/said", _said, methods=["GET", "POST"]), Route("/health", _health)])


@contextmanager
def running(**options: object) -> Iterator[tuple[int, uvicorn.Server]]:
    server = uvicorn.Server(uvicorn_config(made_app, "127.0.0.1", 0, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(20)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def request(n: int, body: bytes, kind: str) -> bytes:
    if kind == "get":
        return b"GET /said?n=%d HTTP/1.1\r\nhost: a\r\n\r\n" % n
    if kind == "length":
        return b"POST /said?n=%d HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (n, len(body), body)
    parts = [body[at : at + 700] for at in range(0, len(body), 700)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = b"POST /said?n=%d HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % n
    return head + chunks + b"0\r\n\r\n"


def answers(client: socket.socket, n: int) -> list[list[int]]:
    found = b""
    while found.count(b"HTTP/1.1 200") < n or not found.endswith(b"]"):
        found += (part := client.recv(1 << 16))
        assert part, "the connection was closed"
    return [json.loads(one.partition(b"\r\n\r\n")[2]) for one in found.split(b"HTTP/1.1 200")[1:]]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running() as (port, _):
        yield port


@pytest.mark.parametrize("seed", range(8))
def test_requests_that_are_sent_ahead_are_answered_in_order_however_they_are_cut(
    port: int, seed: int
) -> None:
    """Bodies hold what ends headers, and looks like further requests."""
    lots = random.Random(seed)
    marks = [b"\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n", b"x" * 997, b"0\r\n\r\n", bytes(70_000)]
    bodies = [b"".join(lots.choices(marks, k=lots.randrange(5))) for _ in range(40)]
    kinds = lots.choices(["get", "length", "chunked"], k=40)
    sent = b"".join(request(n, *one) for n, one in enumerate(zip(bodies, kinds, strict=True)))
    lengths = [0 if kind == "get" else len(body) for body, kind in zip(bodies, kinds, strict=True)]
    with connected(port) as client:

        def send() -> None:
            at = 0
            while at < len(sent):
                size = lots.choice([1, 3, 100, 5_000, 300_000])
                client.sendall(sent[at : at + size])
                at += size

        sender = threading.Thread(target=send)
        sender.start()
        assert answers(client, 40) == [[n, length] for n, length in enumerate(lengths)]
        sender.join()


def test_what_a_body_in_small_chunks_costs_does_not_follow_the_number_of_headers(port: int) -> None:
    chunks = b"10\r\n0123456789abcdef\r\n" * 65_536 + b"0\r\n\r\n"

    def seconds(n: int) -> float:
        """CPU time of this process, which serves."""
        names = b"".join(b"h%d: 1\r\n" % i for i in range(n))
        head = b"POST /said?n=1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n%b\r\n" % names
        with connected(port) as client:
            begun = time.process_time()
            client.sendall(head + chunks)
            assert answers(client, 1) == [[1, 1 << 20]]
            return time.process_time() - begun

    few, many = (min(seconds(n) for _ in range(2)) for n in (0, 4_000))
    assert many < 3 * few + 0.1  # one copy of all headers is made in 0.1 ms


def test_of_a_connection_at_most_one_request_waits_and_the_rest_stays_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = [0]
    read = connection.Connection._read_piece

    def noted(self: connection.Connection, data: bytes) -> None:
        read(self, data)
        most[0] = max(most[0], len(self.pipeline))

    monkeypatch.setattr(connection.Connection, "_read_piece", noted)
    with running() as (port, server), connected(port) as client:
        client.sendall(request(7, b"", "get") * 3_000)
        assert answers(client, 3_000) == [[7, 0]] * 3_000
        (one,) = server.server_state.connections
        assert most[0] <= 1
        assert (one._room.ahead, one._ahead) == (0, b"")


def test_who_sends_more_ahead_than_there_is_room_for_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_AHEAD", 10_000)
    with running() as (port, server), connected(port) as client, connected(port) as other:
        with pytest.raises(ConnectionError):
            client.sendall(request(7, b"", "get") * 1_000_000)
        other.sendall(request(1, b"", "get"))
        assert answers(other, 1) == [[1, 0]]
        assert next(iter(server.server_state.connections))._room.ahead == 0


class Late:
    """Inputs that all come too late, and are refused with `says`, if that is anything."""

    says: bytes | None = None

    def is_late(self, _: float) -> bool:
        return True

    def refusal(self, _url: bytes, _body: bytearray) -> bytes | None:
        return self.says


def eventually(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_held_of_requests_counts_as_sent_ahead_until_they_are_passed_on_refused_or_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late, sent = Late(), request(3, bytes(60_000), "length")
    init = connection.Connection.__init__

    def made(self: connection.Connection, *given: object, **options: object) -> None:
        init(self, *given, **options)
        self.app_state = {"inputs": late}

    monkeypatch.setattr(connection.Connection, "__init__", made)
    with running() as (port, server), connected(port) as client:
        room = server.config.http.keywords["room"]  # type: ignore[union-attr]

        def held(one: socket.socket) -> None:
            one.sendall(sent[:-20_000])
            eventually(lambda: room.ahead == 40_000)

        held(client)
        client.sendall(sent[-20_000:])
        assert answers(client, 1) == [[3, 60_000]]
        assert room.ahead == 0
        late.says = b"{}"
        held(client)
        client.sendall(sent[-20_000:])
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 503")
        assert room.ahead == 0
        with connected(port) as other:
            held(other)
        eventually(lambda: room.ahead == 0)
        monkeypatch.setattr(connection, "_AHEAD", 39_999)  # no room: it is passed on, whoever would refuse it
        client.sendall(sent)
        assert answers(client, 1) == [[3, 60_000]]
        assert room.ahead == 0


def test_of_one_address_there_is_a_part_of_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_FEW", 2)
    for proxies, most in (((), 2), (("127.0.0.0/8",), 8), (("10.0.0.1",), 2)):
        with running(max_connections=8, proxies=proxies) as (port, _), ExitStack() as stack:
            held = [stack.enter_context(connected(port)) for _ in range(most)]
            for n, one in enumerate(held):
                one.sendall(request(n, b"", "get"))
                assert answers(one, 1) == [[n, 0]]
            with connected(port) as late:
                told = late.recv(1 << 16)
                assert told.startswith(b"HTTP/1.1 503")
                assert b"retry-after: 1\r\n" in told
                assert told.endswith(b'{"error":"there are too many connections: try again soon"}')
                assert late.recv(1) == b""
            held[0].close()
            time.sleep(0.1)
            with connected(port) as again:
                again.sendall(request(5, b"", "get"))
                assert answers(again, 1) == [[5, 0]]


def test_connections_of_all_workers_are_as_many_as_there_may_be() -> None:
    config = uvicorn_config(made_app, "127.0.0.1", 0, 3, max_connections=100)
    assert config.http.keywords["room"].limit == 34  # type: ignore[union-attr]


def test_room_is_given_back_and_addresses_of_one_network_share_it() -> None:
    room = Room(40, ("::2", "10.0.0.0/8"))
    assert [room.enter(f"2001:db8::{n:x}") for n in range(1, 12)] == [True] * 10 + [False]
    assert room.enter("2001:db8:1::1")
    assert [room.enter("10.1.2.3") for _ in range(29)] == [True] * 28 + [False]
    for n in range(1, 12):
        room.leave(f"2001:db8::{n:x}")
    room.leave("2001:db8:1::1")
    for _ in range(29):
        room.leave("10.1.2.3")
    assert (room._all, dict(room._of)) == (0, {})
    assert room.enter("")  # of a socket that has no address


def test_addresses_of_ipv4_are_told_apart_by_a_socket_of_both_versions() -> None:
    room = Room(40, ("10.0.0.0/8", "::ffff:11.0.0.1"))
    assert [room.enter("::ffff:192.0.2.1") for _ in range(10)] == [True] * 10
    assert not room.enter("192.0.2.1")  # the same
    assert [room.enter(f"::ffff:198.51.100.{n}") for n in range(11)] == [True] * 11
    assert [room.enter(f"::ffff:{n}.0.0.1") for n in (10, 11) for _ in range(9)] == [True] * 18


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_who_connects_by_ipv4_to_a_server_at_every_address_of_ipv6_has_a_part_of_its_own() -> None:
    listening = uvicorn_config(made_app, "::", 0).bind_socket()
    listening.listen()
    with listening, connected(listening.getsockname()[1]):
        accepted, (address, *_) = listening.accept()
        accepted.close()
    assert limits.client_of(address, ()) == "127.0.0.1"
    assert limits.client_of(address, ("127.0.0.1",)) == ""


@pytest.mark.parametrize("wrong", ["proxy.example.com", "10.0.0.0/40", ""])
def test_a_proxy_is_an_address(wrong: str) -> None:
    with pytest.raises(InputError, match="proxies must be an address or a network"):
        limits.check_proxies([wrong], option="proxies")


def listens(port: int) -> bool:
    with suppress(ConnectionError):
        connected(port).close()
        return True
    return False


def memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_four_hundred_connections_that_send_ahead_and_read_nothing_cost_little() -> None:
    """Before, 800,000 requests were parsed at once: gigabytes, and half a minute without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "import uvicorn; from tests.web.test_connections import made_app; "
        "from exeunt.web.server import uvicorn_config; "
        f"uvicorn.Server(uvicorn_config(made_app, '127.0.0.1', {port})).run()"
    )
    with (
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process,
        ExitStack() as stack,
    ):
        try:
            eventually(lambda: listens(port))
            before = memory_mb(process.pid)
            for _ in range(TOGETHER):
                client = stack.enter_context(connected(port))
                client.setblocking(False)
                client.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * EACH)
            slowest, end = 0.0, time.monotonic() + 1
            while time.monotonic() < end:
                began = time.monotonic()
                with connected(port) as other:
                    other.sendall(request(1, b"", "get"))
                    assert answers(other, 1) == [[1, 0]]
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 10  # also on a machine with four times as much to do as it has cores
            assert memory_mb(process.pid) - before < 200
        finally:
            process.kill()
