"""Keys and limits: what one client does wrong or slowly is no other's business."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from made_server import held, in_base64, made_images, running, until
from PIL.PngImagePlugin import PngImageFile

ANSWERABLE = {"images": in_base64(made_images(2))}


@contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as opened:
        yield opened


def posted(body: bytes, *, length: int | None = None, path: str = "/predict") -> bytes:
    """A request as bytes; `length`: what it says of its body."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: "
    return head.encode() + str(len(body) if length is None else length).encode() + b"\r\n\r\n" + body


def read_all(opened) -> bytes:
    found = b""
    while block := opened.recv(65536):
        found += block
    return found


@pytest.fixture(scope="module")
def limited(run):
    with running(run, max_body=20_000, slow_s=1.5, max_pixels=10_000, max_open=3) as started:
        yield started


def answers(server) -> bool:
    return httpx.post(f"{server.url}/predict", json=ANSWERABLE, timeout=10).status_code == 200


def test_keys(run):
    with running(run, api_keys=("first", "se cond")) as started, httpx.Client(base_url=started.url) as client:
        for path in ("/budget", "/metrics", "/events", "/v2", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 401
        for given in ("Bearer other", "Basic first", "first", "Bearer", "Bearer firs", "Bearer firstt"):
            assert client.get("/budget", headers={"authorization": given}).status_code == 401
        refused = client.post("/predict", json=ANSWERABLE)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        for given in ("Bearer first", "bearer first", "Bearer se cond"):
            assert client.get("/budget", headers={"authorization": given}).status_code == 200
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200


def test_bodies_that_are_too_large(limited):
    with connected(limited) as opened:  # refused before it is sent
        opened.sendall(posted(b"", length=20_001))
        assert read_all(opened).startswith(b"HTTP/1.1 413")

    def blocks():
        for _ in range(100):
            yield b"x" * 1000

    found = httpx.post(
        f"{limited.url}/predict", content=blocks(), headers={"content-type": "application/json"}
    )
    assert found.status_code == 413
    assert "at most 20,000 bytes" in found.json()["error"]
    files = [("images", ("a", b"x" * 15_000)), ("images", ("b", b"x" * 15_000))]
    assert httpx.post(f"{limited.url}/predict", files=files).status_code == 413
    assert answers(limited)


def test_slow_senders_are_given_up_and_disturb_nobody(limited):
    with connected(limited) as slow, connected(limited) as slower:
        slow.sendall(posted(b'{"images"', length=500))
        slower.sendall(posted(b"", length=500))
        assert answers(limited)
        for opened in (slow, slower):
            found = read_all(opened)
            assert found.startswith(b"HTTP/1.1 408")
            assert b"within 1.5 seconds" in found


def test_a_slow_sender_is_no_sign_of_load(limited):
    """The controller would lower the budget for all, as if the server were late."""

    def seconds():
        (line,) = re.findall(
            r"^exeunt_answer_seconds_sum .*$", httpx.get(f"{limited.url}/metrics").text, re.M
        )
        return float(line.split()[1])

    before, body = seconds(), posted(json.dumps(ANSWERABLE).encode())
    with connected(limited) as slow:
        slow.sendall(body[:-9])
        time.sleep(0.9)
        slow.sendall(body[-9:])
        assert b" 200 " in slow.recv(100)
    assert 0 < seconds() - before < 0.9


def test_headers_that_do_not_end(limited, monkeypatch):
    from exeunt.web import connection

    monkeypatch.setattr(connection, "_HEADERS_S", 0.3)
    with connected(limited) as silent, connected(limited) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nhost:")
        assert answers(limited)
        begun = time.monotonic()
        assert read_all(slow) == b""
        assert read_all(silent) == b""
        assert time.monotonic() - begun < 3


def test_headers_without_end(limited):
    def send(opened):
        opened.sendall(b"GET /budget HTTP/1.1\r\n")
        for i in range(200):
            opened.sendall(b"x-%d: " % i + b"y" * 1000 + b"\r\n")
            time.sleep(0.001)

    with connected(limited) as opened, pytest.raises(ConnectionError):
        send(opened)
    assert answers(limited)


def test_an_answer_that_nobody_reads_is_not_kept(run, monkeypatch):
    from exeunt.web import connection

    monkeypatch.setattr(connection, "_UNREAD_S", 1.0)
    body = json.dumps({"images": in_base64(made_images(1)) * 1000}).encode()
    with running(run) as started, connected(started) as other, socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", started.port))
        held = started.server.server_state.connections
        until(lambda: len(held) == 2)
        for connection in held:
            connection.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
            )
        opened.sendall(posted(body))
        until(lambda: len(held) == 1, seconds=8)  # the other one may be silent for ten
        other.sendall(posted(body))
        while not other.recv(1 << 16).endswith(b'"MACs"}'):
            pass
        time.sleep(1.2)
        assert len(held) == 1


def test_images_that_would_be_large_once_decoded(limited):
    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (4000, 4000)).save(file, "PNG")
    assert len(file.getvalue()) < 5000
    found = httpx.post(f"{limited.url}/predict", files=[("images", ("a.png", file.getvalue()))])
    (answer,) = found.json()["answers"]
    assert "4000 x 4000 pixels, at most 10,000" in answer["error"]
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 101, 100, 3], "data": [0]}
    tensor["parameters"], tensor["data"] = {"binary_data_size": 30300}, None
    with running(limited.run, max_pixels=10_000) as roomy:
        head = json.dumps({"inputs": [tensor]}).encode()
        found = httpx.post(
            f"{roomy.url}/v2/models/pixels/infer",
            content=head + bytes(30300),
            headers={"inference-header-content-length": str(len(head))},
        )
    errors = next(one for one in found.json()["outputs"] if one["name"] == "error")
    assert "at most 10,000" in errors["data"][0]


def test_what_libraries_have_to_say_is_a_line_of_json_too(run, capfd):
    with running(run) as started:
        capfd.readouterr()
        with connected(started) as opened:
            opened.sendall(b"no HTTP\r\n\r\n")
            read_all(opened)
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert any("Invalid HTTP" in line["what"] for line in lines)


def test_images_that_would_be_large_together(limited):
    """Each is within the limit, and a request holds hundreds: they are decoded up to ten times the limit."""
    large, small = np.zeros((100, 100, 3), dtype=np.uint8), made_images(1)[0]
    images = in_base64([small, *[large] * 12, small])
    with running(limited.run, max_pixels=10_000) as roomy:
        found = httpx.post(f"{roomy.url}/predict", json={"images": images}).json()["answers"]
    errors = [answer["error"] for answer in found]
    assert errors[:10] == [None] * 10
    assert all("100,000 pixels together: send fewer" in error for error in errors[10:])


def test_postscript_is_not_run(limited):
    with running(limited.run, max_pixels=10_000) as roomy:
        program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n"
        found = httpx.post(f"{roomy.url}/predict", files=[("images", program)]).json()["answers"]
    assert "not an image in a format that is served" in found[0]["error"]


@pytest.mark.parametrize("format_", ["TIFF", "AVIF", "ICO"])
def test_formats_that_may_hold_more_than_they_say_are_none_that_are_served(limited, format_):
    """A TIFF of 8 x 8 pixels may have one tile of 16,384 x 16,384, and Pillow would decode it."""
    from PIL import Image

    Image.init()
    if format_ not in Image.SAVE:
        pytest.skip(f"Pillow was built without {format_}")
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, format_)
    found = httpx.post(f"{limited.url}/predict", files=[("images", file.getvalue())]).json()["answers"]
    assert "not an image in a format that is served: JPEG, PNG, WEBP" in found[0]["error"]


def png(width, height):
    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_images_beyond_the_limit_of_pillow(limited, recwarn):
    """Pillow would take them for no images, and warn in a line that is no JSON."""
    files = [("images", png(side, side)) for side in (9500, 13400)]
    with running(limited.run, max_pixels=10_000) as roomy:
        first, second = httpx.post(f"{roomy.url}/predict", files=files, timeout=20).json()["answers"]
    assert "9500 x 9500 pixels, at most 10,000" in first["error"]
    assert "13400 x 13400 pixels, at most 10,000" in second["error"]
    assert not recwarn.list


def test_long_images_that_would_be_large_once_scaled(limited):
    """A side of 1 pixel is scaled to 8, and the other one with it."""
    files = [("images", png(*sides)) for sides in [(1, 9000), (9000, 1), (1, 99)]]
    with running(limited.run, max_pixels=10_000) as roomy:
        first, second, third = httpx.post(f"{roomy.url}/predict", files=files).json()["answers"]
    assert "9000 x 1 pixels, scaled to 72000 x 8, at most 10,000" in first["error"]
    assert "1 x 9000 pixels, scaled to 8 x 72000, at most 10,000" in second["error"]
    assert third["error"] is None


def icon(image):
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 8, 8, 0, 0, 1, 32, len(image), 22) + image


def press_photo(image):
    """IPTC, which holds an image in any other format: of any size, or a program."""
    fields = [((3, 60), b"\1\0"), ((3, 20), b"\0\x08"), ((3, 30), b"\0\x08"), ((3, 120), b"\5")]
    fields += [((8, 10), image[i : i + 99]) for i in range(0, len(image), 99)]
    return b"".join(bytes([28, *tag]) + struct.pack(">H", len(data)) + data for tag, data in fields)


@pytest.mark.parametrize("holding", [icon, press_photo])
def test_what_holds_a_larger_image_than_it_says_is_not_decoded(limited, monkeypatch, holding):
    decoded, open_png = [], PngImageFile._open
    with running(limited.run, max_pixels=10_000) as roomy:
        monkeypatch.setattr(PngImageFile, "_open", lambda self: decoded.append(1) or open_png(self))
        found = httpx.post(f"{roomy.url}/predict", files=[("images", holding(png(150, 150)))])
    assert "not an image in a format that is served" in found.json()["answers"][0]["error"]
    assert decoded == []


def test_more_open_requests_than_there_may_be(limited):
    with ThreadPoolExecutor(8) as pool, held(limited.executor) as go:
        asked = [
            pool.submit(httpx.post, f"{limited.url}/predict", json=ANSWERABLE, timeout=20) for _ in range(8)
        ]
        until(lambda: sum(one.done() for one in asked) == 5)
        go.set()
        found = [one.result() for one in asked]
    assert sorted(one.status_code for one in found) == [200] * 3 + [503] * 5
    refused = next(one for one in found if one.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "3 open requests" in refused.json()["error"]
    assert answers(limited)


def test_a_connection_without_room_is_counted(run):
    with running(run) as started, httpx.Client(base_url=started.url) as client:
        assert client.get("/v2/health/live").status_code == 200
        started.server.config.http.keywords["room"].of_one = 1
        with connected(started) as late:
            told = read_all(late)
        assert told.startswith(b"HTTP/1.1 503")
        assert told.endswith(b'{"error":"there are too many connections: try again soon"}')
        assert 'exeunt_problems_total{problem="refused"} 1.0' in client.get("/metrics").text


def test_who_is_refused_while_it_sends_hears_of_it(limited):
    """An answer that comes before the end of a request is lost with the connection, if that is closed."""
    body = json.dumps(ANSWERABLE).encode() + b" " * 15_000
    with ThreadPoolExecutor(3) as pool, held(limited.executor) as go, connected(limited) as late:
        busy = [
            pool.submit(httpx.post, f"{limited.url}/predict", json=ANSWERABLE, timeout=20) for _ in range(3)
        ]
        until(lambda: limited.layer("_open")._open == 3)
        late.sendall(posted(body[:5_000], length=len(body)))
        time.sleep(0.05)
        late.sendall(body[5_000:10_000])
        time.sleep(0.05)
        late.sendall(body[10_000:])
        assert late.recv(4096).startswith(b"HTTP/1.1 503")
        go.set()
        assert [one.result().status_code for one in busy] == [200] * 3


def test_a_client_that_leaves_gives_up_its_rows(limited):

    def metrics():
        return httpx.get(f"{limited.url}/metrics").text.splitlines()

    with ThreadPoolExecutor(1) as pool, held(limited.executor) as go:
        first = pool.submit(answers, limited)
        until(lambda: limited.executor.rows)  # it runs
        with connected(limited) as opened:
            opened.sendall(posted(json.dumps({"images": in_base64(made_images(5))}).encode()))
            until(limited.inbox)  # it waits
        until(lambda: 'exeunt_requests_total{path="/predict",status="499"} 1.0' in metrics())
        go.set()
        assert first.result()
    assert answers(limited)
    assert 5 not in limited.executor.rows
    assert max(limited.executor.rows) == 2
    assert "exeunt_rows_waiting 0.0" in metrics()


def test_what_is_open_is_answered_before_the_end(run):
    with running(run) as started, ThreadPoolExecutor(1) as pool, held(started.executor, 1) as go:
        found = pool.submit(answers, started)
        until(lambda: len(started.executor.rows) == 2)  # it is at its second exit
        started.server.should_exit = True
        time.sleep(0.2)
        assert not found.done()
        go.set()
        assert found.result()
    with pytest.raises(httpx.ConnectError):
        answers(started)


def test_a_thousand_malformed_requests(client):
    """Valid requests of every kind with some bytes changed, cut off or doubled: never an error of the server's own."""
    pixels = made_images(2, seed=9)
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [2, 8, 8, 3],
        "parameters": {"binary_data_size": 384},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    form = httpx.Request("POST", "http://x", files=[("images", ("a", b"abc"))], data={"budget": "45%"})
    kinds = [
        (
            "/predict",
            json.dumps(ANSWERABLE | {"budget": "45%"}).encode(),
            {"content-type": "application/json"},
        ),
        ("/predict", form.read(), {"content-type": form.headers["content-type"]}),
        (
            "/v2/models/pixels/infer",
            head + pixels.tobytes(),
            {"inference-header-content-length": str(len(head))},
        ),
        ("/v2/models/pixels/infer", head, {"content-type": "application/json"}),
        ("/budget", b'{"budget": "1%"}', {"content-type": "application/json"}),
    ]
    wanted = client.post("/predict", json=ANSWERABLE).json()
    rng = np.random.default_rng(0)
    codes = set()
    for i in range(1000):
        path, body, headers = kinds[i % len(kinds)]
        changed = bytearray(body)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(changed))) if changed else 0
            how = rng.integers(4)
            if how == 0:
                changed[at : at + 1] = bytes([int(rng.integers(256))])
            elif how == 1:
                del changed[at:]
            elif how == 2:
                changed[at:at] = changed[at : at + 20]
            else:
                del changed[at : at + int(rng.integers(1, 9))]
        method = "PUT" if path == "/budget" else "POST"
        found = client.request(method, path, content=bytes(changed), headers=headers)
        codes.add(found.status_code)
        assert found.status_code in (200, 400, 413, 415, 422), (path, bytes(changed), found.text)
        assert found.status_code == 200 or found.json()["error"]
    assert {200, 422} <= codes
    assert client.post("/predict", json=ANSWERABLE).json() == wanted


def test_what_is_no_http(server, client):
    rng = np.random.default_rng(1)
    for _ in range(50):
        with connected(server) as opened:
            opened.sendall(rng.bytes(int(rng.integers(1, 200))) + b"\r\n\r\n")
            assert read_all(opened)[:12] in (b"HTTP/1.1 400", b"")
    assert client.post("/predict", json=ANSWERABLE).status_code == 200
