"""Keys of content: of the values alone, whatever their type, layout, batch or padding; and their mean cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_executor import TraceExecutor
from xxhash import xxh3_64_intdigest

import exeunt as ex
from exeunt.engine.inputs import input_keys, padded_length, raw_rows
from exeunt.rules.catalogue import PRESETS
from exeunt.runs.runner import Runner

IMAGES = np.random.default_rng(0).normal(size=(9, 3, 5, 4)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(1, 50, (6, 8))
LENGTHS = np.array([8, 3, 1, 5, 5, 0])


def padded(width, *, left=False, rows=slice(None)):
    """The texts, with whatever lies in the padding, at this width."""
    shown = np.arange(width) < LENGTHS[:, None]
    tokens = np.where(shown, np.resize(TOKENS, (6, width)) * 0 + np.pad(TOKENS, ((0, 0), (0, width - 8))), 99)
    texts = {"input_ids": tokens, "attention_mask": shown.astype(np.int64), "token_type_ids": tokens % 2}
    return {name: (array[:, ::-1] if left else array)[rows] for name, array in texts.items()}


@given(st.lists(st.integers(0, 8), min_size=0, max_size=12))
def test_a_key_is_that_of_the_row_whatever_comes_with_it(rows):
    whole = input_keys(IMAGES, 9)
    assert len(set(whole.tolist())) == 9
    np.testing.assert_array_equal(input_keys(IMAGES[rows], len(rows)), whole[rows])


def test_a_key_is_the_hash_of_the_values_from_one_version_to_the_next():
    """Ties are broken by it: with another hash other inputs would answer early."""
    bytes_ = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for array, hashed in (
        (IMAGES, IMAGES), (TOKENS, TOKENS.astype("<i8")), (bytes_, bytes_), (bytes_.view(np.int8), bytes_),
        (bytes_ > 5, (bytes_ > 5).astype(np.uint8)),
    ):  # fmt: skip
        assert input_keys(array, len(array)).tolist() == [xxh3_64_intdigest(row.tobytes()) for row in hashed]
    first = xxh3_64_intdigest(TOKENS[0].tobytes())
    assert input_keys((TOKENS, IMAGES[:6]), 6)[0] == xxh3_64_intdigest(IMAGES[0].tobytes(), first)


def test_type_and_layout_do_not_count():
    whole = input_keys(IMAGES, 9)
    columns = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not columns.flags.c_contiguous
    for same in (columns, IMAGES.astype(np.float64), (IMAGES,), [IMAGES], {"x": IMAGES}):
        np.testing.assert_array_equal(input_keys(same, 9), whole)
    table = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(input_keys(np.asfortranarray(table), 2), input_keys(table, 2))
    for kind in (np.int16, np.int32, np.uint64):
        np.testing.assert_array_equal(input_keys(TOKENS.astype(kind), 6), input_keys(TOKENS, 6))
    half = IMAGES.astype(np.float16)
    np.testing.assert_array_equal(input_keys(half, 9), input_keys(half.astype(np.float32), 9))


def test_keys_of_raw_inputs_are_those_of_their_texts_or_pixels():
    """Raw inputs are objects: texts, tuples of texts, images whose sizes may differ."""
    images = [np.arange(6, dtype=np.uint8).reshape(shape) for shape in ((2, 3), (3, 2), (3, 2))]
    images[2] = np.asfortranarray(images[2])
    values = raw_rows(["one", "two", ("one", "two"), "('one', 'two')", ("two", "one"), *images, "one"])
    keys = input_keys(values, 9).tolist()
    assert len(set(keys)) == 7
    assert keys[0] == keys[8]
    assert keys[6] == keys[7]  # of one content, whatever its layout
    assert keys[:3] == [xxh3_64_intdigest(text.encode()) for text in ("'one'", "'two'", "('one', 'two')")]
    assert keys[5] == xxh3_64_intdigest(b"(2, 3)" + bytes(range(6)))


@pytest.mark.parametrize(
    ("tokens", "most", "length"),
    [
        (0, None, 8), (1, None, 8), (8, None, 8), (9, None, 16), (63, None, 64), (64, None, 64), (65, None, 96),
        (97, None, 128), (9, 12, 12), (12, 12, 12), (9, 16, 16), (100, 512, 128),
    ],
)  # fmt: skip
def test_texts_are_padded_to_few_lengths(tokens, most, length):
    assert padded_length(tokens, most) == length


def test_longer_texts_than_the_network_takes_are_refused():
    told = "^these texts have 13 tokens and the network takes 12: truncate them"
    with pytest.raises(ex.InputError, match=told):
        padded_length(13, 12)


def test_tensors_have_the_keys_of_arrays():
    torch = pytest.importorskip("torch")
    whole, images = input_keys(IMAGES, 9), torch.from_numpy(IMAGES)
    for same in (images, images.double(), images.contiguous(memory_format=torch.channels_last),
                 images.clone().requires_grad_(), {"x": images}):  # fmt: skip
        np.testing.assert_array_equal(input_keys(same, 9), whole)
    brain = images.bfloat16()  # a type that NumPy lacks
    np.testing.assert_array_equal(input_keys(brain, 9), input_keys(brain.float(), 9))
    np.testing.assert_array_equal(input_keys(torch.from_numpy(TOKENS), 6), input_keys(TOKENS, 6))


def test_every_array_of_an_input_counts():
    other = TOKENS[:, ::-1].copy()
    both = input_keys((TOKENS, other), 6)
    np.testing.assert_array_equal(both, input_keys({"a": TOKENS, "b": other}, 6))
    np.testing.assert_array_equal(both, input_keys({"b": other, "a": TOKENS}, 6))
    changed = other.copy()
    changed[2, 3] += 1
    assert (input_keys((TOKENS, changed), 6) == both).tolist() == [True, True, False, True, True, True]
    assert not (input_keys((other, TOKENS), 6) == both).any()


def test_the_padding_of_a_text_does_not_count():
    whole = input_keys(padded(8), 6)
    assert len(set(whole.tolist())) == 6
    for width in (8, 9, 32):
        np.testing.assert_array_equal(input_keys(padded(width), 6), whole)
    for row in range(6):
        alone = padded(max(8, LENGTHS[row]), rows=slice(row, row + 1))
        assert input_keys(alone, 1)[0] == whole[row]
    np.testing.assert_array_equal(input_keys(padded(9, left=True), 6), input_keys(padded(20, left=True), 6))


def test_a_mask_of_another_kind_is_an_array_like_others():
    texts = padded(8)
    cubes = {**texts, "attention_mask": np.ones((6, 8, 8), dtype=np.int64)}
    assert not (input_keys(cubes, 6) == input_keys(texts, 6)).any()
    pixels = {**texts, "pixels": IMAGES[:6]}
    assert not (input_keys(pixels, 6) == input_keys(texts, 6)).any()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        *((nothing, "got shapes") for nothing in ((), {}, 7)),
        (IMAGES[:8], r"arrays of 9 rows .*\(8, 3, 5, 4\).*: give id"),
        ([IMAGES, IMAGES[:8]], "arrays of 9 rows"),
        (np.array(["a"] * 9), "of type <U1 have no keys"),
        (np.array([None] * 9), "of type NoneType have no keys .*: give id"),
        (raw_rows([3] * 9), "of type int have no keys .*: give id"),
        (raw_rows([("one", 2)] * 9), "of type tuple have no keys .*: give id"),
        (raw_rows([["one"]] * 9), "of type list have no keys .*: give id"),
        (raw_rows([np.array(["one", None])] * 9), "of type ndarray have no keys .*: give id"),
    ],
)
def test_what_has_no_content_to_hash_is_refused(inputs, message):
    with pytest.raises(ex.InputError, match=message):
        input_keys(inputs, 9)


def test_no_inputs_have_no_keys():
    none = input_keys(IMAGES[:0], 0)
    assert (none.shape, none.dtype) == ((0,), np.uint64)


@given(st.integers(0, 2**63 - 1), st.integers(0, 191))
def test_keys_of_inputs_that_differ_in_one_bit_differ_in_half_of_theirs(value, bit):
    """Of 64 bits that each flip by chance, fewer than 8 or more than 56 do once in 10^10 times."""
    words = np.full((2, 3), value, dtype=np.uint64)
    words[1, bit // 64] ^= np.uint64(1 << (bit % 64))
    one, other = input_keys(words.view(np.int64), 2).tolist()
    assert 8 <= bin(one ^ other).count("1") <= 56


# -- their effect on the mean cost ----------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [ex.eero, PRESETS["patience"]])
def test_requests_of_one_row_cost_what_the_distribution_says(preset):
    """Half of the inputs are saturated: equal scores, equal streaks. Half of these are to leave early, by their ties.

    The bounds are exceeded by chance once in 10,000 times. Requests that are all numbered 0 share one tie, and so
    either all saturated ones leave early or none.
    """
    n, m = 1200, 3
    sure = np.random.default_rng(0).random(n) < 0.5
    logits = np.zeros((n, m, 2), dtype=np.float32)
    logits[:, :, 0] = np.where(sure[:, None], 900, np.linspace(0.1, 0.2, n)[:, None])
    logits[~sure, 1, 1] = 1  # and their prediction changes
    known = {"cost": ex.CostModel([1, 2, 9]), "label": np.zeros(n, dtype=int), "id": np.arange(n)}
    trace = ex.ExitTrace.from_logits(logits, **known)
    fit, calibrate, test = trace.split(fit=1 / 3, calibrate=1 / 3, test=1 / 3)
    inputs = np.column_stack([test.id, test.id]).astype(np.float64)
    policy = preset(fit, calibrate, budget=7.25, seed=1)
    assert policy.distribution.counts.max() < 320
    runner = Runner(TraceExecutor(logits), policy)
    low, high = (policy.distribution.batch_quantile(q, test.n) for q in (1e-4, 1 - 1e-4))
    cost = np.mean([runner(inputs[i : i + 1]).mean_cost for i in range(test.n)])
    assert low <= cost <= high
    numbered = runner(inputs, id=np.zeros(test.n, dtype=int)).mean_cost
    assert not low <= numbered <= high
