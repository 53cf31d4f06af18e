"""`POST /predict`: images and texts in every form that it takes, with an answer or an error for each row."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from made_server import (
    HARD,
    PixelExecutor,
    classes_of,
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
    return [
        {
            "label": int(answers.label[i]),
            "class_name": names[answers.label[i]],
            "confidence": float(answers.confidence[i]),
            "exit": int(answers.exit[i]),
            "cost": float(answers.cost[i]),
            "borderline": bool(answers.borderline[i]),
            "degraded": False,
            "expired": False,
            "policy": budget,
            "error": None,
        }
        for i in range(len(pixels))
    ]


@pytest.mark.parametrize("budget", ["45%", "60%", "80%"])
def test_images_in_base64_are_answered_as_by_a_runner(client, run, budget):
    pixels = made_images(60, seed=1)
    found = client.post("/predict", json={"images": in_base64(pixels), "budget": budget})
    assert found.status_code == 200
    assert found.json()["answers"] == expected(run, pixels, budget)
    assert found.json()["unit"] == "MACs"
    assert len({answer["exit"] for answer in found.json()["answers"]}) > 1


def test_files_options_and_other_formats(client, run):
    pixels = made_images(3, seed=2)
    files = [("images", ("a.png", encoded(pixels[0]))), ("images", ("b.bmp", encoded(pixels[1], "BMP")))]
    found = client.post("/predict", files=files, data={"budget": "45%", "deadline_ms": "5000"})
    assert found.json()["answers"] == expected(run, pixels[:2], "45%")
    found = client.post("/predict?tier=gold", files=files)
    assert found.json()["answers"] == expected(run, pixels[:2], "80%")
    large = np.repeat(np.repeat(pixels, 4, axis=1), 4, axis=2)  # is resized as for the training
    found = client.post("/predict", json={"images": in_base64(large)})
    assert [answer["error"] for answer in found.json()["answers"]] == [None] * 3


def test_a_bad_row_is_that_rows_error(client, run):
    pixels = made_images(6, seed=4, poison=4)
    images = in_base64(pixels)
    images[1], images[3] = "no base64!", "bm8gaW1hZ2U="
    found = client.post("/predict", json={"images": [*images, 7], "budget": "60%"}).json()["answers"]
    good = [0, 2, 5]
    wanted = expected(run, pixels[good], "60%")
    assert [found[i] for i in good] == wanted
    message = {i: found[i]["error"] for i in (1, 3, 4, 6)}
    assert "no encoded image" in message[1]
    assert "not an image in a format" in message[3]
    assert "breaks the network" in message[4]
    assert "number 6" in message[6]
    for i in message:
        assert (found[i]["label"], found[i]["exit"], found[i]["confidence"]) == (-1, -1, 0)


def test_no_row_can_be_read(client):
    found = client.post("/predict", json={"images": ["", "!"]})
    assert found.status_code == 200
    assert all(answer["error"] for answer in found.json()["answers"])


def test_a_text_is_never_taken_for_a_file_of_the_server(client, tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encoded(made_images(1)[0]))
    found = client.post("/predict", json={"images": [str(file)]}).json()["answers"]
    assert "no encoded image" in found[0]["error"]


def test_a_deadline_that_has_passed(client, server):
    server.executor.pause_s = 0.05
    try:
        pixels = made_images(2, seed=5)
        found = client.post("/predict", json={"images": in_base64(pixels), "deadline_ms": 1e-3})
    finally:
        server.executor.pause_s = 0.0
    for answer in found.json()["answers"]:
        assert answer["expired"]
        assert "deadline" in answer["error"]


def test_a_deadline_between_two_exits_gets_what_the_first_has_said(run):
    """The engine knows from warming up that another call would be too late."""
    slow = PixelExecutor(pause_s=0.1)
    with running(run, slow) as server, httpx.Client(base_url=server.url, timeout=20) as client:
        pixels = made_images(20, seed=7)
        body = {"images": in_base64(pixels), "budget": "80%"}
        whole = client.post("/predict", json=body).json()["answers"]
        slow.pause_s = 1.0
        found = client.post("/predict", json=body | {"deadline_ms": 1050}).json()["answers"]
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
        url = f"{started.url}/predict?deadline_ms=250"
        (answer,) = httpx.post(url, json={"images": in_base64(hard)}, timeout=20).json()["answers"]
    assert answer["exit"] > 0
    assert not answer["expired"]


def test_a_full_engine_answers_what_it_can_before_it_refuses(run):
    with (
        running(run, max_rows=32) as server,
        httpx.Client(base_url=server.url, timeout=20) as client,
        ThreadPoolExecutor(4) as pool,
        held(server.executor, 1) as go,
    ):
        body = {"images": in_base64(made_images(16, seed=8)), "budget": "80%"}
        first = pool.submit(client.post, "/predict", json=body)
        until(lambda: len(server.executor.rows) == 2)  # it is at its second exit
        others = [pool.submit(client.post, "/predict", json=body) for _ in range(3)]
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
        (
            {"images": ["a"], "bugdet": "45%"},
            "bugdet is unknown, choose of budget, tier, deadline_ms, images, texts",
        ),
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
    found = client.post("/predict", json={"images": [0] * 70_000})
    assert (found.status_code, found.json()["error"]) == (
        422,
        "a request must hold 1 to 65536 inputs, got 70000",
    )


@pytest.mark.parametrize("file", [b";filename=a", b""])
def test_parts_of_a_form_beyond_that_are_not_read(run, monkeypatch, file):
    read, parts_of = [], predict_route.parts_of

    def counted(*given):
        for part in parts_of(*given):
            read.append(part)
            yield part

    monkeypatch.setattr(predict_route, "parts_of", counted)
    part = b"--b\r\ncontent-disposition:form-data;name=budget" + file + b"\r\n\r\n45%\r\n"
    with running(run, max_rows=7) as few:
        found = httpx.post(
            f"{few.url}/predict",
            content=part * 900 + b"--b--\r\n",
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
    assert (found.status_code, len(read)) == (422, 8 if file else 17)
    assert ("1 to 7 inputs" if file else "at most 16 fields") in found.json()["error"]


def test_other_bodies(client):
    assert client.post("/predict", content=b"x", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/predict", content=b"x").status_code == 415
    arrow = {"content-type": "application/vnd.apache.arrow.stream"}
    assert client.post("/predict", content=b"x", headers=arrow).status_code == 415


def test_classes_are_found(client):
    """The oracle of the others is the same engine: this one is not."""
    pixels = made_images(40, seed=6)
    found = client.post("/predict", json={"images": in_base64(pixels)}).json()["answers"]
    easy = np.flatnonzero(pixels[:, 0, 0, 1] >= HARD[0])
    assert 10 < len(easy) < 40
    assert [found[i]["label"] for i in easy] == classes_of(pixels)[easy].tolist()
