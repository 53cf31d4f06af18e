from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from PIL import Image

from exeunt.data import Images, Preprocess, Texts, open_inputs
from exeunt.data.stored_inputs import ImageFiles, PixelArray, StoredTexts, TableColumn
from exeunt.errors import InputError, UnreadableImage, UnreadableText
from exeunt.torch.batches import shared
from exeunt.torch.loaders import ImageLoader, LoadedBatch, TextLoader, crop_flip, make_loader, resized_crop

if TYPE_CHECKING:
    from pathlib import Path

PREPARE = Preprocess(mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3))


def pictures(n: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def images(n: int, *, labelled: bool = True) -> Images:
    labels = np.arange(n) % 3 if labelled else None
    return Images(PixelArray(pictures(n), name=str), labels=labels, class_names=("a", "b", "c"))


def files(folder: Path, n: int) -> Images:
    """The same images as PNG files, to be decoded one by one."""
    for i, picture in enumerate(pictures(n)):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    paths = sorted(folder.glob("*.png"))
    return Images(ImageFiles(paths, root=folder), labels=np.arange(n) % 3, class_names=("a", "b", "c"))


def same(a: list[LoadedBatch], b: list[LoadedBatch]) -> bool:
    pairs = [zip(x, y, strict=True) for x, y in zip(a, b, strict=True)]
    return all(torch.equal(s, t) for pair in pairs for s, t in pair)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 10])
def test_in_order_every_input_comes_once_as_preprocess_makes_it(n: int) -> None:
    data = images(n)
    loader = ImageLoader(data, PREPARE, batch_size=5)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-n // 5)
    rows = [(x, y, key) for batch in batches for x, y, key in zip(*batch, strict=True)]
    assert len(rows) == n
    for batch in batches:
        assert [one.dtype for one in batch] == [torch.float32, torch.int64, torch.int64]
        assert batch.inputs.is_contiguous()
    assert all(batch.label is None for batch in ImageLoader(images(n, labelled=False), PREPARE, batch_size=5))
    for i, (x, y, key) in enumerate(rows):
        assert np.array_equal(x.numpy(), PREPARE.normalise(PREPARE.resize(data.content(i))))
        assert y == i % 3
        assert key.numpy().view(np.uint64) == data.content_keys([i])[0]


def test_shuffled_epochs_are_permutations_that_differ_and_repeat() -> None:
    def epoch(number: int, seed: int = 0) -> list[int]:
        loader = ImageLoader(images(60), PREPARE, batch_size=10, shuffle=True, seed=seed)
        loader.set_epoch(number)
        return [int(i) for _ in loader for i in loader.positions]

    orders = [epoch(0), epoch(1), epoch(0, seed=1)]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert len({tuple(order) for order in [*orders, list(range(60))]}) == 4
    assert epoch(1) == orders[1]


@pytest.mark.parametrize("augment", ["none", "crop-flip", "resized-crop"])
def test_a_resumed_run_sees_what_the_uninterrupted_one_saw(augment: str) -> None:
    def loader() -> ImageLoader:
        prepare = Preprocess(size=(8, 8))
        return ImageLoader(images(20), prepare, batch_size=8, shuffle=True, seed=3, augment=augment)

    uninterrupted, seen = loader(), []
    for epoch in range(3):
        uninterrupted.set_epoch(epoch)
        seen.append(list(uninterrupted))
    np.random.seed(5)  # noqa: NPY002 - global state must not matter
    torch.manual_seed(5)
    before, resumed = torch.get_rng_state(), loader()
    resumed.set_epoch(2)
    assert same(list(resumed), seen[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(seen[1], seen[2])


@pytest.mark.parametrize("n", [3, 24, 26])
@pytest.mark.parametrize("augment", ["none", "crop-flip", "resized-crop"])
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_shards_together_are_the_whole_batches(n, augment, world_size, shuffle) -> None:
    options = {"batch_size": 8, "shuffle": shuffle, "seed": 1, "augment": augment}
    prepare = Preprocess(size=(8, 8))
    shards: dict[int, list[LoadedBatch]] = {}
    for rank in range(world_size):
        loader = shared(ImageLoader(images(n), prepare, **options), rank, world_size)
        for share, batch in zip(loader.shares(), loader, strict=True):
            shards.setdefault(share.number, []).append(batch)
    columns = [zip(*shards[k], strict=True) for k in sorted(shards)]
    joined = [LoadedBatch(*map(torch.cat, rows)) for rows in columns]
    assert same(joined, list(ImageLoader(images(n), prepare, **options)))
    full = [[len(b.id) for b in shards[k]] for k in range(n // 8)]
    assert full == [[8 // world_size] * world_size] * (n // 8)


def test_processes_that_share_unevenly_give_every_input_once() -> None:
    """4 processes, batches of 6 and a last one of 2: two of them have nothing of it."""
    shares = [shared(ImageLoader(images(8), PREPARE, batch_size=6), rank, 4) for rank in range(4)]
    sizes = [[len(batch.id) for batch in loader] for loader in shares]
    assert sizes == [[1], [2, 1], [1], [2, 1]]
    assert sorted(i for loader in shares for _ in loader for i in loader.positions) == list(range(8))


def test_an_incomplete_batch_is_dropped_only_if_shuffled_and_not_alone() -> None:
    def sizes(n: int, **options: object) -> list[int]:
        loader = ImageLoader(images(n), PREPARE, batch_size=4, **options)
        found = [len(batch.id) for batch in loader]
        assert len(found) == len(loader)
        return found

    assert sizes(10) == [4, 4, 2]
    assert sizes(10, shuffle=True) == [4, 4]
    assert sizes(10, shuffle=True, drop_last=False) == [4, 4, 2]
    assert sizes(10, drop_last=True) == [4, 4]
    assert sizes(3, shuffle=True) == [3]
    assert sizes(0, shuffle=True) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_decoding_lazily_gives_the_batches_from_memory(tmp_path: Path, workers: int, augment: str) -> None:
    options = {"batch_size": 4, "shuffle": True, "drop_last": False, "augment": augment}
    lazy = ImageLoader(files(tmp_path, 10), PREPARE, workers=workers, **options)
    ready = ImageLoader(images(10), PREPARE, **options)
    for epoch in (0, 1):
        lazy.set_epoch(epoch)
        ready.set_epoch(epoch)
        assert same(list(lazy), list(ready))


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    for i, shape in enumerate([(5, 9), (8, 8), (20, 11)]):
        Image.fromarray(np.full((*shape, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    data = open_inputs(tmp_path)
    with pytest.raises(InputError, match="differ in size"):
        list(ImageLoader(data, Preprocess(), batch_size=3))
    prepare = Preprocess(size=(6, 4))
    (batch,) = ImageLoader(data, prepare, batch_size=3)
    for i in range(3):
        assert np.array_equal(batch.inputs[i].numpy(), prepare.normalise(prepare.resize(data.content(i))))
    assert np.array_equal(batch.id.numpy().view(np.uint64), data.content_keys())


def test_pixels_in_memory_are_resized_where_asked() -> None:
    prepare = Preprocess(size=(16, 16))
    (batch,) = ImageLoader(images(2), prepare, batch_size=2)
    assert np.array_equal(batch.inputs[1].numpy(), prepare.normalise(prepare.resize(images(2).content(1))))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_raised_by_name(tmp_path: Path, workers: int) -> None:
    data = files(tmp_path, 7)
    for bad in (1, 4, 5):
        (tmp_path / f"{bad:03}.png").write_bytes(b"no image")
    strict = ImageLoader(data, PREPARE, batch_size=2, workers=workers)
    with pytest.raises(UnreadableImage, match=r"001\.png"):
        list(strict)


def test_crop_flip_shifts_by_up_to_an_eighth_and_flips() -> None:
    batch = pictures(200, side=16)
    changed = crop_flip(torch.from_numpy(batch).permute(0, 3, 1, 2), np.random.default_rng(0))
    found = set()
    for before, after in zip(batch, changed.permute(0, 2, 3, 1).numpy(), strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
        changes = {
            (flip, top, left)
            for flip in (1, -1)
            for top in range(5)
            for left in range(5)
            if np.array_equal(padded[top : top + 16, left : left + 16][:, ::flip], after)
        }
        assert len(changes) == 1
        found |= changes
    assert {flip for flip, _, _ in found} == {1, -1}
    assert {top for _, top, _ in found} == {left for _, _, left in found} == set(range(5))


def test_resized_crop_has_the_size_and_the_seed_decides() -> None:
    picture = pictures(1, side=40)[0]
    picture.flags.writeable = False  # as decoded images are
    one, again, other = (resized_crop(picture, (16, 24), seed) for seed in (1, 1, 2))
    assert one.shape == (16, 24, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


class Words:
    """A tokeniser with the call signature of a Hugging Face one: a word is its length."""

    def __call__(
        self, texts, *, truncation, padding=False, max_length=None, return_tensors=None, verbose=True
    ):
        rows = [[len(word) for word in text.split()] for text in texts]
        if not truncation:
            return {"input_ids": rows}
        assert return_tensors == "np"
        width = max_length if padding == "max_length" else min(max_length or 99, max(map(len, rows)))
        ids = np.zeros((len(rows), width), np.int64)
        for padded, row in zip(ids, rows, strict=True):
            padded[: len(row)] = row[:width]
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}


def texts() -> Texts:
    column = pa.chunked_array([["a bb ccc", "dddd", "ee f", "a bb ccc"]])
    return Texts(TableColumn(column, name="t#{}".format), labels=np.array([0, 1, 1, 0]))


def test_texts_are_padded_to_the_longest_of_their_batch() -> None:
    first, second = TextLoader(texts(), Words(), batch_size=2)
    assert first.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert first.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert second.label.tolist() == [1, 0]
    assert first.id[0] == second.id[1] != first.id[1]
    loader = TextLoader(texts(), Words(), batch_size=4, max_length=2)
    (cut,) = loader
    assert cut.inputs["input_ids"].tolist()[0] == [1, 2]
    assert loader.cut.tolist() == [True, False, False, True]  # "ee f" has two words, and is whole
    assert loader.n_cut == 2


def cells(*values: object) -> Texts:
    return Texts(StoredTexts([TableColumn(values, name="t#{}".format)]))


def test_texts_of_similar_length_share_a_batch_and_every_text_comes_once() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 300)
    loader = TextLoader(cells(*(" ".join(["a"] * n) for n in lengths)), Words(), batch_size=8, by_length=True)
    padded, positions = 0, []
    for batch in loader:
        ids = batch.inputs["input_ids"]
        assert (ids > 0).sum(1).tolist() == lengths[loader.positions].tolist()
        padded += ids.numel()
        positions += loader.positions.tolist()
    assert sorted(positions) == list(range(300))
    assert padded < 1.1 * lengths.sum()


def test_shuffled_batches_of_similar_length_are_new_in_each_epoch_and_leave_no_length_out() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 1003)
    data = cells(*(" ".join(["a"] * n) for n in lengths))
    loader = TextLoader(data, Words(), batch_size=8, by_length=True, shuffle=True)
    left_out, orders = [], []
    for epoch in range(40):
        loader.set_epoch(epoch)
        order = loader.order()
        assert len(set(order.tolist())) == len(order) == 1000
        batches = lengths[order].reshape(-1, 8)
        assert batches.max(1).sum() * 8 < 1.1 * batches.sum()
        assert abs(np.corrcoef(np.arange(125), batches.mean(1))[0, 1]) < 0.5  # not the short ones first
        left_out += lengths[np.setdiff1d(np.arange(1003), order)].tolist()
        orders.append(order.tolist())
    assert len({tuple(order) for order in orders}) == 40
    assert 15 < np.mean(left_out) < 25  # of 120: as long as any others, 20 on average
    loader.set_epoch(0)
    assert loader.order().tolist() == orders[0]


def test_rows_that_are_no_texts_are_raised_by_name() -> None:
    with pytest.raises(UnreadableText, match="the text t#1: it is no text but int"):
        list(TextLoader(cells("a b", 7, ""), Words(), batch_size=3))


def test_a_text_without_tokens_is_one_unknown_token() -> None:
    """A tokeniser without special tokens gives none for an empty text, and a network cannot read nothing."""
    for given, mask in ((["a bb", ""], [[1, 1], [1, 0]]), ([""], [[1]])):
        (batch,) = TextLoader(cells(*given), Words(), batch_size=2)
        assert batch.inputs["attention_mask"].tolist() == mask


@pytest.fixture
def tokenizer(tmp_path: Path) -> transformers.BertTokenizerFast:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bb", "ccc", "dddd"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    return transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))


def test_pairs_of_texts_are_read_together(tokenizer: transformers.BertTokenizerFast) -> None:
    first, second = (TableColumn(cell, name="t#{}".format) for cell in (["a", "a"], ["ccc", "ccc dddd"]))
    loader = TextLoader(Texts(StoredTexts([first, second])), tokenizer, batch_size=2, max_length=5)
    (batch,) = loader
    assert batch.inputs["input_ids"].tolist() == [[2, 5, 3, 7, 3], [2, 5, 3, 7, 3]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]] * 2
    assert loader.cut.tolist() == [False, True]
    assert len(set(batch.id.tolist())) == 2


def test_a_hugging_face_tokeniser(tokenizer: transformers.BertTokenizerFast) -> None:
    (batch,) = make_loader(texts(), tokenizer, batch_size=4, max_length=8)
    assert batch.inputs["input_ids"].tolist()[:2] == [[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]]
    assert batch.inputs["attention_mask"].sum().item() == 5 + 3 + 4 + 5
