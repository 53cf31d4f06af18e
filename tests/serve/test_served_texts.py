"""Texts and pairs of texts, in JSON and as tensors."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from made_server import TextExecutor, made_run, running

EASY = " is easy since it is long"


@pytest.fixture(scope="module", params=[("text",), ("premise", "hypothesis")], ids=["texts", "pairs"])
def texts(request, tmp_path_factory):
    """A client, and what makes an input of a letter."""
    columns = request.param
    run = made_run(
        tmp_path_factory.mktemp("served") / "texts",
        inputs={"kind": "text", "raw": True},
        data={"name": "letters", "label": None, "fingerprint": "0", "text": columns},
    )
    made = (lambda letter: letter + EASY) if len(columns) == 1 else lambda letter: [letter, EASY]
    with running(run, TextExecutor()) as server, httpx.Client(base_url=server.url) as client:
        yield client, made, server.port


def labels(found):
    return [answer["label"] for answer in found.json()["answers"]]


def test_what_is_no_text_is_an_error_of_its_row(texts):
    client, made, _ = texts
    found = client.post("/predict", json={"texts": [made(letter) for letter in "abcdba"]})
    assert labels(found) == [0, 1, 2, 3, 1, 0]
    assert found.json()["answers"][2]["class_name"] == "cow"
    body = {"texts": [made("a"), 7, None, ["a", "b", "c"], ["a", 3], made("d")]}
    found = client.post("/predict", json=body)
    assert labels(found) == [0, -1, -1, -1, -1, 3]
    assert "input number 1 must be" in found.json()["answers"][1]["error"]
    half = b'{"texts": ["\\ud800 half a letter"]}'
    found = client.post("/predict", content=half, headers={"content-type": "application/json"})
    assert found.status_code in (200, 422)
    assert client.post("/predict", json={"images": ["YQ=="]}).json()["error"].endswith("got images")


def test_a_text_that_would_keep_others_waiting_is_an_error_of_its_row(texts):
    client, made, _ = texts
    most, more = (made("a" * (100_000 - len(EASY) * isinstance(made("a"), str)) + end) for end in ("", "a"))
    found = client.post("/predict", json={"texts": [more, most, made("d")]})
    assert labels(found) == [-1, 0, 3]
    assert "100,001 characters, at most 100,000" in found.json()["answers"][0]["error"]


def test_texts_that_would_keep_others_waiting_together(texts):
    """Ten times the longest, whatever their number."""
    client, made, _ = texts
    long = made("a" * (100_000 - len(EASY) * isinstance(made("a"), str)))
    length = len(long) if isinstance(long, str) else sum(map(len, long))
    fits = 1_000_000 // length
    found = client.post("/predict", json={"texts": [*[long] * fits, made("d"), long, made("c")]})
    assert labels(found) == [0] * fits + [-1 if 1_000_000 % length < len(EASY) else 3, -1, -1]
    assert "1,000,000 characters together: send fewer" in found.json()["answers"][-1]["error"]


@pytest.mark.parametrize("binary", [True, False])
def test_as_tensors(texts, binary):
    http = pytest.importorskip("tritonclient.http")
    client, made, port = texts
    about = client.get("/v2/models/texts").json()["inputs"]
    array = np.array([made(letter) for letter in "cabd"], dtype=object)
    assert about == [{"name": "text", "datatype": "BYTES", "shape": [-1, *array.shape[1:]]}]
    tensor = http.InferInput("text", list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    with http.InferenceServerClient(f"127.0.0.1:{port}") as triton:
        assert triton.infer("texts", [tensor]).as_numpy("label").tolist() == [2, 0, 1, 3]
    if array.ndim == 1:  # one element a row, as some clients send texts
        column = http.InferInput("text", [len(array), 1], "BYTES")
        column.set_data_from_numpy(array[:, None], binary_data=binary)
        with http.InferenceServerClient(f"127.0.0.1:{port}") as triton:
            assert triton.infer("texts", [column]).as_numpy("label").tolist() == [2, 0, 1, 3]
    if binary and array.ndim == 1:
        tensor.set_shape([2])
        tensor.set_data_from_numpy(np.array([b"a" + b"\xff" * 9, b"b" * 20], dtype=object), binary_data=True)
        with http.InferenceServerClient(f"127.0.0.1:{port}") as triton:
            found = triton.infer("texts", [tensor])
        assert found.as_numpy("label").tolist() == [-1, 1]
        assert b"must be a text" in found.as_numpy("error")[0]
