"""The security middleware by itself: what passes, and how each refusal reads."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from damaged_files import within
from exeunt.errors import InputError
from exeunt.serve.metrics import Metrics
from exeunt.serve.settings import Settings
from exeunt.web import security
from exeunt.web.security import SecurityMiddleware, read_api_keys

CLOSE = (b"connection", b"close")
NAMED = (b"host", b"localhost:8000")
ONE = {"headers": [(b"authorization", b"Bearer one")]}


class Asked:
    """One middleware, and what became of requests."""

    def __init__(self, folder, app=None, **options):
        settings, self.metrics, self.read = Settings(run=folder, **options), Metrics(), []
        app = app or self._app
        self.middleware = SecurityMiddleware(app, settings.limits, self.metrics, settings.api_keys)

    async def _app(self, scope, receive, send):
        """Read all, and answer."""
        assert scope["type"] == "http"
        message = {"more_body": True}
        while message.get("more_body", False):
            message = await receive()
            self.read.append(message.get("body", b""))
        await answered(scope, receive, send)

    def __call__(self, *blocks, **options):
        return asyncio.run(self.request(*blocks, **options))

    async def request(
        self,
        *blocks,
        path="/predict",
        method="POST",
        named=(NAMED,),
        headers=(),
        pause_s=0.0,
        leaves=False,
        server=None,
    ):
        """Return (status, headers, body) of a request whose body comes in blocks, with pauses between them.

        `leaves`: the client does, before it is all sent. `left`: blocks never read. `named`: its Host header.
        """
        self.left, self.ended, sent = (left := list(blocks or [b""])), 0, []

        async def receive():
            if not left:
                self.ended += 1
                assert self.ended < 9, "it is asked for more again and again"
                return {"type": "http.disconnect"}
            await asyncio.sleep(pause_s if len(left) < len(blocks) else 0)
            block = left.pop(0)
            return {"type": "http.request", "body": block, "more_body": bool(left) or leaves}

        async def send(message):
            sent.append(message)

        self.scope = {"type": "http", "method": method, "path": path, "headers": [*named, *headers]}
        self.scope["server"] = server
        await self.middleware(self.scope, receive, send)
        if not sent:
            return 499, [], b""
        start, *rest = sent
        return start["status"], start["headers"], b"".join(one["body"] for one in rest)

    def counted(self, status, path="other"):
        self.metrics.exposition()  # what is new is counted when it is read
        labels = {"path": path, "status": str(status)}
        return self.metrics.registry.get_sample_value("exeunt_requests_total", labels)


async def answered(_scope, _receive, send, status=200):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"well"})


@pytest.fixture
def made(tmp_path):
    return lambda app=None, **options: Asked(tmp_path, app, **options)


def bearer(key):
    return [(b"authorization", key)]


def refused(some, *blocks, **options):
    """Return the refusal that a request raises: the application makes an answer of it."""
    with pytest.raises(security.HTTPException) as found:
        some(*blocks, **options)
    return found.value


def asks(some, host=b"localhost:8000", *headers, path="/reload", method="POST", **scope):
    """Return status and body of a request that calls the server by this name."""
    named = [(b"host", host), *headers]
    status, _, body = some(b"{}", path=path, method=method, headers=named, **scope)
    return status, body.decode()


@pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
def test_a_page_of_another_site_changes_nothing(made, site):
    one = made()
    for method, path in (("POST", "/reload"), ("PUT", "/budget"), ("POST", "/predict")):
        status, headers, body = one(b"{}", path=path, method=method, headers=[(b"sec-fetch-site", site)])
        assert (status, CLOSE in headers, b"another site" in body) == (403, True, True)
    assert one.read == []
    assert one(path="/", method="GET", headers=[(b"sec-fetch-site", site)])[0] == 200  # a link to the page


OWN_NAMES = (
    "localhost LOCALHOST:8000 127.0.0.1:1 [::1]:8000 [::1] 10.0.0.5:80 localhost: models.example.com "
    "models.EXAMPLE.com:443 a.inside.net a.b.inside.net:1 [fe80::1]:80"
)
OTHER_NAMES = (
    "evil.example evil.example:8000 xlocalhost localhost.evil.example inside.net 127.0.0.1.evil.example "
    "models.example.com.evil.example:80 localhost:80:80 10.0.0.6 localhost@evil.example evil.example/localhost \xff"
)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_a_name_that_was_made_to_lead_here_is_refused(made, method):
    """The page of a stranger's name could read answers and set the budget: to its browser all is of one site."""
    some = made(host="10.0.0.5", allowed_hosts=("Models.example.com", "*.inside.net", "[fe80::1]"))
    for hosts, status in ((OWN_NAMES.split(), 200), (["", *OTHER_NAMES.split()], 403)):
        for host in hosts:
            assert asks(some, host.encode("latin-1"), method=method)[0] == status, host
    told = "this server does not answer as 'evil.example:8000': if clients may call it so, start it with --allowed-host"
    assert asks(some, b"Evil.example:8000", method=method) == (403, f'{{"error":"{told}"}}')
    assert CLOSE in some(headers=[(b"host", b"evil.example")])[1]


@pytest.mark.parametrize(
    ("path", "status"), [("/", 403), ("/v2/health/live", 200), ("/v2/health/ready", 200)]
)
def test_a_request_without_a_host_is_refused_but_for_health(made, path, status):
    assert made()(path=path, method="GET", named=())[0] == status


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        (("10.1.2.3", 8000), b"10.1.2.3:8000", 200), (("fe80::2", 8000), b"[fe80::2]:8000", 200),
        (("10.1.2.3", 8000), b"10.1.2.4:8000", 403), (None, b"10.1.2.3:8000", 403),
    ],
)  # fmt: skip
def test_the_address_that_a_request_came_to_is_a_name_of_the_server(made, address, host, status):
    """What scrapes metrics names a machine by its address. A page cannot have an address of the server as its name."""
    some = made(host="0.0.0.0", allowed_hosts=("models.example.com",))
    assert asks(some, host, path="/metrics", method="GET", server=address)[0] == status


MODELS, KEYED = {"allowed_hosts": ("models.example.com",)}, {"api_keys": ("one",)}


@pytest.mark.parametrize(
    ("options", "host", "headers", "status"),
    [
        *(({}, b"localhost", [(b"sec-fetch-site", site)], 200) for site in (b"same-origin", b"none")),
        ({}, b"localhost:8000", [], 200),
        ({}, b"localhost:8000", [(b"origin", b"http://localhost:8000")], 200),
        (MODELS, b"Models.example.com", [(b"origin", b"https://models.Example.com")], 200),
        ({}, b"[::1]:8000", [(b"origin", b"http://[::1]:8000")], 200),
        ({"host": "::"} | KEYED, b"whatever:1", bearer(b"Bearer one"), 200),
        ({"host": "::"} | KEYED, b"whatever:1", bearer(b""), 401),
        ({"host": "::", "allowed_hosts": ("a",)} | KEYED, b"b", bearer(b"Bearer one"), 403),
        (KEYED, b"whatever", bearer(b"Bearer one"), 403),
    ],
)
def test_the_servers_own_page_and_programs_may_ask(made, options, host, headers, status):
    """With keys alone, a server of every address may be called anything."""
    assert asks(made(**options), host, *headers)[0] == status


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "0", "0x0", "0:0::0", "::ffff:0.0.0.0"])
def test_a_server_of_every_address_needs_keys_or_names(tmp_path, host):
    message = "opens the server to every network: require keys with --api-key-file, or"
    with pytest.raises(InputError, match=message):
        Settings(run=tmp_path, host=host)
    Settings(run=tmp_path, host=host, api_keys=("one",))
    Settings(run=tmp_path, host=host, allowed_hosts=("models.example.com",))


@pytest.mark.parametrize("name", ["", "http://a.example", "a.example:8000", "a/b", "\u2603", "a b"])
def test_a_name_of_the_server_has_no_port(tmp_path, name):
    message = f"--allowed-host must be a name or an address without port, .*, got '{name}'"
    with pytest.raises(InputError, match=message):
        Settings(run=tmp_path, allowed_hosts=(name,))


ORIGINS = "http://evil.example null http://localhost:8001 https://localhost:8000.evil.example localhost:8000"


@pytest.mark.parametrize("origin", ["", *ORIGINS.split()])
@pytest.mark.parametrize("fetched", [(), ((b"sec-fetch-site", b"same-origin"),)])
def test_an_origin_that_is_not_the_hosts_changes_nothing(made, origin, fetched):
    """A browser leaves Sec-Fetch-Site out for plain HTTP."""
    some, headers = made(), ((b"origin", origin.encode()), *fetched)
    for method in ("POST", "PUT", "OPTIONS", "DELETE"):
        status, why = asks(some, b"localhost:8000", *headers, method=method)
        assert (status, "a page of another site may not ask" in why) == (403, True)
    assert "a proxy in front of the server must pass on the Host header" in why
    assert some.read == []
    assert asks(some, b"localhost:8000", headers[0], method="GET")[0] == 200


def test_what_may_pass(made):
    some = made(max_body=10, max_open=1)
    for _ in range(3):  # what is over is not open any more
        assert some(b"12345", b"67890") == (200, [], b"well")
    assert b"".join(some.read) == b"1234567890" * 3
    assert some.counted(200) == 3
    state = some.scope["state"]
    assert 0 < state["begun"] <= state["read"] <= time.monotonic()
    assert some(b"", headers=[(b"content-length", b"10"), (b"content-encoding", b"identity")])[0] == 200
    assert some(b"", headers=[(b"content-length", b"ten")])[0] == 200


WRONG_KEYS = [b"Bearer other", b"Basic one", b"one", b"Bearer", b"Bearer on", b"Bearer onee", b""]


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_without_a_key(made, key):
    some = made(api_keys=("one", "two"))
    status, headers, body = some(b"sec", b"re", b"t", headers=bearer(key))
    told = "the API key is missing or not known: give one as `Authorization: Bearer KEY`"
    assert (status, body) == (401, f'{{"error":"{told}"}}'.encode())
    assert (b"www-authenticate", b"Bearer") in headers
    assert CLOSE in headers
    assert some.left == some.read == []  # it was read to its end, but not by the application
    assert some.counted(401) == 1
    assert some()[0] == 401


def test_a_request_without_a_key_may_be_too_large_to_be_read_to_its_end(made):
    some = made(api_keys=("one",), max_body=5)
    assert some(b"1234", b"56", b"7")[0] == 401
    assert some.left == [b"7"]
    assert some(b"1", leaves=True)[0] == 401


def test_what_needs_no_key_and_what_has_one(made):
    some = made(api_keys=("one", "two", "with space"))
    for path in ("/", "/v2/health/live", "/v2/health/ready", "/page/page.js"):
        assert some(path=path)[0] == 200
    closed = ("/budget", "/metrics", "/events", "/v2", "/docs", "/openapi.json")
    for path in ("/v2/health/live/x", "/v2/health", "/x/page/", *closed):
        assert some(path=path)[0] == 401
    for key in (b"Bearer one", b"bearer two", b"BEARER one", b"Bearer with space"):
        assert some(headers=bearer(key))[0] == 200


def test_keys_are_read_from_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# for the team\n  one \n\ntwo\u00fc\n", encoding="utf-8")
    assert read_api_keys(file) == ("one", "two\u00fc")
    for content, message in (
        (b"# none yet\n", r"keys holds no API key: write one on a line$"),
        (b"\xff", r"^cannot read the API keys in .*keys: it is not UTF-8 text"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_api_keys(file)
    with pytest.raises(InputError, match="no such file"):
        read_api_keys(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with within(20), pytest.raises(InputError, match=r"is in its place, move it away$"):
            read_api_keys(Path(path))


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/predict", 10**6), ("/v2/models/a/infer", 10**6), ("/v2/models/a/versions/1/infer", 10**6),
        ("/budget", 10**5), ("/reload", 10**5), ("/predict/x", 10**5), ("/v2/models/a", 10**5),
    ],
)  # fmt: skip
def test_requests_without_inputs_are_small(made, path, most):
    """It is read and made objects of at once, while nothing else is done."""
    some = made(max_body=10**6)
    told = f"a request may have at most {most:,} bytes here: if it holds inputs, send fewer"
    status, headers, body = some(b"x", path=path, headers=[(b"content-length", b"%d" % (most + 1))])
    assert (status, body, CLOSE in headers) == (413, f'{{"error":"{told} at a time"}}'.encode(), True)
    assert (some.left, some.read) == ([b"x"], [])  # nobody reads it
    assert some(b"x", path=path, headers=[(b"content-length", b"%d" % most)])[0] == 200
    assert some(bytes(most), path=path)[0] == 200
    error = refused(some, bytes(most - 1), b"xx", b"x", path=path)
    assert (error.status_code, error.headers) == (413, {"connection": "close"})
    assert told in error.detail
    assert some.left == [b"x"]
    assert some.counted(500) == 1  # outside of the application, which makes an answer of it


def test_compressed(made):
    some = made()
    status, headers, body = some(b"x", headers=[(b"content-encoding", b"gzip")])
    assert (status, body, some.read) == (415, b'{"error":"compressed requests are not taken"}', [])
    assert CLOSE in headers


def test_too_slow(made):
    some = made(slow_s=0.2, max_open=40)
    error = refused(some, b"1", b"2", pause_s=0.9)
    assert not some.middleware._coming
    assert (error.status_code, error.headers) == (408, {"connection": "close"})
    assert error.detail == "the request did not come in within 0.2 seconds"
    assert some.read == [b"1"]
    assert made(slow_s=20.0)(b"1", b"2", pause_s=0.05)[0] == 200


def test_once_a_request_is_in_it_may_be_waited_for_as_long_as_it_takes(made):
    async def app(scope, receive, send):
        assert (await receive())["body"] == b"all"
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})

    messages = [(0.0, {"type": "http.request", "body": b"all"}), (0.2, {"type": "http.disconnect"})]

    async def receive():
        wait_s, message = messages.pop(0)
        await asyncio.sleep(wait_s)
        return message

    async def send(message):
        messages.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [NAMED]}
    asyncio.run(made(app, slow_s=0.1).middleware(scope, receive, send))
    assert messages == [200]


def test_more_than_may_be_open(made):
    """Requests that are no POST are not counted, and are not refused: health is asked about under any load."""

    async def app(scope, receive, send):
        if scope["path"] == "/stays":
            await leave.wait()
        await answered(scope, receive, send)

    some, leave = made(app, max_open=2), asyncio.Event()

    async def all_of_it():
        requests = [some.request(path="/stays", method=method) for method in ("GET", "POST", "POST")]
        staying = [asyncio.create_task(one) for one in requests]
        await asyncio.sleep(0)
        late = await some.request(b"late")
        sending = asyncio.create_task(some.request(b"1", b"2", pause_s=0.1))
        await asyncio.sleep(0.02)  # it is refused, but sends on
        assert (await some.request(path="/v2/health/live", method="GET"))[0] == 200
        assert (await some.request(b"1", path="/budget", method="PUT"))[0] == 200  # by an operator
        await sending
        leave.set()
        return late, [(await one)[0] for one in staying], (await some.request())[0]

    (status, headers, body), codes, after = asyncio.run(asyncio.wait_for(all_of_it(), 20))
    assert (status, codes, after) == (503, [200] * 3, 200)
    assert body == b'{"error":"there are 2 open requests, which is the limit: try again soon"}'
    assert (b"retry-after", b"1") in headers
    assert CLOSE in headers
    assert some.metrics.take_counts().problems["refused"] == 2


@pytest.mark.parametrize("headers", [[], [(b"content-encoding", b"gzip"), *bearer(b"Bearer one")]])
def test_a_refused_request_takes_no_place_while_it_is_sent(made, headers):
    some = made(max_open=1, api_keys=("one",))

    async def both():
        slow = asyncio.create_task(some.request(b"1", b"2", pause_s=0.1, headers=headers))
        await asyncio.sleep(0.02)
        return (await some.request(**ONE))[0], (await slow)[0]

    assert asyncio.run(both()) == (200, 415 if headers else 401)


def test_open_requests_have_no_more_bytes_together_than_there_is_room_for(made, monkeypatch):
    monkeypatch.setattr(security, "_HELD", 10)
    some = made(max_body=8, api_keys=("one",))

    async def both():
        slow = asyncio.create_task(some.request(b"123456", b"7", pause_s=0.1, **ONE))
        stranger = asyncio.create_task(some.request(b"123456", b"7", pause_s=0.1))  # whose bytes are not kept
        await asyncio.sleep(0.02)
        with pytest.raises(security.HTTPException) as found:
            await some.request(b"12345", b"6", b"7", **ONE)
        assert (await some.request(b"1234", **ONE))[0] == 200
        return found.value, await slow, await some.request(b"12345678", **ONE), await stranger

    error, *others = asyncio.run(both())
    assert (error.status_code, error.headers["retry-after"]) == (503, "1")
    assert error.detail == "the bodies of open requests have 10 bytes, which is the limit: try again soon"
    assert [status for status, *_ in others] == [200, 200, 401]
    assert some.metrics.take_counts().problems["refused"] == 1
    assert [some(b"12345678", **ONE)[0] for _ in range(3)] == [200] * 3  # what is over is not held any more
    assert some(b"1")[0] == 401  # what was never held is not given back
    assert some.middleware._held == 0


def test_what_is_no_request_passes_untouched(made):
    seen = []

    async def app(*given):
        seen.append(given)

    some = made(app)
    given = ({"type": "lifespan"}, object(), object())
    asyncio.run(some.middleware(*given))
    assert seen == [given]


@pytest.mark.parametrize(
    ("status", "every", "level"),
    [(200, False, None), (200, True, "INFO"), (400, False, "WARNING"), (500, False, "ERROR")],
)
def test_what_is_logged(made, caplog, monkeypatch, status, every, level):
    ticks = iter([5.0, 5.0, 5.0123456])  # when it came, when its limits began, when it was over
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: next(ticks)))

    async def app(scope, receive, send):
        scope["route"] = SimpleNamespace(path="/things/{name}")
        await answered(scope, receive, send, status)

    some = made(app, log_requests=every)
    with caplog.at_level(logging.INFO, "exeunt.serve.requests"):
        some(method="PUT", path="/things/1")
    assert some.counted(status, "/things/{name}") == 1
    assert [record.levelname for record in caplog.records] == ([] if level is None else [level])
    for record in caplog.records:
        assert record.message == "request"
        assert record.fields == {
            "method": "PUT", "path": "/things/{name}", "status": status, "ms": 12.346
        }  # fmt: skip


def test_a_client_that_disconnects_before_there_is_an_answer(made):
    async def app(*_):
        pass

    some = made(app)
    assert some(path="/")[0] == 499  # nothing was sent
    assert some.counted(499) == 1


def test_one_client_may_send_a_part_of_the_bodies_that_come_in(made):
    """Once its bodies have come in, it may have as many open requests as there may be."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body", False):
            pass
        await leave.wait()
        await answered(scope, receive, send)

    some, leave = made(app, max_open=40, api_keys=("one", "two")), asyncio.Event()
    assert some.middleware._limits.of_one == 10

    async def ask(*blocks, key=b"one", **options):
        task = asyncio.create_task(some.request(*blocks, headers=bearer(b"Bearer " + key), **options))
        await asyncio.sleep(0)
        return task

    async def all_of_it():
        methods = ["POST", "PUT", "DELETE", "PATCH"] * 2 + ["PUT"] * 2
        slow = [await ask(b"1", b"2", pause_s=0.2, method=method) for method in methods]
        told = "10 requests of yours are still coming in, which is the limit: try again soon"
        for method in ("POST", "PUT"):
            status, headers, body = await (await ask(b"1", method=method))
            assert (status, body) == (503, f'{{"error":"{told}"}}'.encode())
            assert (b"retry-after", b"1") in headers
        other = await ask(b"1", key=b"two")
        await asyncio.sleep(0.4)  # now they have come in
        more = [await ask(b"1") for _ in range(12)]
        leave.set()
        return [(await one)[0] for one in (*slow, other, *more)]

    assert asyncio.run(asyncio.wait_for(all_of_it(), 20)) == [200] * 23
    assert not some.middleware._coming


def test_without_keys_a_client_is_an_address(made):
    some = made(max_open=40, proxies=("10.0.0.1",))
    for address, name in ((("10.0.0.2", 5), "10.0.0.2"), (("10.0.0.1", 5), ""), (None, "")):
        assert some.middleware._client({"client": address, "state": {"key": ""}}) == name
        assert some.middleware._client({"client": address, "state": {"key": "abc"}}) == "abc"
    assert some.middleware._client({"client": ("2001:db8::7", 5), "state": {}}) == "2001:db8::/64"
