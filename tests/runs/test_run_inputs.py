"""Raw inputs become what the run's network takes, and what was not prepared is told apart where it can be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from exeunt.data import Preprocess
from exeunt.errors import UnreadableImage
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.runs.run_inputs import InputPreparation
from exeunt.runs.runner import Runner
from exeunt.score.confidence import NamedScore

image_module = pytest.importorskip("PIL.Image")

PREPARE = Preprocess(size=(6, 9), mode="pad", mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.5))
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 9, 3), dtype=np.uint8)
PICTURE = image_module.fromarray(PIXELS[0])


def preparation(entry, folder=Path(), columns=()):
    files = SimpleNamespace(check_folder=lambda _: None)
    manifest = {"inputs": entry, "data": {"text": list(columns)}}
    return InputPreparation(SimpleNamespace(manifest=manifest, path=folder, files=files))


@pytest.fixture
def images():
    return preparation({"kind": "image", **PREPARE.to_dict()})


def test_images_are_prepared_as_in_training_in_whatever_form_they_come(images, tmp_path):
    expected = np.stack([PREPARE.normalise(PREPARE.resize(image)) for image in PIXELS])
    files = [tmp_path / f"{place}.png" for place in range(4)]
    for file, image in zip(files, PIXELS, strict=True):
        image_module.fromarray(image).save(file)
    pictures = [image_module.fromarray(image) for image in PIXELS]
    mixed = [PIXELS[0], files[1], str(files[2]), pictures[3]]
    arrays = (PIXELS, list(PIXELS), tuple(PIXELS), iter(PIXELS))
    for form in (*arrays, files, [*map(str, files)], [file.read_bytes() for file in files], pictures, mixed):
        found = images(form)
        assert (found.dtype, found.shape) == (np.float32, (4, 3, 6, 9))
        np.testing.assert_array_equal(found, expected)
    assert images([]).shape == (0, 3, 6, 9)


def test_images_of_any_size_are_brought_to_that_of_the_network(images):
    large, grey = np.repeat(PIXELS[0], 2, axis=0), PIXELS[1][:, :, 0]
    expected = [PREPARE.normalise(PREPARE.resize(image)) for image in (large, grey)]
    np.testing.assert_array_equal(images([large, grey]), expected)
    free = preparation({"kind": "image", **Preprocess().to_dict()})
    assert free([large, large]).shape == (2, 3, 12, 9)
    with pytest.raises(ex.InputError, match="differ in size"):
        free([large, PIXELS[0]])


@pytest.mark.parametrize(
    ("one", "kind"),
    [(PIXELS[0], "ndarray"), ("cat.png", "str"), (PICTURE, "Image"), (7, "int"), ({"x": PIXELS}, "dict")],
)
def test_one_image_is_not_taken_for_many(images, one, kind):
    with pytest.raises(ex.InputError, match=rf"takes a list of images, got a {kind}: put it in a list"):
        images(one)


def test_an_image_that_cannot_be_read_is_named(images):
    for image, told in (
        ("no/such.png", r"cannot read the image no/such\.png: there is no such file"),
        (PIXELS[1] / 255, "the image number 1: pixels must be uint8 .* got float64"),
    ):
        with pytest.raises(UnreadableImage, match=told):
            images([PIXELS[0], image])


def texts(folder, columns=()):
    transformers = pytest.importorskip("transformers")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nbad")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "tokenizer")
    return preparation({"kind": "text", "folder": "tokenizer", "length": 4}, folder, columns)


def test_texts_become_tokens(tmp_path):
    prepare = texts(tmp_path)
    found = prepare(["good", "bad bad good"])
    assert found["input_ids"].tolist() == [[2, 5, 3, 0, 0], [2, 6, 6, 5, 3]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert all(isinstance(value, np.ndarray) for value in found.values())
    assert {value.shape[0] for value in prepare([]).values()} == {0}
    for wrong, told in (
        (["good", 7], "takes texts: give a list of str, got a int"),
        ("good", "takes a list of texts, got a str"),
        ([("good", "bad")], "takes texts: give a list of str, got a tuple of str, str"),
    ):
        with pytest.raises(ex.InputError, match=told):
            prepare(wrong)


def test_pairs_of_texts_become_tokens_of_both(tmp_path):
    pairs = texts(tmp_path, ("premise", "hypothesis"))
    found = pairs([("good", "bad bad"), ["bad", ""]])
    assert found["input_ids"].tolist() == [[2, 5, 3, 6, 6, 3], [2, 6, 3, 3, 0, 0]]
    assert found["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0]]
    assert {value.shape[0] for value in pairs([]).values()} == {0}
    takes = r"pairs of texts: give a list of \(premise, hypothesis\), got a "
    for wrong, kind in (
        (["good", "bad"], "str"),
        (("good", "bad"), "str"),
        ([("good", "bad"), ("good",)], "tuple of str"),
        ([("good", None)], "tuple of str, NoneType"),
        ([["good"] * 9], r"list of str, str, str, \.\.\."),
        ([()], "tuple of nothing"),
    ):
        with pytest.raises(ex.InputError, match=takes + kind + "$"):
            pairs(wrong)


def test_what_cannot_have_been_prepared_is_refused(images):
    prepared = images(PIXELS)
    free = prepared.copy()
    free[0, 0, 0, :3] = [-7, 9, np.nan]  # noise, and a row that will be flagged
    for fine in (prepared, prepared[:0], (prepared,), {"x": prepared}, free, PIXELS / 255.0, [7]):
        images.check(fine)
    raw = PIXELS.astype(np.float32)
    infinite = raw.copy()
    infinite[0, 0, 0, 0] = np.inf  # which rows are to be flagged is for the executor to say
    images.check(infinite)
    told = r"between 0 and 255, prepared images between -2 and 3.*runner\.prepare"
    for wrong in (raw, (raw,), {"x": raw}, PIXELS):
        with pytest.raises(ex.InputError, match=told):
            images.check(wrong)


class Flat:
    """An executor of one exit that reads the mean of an image."""

    name, device, restarts, n_exits, segments = "flat", "cpu", (), 1, ((0, 0),)
    border, mask_scale = 1e-5, 1

    def start(self, inputs):
        return inputs, np.ones(len(inputs), dtype=bool)

    def signature(self, state):
        return state.shape[1:]

    def run(self, segment, state, wanted):
        return [np.stack([state.mean(axis=(1, 2, 3)), np.zeros(len(state))], axis=1)], state

    def gather(self, parts):
        return np.concatenate([state if rows is None else state[rows] for state, rows in parts])


POLICY = ex.Policy(
    name="made", score=NamedScore("margin"), rates=np.ones(1), limits=Thresholds.of([(-NEVER, -NEVER)]),
    cost=ex.CostModel([1.0]), budget=1.0, calibration="made", n_calibration=0,
)  # fmt: skip


def test_a_runner_prepares_and_refuses_what_was_not(images):
    runner = Runner(Flat(), POLICY, preparation=images)
    prepared = runner.prepare(list(PIXELS))
    np.testing.assert_array_equal(runner(prepared).label, prepared.mean(axis=(1, 2, 3)) <= 0)
    raw = PIXELS.astype(np.float32)
    with pytest.raises(ex.InputError, match=r"runner\.prepare"):
        runner(raw)
    good, bad = runner.stream([prepared, raw], errors="skip")
    assert good.valid.all()
    assert "runner.prepare" in str(bad.error)
    assert (bad.n, bad.batch) == (4, 1)


def test_a_runner_without_a_run_folder_says_so():
    runner = Runner(Flat(), POLICY)
    assert runner(PIXELS.transpose(0, 3, 1, 2).astype(np.float32)).valid.all()
    with pytest.raises(ex.InputError, match=r"no run folder .* exeunt\.load"):
        runner.prepare([PIXELS[0]])
