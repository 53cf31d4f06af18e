from __future__ import annotations

import io
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exeunt._support import paths
from exeunt.data.read_image import read_rgb
from exeunt.errors import FileError, UnreadableImage

NO_DISK = Path("/proc/self/mem")  # reading it from its beginning is an input/output error

RNG = np.random.default_rng(1)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_path_bytes_image_and_array_agree(tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLOUR), tmp_path / "a.webp", lossless=True)
    for given in (path, path.read_bytes(), Image.open(path), COLOUR):
        assert np.array_equal(read_rgb(given), COLOUR)


def test_grey_and_bilevel_are_repeated_over_the_channels(tmp_path: Path) -> None:
    grey = read_rgb(saved(Image.fromarray(GREY), tmp_path / "grey.png"))
    assert np.array_equal(grey, np.stack([GREY] * 3, axis=2))
    bits = read_rgb(saved(Image.fromarray(GREY > 127), tmp_path / "bits.png"))
    assert np.array_equal(bits[..., 1], np.where(GREY > 127, 255, 0))
    assert np.array_equal(read_rgb(GREY), grey)
    assert np.array_equal(read_rgb(GREY[..., None]), grey)


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
    alpha[0] = 0
    path = saved(Image.fromarray(np.dstack([COLOUR, alpha])), tmp_path / "alpha.png")
    share = alpha[..., None] / 255
    expected = COLOUR * share + 255 * (1 - share)
    got = read_rgb(path)
    assert np.abs(got - expected).max() <= 1
    assert (got[0] == 255).all()


def test_grey_alpha_and_transparent_palette_are_laid_on_white(tmp_path: Path) -> None:
    clear = np.zeros((6, 9), dtype=np.uint8)
    both = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(clear)])
    assert (read_rgb(saved(both, tmp_path / "la.png")) == 255).all()
    indexed = Image.new("P", (3, 2), 0)
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    path = saved(indexed, tmp_path / "p.gif", transparency=0)
    assert (read_rgb(path) == 255).all()


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 65535], [128, 129, 32896]], dtype=np.uint16)
    for ending in ("png", "tiff"):
        got = read_rgb(saved(Image.fromarray(deep), tmp_path / f"deep.{ending}"))
        assert np.array_equal(got[..., 0], [[0, 1, 255], [0, 1, 128]])
        assert np.array_equal(got[..., 0], got[..., 2])


def test_floats_in_the_unit_interval_are_scaled_and_others_refused(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    path = saved(Image.fromarray(values), tmp_path / "f.tiff")
    assert read_rgb(path)[0, :, 0].tolist() == [0, 128, 255]
    for bad in (values * 255, values - 1, values * np.nan):
        path = saved(Image.fromarray(bad), tmp_path / "bad.tiff")
        with pytest.raises(UnreadableImage, match="convert it to 8 bits"):
            read_rgb(path, name="bad.tiff")


def test_wide_integers_are_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), tmp_path / "i.tiff")
    with pytest.raises(UnreadableImage, match="70000"):
        read_rgb(path)


def test_cmyk_and_ycbcr(tmp_path: Path) -> None:
    flat = Image.new("RGB", (16, 16), (200, 60, 20))
    for mode in ("CMYK", "YCbCr"):
        path = saved(flat.convert(mode), tmp_path / f"{mode}.jpg", quality=100)
        assert np.abs(read_rgb(path).astype(int) - [200, 60, 20]).max() <= 6


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, COLOUR),
        (2, COLOUR[:, ::-1]),
        (3, np.rot90(COLOUR, 2)),
        (6, np.rot90(COLOUR, 3)),
        (8, np.rot90(COLOUR)),
    ],
)
def test_exif_rotation_is_carried_out(tmp_path: Path, orientation: int, expected: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(COLOUR), tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_rgb(path), expected)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if ending == "webp" else {}
    path = tmp_path / f"moving.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert (read_rgb(path) == [255, 0, 0]).all()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tiff", "ppm"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path: Path, ending: str, share: float) -> None:
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, {"jpg": "jpeg"}.get(ending, ending))
    whole = stream.getvalue()
    path = tmp_path / f"half.{ending}"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UnreadableImage, match="half") as caught:
        read_rgb(path, name=path.name)
    assert caught.value.name == path.name


def test_a_flipped_byte_of_a_png_is_an_error(tmp_path: Path) -> None:
    """Pillow does not check the checksums of the pixels: it reads other ones."""
    smooth = Image.fromarray(COLOUR[:4, :4]).resize((16, 16), Image.Resampling.BICUBIC)
    whole = saved(smooth, tmp_path / "a.png").read_bytes()
    changed = 0
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]
        with pytest.raises(UnreadableImage):
            read_rgb(flipped)
        with suppress(Exception):
            changed += np.any(np.asarray(Image.open(io.BytesIO(flipped))) != np.asarray(smooth))
    assert changed > 5


@pytest.mark.parametrize("cut", [0, 1, 4, 11])
def test_a_png_without_its_end_is_refused(tmp_path: Path, cut: int) -> None:
    whole = saved(Image.fromarray(COLOUR), tmp_path / "a.png").read_bytes()
    assert np.array_equal(read_rgb(whole + b"what follows is not read"), COLOUR)
    with pytest.raises(UnreadableImage, match="damaged or cut off"):
        read_rgb(whole[: -12 + cut])


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    wrong = [np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros(3, np.uint8)]
    for given, said in (
        (tmp_path / "gone.png", r"a\.png.*no such file"),
        (b"hello there", "not an image"),
        (tmp_path, "a.png"),
        *((array, "pixels") for array in wrong),
    ):
        with pytest.raises(UnreadableImage, match=said):
            read_rgb(given, name="a.png")


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png", "damaged")))
    assert (error.name, error.reason) == ("a.png", "damaged")
    assert isinstance(error, ValueError)
    assert str(error) == "cannot read the image a.png: damaged"


@pytest.mark.parametrize("ending", ["png", "jpeg", "webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image(ending: str) -> None:
    for exif in (b"Exif\0\0garbage", b"xx", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), "white").save(stream, ending, exif=exif)
        assert (read_rgb(stream.getvalue()) == 255).all()


@pytest.mark.skipif(not NO_DISK.exists(), reason="needs a file that cannot be read")
def test_a_disk_that_does_not_answer_is_asked_again_and_is_no_fault_of_the_image(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.symlink_to(NO_DISK)
    monkeypatch.setattr(paths, "_PAUSES_S", (0, 0))
    with pytest.raises(FileError, match=r"cannot read .*a\.png: OSError: .*Input/output error"):
        read_rgb(path)

    def mended(_: float) -> None:
        path.unlink()
        saved(Image.fromarray(COLOUR), path)

    monkeypatch.setattr(paths.time, "sleep", mended)
    assert np.array_equal(read_rgb(path), COLOUR)
