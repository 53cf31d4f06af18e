"""`POST /predict`: images and texts in every form that it takes, with an answer or an error for each row."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from made_server import (
    PixelExecutor,
    encoded,
    held,
    in_base64,
    made_images,
    prepared,
    running,
    until,
)

from exeunt.data.dataset import content_key
from exeunt.runs.runner import Runner
from exeunt.serve import predict_route


def expected(run, pixels, budget):
    """What a runner alone answers, as rows of JSON."""
    policy = run.policy_set.at(budget)
    keys = np.array([content_key(one) for one in pixels], dtype=np.uint64)
    answers = Runner(PixelExecutor(), policy)(prepared(pixels), id=keys)
    names = run.manifest["class_names"]
    fixed = {"degraded": False, "expired": False, "policy": budget, "error": None}
    kinds = {"label": int, "confidence": float, "exit": int, "cost": float, "borderline": bool}
    columns = {name: getattr(answers, name) for name in kinds}
    rows = [{name: kinds[name](column[i]) for name, column in columns.items()} for i in range(len(pixels))]
    return [row | {"class_name": names[row["label"]]} | fixed for row in rows]


@pytest.mark.parametrize("budget", ["45%", "60%", "80%"])
def test_images_in_base64_are_answered_as_by_a_runner(client, run, budget):
    pixels = made_images(60, seed=1)
    found = client.post("/predict", json={"images": in_base64(pixels), "budget": budget})
    assert found.status_code == 200
    assert found.json()["answers"] == expected(run, pixels, budget)
    assert found.json()["unit"] == "MACs"
    assert len({answer["exit"] for answer in found.json()["answers"]}) > 1


def test_files_options_and_other_formats(client, server, run):
    pixels = made_images(3, seed=2)
    files = [("images", ("a.png", encoded(pixels[0]))), ("images", ("b.bmp", encoded(pixels[1], "BMP")))]
    found = client.post("/predict", files=files, data={"budget": "45%", "deadline_ms": "5000"})
    assert found.json()["answers"] == expected(run, pixels[:2], "45%")
    found = client.post("/predict?tier=gold", files=files)
    assert found.json()["answers"] == expected(run, pixels[:2], "80%")
    large = np.repeat(np.repeat(pixels, 4, axis=1), 4, axis=2)  # is resized as for the training
    assert [answer["error"] for answer in server.answers(large)] == [None] * 3


def test_a_bad_row_is_that_rows_error(server, run):
    pixels = made_images(6, seed=4, poison=4)
    images = in_base64(pixels)
    images[1], images[3] = "no base64!", "bm8gaW1hZ2U="
    found, good = server.answers([*images, 7], budget="60%"), [0, 2, 5]
    assert [found[i] for i in good] == expected(run, pixels[good], "60%")
    messages = {1: "no encoded image", 3: "not an image in a format", 4: "breaks the network", 6: "number 6"}
    for i, message in messages.items():
        assert message in found[i]["error"]
        assert (found[i]["label"], found[i]["exit"], found[i]["confidence"]) == (-1, -1, 0)
    assert all(answer["error"] for answer in server.answers(["", "!"]))  # no row can be read


def test_a_text_is_never_taken_for_a_file_of_the_server(server, tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encoded(made_images(1)[0]))
    assert "no encoded image" in server.answers([str(file)])[0]["error"]


def test_a_deadline_that_has_passed(server, monkeypatch):
    monkeypatch.setattr(server.executor, "pause_s", 0.05)
    for answer in server.answers(made_images(2, seed=5), deadline_ms=1e-3):
        assert answer["expired"]
        assert "deadline" in answer["error"]


def test_a_deadline_between_two_exits_gets_what_the_first_has_said(run):
    """The engine knows from warming up that another call would be too late."""
    slow, images = PixelExecutor(pause_s=0.05), in_base64(made_images(20, seed=7))
    with running(run, slow) as server:
        whole = server.answers(images, budget="80%")
        slow.pause_s = 0.5
        found = server.answers(images, budget="80%", deadline_ms=525)
    assert {answer["exit"] for answer in whole} == {0, 1, 2}
    for answer, full in zip(found, whole, strict=True):
        assert answer["exit"] == 0
        assert answer["error"] is None
        assert answer["expired"] == (full["exit"] > 0)
        assert not answer["degraded"]


def test_a_deadline_is_not_shortened_by_what_full_calls_would_take(run):
    class Slow(PixelExecutor):
        def run(self, segment, state, wanted):
            time.sleep(0.004 * len(state))  # a call of 64 rows takes .26 s
            return super().run(segment, state, wanted)

    hard = made_images(1)
    hard[:, 0, 0, 1] = 0
    with running(run, Slow()) as started:
        (answer,) = started.answers(hard, deadline_ms=250)
    assert answer["exit"] > 0
    assert not answer["expired"]


def test_a_full_engine_answers_what_it_can_before_it_refuses(run):
    body = {"images": in_base64(made_images(16, seed=8)), "budget": "80%"}
    with (
        running(run, max_rows=32) as server,
        ThreadPoolExecutor(4) as pool,
        held(server.executor, 1) as go,
    ):
        first = pool.submit(server.client.post, "/predict", json=body)
        until(lambda: len(server.executor.rows) == 2)  # it is at its second exit
        others = [pool.submit(server.client.post, "/predict", json=body) for _ in range(3)]
        until(lambda: server.inbox() == 3)
        go.set()
        early, *found = [one.result() for one in (first, *others)]
    found.sort(key=lambda one: one.status_code)
    assert [one.status_code for one in (early, *found)] == [200, 200, 200, 503]
    assert found[-1].headers["retry-after"] == "1"
    assert {answer["degraded"] for answer in early.json()["answers"]} == {False, True}
    for one in found[:2]:
        assert not any(answer["degraded"] for answer in one.json()["answers"])
    assert all(answer["error"] is None for one in (early, *found[:2]) for answer in one.json()["answers"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "give either"),
        ({"images": [], "texts": []}, "give either"),
        ({"images": []}, "1 to"),
        ({"texts": ["one"]}, "kind 'image', got texts"),
        ({"images": ["a"], "budget": "1%"}, "the smallest budget"),
        ({"images": ["a"], "budget": "half"}, "not understood"),
        ({"images": ["a"], "budget": "4ms"}, "no unit of these costs"),
        ({"images": ["a"], "tier": "lead"}, "choose one of gold"),
        ({"images": ["a"], "tier": "gold", "budget": "45%"}, "not both"),
        ({"images": ["a"], "deadline_ms": -1}, "deadline_ms: .*greater than 0"),
        ({"images": ["a"], "bugdet": ""}, "bugdet is unknown, choose of budget, tier, deadline_ms, images"),
        ({"image": ["a"]}, "image is unknown, choose of .*images"),
        ({"images": ["a"], "budget": True}, "budget"),
        ({"images": "a"}, "images: .*array"),
        ([1, 2], "the body: "),
    ],
)
def test_what_is_wrong_is_said(client, body, message):
    found = client.post("/predict", json=body)
    assert found.status_code == 422
    assert re.search(message, found.json()["error"]), found.text


def test_what_is_wrong_with_a_form_or_an_address_is_said(client):
    found = client.post("/predict", data={"images": "cat.jpg"}, files=[("images", b"an image")])
    assert (found.status_code, "curl -F images=@cat.jpg" in found.json()["error"]) == (422, True)
    found = client.post("/predict?bugdet=45%25", json={"images": ["a"]})
    assert "bugdet is unknown, choose of budget" in found.json()["error"]


def test_more_inputs_than_there_may_be(client):
    found, told = client.post("/predict", json={"images": [0] * 70_000}), "1 to 65536 inputs, got 70000"
    assert (found.status_code, found.json()["error"]) == (422, f"a request must hold {told}")


@pytest.mark.parametrize("file", [b";filename=a", b""])
def test_parts_of_a_form_beyond_that_are_not_read(run, monkeypatch, file):
    read, parts_of = [], predict_route.parts_of

    def counted(*given):
        for part in parts_of(*given):
            read.append(part)
            yield part

    monkeypatch.setattr(predict_route, "parts_of", counted)
    part = b"--b\r\ncontent-disposition:form-data;name=budget" + file + b"\r\n\r\n45%\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    with running(run, max_rows=7) as few:
        found = few.client.post("/predict", content=part * 900 + b"--b--\r\n", headers=headers)
    assert (found.status_code, len(read)) == (422, 8 if file else 17)
    assert ("1 to 7 inputs" if file else "at most 16 fields") in found.json()["error"]


def test_other_bodies(client):
    for kind in ("text/plain", "application/vnd.apache.arrow.stream", None):
        headers = {} if kind is None else {"content-type": kind}
        assert client.post("/predict", content=b"x", headers=headers).status_code == 415
