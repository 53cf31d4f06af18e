"""Requests under a latency target: when they came, whether they can be in time, and how long they wait for others."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import numpy as np
import pytest
from made_server import in_base64, made_images, running
from test_api_keys_and_limits import posted
from test_engine_thread import MadeEngine

from exeunt.serve.active_run import Admission
from exeunt.serve.engine_thread import EngineThread
from exeunt.serve.input_routes import InputRoutes
from exeunt.web import connection
from exeunt.web.connection import _age_s

ANSWERABLE = {"images": in_base64(made_images(1))}


def test_how_long_data_have_waited_to_be_read():
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
    ):
        here, _ = listening.accept()
        with here:
            client.sendall(b"x")
            time.sleep(0.3)
            assert 0.25 < _age_s(here) < 10
            client.sendall(b"x")
            assert _age_s(here) < 0.25
    assert _age_s(None) == 0.0  # what is no socket
    with socket.socket(socket.AF_UNIX) as other:
        assert _age_s(other) == 0.0


def test_a_request_that_waited_too_long_to_be_read_is_refused(run):
    """Something holds up the event loop, and the requests of others come meanwhile: only those that can be in time are
    answered.
    """
    with running(run, slo_s=0.5) as server:
        assert server.client.post("/predict", json=ANSWERABLE).status_code == 200
        held = threading.Event()

        def hold():
            held.set()
            time.sleep(0.7)

        loop_of(server).call_soon_threadsafe(hold)
        assert held.wait(10)
        late = server.client.post("/predict", json=ANSWERABLE)
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert "to be answered in time" in late.json()["error"]
        assert server.client.post("/predict", json=ANSWERABLE).status_code == 200
        assert 'exeunt_problems_total{problem="refused"} 1.0' in server.client.get("/metrics").text


def loop_of(server):
    return server.layer("state").state.service.active.engine._loop


def connected(server, timeout=20.0):
    return socket.create_connection(("127.0.0.1", server.port), timeout=timeout)


GOOD = posted(json.dumps(ANSWERABLE).encode())


def answers_to(server, *sent: bytes, count: int = 1) -> list[int]:
    """Send parts on one connection while the event loop is held up, and return the statuses of the answers."""
    with connected(server) as client:
        statuses(client, posted(b"{}", path="/nowhere"))
        loop_of(server).call_soon_threadsafe(time.sleep, 0.4)
        time.sleep(0.05)
        for part in sent[:-1]:
            client.sendall(part)
            time.sleep(0.5)  # the next part comes after it was read
        client.sendall(sent[-1])
        return received(client, count)


def statuses(client, *sent: bytes) -> list[int]:
    """Send requests together on a connection, and return the statuses of the answers."""
    client.sendall(b"".join(sent))
    return received(client, len(sent))


def received(client, count: int) -> list[int]:
    found = b""
    while found.count(b"HTTP/1.1 ") < count:
        found += (part := client.recv(1 << 16))
        assert part, "the connection was closed"
    return [int(one[:3]) for one in found.split(b"HTTP/1.1 ")[1:]]


def test_late_requests_are_refused_before_the_application_sees_them(run, monkeypatch):
    body = json.dumps(ANSWERABLE).encode()
    own = json.dumps(ANSWERABLE | {"deadline_ms": 9000}).encode()
    seen, handle = [], InputRoutes.__call__

    async def noted(routes, scope, receive, send):
        seen.append(scope.get("path"))
        await handle(routes, scope, receive, send)

    monkeypatch.setattr(InputRoutes, "__call__", noted)
    with running(run, slo_s=0.3, max_body=100_000) as server:
        assert answers_to(server, GOOD) == [503]
        assert answers_to(server, GOOD + GOOD, count=2) == [503, 503]
        assert answers_to(server, GOOD[:-9], GOOD[-9:]) == [503]  # late since its headers came
        large = posted(body + b" " * ((1 << 16) - len(body)))
        assert answers_to(server, large[:-9], large[-9:]) == [503]
        assert "/predict" not in seen
        assert answers_to(server, GOOD, GOOD, count=2) == [503, 200]  # the connection goes on
        later = posted(body, path="/predict?deadline_ms=9000")
        others = ((posted(own), 200), (later, 200), (posted(body, path="/other"), 404))
        for sent, status in (*others, (posted(bytes(200_000)), 413)):
            assert answers_to(server, sent) == [status]
        counts = server.client.get("/metrics").text
        assert 'exeunt_problems_total{problem="refused"} 6.0' in counts
        assert 'exeunt_requests_total{path="/predict",status="503"} 6.0' in counts


@pytest.fixture
def lateness(monkeypatch):
    """Whether every request comes too late: an item that a test can set."""
    late = [True]
    monkeypatch.setattr(InputRoutes, "is_late", lambda *_: late[0])
    return late


def test_who_asks_again_at_once_waits_for_the_third_refusal_and_those_after_it(run, lateness, monkeypatch):
    with running(run, slo_s=0.3) as server:
        taken = []
        with connected(server) as client:
            for _ in range(7):
                began = time.monotonic()
                assert statuses(client, GOOD) == [503]
                taken.append(time.monotonic() - began)
        least = (0, 0, 0.04, 0.09, 0.19, 0.39, 0.39)
        assert all(one > wait for one, wait in zip(taken, least, strict=True))
        monkeypatch.setattr(connection, "_WAITS_S", (0.0, 0.0, 60.0))
        with connected(server) as client:
            assert statuses(client, GOOD, GOOD) == [503, 503]
            lateness[0] = False
            assert statuses(client, GOOD) == [200]
            lateness[0] = True
            assert statuses(client, GOOD, GOOD) == [503, 503]  # answered meanwhile
            time.sleep(1.1)
            assert statuses(client, GOOD, GOOD) == [503, 503]  # it has waited
        with connected(server, timeout=0.3) as client:
            assert statuses(client, GOOD, GOOD) == [503, 503]
            client.sendall(GOOD + posted(b"{}", path="/nowhere"))  # what was sent with it waits, too
            time.sleep(0.1)
            client.sendall(GOOD)  # which is not read until then
            with pytest.raises(TimeoutError):
                client.recv(1 << 16)
        waiting = connected(server)
        assert statuses(waiting, GOOD, GOOD) == [503, 503]
        waiting.sendall(GOOD)
        time.sleep(0.2)
    with waiting:
        assert waiting.recv(1 << 16).startswith(b"HTTP/1.1 503")  # the server ended
        assert waiting.recv(1 << 16) == b""


def test_a_late_request_whose_body_comes_slowly_is_handled_as_others_are(run, lateness, monkeypatch):
    monkeypatch.setattr(connection, "_HEADERS_S", 0.3)
    with running(run, slo_s=0.3, slow_s=1.0) as server, connected(server) as slow, connected(server) as never:
        slow.sendall(GOOD[:-9])
        never.sendall(GOOD[:-9])
        time.sleep(0.6)
        lateness[0] = False
        slow.sendall(GOOD[-9:])
        assert received(slow, 1) == [200]
        assert received(never, 1) == [408]


def test_the_time_in_which_nothing_is_read_does_not_make_a_request_late(run, monkeypatch):
    came: list[float] = []
    monkeypatch.setattr(InputRoutes, "is_late", lambda _, arrived: not came.append(arrived))
    monkeypatch.setattr(connection, "_WAITS_S", (0.0, 0.5, 0.0))
    with running(run, slo_s=0.3) as server, connected(server) as client:
        assert statuses(client, GOOD) == [503]
        client.sendall(GOOD)
        time.sleep(0.1)
        client.sendall(GOOD)
        assert received(client, 2) == [503, 503]
    assert came[2] - came[1] > 0.4


@pytest.mark.parametrize(
    ("deadline_s", "together"),
    [(None, 2), (10.0, 2), (0.0, 1)],  # with a deadline that is near, nothing waits
)
def test_rows_that_come_often_run_together(deadline_s, together):
    class Counting(MadeEngine):
        def step(self, now, *, force):
            calls.append(len(self.inside))
            done, self.inside = self.inside, []
            return done

    calls: list[int] = []

    async def test():
        thread = EngineThread(Counting(), patience_s=0.3)
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        await thread.answer(0)  # the first in a long time
        first = asyncio.create_task(thread.answer(1, deadline=deadline))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, thread.answer(2))
        await thread.close()

    asyncio.run(test())
    assert [one for one in calls if one] == ([1, 2] if together == 2 else [1, 1, 1])


def test_the_limit_follows_from_late_answers():
    one = Admission(0.045)
    assert one.admits(0.045, 0.0)
    assert not one.admits(0.046, 0.0)
    assert not one.admits(0.04, 0.006)  # rows ahead of it count
    for _ in range(100):
        one.answered(0.06)
    assert 0.02 < one.oldest_s < 0.03
    for _ in range(1000):
        one.answered(0.06)
    assert one.oldest_s == pytest.approx(0.045 / 8)  # an idle server always admits
    for _ in range(2000):
        one.answered(0.02)
    assert one.oldest_s == 0.045
    rng, limits = np.random.default_rng(0), []
    for late in rng.random(4000) < 0.1:  # as many as may be late: it stays about where it is
        one.answered(0.06 if late else 0.02)
        limits.append(one.oldest_s)
    assert 0.02 < np.mean(limits) < 0.045
