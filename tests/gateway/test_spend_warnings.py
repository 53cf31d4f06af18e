"""A limit that is nearly reached is told once in its period: in the log, on the page, in metrics, and to a webhook."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exeunt.gateway import gateway as gateway_module
from exeunt.gateway import spend_warnings
from exeunt.gateway.config import Spend
from exeunt.gateway.mock_provider import served
from exeunt.gateway.spend_warnings import WARNED, SpendWarnings
from exeunt.ledger import Limit
from exeunt.ledger.sqlite_store import SQLiteStore

from .running_gateway import Running, eventually, running

NOON, DAY_S = 1_796_644_800, 86_400
"""Of Monday, 7 December 2026, in UTC."""
SECRET = "T0KEN-of-the-hook"


class Hook:
    """What a webhook was sent, and how it answers."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.status, self.wait_s = 200, 0.0
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])

    async def answer(self, request: Request) -> Response:
        self.received.append(await request.json() if request.method == "POST" else request.method)
        await asyncio.sleep(self.wait_s)
        headers = {"location": "/elsewhere"} if 300 <= self.status < 400 else {}
        return PlainTextResponse("x" * 10_000_000, status_code=self.status, headers=headers)


@pytest.fixture
def hook() -> Iterator[tuple[Hook, str]]:
    made = Hook()
    with served(made.app) as url:
        yield made, f"{url}/{SECRET}"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "_WARN_S", 0.02)
    monkeypatch.setattr(gateway_module, "_STEP_S", 0.02)


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the calendar of gateways that are opened from now on, to seconds after that noon."""
    now = [float(NOON)]
    monkeypatch.setattr(SQLiteStore.__init__, "__defaults__", ("normal", None, lambda: int(now[0] * 1e9)))

    def turn(seconds: float) -> None:
        now[0] = NOON + seconds

    return turn


def spent(run: Running, usd: float) -> None:
    """Spend at once, as a client's requests do."""
    held = run.gateway.money.of(run.gateway.keys.clients[0]).reserve(usd)
    assert held.dispatch()
    held.settle(usd)


def looked(run: Running) -> None:
    """Wait until the limits were looked at since now."""
    before = run.gateway.warnings.looks
    eventually(lambda: run.gateway.warnings.looks >= before + 2)


@contextmanager
def opened(folder: Path, spend: str) -> Iterator[Running]:
    with running(folder, spend=spend, shadow="", period="1 day") as run:
        count_looks(run.gateway.warnings)
        yield run


def count_looks(warnings: Any) -> None:
    look, warnings.looks = warnings.look, 0

    async def counting(clients: Any) -> Any:
        found = await look(clients)
        warnings.looks += 1
        return found

    warnings.look = counting


def logged(caplog: pytest.LogCaptureFixture, what: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.message == what]  # type: ignore[attr-defined]


def test_it_is_told_once_in_each_period_also_after_a_restart(
    tmp_path: Path, hook: tuple[Hook, str], turned: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    made, url = hook
    spend = f"{{day: '10 usd', month: '100 usd', key: '50 usd', webhook: '{url}'}}"
    told = {"limit": "each day", "most": 10.0, "left": 2.0, "until": "2026-12-08T00:00:00+00:00"}
    with opened(tmp_path, spend) as run:
        spent(run, 7.9)
        looked(run)
        assert made.received == []
        assert "limit_nearly_reached{" not in run.metrics()
        assert not run.state()["money"]["day"]["near"]
        spent(run, 0.1)
        eventually(lambda: bool(made.received))
        assert re.search(
            r'^exeunt_gateway_limit_nearly_reached\{limit="each day"\} 0\.8', run.metrics(), re.M
        )
        assert run.state()["money"]["day"]["near"]
        spent(run, 1)
        looked(run)
    assert [one["limits"] for one in made.received] == [[told]]
    assert made.received[0]["event"] == "limits nearly reached"
    assert made.received[0]["text"] == (
        "Exeunt gateway: nearly reached: each day: 2 usd left of 10 usd until 2026-12-08T00:00:00+00:00"
    )
    assert logged(caplog, "a limit is nearly reached") == [told]
    with opened(tmp_path, spend) as run:
        looked(run)
        assert 'limit="each day"} 0.9' in run.metrics()
        assert len(made.received) == 1
        turned(DAY_S)
        looked(run)
        assert "limit_nearly_reached{" not in run.metrics()
        spent(run, 9)
        eventually(lambda: len(made.received) == 2)
        looked(run)
    with opened(tmp_path, spend.replace("'10 usd'", "'11 usd'")) as run:  # another limit
        eventually(lambda: len(made.received) == 3)
        looked(run)
    assert [one["limits"][0]["until"][:10] for one in made.received] == [
        "2026-12-08",
        "2026-12-09",
        "2026-12-09",
    ]
    assert len(logged(caplog, "a limit is nearly reached")) == 3


def test_totals_and_clients_are_told_at_the_share_of_the_file(
    tmp_path: Path, hook: tuple[Hook, str], turned: Callable[[float], None]
) -> None:
    made, url = hook
    spend = f"{{total: '10 usd', key: '5 usd/week', warn: 50%, webhook: '{url}'}}"
    with opened(tmp_path, spend) as run:
        spent(run, 2.5)
        eventually(lambda: len(made.received) == 1)
        turned(7 * DAY_S)
        spent(run, 2.5)
        eventually(lambda: sum(len(one["limits"]) for one in made.received) == 3)
    told = [limit for one in made.received for limit in one["limits"]]
    assert sorted((one["limit"], one["left"], one["until"]) for one in told) == [
        ("all", 5.0, None),
        ("client alice", 2.5, "2026-12-14T00:00:00+00:00"),
        ("client alice", 2.5, "2026-12-21T00:00:00+00:00"),
    ]


@pytest.mark.parametrize(
    ("status", "why"),
    [(500, "status 500"), (302, "status 302"), (None, "ConnectError"), (200, "TimeoutError")],
)
def test_a_webhook_that_fails_is_logged_and_nobody_waits_for_it(
    tmp_path: Path,
    hook: tuple[Hook, str],
    status: int | None,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, url = hook
    monkeypatch.setattr(spend_warnings, "_WAIT_S", 2.0 if status == 200 else 10.0)
    if status is None:
        url = f"http://127.0.0.1:9/{SECRET}"
    else:
        made.status, made.wait_s = status, 30.0 if status == 200 else 0.0
    with opened(tmp_path, f"{{day: '10 usd', webhook: '{url}'}}") as run:
        spent(run, 9)
        eventually(lambda: bool(logged(caplog, "a limit is nearly reached")))
        began = time.monotonic()
        assert run.ask("easy").status_code == 200
        assert time.monotonic() - began < 1
        if status == 200:
            looked(run)  # meanwhile
            assert not logged(caplog, "the webhook of limits failed")
        eventually(lambda: bool(logged(caplog, "the webhook of limits failed")))
        looked(run)
        shown = json.dumps(run.state()) + run.metrics()
    assert logged(caplog, "the webhook of limits failed") == [{"host": "127.0.0.1", "why": why}]
    assert len(made.received) == (status is not None)  # no redirect is followed, and nothing is sent again
    assert SECRET not in shown
    ours = [record for record in caplog.records if record.name.startswith("exeunt")]
    assert SECRET not in " ".join(f"{record.message} {vars(record)}" for record in ours)


def test_what_is_sent_holds_no_key_no_text_and_no_url(tmp_path: Path, hook: tuple[Hook, str]) -> None:
    made, url = hook
    with opened(tmp_path, f"{{day: '0.02 usd', warn: 0.1%, webhook: '{url}'}}") as run:
        assert run.ask("a very private question").status_code == 200
        eventually(lambda: bool(made.received))
        sent = json.dumps(made.received)
        for secret in ("private", SECRET, run.client, run.admin, url):
            assert secret not in sent
    assert SECRET not in repr(Spend(webhook=url))


class Invented:
    """Limits that are made up."""

    def __init__(self) -> None:
        self.now: dict[str, Limit] = {}

    def limits(self, clients: Any) -> dict[str, Limit]:
        return dict(self.now)


def test_each_limit_and_period_is_told_at_most_once_whatever_happens(tmp_path: Path) -> None:
    """Random numbers that go up and down, periods that pass, and restarts, against a set of what was told."""
    rng, money, told, n = np.random.default_rng(1), Invented(), set(), 0
    spend = Spend(warn=0.75)
    warnings = SpendWarnings(tmp_path, spend, money)  # type: ignore[arg-type]
    names = {"all": None, "each day": 0, "client a": 0}
    for step in range(2000):
        names = {name: end if end is None or rng.random() < 0.95 else end + 1 for name, end in names.items()}
        money.now = {
            name: Limit(10.0, float(rng.integers(-20, 101)) / 10, end) for name, end in names.items()
        }
        if rng.random() < 0.1:
            warnings = SpendWarnings(tmp_path, spend, money)  # type: ignore[arg-type]
        new = {(one.name, one.limit.ends) for one in asyncio.run(warnings.look([]))}
        due = {(name, limit.ends) for name, limit in money.now.items() if limit.left <= 2.5}
        assert new == due - told, step
        assert set(warnings.near) == {name for name, _ in due}
        told |= new
        n += len(new)
    assert n > 100


def test_a_client_that_is_forgotten_leaves_no_name_and_a_damaged_file_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    money = Invented()
    money.now = {"client a": Limit(10.0, 1.0)}
    warnings = SpendWarnings(tmp_path, Spend(), money)  # type: ignore[arg-type]
    assert asyncio.run(warnings.look([]))
    assert "client a" in (tmp_path / WARNED).read_text()
    money.now = {}
    assert not asyncio.run(warnings.look([]))
    assert "client a" not in (tmp_path / WARNED).read_text()
    for damage in ("[", "[1]", '"x"', "\udcff"):
        (tmp_path / WARNED).write_text(damage, errors="surrogateescape")
        with caplog.at_level(logging.WARNING):
            again = SpendWarnings(tmp_path, Spend(), money)  # type: ignore[arg-type]
        assert logged(caplog, "which limits were told is not known")
        assert not asyncio.run(again.look([]))
        caplog.clear()


def test_where_it_cannot_be_kept_it_is_told_once_by_this_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    money = Invented()
    money.now = {"all": Limit(10.0, 1.0)}
    warnings = SpendWarnings(tmp_path / "gone", Spend(), money)  # type: ignore[arg-type]
    assert [len(asyncio.run(warnings.look([]))) for _ in range(3)] == [1, 0, 0]
    assert len(logged(caplog, "cannot keep which limits were told")) == 1
