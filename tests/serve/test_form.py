"""Forms as clients send them, and what is none."""

from __future__ import annotations

import httpx
import pytest

from exeunt.errors import InputError
from exeunt.serve.predict_route import parts_of

TYPE = "multipart/form-data; boundary=b"


def read(body, content_type=TYPE):
    return [tuple(part) for part in parts_of(body, content_type)]


def part(headers, content=b"x"):
    return b"--b\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


def test_a_form_of_a_client():
    files = [("images", ("a b;.png", b"\x89PNG\r\n--b--\r\n\r\n")), ("images", ("b", b"")), ("images", b"--")]
    request = httpx.Request("POST", "http://x", files=files, data={"budget": "45%", "ü": "1"})
    found = read(request.read(), request.headers["content-type"])
    assert found == [
        ("budget", False, b"45%"), ("ü", False, b"1"), ("images", True, files[0][1][1]), ("images", True, b""),
        ("images", True, b"--"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (b"content-disposition:form-data;name=a", ("a", False)),
        (b'CONTENT-DISPOSITION: form-data; filename="name=b"; name="a"', ("a", True)),
        (b'content-type: text/plain\r\ncontent-disposition: form-data; NAME="a;b"', ("a;b", False)),
        (b"content-disposition: form-data; name=a; filename*=utf-8''x", ("a", True)),
        (
            b'content-disposition: form-data; name="\xff"\r\nContent-Transfer-Encoding: 8bit',
            ("\ufffd", False),
        ),
    ],
)
def test_headers_of_a_part(headers, wanted):
    body = b"preamble\r\n" + part(headers) + b"--b--\r\nepilogue"
    assert read(body) == [(*wanted, b"x")]


def test_padding_and_quoted_boundaries():
    body = b'--b c \t\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n--b c--'
    assert read(body, 'Multipart/Form-Data; charset=x; Boundary="b c"') == [("a", False, b"")]


@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        (b"x", "multipart/form-data", "names no boundary"),
        (b"x", "multipart/form-data; boundary=", "names no boundary"),
        (b"", TYPE, "does not end"),
        (part(b'content-disposition: form-data; name="a"'), TYPE, "does not end"),
        (b"--b\r\n", TYPE, "no headers"),
        (b"--b", TYPE, "no headers"),
        (b"--bx\r\na: b\r\n\r\n\r\n--b--", TYPE, "no headers"),
        (part(b"x" * 9000) + b"--b--", TYPE, "too long"),
        (part(b"content-disposition: form-data") + b"--b--", TYPE, "has no name"),
        (part(b"content-disposition: form-data; name=a\r\ncontent-transfer-encoding: base64") + b"--b--", TYPE,
         "not as base64"),
    ],
)  # fmt: skip
def test_what_is_no_form(body, content_type, why):
    with pytest.raises(InputError, match=why):
        read(body, content_type)


def test_many_small_parts_take_time_in_proportion():
    body = part(b"content-disposition: form-data; name=a") * 20_000 + b"--b--"
    assert len(read(body)) == 20_000
