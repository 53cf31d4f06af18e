"""Images whose decoding takes long or fills the memory: they end, and hold up nobody."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import time
from functools import partial

import numpy as np
import pytest
from hostile_images import BOMBS, chunk, many_scans, many_segments, plain_numbers, png, saved
from made_server import encoded, in_base64, made_images, running, until
from PIL import Image
from test_api_keys_and_limits import connected, posted

from exeunt.data.preprocess import Preprocess
from exeunt.data.read_image import read_rgb
from exeunt.errors import UnreadableImage
from exeunt.serve import input_reader
from exeunt.serve.image_decoding import Allowance, ImageReader, is_bounded
from exeunt.serve.limited_processes import LimitedProcesses

EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0"
PLAIN = {"images": in_base64(made_images(2))}


def read(image, max_pixels=25e6):
    way = Preprocess(size=(8, 8))
    return ImageReader(way.resize, [way], max_pixels)(image, "it", Allowance(10 * max_pixels, 5.0))


def asking(*images):
    return {"images": [base64.b64encode(image).decode() for image in images]}


def answers(server, *images):
    return server.client.post("/predict", json=asking(*images), timeout=60).json()["answers"]


def disconnected(server, sent):
    """Send a request, and leave before it is answered."""
    with connected(server) as opened:
        opened.sendall(posted(json.dumps(sent).encode()))


@pytest.fixture(scope="module")
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((240, 160), Image.Resampling.BICUBIC)


def written(image, format_, **options):
    image.save(file := io.BytesIO(), format_, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "quality": 95}),
        ("JPEG", {"icc_profile": bytes(300_000), "comment": b"a" * 100, "exif": EXIF}),
        ("JPEG", {"restart_marker_rows": 1}),
        ("PNG", {"icc_profile": bytes(300_000)}),
        ("PNG", {"compress_level": 0}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True, "exif": EXIF}),
        ("BMP", {}),
        ("PPM", {}),
        ("GIF", {"comment": b"a" * 2000, "transparency": 0}),
        ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (9, 9))] * 99, "loop": 0}),
    ],
)
def test_usual_images_are_read_in_a_thread(photo, format_, options):
    assert is_bounded(written(photo, format_, **options))


def test_where_headers_do_not_bound_the_time_images_are_read_all_the_same(server, photo):
    images = [
        written(photo, "GIF").replace(b",", b"!\xfe\x01a\0" * 60 + b",", 1),
        b"P6 # a comment" + written(photo, "PPM")[2:],
        written(photo, "JPEG2000", irreversible=False),
        written(photo, "PNG", save_all=True, append_images=[photo.rotate(i) for i in range(70)]),
        many_scans(64, 64, scans=90),
    ]
    assert not any(map(is_bounded, images))
    found = answers(server, *images, encoded(made_images(1)[0]))
    alone = answers(server, *(encoded(read(image)[0]) for image in images))
    assert [answer["error"] for answer in found] == [None] * 6
    assert [answer["confidence"] for answer in found[:5]] == [answer["confidence"] for answer in alone]


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_takes_long_in_a_thread(name):
    bomb = BOMBS[name][0]()
    if is_bounded(bomb):
        begun = time.process_time()
        with contextlib.suppress(UnreadableImage):  # the first frame of many is read
            read(bomb)
        assert time.process_time() - begun < 0.5


@pytest.mark.slow
def test_what_takes_too_long_is_an_error_of_its_row(run, monkeypatch):
    """It runs in a process of its own, which ends after so many seconds of processor time for all of a request."""
    monkeypatch.setattr(input_reader, "_SECONDS", 0.2)
    with running(run) as server:
        usual = encoded(made_images(1)[0])
        found = answers(server, plain_numbers(1500), usual, saved("JPEG2000"), many_scans())
        assert answers(server, saved("JPEG2000"))[0]["error"] is None
    assert "all such images of a request may take 0.2 s and 4 GB: send a smaller image" in found[0]["error"]
    assert found[1]["error"] is None
    assert all("may take 0.2 s" in answer["error"] for answer in found[2:])


def test_more_scans_than_the_largest_images_may_have_are_refused():
    hidden = many_scans(400, 400, 120).replace(b"\xff\xda", b"\xff\xfe\0\4\xff\xd9\xff\xff\xda", 1)
    for image, max_pixels, message in (
        (many_scans(), 25e6, "it has 1,506 scans, at most 40 are taken of 4990 x 5000 pixels"),
        (many_scans(400, 400, 120), 400 * 400 * 3, "it has 126 scans, at most 120"),
        (hidden, 400 * 400 * 3, "it has 126 scans, at most 120"),
    ):
        with pytest.raises(UnreadableImage, match=message):
            read(image, max_pixels)
    read(many_scans(400, 400, 90), max_pixels=400 * 400 * 3)
    trailing = saved("JPEG", (400, 400)) + b"\xff\xda" * 200  # a film behind a photo
    read(trailing, max_pixels=400 * 400)


@pytest.mark.parametrize("image", [many_scans, partial(plain_numbers, 1500)], ids=["scans", "PPM in text"])
def test_what_takes_long_holds_up_nobody_and_ends_with_the_server(run, image):
    """Six images of millions of pixels, whose senders disconnect."""
    sent = asking(image())
    with running(run, decoders=1) as server:
        wanted = server.client.post("/predict", json=PLAIN).json()
        for _ in range(6):
            disconnected(server, sent)
        begun = time.monotonic()
        assert server.client.post("/predict", json=PLAIN, timeout=5).json() == wanted
        ended = time.monotonic()
    assert ended - begun < 3
    assert time.monotonic() - ended < 5


def test_who_disconnects_has_the_rest_of_its_images_left_out(run, monkeypatch):
    seen = []

    def slowly(self, image, name, allowance):
        seen.append(name)
        time.sleep(0.05)
        return np.zeros((8, 8, 3), dtype=np.uint8), 1, allowance

    with running(run) as server:
        monkeypatch.setattr(ImageReader, "__call__", slowly)
        with connected(server) as opened:
            opened.sendall(posted(json.dumps({"images": in_base64(made_images(200))}).encode()))
            until(lambda: seen)
        time.sleep(0.2)
        count = len(seen)
        time.sleep(0.2)
        assert len(seen) <= count + 1 < 100


@pytest.mark.parametrize("image", ["", "AAAA", 5])
def test_a_request_of_images_that_cannot_be_read_is_refused_soon(client, image):
    begun = time.process_time()
    found = client.post("/predict", json={"images": [image] * 65_535})
    assert time.process_time() - begun < 2
    assert found.status_code == 422
    message = "more than 1,000 inputs of the request cannot be read; cannot read the image number 1000"
    assert message in found.text


def test_pngs_with_wrong_checksums_are_errors_of_their_rows(server, photo):
    whole = written(photo.resize((20, 20)), "PNG")
    idat = whole.index(b"IDAT")
    places = range(8, len(whole), 3)
    flipped = [whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :] for place in places]
    no_checksum = whole[: idat - 4] + chunk(b"IDAT", whole[idat + 4 : -20] + bytes(4)) + whole[-12:]
    found = answers(server, whole, *flipped, no_checksum)
    assert found[0]["error"] is None
    assert all("damaged" in answer["error"] or "broken" in answer["error"] for answer in found[1:])
    with pytest.raises(UnreadableImage, match="broken data stream"):  # zlib's own
        read_rgb(no_checksum)


def test_processes_return_raise_and_end():
    processes = LimitedProcesses(4 << 30)
    assert processes.call(1.0, divmod, 7, 2)[0] == (3, 1)
    assert isinstance(processes.call(1.0, divmod, 7, 0)[0], ZeroDivisionError)
    with pytest.raises(TimeoutError):
        processes.call(0.1, sum, range(10**12))
    assert isinstance(processes.call(1.0, bytes, 8 << 30)[0], MemoryError)
    assert processes.call(1.0, divmod, 7, 2)[0] == (3, 1)
    (running_one,) = processes._all
    processes.close()
    assert running_one.returncode == -9


def test_chunks_of_a_png_and_segments_of_a_jpeg_are_bounded():
    assert is_bounded(png(*[chunk(b"tEXt", b"a\0b")] * 64))
    assert not is_bounded(png(*[chunk(b"tEXt", b"a\0b")] * 65))
    assert not is_bounded(png(chunk(b"tEXt", b"a\0" + bytes(1 << 20))))
    assert not is_bounded(saved("JPEG")[:300])  # cut off before its pixels
    assert [is_bounded(many_segments(n)) for n in (50, 100)] == [True, False]
