"""Images with masks: opened by name, checked, and brought to the size of the prepared images."""

from __future__ import annotations

import io
import struct
import zlib
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.pytorch.made_masks import HEIGHT, NAMES, WIDTH, png, scenes, write_folder, write_table

from exeunt.data import Preprocess, open_inputs, open_source, plan_split
from exeunt.data.masked_images import MaskedImages
from exeunt.errors import ExeuntWarning, InputError, UnreadableImage

PAIRS = scenes(6)


def jpeg(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "train", PAIRS[:4])
    write_folder(tmp_path / "test", PAIRS[4:])
    (tmp_path / "train" / "classes.txt").rename(tmp_path / "classes.txt")
    return tmp_path


def table_of(folder, pairs, **options):
    """The folder, with a table of these images and masks to train on."""
    write_table(folder / "train.parquet", pairs, **options)
    return folder


def with_cells(folder, cells):
    """The folder, with a table of images and other cells in the place of masks."""
    table = pq.read_table(table_of(folder, PAIRS) / "train.parquet").drop_columns("mask")
    pq.write_table(table.append_column("mask", cells), folder / "train.parquet")
    return folder


def train(folder, **options):
    return open_source(folder, masks=True, **options).dataset("train")


def test_folders_and_tables_hold_the_same(folder):
    tables = folder / "tables"
    tables.mkdir()
    write_table(tables / "train.parquet", PAIRS[:4])
    write_table(tables / "test.parquet", PAIRS[4:])
    for source in (open_source(folder, masks=True), open_source(tables, masks=True)):
        assert source.class_names == NAMES
        for part, pairs in (("train", PAIRS[:4]), ("test", PAIRS[4:])):
            data = source.dataset(part)
            assert isinstance(data, MaskedImages)
            found = data.targets(np.arange(len(pairs)), Preprocess())
            assert np.array_equal(found, [mask for _, mask in pairs])
            assert data.pixels_by_class().sum() == len(pairs) * HEIGHT * WIDTH


def test_a_folder_without_parts_is_to_train_on(tmp_path):
    write_folder(tmp_path, PAIRS)
    source = open_source(tmp_path, masks=True)
    assert (len(source.dataset("train")), source.test) == (6, None)


def test_classes_without_names_are_numbers(tmp_path):
    assert open_source(table_of(tmp_path, PAIRS, names=None), masks=True).class_names == ("0", "1", "2")


@pytest.mark.parametrize("ignored", ["bright", "1"])
def test_an_ignored_class_is_no_class(tmp_path, ignored):
    source = open_source(table_of(tmp_path, PAIRS), masks=True, ignored=ignored)
    assert source.class_names == ("ground", "striped")
    assert np.array_equal(source.dataset("train").codes(0), np.array([0, -1, 1])[PAIRS[0][1]])


def test_255_is_no_class(tmp_path):
    image, mask = PAIRS[0]
    mask = np.where(mask == 1, 255, mask).astype(np.uint8)
    codes = train(table_of(tmp_path, [(image, mask), PAIRS[1]])).codes(0)
    assert ((codes == -1) == (mask == 255)).all()


def test_masks_are_cut_and_scaled_as_images_are(tmp_path):
    image, mask = np.zeros((20, 40, 3), np.uint8), np.zeros((20, 40), np.uint8)
    image[5:15, 10:30], mask[5:15, 10:30] = 255, 2
    data = train(table_of(tmp_path, [(image, mask)]))
    for mode in ("crop", "stretch", "pad"):
        prepare = Preprocess(size=(16, 16), mode=mode)
        fitted = data.targets(np.arange(1), prepare)[0]
        bright = prepare.resize(image)[..., 0] > 127
        assert fitted.shape == (16, 16)
        assert ((fitted == 2) == bright).mean() > 0.95
        assert (fitted == -1).any() == (mode == "pad")


def test_decoded_images_keep_their_masks(folder):
    ready = open_source(folder, masks=True).decoded(Preprocess(size=(8, 12)))
    plan = plan_split(ready, fit=1, calibrate=1, seed=3)
    part = plan.select(ready, "train")
    found = part.targets(np.arange(len(part)), Preprocess(size=(HEIGHT, WIDTH)))
    assert np.array_equal(found, [PAIRS[row][1] for row in plan.indices("train")])


def test_the_fingerprint_covers_the_masks(tmp_path):
    image, mask = PAIRS[0]
    prints = set()
    for one in (mask, 2 - mask):
        prints.add(open_source(table_of(tmp_path, [(image, one)]), masks=True).fingerprint)
    assert len(prints) == 2


def repainted(value, places=(3, 5)):
    """The first image, whose mask has a value there."""
    mask = PAIRS[0][1].copy()
    mask[places] = value
    return PAIRS[0][0], mask


GONE = [{"bytes": None, "path": "gone.png"}] * 6
FILES = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.mark.parametrize(
    ("make", "given", "said"),
    [
        (table_of, [PAIRS[0], (PAIRS[1][0], PAIRS[1][1][:8])], "#1 has 8x24 pixels, and the image 16x24"),
        (table_of, [repainted(7)], r"the class 7 at row 3, column 5, and classes go from 0 to 2 \(ground"),
        (table_of, [repainted(255, slice(None))], "has no pixel of a class: leave the image out"),
        (partial(table_of, without=6), PAIRS, r"6 images of .* have no mask"),
        # A number would be opened as a file descriptor: 0 is the standard input.
        (with_cells, pa.array([0] * 6), r"column 'mask' holds int64, not masks.*--label-column"),
        (with_cells, pa.array(GONE, FILES), r"train.parquet#0 cannot be read: there is no file .*gone.png"),
    ],
)
def test_what_is_wrong_with_a_mask_of_a_table_is_named(tmp_path, make, given, said):
    with pytest.raises(InputError, match=said):
        train(make(tmp_path, given)).pixels_by_class()


def test_images_without_masks_are_named(folder):
    (folder / "train" / "masks" / "002.png").unlink()
    told = r"1 image of .* has no mask, such as train/images/002.png: add the mask"
    with pytest.raises(InputError, match=told):
        open_source(folder, masks=True)
    data = train(folder, unlabelled=True)
    assert (data.targets(np.array([2]), Preprocess(size=(HEIGHT, WIDTH))) == -1).all()
    assert data.without_some_labels().targets(np.array([1]), Preprocess()) is None


def test_masks_without_images_are_told(folder):
    masks = folder / "train" / "masks"
    for name in ("spare-2.png", "spare-1.png"):
        (masks / name).write_bytes((masks / "000.png").read_bytes())
    told = r"^2 masks have no image and are left out, such as .*train/masks/spare-1\.png"
    with pytest.warns(ExeuntWarning, match=told):
        assert len(train(folder)) == 4
    (masks / "spare-2.png").unlink()
    with pytest.warns(ExeuntWarning, match="^1 mask has no image and is left out"):
        train(folder)
    (masks / "spare-1.png").unlink()
    train(folder)  # warnings are errors


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (png(PAIRS[0][0]), "it holds RGB pixels"),
        (b"no image", "it is not an image in a format that Pillow knows"),
        (png(PAIRS[0][1])[:60], "cut"),
        (jpeg(PAIRS[0][1]), "it is a JPEG, which may change the values of pixels"),
    ],
)
def test_what_is_no_mask_is_named(folder, mask, why):
    (folder / "train" / "masks" / "001.png").write_bytes(mask)
    with pytest.raises(InputError, match=rf"(?s)mask of train/images/001.png cannot be read: .*{why}"):
        train(folder).pixels_by_class()


def test_images_that_cannot_be_read_are_left_to_whoever_decodes_them(folder):
    (folder / "train" / "images" / "001.png").write_bytes(png(PAIRS[1][0])[:60])
    source = open_source(folder, masks=True)
    assert source.dataset("train").pixels_by_class().sum() == 3 * HEIGHT * WIDTH
    with pytest.raises(UnreadableImage, match=r"train/images/001.png: .*damaged or cut off"):
        source.decoded(Preprocess(size=(8, 12)))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (b"", "classes.txt is empty: write the name of a class in each line"),
        (b"\xff\xfea", "classes.txt is no text in UTF-8"),
        (b"ground\nbright\nground\n", "several classes of the masks have the name 'ground'"),
    ],
)
def test_a_file_without_names_of_classes_is_refused(folder, names, why):
    (folder / "classes.txt").write_bytes(names)
    with pytest.raises(InputError, match=why):
        open_source(folder, masks=True)


def test_a_folder_without_images_is_named(folder):
    for file in (folder / "train" / "images").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"train/images holds no images"):
        open_source(folder, masks=True)


def test_masks_are_no_inputs_to_predict_and_no_classes_of_images(folder):
    for whole in (folder, folder / "test"):
        with pytest.raises(InputError, match=r"holds images and masks: give the images alone, .*/images"):
            open_inputs(whole)
    assert len(open_inputs(folder / "test" / "images")) == 2
    told = "holds images with masks, not folders of classes: say --task segment"
    with pytest.raises(InputError, match=told):
        open_source(folder)


def test_palettes_are_numbers_of_classes(folder):
    image = Image.fromarray(PAIRS[1][1], "P")
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    image.save(folder / "train" / "masks" / "001.png")
    assert np.array_equal(train(folder).codes(1), PAIRS[1][1])


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_values_of_few_bits_are_numbers_of_classes(folder, bits):
    """Pillow spreads them over 0 to 255."""
    each = 8 // bits
    rows = sum((PAIRS[1][1][:, k::each] << (8 - bits * (k + 1))) for k in range(each)).astype(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    (folder / "train" / "masks" / "001.png").write_bytes(file)
    assert np.array_equal(train(folder).codes(1), PAIRS[1][1])


def test_an_empty_folder_beside_the_parts_is_none_of_them(folder):
    (folder / "images").mkdir()
    assert len(train(folder)) == 4


def test_wrong_names_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    table = pq.read_table(table_of(tmp_path, PAIRS) / "train.parquet")
    table = table.replace_schema_metadata({"classes": "ground,bright"})
    pq.write_table(table, tmp_path / "odd.parquet")
    for name, options, said in (
        ("", {"ignored": "sky"}, "ignored class 'sky' is none of the data's: ground, bright, striped"),
        ("", {"label": "seg"}, "has no column 'seg'; its columns are image, mask"),
        ("nowhere", {}, "there is no data named"),
        ("empty", {}, "no images with masks in"),
        ("", {"calibration_data": tmp_path / "empty"}, "no images with masks in"),
        ("odd.parquet", {}, r"must name the classes as a JSON list of texts, such as .* got ground,bright"),
    ):
        with pytest.raises(InputError, match=said):
            open_source(tmp_path / name, masks=True, **options)


def test_other_images_with_masks_are_to_calibrate_on(tmp_path):
    write_table(tmp_path / "train.parquet", PAIRS[:4])
    write_table(tmp_path / "more.parquet", PAIRS[4:])
    source = open_source(tmp_path, masks=True, calibration_data=tmp_path / "more.parquet")
    assert source.asked_for
    assert len(source.dataset("validation")) == 2


def test_masks_move_with_their_images(tmp_path):
    torch = pytest.importorskip("torch")
    from exeunt.torch.loaders import ImageLoader

    data = train(table_of(tmp_path, PAIRS))
    plain, moved = (
        next(iter(ImageLoader(data, Preprocess(size=(HEIGHT, WIDTH)), batch_size=6, augment=augment)))
        for augment in ("none", "crop-flip")
    )
    assert not torch.equal(plain.label, moved.label)
    for images, masks in ((plain.inputs, plain.label), (moved.inputs, moved.label)):
        bright = images.amin(1) > 1
        assert ((masks == 1) == bright)[masks != 2].float().mean() > 0.99
    assert (moved.label == -1).any()
