from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exeunt.data import Images, Preprocess
from exeunt.data.stored_inputs import PixelArray
from exeunt.errors import InputError, UnreadableImage

RNG = np.random.default_rng(2)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["crop", "stretch", "pad"])
def test_an_image_of_the_right_size_is_untouched(mode: str) -> None:
    picture = noise(32, 32)
    kept = Preprocess(size=(32, 32), mode=mode, crop_share=0.875).resize(picture)
    assert np.array_equal(kept, picture)
    assert np.array_equal(Preprocess().resize(picture), picture)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["crop", "stretch", "pad"]),
    st.sampled_from([1.0, 0.875, 0.3]),
)
def test_any_size_becomes_the_size_asked_for(
    have: tuple[int, int], want: tuple[int, int], mode: str, share: float
) -> None:
    flat = np.full((*have, 3), 77, dtype=np.uint8)
    got = Preprocess(size=want, mode=mode, crop_share=share).resize(flat)
    assert got.shape == (*want, 3)
    assert got.dtype == np.uint8
    if mode != "pad":
        assert (got == 77).all()  # no black edges


def test_a_line_is_not_scaled_to_what_fills_the_memory() -> None:
    with pytest.raises(UnreadableImage, match=r"image a: its 1 x 20000 pixels would be 256 x 5120000 once"):
        Preprocess(size=(224, 224), crop_share=0.875).resize(np.zeros((1, 20000, 3), np.uint8), name="a")
    assert Preprocess(size=(224, 224)).resize(noise(1, 300)).shape == (224, 224, 3)


def test_crop_is_resize_of_the_shorter_side_then_centre() -> None:
    picture = noise(40, 60)
    got = Preprocess(size=(20, 20)).resize(picture)
    resized = np.asarray(Image.fromarray(picture).resize((30, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(got, resized[:, 5:25])


def test_crop_share_keeps_the_middle() -> None:
    picture = noise(64, 64)
    got = Preprocess(size=(28, 28), crop_share=0.875, interpolation="bicubic").resize(picture)
    resized = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(got, resized[2:30, 2:30])


def test_pad_keeps_the_whole_image() -> None:
    white = np.full((10, 20, 3), 255, dtype=np.uint8)
    got = Preprocess(size=(40, 40), mode="pad").resize(white)
    assert (got[10:30] == 255).all()
    assert (got[:10] == 0).all()
    assert (got[30:] == 0).all()


def test_normalise_is_mean_and_std_per_channel() -> None:
    prepare = Preprocess(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    picture = noise(5, 7)
    got = prepare.normalise(prepare.resize(picture))
    assert got.shape == (3, 5, 7)
    assert got.dtype == np.float32
    for c in range(3):
        expected = (picture[..., c] / 255 - prepare.mean[c]) / prepare.std[c]
        np.testing.assert_allclose(got[c], expected, rtol=0, atol=2e-6)
    batch = np.stack([picture, picture[::-1]])
    assert np.array_equal(prepare.normalise(batch)[0], got)


def test_measured_on_is_the_mean_and_std_of_all_pixels() -> None:
    pixels = RNG.integers(0, 256, (9, 4, 6, 3), dtype=np.uint8)
    pixels[..., 2] = 51
    images = Images(PixelArray(pixels, name=str))
    measured = Preprocess(size=(4, 6)).measured_on(images)
    np.testing.assert_allclose(measured.mean, (pixels / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(measured.std[:2], (pixels / 255).std((0, 1, 2))[:2], atol=1e-6)
    assert measured.std[2] == 1.0
    assert measured.size == (4, 6)
    some = Preprocess().measured_on(images, n_sample=3, seed=1)
    assert some == Preprocess().measured_on(images, n_sample=3, seed=1)
    assert some != Preprocess().measured_on(images, n_sample=3, seed=2)
    with pytest.raises(InputError, match="at least one image"):
        Preprocess().measured_on(images.take([]))


def test_json_round_trip() -> None:
    for prepare in (Preprocess(), Preprocess(size=(3, 5), mode="pad", std=(1, 2, 3))):
        assert Preprocess.from_dict(json.loads(json.dumps(prepare.to_dict()))) == prepare
    with pytest.raises(InputError, match="sizes"):
        Preprocess.from_dict({"sizes": 3})


@pytest.mark.parametrize(
    "wrong",
    [
        *({"size": size} for size in ((0, 3), (3,))),
        {"mode": "squash"},
        *({"crop_share": share} for share in (0.0, 1.1)),
        {"interpolation": "area"},
        *({"mean": mean} for mean in ((0, 0), (float("nan"), 0, 0))),
        *({"std": std} for std in ((0, 1, 1), (1, 1, float("inf")))),
    ],
)
def test_wrong_options_are_named(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Preprocess(**wrong)
