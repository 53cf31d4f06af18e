from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_data import array_images, encoded, noise, write_image_table
from PIL import Image

from exeunt.data import Preprocess, open_inputs, open_source
from exeunt.data.decode_all import decoded, default_cache
from exeunt.errors import InputError


def test_the_content_key_ignores_format_place_and_label(tmp_path: Path) -> None:
    pixels = noise(5)
    kinds = [*enumerate(("png", "webp", "bmp"))]
    tables = [write_image_table(tmp_path / f"{e}.parquet", pixels, [i] * 5, ending=e) for i, e in kinds]
    keys = [open_source(t).train.content_keys() for t in tables]
    assert keys[0].dtype == np.uint64
    assert keys[0].tolist() == keys[1].tolist() == keys[2].tolist()
    assert len(set(keys[0].tolist())) == 5
    images = array_images(pixels)
    assert np.array_equal(images.content_keys([3, 1]), keys[0][[3, 1]])
    assert np.array_equal(images.take([4, 0]).content_keys(), keys[0][[4, 0]])
    stored = [open_source(t).train.stored_keys() for t in tables]
    assert not np.isin(stored[0], stored[1]).any()


def test_the_content_key_sees_shape_and_every_pixel() -> None:
    flat = np.zeros((1, 2, 8, 3), dtype=np.uint8)
    other = flat.copy()
    other[0, 1, 7, 2] = 1
    keys = {int(array_images(p).content_keys()[0]) for p in (flat, flat.reshape(1, 8, 2, 3), other)}
    assert len(keys) == 3


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    pixels = noise(4)
    labels = [0, 1, 0, 1]
    base = array_images(pixels, labels)
    assert base.fingerprint == array_images(pixels.copy(), labels).fingerprint
    changed = pixels.copy()
    changed[3, 7, 7, 2] ^= 1
    changes = ((changed, labels), (pixels, [0, 1, 0, 0]), (pixels, labels, 3), (pixels,), (pixels[:0],))
    others = [*(array_images(*given) for given in changes), base.take([0, 1, 2]), base.take([1, 0, 2, 3])]
    assert len({d.fingerprint for d in [base, *others]}) == 8
    assert base.take([2, 1]).fingerprint == base.take(np.array([2, 1])).fingerprint


def test_a_large_source_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exeunt.data.dataset.SMALL_BYTES", 10)
    images = array_images(noise(100))
    assert not images.is_small
    assert images.fingerprint.startswith("sampled-")
    assert images.fingerprint != array_images(noise(100, seed=1)).fingerprint


def test_views_of_views() -> None:
    images = array_images(noise(6), [0, 1, 0, 1, 1, 0])
    view = images.take([5, 3, 1]).take(np.array([False, True, True]))
    assert len(view) == 2
    assert [view.name(i) for i in range(2)] == ["row 3", "row 1"]
    assert view.labels.tolist() == [1, 1]
    assert np.array_equal(view.content(0), images.content(3))
    assert np.array_equal(view.pixels[view.rows], noise(6)[[3, 1]])
    empty = images.take([])
    assert (len(empty), empty.labels.tolist(), len(empty.content_keys())) == (0, [], 0)


@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_decoding_gives_every_image(tmp_path: Path, n: int) -> None:
    pixels = noise(n, side=4)
    table = write_image_table(tmp_path / "a.parquet", pixels, np.zeros(n, np.int64), row_group_size=70)
    lazy, seen = open_source(table).train, []
    images = decoded(lazy, Preprocess(size=(4, 4)), progress=lambda *done: seen.append(done))
    assert np.array_equal(images.pixels, pixels.reshape(n, 4, 4, 3))
    assert np.array_equal(images.content_keys(), lazy.content_keys())
    assert images.fingerprint == lazy.fingerprint
    assert seen == {0: [], 1: [(1, 1)], 2: [(2, 2)], 300: [(256, 300), (300, 300)]}[n]
    if n:
        assert images.name(n - 1) == lazy.name(n - 1)


def test_decoding_resizes_but_keeps_the_keys_of_the_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, side in enumerate((8, 16)):
        Image.fromarray(noise(1, side=side)[0]).save(tmp_path / f"{i}.png")
    lazy = open_inputs(tmp_path)
    with pytest.raises(InputError, match=r"0\.png is 8x8, 1\.png is 16x16: give Preprocess a size"):
        decoded(lazy, Preprocess())
    images = decoded(lazy, Preprocess(size=(8, 8)))
    assert images.pixels.shape == (2, 8, 8, 3)
    assert np.array_equal(images.content_keys(), lazy.content_keys())
    monkeypatch.setattr("exeunt.data.decode_all.ARRAY_BYTES", 383)
    assert decoded(lazy, Preprocess(size=(8, 8))).pixels is None


def test_images_that_cannot_be_read_are_told_apart_from_those_that_can(tmp_path: Path) -> None:
    for folder in ("train/a", "train/b", "val/a"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(2):
            (tmp_path / folder / f"{i}.png").write_bytes(encoded(noise(1, seed=i)[0]))
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"no image")
    (tmp_path / "val" / "a" / "1.png").write_bytes(b"")
    whole = open_source(tmp_path)
    source, unreadable = whole.without_unreadable()
    named = {part: [error.name for error in errors] for part, errors in unreadable.items()}
    assert named == {"train": ["train/a/0.png"], "test": ["val/a/1.png"]}
    assert [source.train.name(i) for i in range(3)] == ["train/a/1.png", "train/b/0.png", "train/b/1.png"]
    assert source.train.labels.tolist() == [0, 1, 1]
    ready = source.decoded(Preprocess(size=(8, 8)), cache=tmp_path / "cache")
    assert np.array_equal(ready.train.pixels, [noise(1, seed=i)[0] for i in (1, 0, 1)])
    assert ready.fingerprint == source.fingerprint != whole.fingerprint
    (tmp_path / "val" / "a" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the test images of .* can be read; cannot .*val/a/0\.png"):
        open_source(tmp_path).without_unreadable()


def test_the_cache_is_used_and_rebuilt_when_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image_table(tmp_path / "a.parquet", noise(20), [0] * 20)
    cache = tmp_path / "new" / "cache"
    first = decoded(open_source(path).train, Preprocess(), cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr("exeunt.data.decode_all.read_rgb", None)  # decoding would fail
        again = decoded(open_source(path).train, Preprocess(), cache=cache)
    assert isinstance(again.pixels, np.memmap)
    assert np.array_equal(again.pixels, first.pixels)
    assert np.array_equal(again.content_keys(), first.content_keys())
    files = sorted(cache.iterdir())
    assert len(files) == 2
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        repaired = decoded(open_source(path).train, Preprocess(), cache=cache)
        assert np.array_equal(repaired.pixels, first.pixels)
        assert file.read_bytes() == whole


def test_the_cache_tells_data_and_sizes_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_image_table(tmp_path / "a.parquet", noise(3, seed=seed), [0] * 3)
        train = open_source(tmp_path / "a.parquet").train
        for prepare in (Preprocess(size=(8, 8)), Preprocess(size=(4, 4))):
            images = decoded(train, prepare, cache=tmp_path / "cache")
            assert np.array_equal(images.pixels, [prepare.resize(p) for p in noise(3, seed=seed)])


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache() == tmp_path / "x" / "exeunt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == tmp_path / ".cache" / "exeunt"


def test_keys_of_images_that_stay_encoded_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image_table(tmp_path / "a.parquet", noise(5), [0] * 5)
    expected = open_source(path).train.content_keys()
    monkeypatch.setattr("exeunt.data.decode_all.ARRAY_BYTES", 0)
    view = decoded(open_source(path).train.take([3, 1]), Preprocess())
    assert np.array_equal(view.content_keys(), expected[[3, 1]])
    assert np.array_equal(view.take([1]).content_keys(), expected[[1]])
    keyed = decoded(open_source(path).train, Preprocess(), cache=tmp_path / "cache")
    monkeypatch.setattr("exeunt.data.decode_all.read_rgb", None)  # decoding would fail
    again = decoded(open_source(path).train, Preprocess(), cache=tmp_path / "cache")
    for images in (keyed, again):
        assert images.pixels is None
        assert np.array_equal(images.content_keys(), expected)
        assert np.array_equal(images.take([3, 1]).content_keys(), expected[[3, 1]])
