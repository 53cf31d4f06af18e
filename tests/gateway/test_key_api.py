"""Keys by API: whoever administers a gateway makes, limits, rotates and revokes them, and a log says so."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from exeunt.gateway.audit_log import AUDIT
from exeunt.gateway.key_store import Keys, KeysLocked, NoSuchClient
from exeunt.gateway.mock_provider import MockProvider

from .running_gateway import Running, answer, error_of, running

SHOP = {"name": "shop", "spend": "5 usd/day", "shadow": False}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, shadow="", spend="{key: '3 usd'}") as one:
        yield one


def asks(run: Running, key: str) -> httpx.Response:
    with run.http(key) as http:
        body = {"model": "auto", "messages": [{"role": "user", "content": "easy 1"}]}
        return http.post("/v1/chat/completions", json=body)


def log(run: Running) -> list[dict[str, Any]]:
    file = run.gateway.folder / AUDIT
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def told(run: Running) -> list[Any]:
    """Return what the log says but for when and by whom."""
    return [{name: part for name, part in line.items() if name not in ("time", "by")} for line in log(run)]


def test_a_key_is_made_listed_limited_rotated_and_taken_back(run: Running) -> None:
    made = run.owner.post("/admin/keys", json=SHOP)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    key = made.json()["key"]
    assert made.json() == {"name": "shop", "key": key}
    assert asks(run, key).status_code == 200
    listed = run.owner.get("/admin/keys")
    root = {"name": "root", "admin": True, "shadow": True, "spend": None}
    assert listed.json()["keys"] == [
        {"name": "alice", "admin": False, "shadow": True, "spend": None},
        root,
        {**SHOP, "admin": False},
    ]
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert key not in listed.text
    assert digest not in listed.text
    changed = run.owner.patch("/admin/keys/shop", json={"spend": "2 usd", "shadow": True})
    assert changed.json() == {"name": "shop", "admin": False, "shadow": True, "spend": "2 usd"}
    assert asks(run, key).status_code == 200  # it stays
    rotated = run.owner.post("/admin/keys/shop/rotate")
    assert (rotated.status_code, rotated.headers["cache-control"]) == (200, "no-store")
    assert asks(run, key).status_code == 401
    key = rotated.json()["key"]
    assert asks(run, key).status_code == 200
    assert run.owner.get("/admin/keys").json()["keys"][-1] == changed.json()  # it keeps all else
    assert run.owner.patch("/admin/keys/shop", json={"spend": None}).json()["spend"] is None
    assert run.owner.delete("/admin/keys/shop").json() == {"revoked": "shop"}
    assert asks(run, key).status_code == 401
    assert run.gateway.records.count("client = 'shop'") == 3  # records stay
    with Keys_of(run) as others:
        assert [client.name for client in others.clients] == ["alice", "root"]
    made = run.owner.post("/admin/keys", json={"name": "boss", "admin": True})
    with run.http(made.json()["key"]) as boss:
        assert boss.get("/admin/keys").status_code == 200
    assert 'requests_total{path="/admin/keys",status="201"} 2.0' in run.metrics()


class Keys_of:  # noqa: N801 - reads as what it gives
    """The keys as another process reads them."""

    def __init__(self, run: Running) -> None:
        self.keys = Keys(run.gateway.folder)

    def __enter__(self) -> Keys:
        return self.keys

    def __exit__(self, *_: object) -> None:
        self.keys.close()


def test_a_limit_that_changes_counts_at_once_for_a_key_that_stays(tmp_path: Path) -> None:
    provider = MockProvider(answer, {"small": (1000.0, 1000.0), "large": (10000.0, 10000.0)})
    dear = "{large: {provider: mock, price: {input: 10000, output: 10000}, max_tokens: 10, retries: 0}}"
    with running(tmp_path, provider, models=dear, shadow="", spend="{key: '1000 usd'}") as run:
        key = run.owner.post("/admin/keys", json={"name": "shop", "spend": "100 usd"}).json()["key"]
        first = asks(run, key)
        spent = float(first.headers["x-exeunt-cost"])
        assert float(first.headers["x-exeunt-left"]) == pytest.approx(100 - spent, abs=1e-6)
        run.owner.patch("/admin/keys/shop", json={"spend": "0.5 usd"})
        assert asks(run, key).status_code == 402
        run.owner.patch("/admin/keys/shop", json={"spend": "200 usd"})
        again = asks(run, key)
        assert float(again.headers["x-exeunt-left"]) == pytest.approx(200 - 2 * spent, abs=1e-6)
        run.owner.patch("/admin/keys/shop", json={"shadow": False})  # the limit stays
        assert float(asks(run, key).headers["x-exeunt-left"]) == pytest.approx(200 - 3 * spent, abs=1e-6)
        run.owner.patch("/admin/keys/shop", json={"spend": None})  # then that of the file for each key
        assert float(asks(run, key).headers["x-exeunt-left"]) == pytest.approx(1000 - 4 * spent, abs=1e-6)
        key = run.owner.post("/admin/keys/shop/rotate").json()["key"]
        assert float(asks(run, key).headers["x-exeunt-left"]) == pytest.approx(1000 - 5 * spent, abs=1e-6)
        run.owner.delete("/admin/keys/shop")
        key = run.owner.post("/admin/keys", json={"name": "shop", "spend": "500 usd"}).json()["key"]
        assert float(asks(run, key).headers["x-exeunt-left"]) == pytest.approx(500 - 6 * spent, abs=1e-6)


def test_the_last_key_to_administer_with_stays(run: Running) -> None:
    refused = run.owner.delete("/admin/keys/root")
    assert refused.status_code == 409
    assert error_of(refused) == "root has the last key to administer with: make another one first"
    other = run.owner.post("/admin/keys", json={"name": "boss", "admin": True}).json()["key"]
    assert run.owner.delete("/admin/keys/root").status_code == 200
    assert run.owner.get("/admin/keys").status_code == 401
    with run.http(other) as boss:
        assert boss.delete("/admin/keys/boss").status_code == 409
        assert boss.get("/admin/keys").status_code == 200


def test_what_is_asked_amiss_is_told_and_changes_nothing(run: Running) -> None:
    before = run.gateway.keys.clients
    form, change = 'send {"name": ...} and perhaps "spend"', 'send "spend" ("5 usd/day"; null for none)'
    for body, message in (
        (b"", form), (b"[]", form), (b"{", form), (b'"a"', form), (b"[1]", form),
        ({}, form), ({"spend": "1 usd"}, form), ({"name": 5}, form), ({"name": "a", "admin": 1}, form),
        ({"name": "a", "shadow": None}, form), ({"name": "a", "spend": 5}, form), ({"name": "a", "x": 1}, form),
        ({"name": ""}, "a client's name has up to 64 letters"), ({"name": "a b"}, "a client's name has up to 64"),
        ({"name": "a", "spend": "5"}, "spend: "), ({"name": "a", "spend": "5 eur"}, "spend: prices are in usd"),
        ({"name": "a", "spend": "0 usd"}, "spend must be above 0"),
    ):  # fmt: skip
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        refused = run.owner.post("/admin/keys", **sent)
        assert (refused.status_code, error_of(refused)[: len(message)]) == (400, message), body
    for body, message in (
        ({}, change), ({"name": "b"}, change), ({"admin": True}, change), ({"spend": 5}, change),
        ({"shadow": None}, change), ({"spend": "1 eur"}, "spend: prices"), ({"spend": "0 usd"}, "spend must be"),
    ):  # fmt: skip
        refused = run.owner.patch("/admin/keys/alice", json=body)
        assert (refused.status_code, error_of(refused)[: len(message)]) == (400, message), body
    there = run.owner.post("/admin/keys", json={"name": "alice"})
    assert there.status_code == 409
    assert error_of(there) == "alice has a key: rotate that one, or choose another name"
    limited = run.owner.patch("/admin/keys/root", json={"spend": "1 usd"})
    assert limited.status_code == 400
    assert error_of(limited) == "root administers the gateway and asks no models: nothing limits it"
    for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
        unknown = run.owner.request(method, f"/admin/keys/nobody{path}", json={"spend": "1 usd"})
        assert unknown.status_code == 404
        assert error_of(unknown) == "nobody has the name 'nobody': GET /admin/keys names who has a key"
    assert run.owner.put("/admin/keys").status_code == 405
    assert run.gateway.keys.clients == before
    assert asks(run, run.client).status_code == 200


def test_only_who_administers_may(run: Running) -> None:
    for key, status in ((run.client, 403), ("wrong", 401)):
        with run.http(key) as http:
            for method, path in (
                ("GET", ""), ("POST", ""), ("PATCH", "/alice"), ("DELETE", "/alice"), ("POST", "/alice/rotate"),
            ):  # fmt: skip
                assert http.request(method, f"/admin/keys{path}", json=SHOP).status_code == status
    assert log(run) == []
    assert len(run.gateway.keys.clients) == 2


def test_each_use_is_a_line_that_stays_and_holds_no_key(run: Running) -> None:
    clock = run.gateway.clock()
    keys = [run.owner.post("/admin/keys", json=SHOP).json()["key"]]
    run.owner.get("/admin/keys")
    run.owner.patch("/admin/keys/shop", json={"spend": None})
    keys.append(run.owner.post("/admin/keys/shop/rotate").json()["key"])
    run.owner.post("/admin/keys", json=SHOP)  # which is there
    run.owner.patch("/admin/keys/root", json={"shadow": True})
    run.owner.delete("/admin/keys/nobody")
    run.owner.post("/admin/keys", json={"name": keys[0]})
    for secret in (*keys, run.admin, run.client):  # by somebody who mixes them up
        told_of = error_of(run.owner.post("/admin/keys", json={"name": secret}))
        assert told_of == "that is a key, not a name: give the name of the client"
        run.owner.delete(f"/admin/keys/{secret}")
        run.owner.patch(f"/admin/keys/{secret}", json={"shadow": True})
        run.owner.patch("/admin/keys/shop", json={"spend": secret})
        run.owner.post("/admin/keys", json={"name": "a", "spend": secret})
        run.owner.post(f"/admin/keys/{secret}/rotate")
        run.owner.delete(f"/admin/clients/{secret}")
    run.owner.delete("/admin/keys/shop")
    run.owner.delete("/admin/clients/alice")
    lines = told(run)
    make = {"action": "make", "client": "shop", "spend": "5 usd/day", "shadow": False}
    assert lines[:9] == [
        make,
        {"action": "list"},
        {"action": "limit", "client": "shop", "spend": None},
        {"action": "rotate", "client": "shop"},
        make,
        {"action": "make", "refused": "KeyConflict"},
        {"action": "limit", "client": "root", "shadow": True},
        {"action": "limit", "refused": "InputError"},
        {"action": "revoke", "refused": "NoSuchClient"},
    ]
    assert lines[-2:] == [{"action": "revoke", "client": "shop"}, {"action": "forget", "client": "alice"}]
    assert {line["by"] for line in log(run)} == {"root"}
    assert all(clock <= line["time"] <= run.gateway.clock() for line in log(run))
    file = run.gateway.folder / AUDIT
    assert file.stat().st_mode & 0o777 == 0o600
    for secret in (*keys, run.admin, run.client):
        for written in (secret, hashlib.sha256(secret.encode()).hexdigest()):
            assert written not in file.read_text()


def test_lines_are_added_to_those_of_before(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    for _ in range(2):
        with running(tmp_path, shadow="") as run:
            before = (run.gateway.folder / AUDIT).read_text() if log(run) else ""
            with ThreadPoolExecutor(8) as pool:
                answered = pool.map(lambda _: run.owner.get("/admin/keys").status_code, range(40))
                assert set(answered) == {200}
            assert (run.gateway.folder / AUDIT).read_text().startswith(before)
    assert len(log(run)) == 80


def test_where_the_log_cannot_be_written_nothing_is_done(run: Running) -> None:
    before = run.gateway.keys.clients
    (run.gateway.folder / AUDIT).mkdir()
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("PATCH", "/alice"),
        ("DELETE", "/alice"),
        ("POST", "/alice/rotate"),
    ):
        body = SHOP if not path else {"shadow": False}
        assert run.owner.request(method, f"/admin/keys{path}", json=body).status_code == 503
    assert run.owner.delete("/admin/clients/alice").status_code == 503
    assert run.gateway.keys.clients == before
    assert asks(run, run.client).status_code == 200


def test_a_change_counts_at_once_also_while_another_process_writes_keys(tmp_path: Path) -> None:
    with closing(Keys(tmp_path)) as keys:
        old, gone = keys.add("shop").encode(), keys.add("clinic").encode()
        new = keys.rotate("shop").encode()
        keys.change("shop", spend="5 usd")
        keys.revoke("clinic")
        with closing(sqlite3.connect(tmp_path / "keys.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            client = keys.of(new)
            assert client is not None
            assert client.spend == "5 usd"
            for void in (old, gone):
                with pytest.raises(KeysLocked):
                    keys.of(void)
            other.execute("ROLLBACK")
        assert keys.of(old) is keys.of(gone) is None


def test_two_who_make_the_same_name_at_once_do_not_void_a_key(run: Running) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: run.owner.post("/admin/keys", json=SHOP), range(16))]
    made = [one.json()["key"] for one in answers if one.status_code == 201]
    assert len(made) == 1
    assert {one.status_code for one in answers} == {201, 409}
    assert asks(run, made[0]).status_code == 200
    keys = run.gateway.keys
    with pytest.raises(NoSuchClient):
        keys.rotate("nobody")
    with pytest.raises(NoSuchClient):
        keys.revoke("nobody")
