"""Limits of a running server: what one client does wrong or slowly is no other's business."""

from __future__ import annotations

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
from hostile_images import PNG, chunk, saved
from hostile_requests import Generator
from made_server import held, in_base64, made_images, running, until
from PIL import features
from PIL.PngImagePlugin import PngImageFile

from exeunt.web import connection

ANSWERABLE = {"images": in_base64(made_images(2))}
JSON = {"content-type": "application/json"}
INFER = "/v2/models/pixels/infer"


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
    with running(run, max_body=20_000, slow_s=1.0, max_open=3) as started:
        yield started


@pytest.fixture(scope="module")
def small(run):
    """A server of small images."""
    with running(run, max_pixels=10_000) as started:
        yield started


def asked(server) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", json=ANSWERABLE, timeout=20)


def answers(server) -> bool:
    return asked(server).status_code == 200


def test_bodies_that_are_too_large(limited):
    with connected(limited) as opened:  # refused before it is sent
        opened.sendall(posted(b"", length=20_001))
        assert read_all(opened).startswith(b"HTTP/1.1 413")
    blocks = (b"x" * 1000 for _ in range(100))
    found = httpx.post(f"{limited.url}/predict", content=blocks, headers=JSON)
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
            assert b"within 1 seconds" in found


def test_a_slow_sender_is_no_sign_of_load(limited):
    """The controller would lower the budget for all, as if the server were late."""

    def seconds():
        text = httpx.get(f"{limited.url}/metrics").text
        (line,) = re.findall(r"^exeunt_answer_seconds_sum .*$", text, re.MULTILINE)
        return float(line.split()[1])

    before, body = seconds(), posted(json.dumps(ANSWERABLE).encode())
    with connected(limited) as slow:
        slow.sendall(body[:-9])
        time.sleep(0.5)
        slow.sendall(body[-9:])
        assert b" 200 " in slow.recv(100)
    assert 0 < seconds() - before < 0.5


def test_headers_that_do_not_end(limited, monkeypatch):
    monkeypatch.setattr(connection, "_HEADERS_S", 0.1)
    with connected(limited) as silent, connected(limited) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nhost:")
        assert answers(limited)
        begun = time.monotonic()
        assert read_all(slow) == read_all(silent) == b""
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
    monkeypatch.setattr(connection, "_UNREAD_S", 0.3)
    body = json.dumps({"images": in_base64(made_images(1)) * 1000}).encode()
    with running(run) as started, connected(started) as other, socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", started.port))
        open_ones = started.server.server_state.connections
        until(lambda: len(open_ones) == 2)
        for one in open_ones:
            one.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        opened.sendall(posted(body))
        until(lambda: len(open_ones) == 1, seconds=8)  # the other one may be silent for ten
        other.sendall(posted(body))
        while not other.recv(1 << 16).endswith(b'"MACs"}'):
            pass
        time.sleep(0.4)
        assert len(open_ones) == 1


def icon(image):
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 8, 8, 0, 0, 1, 32, len(image), 22) + image


def press_photo(image):
    """IPTC, which holds an image in any other format: of any size, or a program."""
    fields = [((3, 60), b"\1\0"), ((3, 20), b"\0\x08"), ((3, 30), b"\0\x08"), ((3, 120), b"\5")]
    fields += [((8, 10), image[i : i + 99]) for i in range(0, len(image), 99)]
    return b"".join(bytes([28, *tag]) + struct.pack(">H", len(data)) + data for tag, data in fields)


def png(width, height):
    """A PNG that says that it has this size, with the pixels of a smaller one."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + saved("PNG", mode="1")[33:]


NOT_SERVED = "not an image in a format that is served: JPEG, PNG, WEBP"
REFUSED = [
    (lambda: png(4000, 4000), "4000 x 4000 pixels, at most 10,000"),
    # Beyond the limit of Pillow, which would take them for no images, and warn in a line that is no JSON.
    (lambda: png(9500, 9500), "9500 x 9500 pixels, at most 10,000"),
    (lambda: png(13400, 13400), "13400 x 13400 pixels, at most 10,000"),
    # A side of 1 pixel is scaled to 8, and the other one with it.
    (lambda: png(1, 9000), "9000 x 1 pixels, scaled to 72000 x 8, at most 10,000"),
    (lambda: png(9000, 1), "1 x 9000 pixels, scaled to 8 x 72000, at most 10,000"),
    (lambda: saved("PNG", (1, 99), "1"), None),
    (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n", NOT_SERVED),
    # Formats that may hold more than they say: a TIFF of 8 x 8 pixels may have one tile of 16,384 x 16,384.
    (lambda: saved("TIFF"), NOT_SERVED),
    (lambda: saved("AVIF") if features.check("avif") else saved("TIFF"), NOT_SERVED),
    (lambda: saved("ICO", (16, 16)), NOT_SERVED),
    (lambda: icon(png(150, 150)), NOT_SERVED),
    (lambda: press_photo(png(150, 150)), NOT_SERVED),
]
"""Images, and why they are refused; None for what is not."""


def test_images_that_are_or_may_be_large_once_decoded_are_refused(small, monkeypatch, recwarn):
    opened, open_png = [], PngImageFile._open
    files = [("images", make()) for make, _ in REFUSED]
    monkeypatch.setattr(PngImageFile, "_open", lambda self: opened.append(1) or open_png(self))
    found = small.client.post("/predict", files=files).json()["answers"]
    for (_, message), answer in zip(REFUSED, found, strict=True):
        assert (message or "None") in str(answer["error"])
    assert len(opened) == 6  # those that say that they are PNG
    assert not recwarn.list


def test_images_that_would_be_large_together(small):
    """Each is within the limit, and a request holds hundreds: they are decoded up to ten times the limit."""
    large, little = np.zeros((100, 100, 3), dtype=np.uint8), made_images(1)[0]
    errors = [answer["error"] for answer in small.answers(in_base64([little, *[large] * 12, little]))]
    assert errors[:10] == [None] * 10
    assert all("100,000 pixels together: send fewer" in error for error in errors[10:])


def test_tensors_of_large_images_are_refused(small):
    about = {"name": "image", "datatype": "UINT8", "shape": [1, 101, 100, 3]}
    head = json.dumps({"inputs": [about | {"parameters": {"binary_data_size": 30_300}}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    found = small.client.post(INFER, content=head + bytes(30_300), headers=headers).json()["outputs"]
    (error,) = next(one["data"] for one in found if one["name"] == "error")
    assert "at most 10,000" in error


def test_more_open_requests_than_there_may_be(limited):
    with ThreadPoolExecutor(8) as pool, held(limited.executor) as go:
        sent = [pool.submit(asked, limited) for _ in range(8)]
        until(lambda: sum(one.done() for one in sent) == 5)
        go.set()
        found = [one.result() for one in sent]
    assert sorted(one.status_code for one in found) == [200] * 3 + [503] * 5
    refused = next(one for one in found if one.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "3 open requests" in refused.json()["error"]
    assert answers(limited)


def test_a_connection_without_room_is_counted(run):
    with running(run) as started:
        assert started.client.get("/v2/health/live").status_code == 200
        started.server.config.http.keywords["room"].of_one = 1
        with connected(started) as late:
            told = read_all(late)
        assert told.startswith(b"HTTP/1.1 503")
        assert told.endswith(b'{"error":"there are too many connections: try again soon"}')
        assert 'exeunt_problems_total{problem="refused"} 1.0' in started.client.get("/metrics").text


def test_who_is_refused_while_it_sends_hears_of_it(limited):
    """An answer that comes before the end of a request is lost with the connection, if that is closed."""
    body = json.dumps(ANSWERABLE).encode() + b" " * 15_000
    with ThreadPoolExecutor(3) as pool, held(limited.executor) as go, connected(limited) as late:
        busy = [pool.submit(asked, limited) for _ in range(3)]
        until(lambda: limited.layer("_open")._open == 3)
        late.sendall(posted(body[:5_000], length=len(body)))
        for part in (body[5_000:10_000], body[10_000:]):
            time.sleep(0.05)
            late.sendall(part)
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


def test_five_hundred_malformed_requests(server):
    """Valid requests of every kind that were damaged: never an error of the server's own."""
    client, pixels, damaged = server.client, made_images(2, seed=9), Generator(0, "pixels", 0).changed
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 8, 8, 3]}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 384}}]}).encode()
    form = httpx.Request("POST", "http://x", files=[("images", ("a", b"abc"))], data={"budget": "45%"})
    kinds = [
        ("POST", "/predict", json.dumps(ANSWERABLE | {"budget": "45%"}).encode(), JSON),
        ("POST", "/predict", form.read(), {"content-type": form.headers["content-type"]}),
        ("POST", INFER, head + pixels.tobytes(), {"inference-header-content-length": str(len(head))}),
        ("POST", INFER, head, JSON),
        ("PUT", "/budget", b'{"budget": "1%"}', JSON),
    ]
    wanted, codes = client.post("/predict", json=ANSWERABLE).json(), set()
    for _ in range(100):
        for method, path, body, headers in kinds:
            sent = damaged(body)
            found = client.request(method, path, content=sent, headers=headers)
            codes.add(found.status_code)
            assert found.status_code in (200, 400, 413, 415, 422), (path, sent, found.text)
            assert found.status_code == 200 or found.json()["error"]
    assert {200, 422} <= codes
    assert client.post("/predict", json=ANSWERABLE).json() == wanted


def test_what_is_no_http_is_a_line_of_json_in_the_log(run, capfd):
    rng = np.random.default_rng(1)
    with running(run) as started:
        capfd.readouterr()
        for _ in range(50):
            with connected(started) as opened:
                opened.sendall(rng.bytes(int(rng.integers(1, 200))) + b"\r\n\r\n")
                assert read_all(opened)[:12] in (b"HTTP/1.1 400", b"")
        assert answers(started)
    lines = [json.loads(line)["what"] for line in capfd.readouterr().err.splitlines()]
    assert any("Invalid HTTP" in line for line in lines)
