"""Tensors of pixels are read all at once: the same rows as image by image, whatever is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exeunt.data.preprocess import Preprocess, RawImages
from exeunt.serve import input_reader
from exeunt.serve.image_decoding import MayTakeLong
from exeunt.serve.input_reader import InputReader

OWN = Preprocess(size=(8, 8))
WAYS: dict[str, list[Preprocess]] = {
    "one network": [OWN],
    "alike": [OWN, Preprocess(size=(8, 8), mean=(0.0, 0.0, 0.0))],
    "scaled otherwise": [OWN, Preprocess(size=(8, 8), mode="pad")],
    "of two sizes": [OWN, Preprocess(size=(16, 8))],
}


def outcome(read: Any, images: Any) -> Any:
    try:
        rows = read(images)
    except Exception as error:
        return type(error), str(error)
    inputs = None if rows.inputs is None else (rows.inputs.dtype, rows.inputs.tolist())
    return inputs, rows.keys.tolist(), rows.places.tolist(), list(rows.errors)


@pytest.mark.parametrize("max_pixels", [10, 64, 100, 1e6])
@pytest.mark.parametrize("ways", WAYS)
def test_pixels_are_read_at_once_as_one_by_one(ways, max_pixels, monkeypatch):
    models = dict(enumerate(WAYS[ways]))
    own = OWN if len(models) == 1 else RawImages()
    run: Any = SimpleNamespace(
        path="run", manifest={"inputs": {"kind": "image"}}, masks=False, open_model=lambda name: name,
        cascade=[SimpleNamespace(name=name) for name in models] if len(models) > 1 else [],
    )  # fmt: skip
    monkeypatch.setattr(input_reader, "load_preparation", lambda one: own if one is run else models[one])
    reader = InputReader(run, max_rows=100, max_pixels=max_pixels, max_chars=100)
    rng = np.random.default_rng(0)
    for n in (0, 1, 3, 32, 33):
        for sides in ((8, 8, 3), (8, 8, 1), (8, 8, 4), (8, 7, 3), (16, 8, 3), (1, 1, 3)):
            if n * np.prod(sides) <= 30 * max_pixels:  # else `check_tensor` has refused it
                images = rng.integers(0, 256, (n, *sides), dtype=np.uint8)
                for one in (reader, reader.for_little):
                    assert outcome(one.pixels, images) == outcome(one.images, list(images))


def test_texts_that_are_long_together_are_not_read_in_the_event_loop(monkeypatch):
    manifest = {"inputs": {"kind": "text"}, "data": {"text": ["text"]}}
    run: Any = SimpleNamespace(path="run", manifest=manifest, masks=False, cascade=[])
    monkeypatch.setattr(input_reader, "load_preparation", lambda _: None)
    monkeypatch.setattr(input_reader, "text_batch", lambda _, texts: (texts, None))
    reader = InputReader(run, max_rows=100, max_pixels=1, max_chars=10_000)
    few, many = ["a" * 2048] * 2, ["a" * 2048] * 3
    assert [reader.texts(many).inputs, reader.for_little.texts(few).inputs] == [many, few]
    with pytest.raises(MayTakeLong):
        reader.for_little.texts(many)
