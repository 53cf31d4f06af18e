"""Whatever has a form in ONNX computes there what it computes in NumPy."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from made_stages import session
from onnx import helper

from exeunt.onnx.traced_array import _ELEMENTWISE, _LOGICAL, GraphWriter, TracedArray
from exeunt.score.confidence import entropy, log_softmax, margin, max_probability, softmax
from exeunt.score.learned import rank_between
from exeunt.score.tie_breaking import tie_breaks

VALUES = np.random.default_rng(0).dirichlet(np.ones(7), size=1)
COUNTS = np.array([0, 1, 2**63 + 5, 2**64 - 1], dtype=np.uint64)


def traced(function, *inputs):
    """Run a function of NumPy arrays as the graph that it writes."""
    writer = GraphWriter()
    with writer.branch() as branch:
        made = function(*(TracedArray(writer, f"in{i}", value) for i, value in enumerate(inputs)))
    described = [(f"in{i}", value) for i, value in enumerate(inputs)] + [(made.name, made)]
    kind = helper.np_dtype_to_tensor_dtype
    *given, output = (
        helper.make_tensor_value_info(name, kind(one.dtype), one.shape) for name, one in described
    )
    graph = helper.make_graph(branch.nodes, "traced", given, [output], branch.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (found,) = session(model).run(None, {f"in{i}": value for i, value in enumerate(inputs)})
    assert (found.shape, found.dtype) == (made.shape, made.dtype)
    return found


def check(function, *inputs, rtol=1e-12):
    with np.errstate(all="ignore"):
        expected = function(*inputs)
    np.testing.assert_allclose(traced(function, *inputs), expected, rtol=rtol)


INTEGER = (np.bitwise_xor, np.right_shift)


@pytest.mark.parametrize("ufunc", [u for u in _ELEMENTWISE if u not in INTEGER], ids=lambda u: u.__name__)
def test_elementwise(ufunc):
    if ufunc.nin == 1:
        signed = ufunc in (np.sign, np.floor, np.ceil, np.absolute)
        check(ufunc, VALUES - VALUES.mean() if signed else VALUES)
        return
    check(ufunc, VALUES, VALUES[:, ::-1].copy())
    check(lambda x: ufunc(x, 0.1), VALUES)
    check(lambda x: ufunc(np.float64(0.1), x), VALUES)
    check(lambda n: ufunc(n, 2.0), np.array([1, 2, 3]))


@pytest.mark.parametrize("ufunc", _LOGICAL, ids=lambda u: u.__name__)
def test_logical(ufunc):
    if ufunc.nin == 1:
        check(lambda x: ufunc(x > 0.1), VALUES)
    else:
        check(lambda x: ufunc(x > 0.1, x < 0.2), VALUES)


@pytest.mark.parametrize(
    "function",
    [
        softmax, log_softmax, margin, max_probability, entropy,
        lambda x: x.min(axis=1), lambda x: x.mean(axis=1), lambda x: x.sum(axis=1, keepdims=True),
        lambda x: x.argmax(axis=1) * 0.5, lambda x: (x == x.max(axis=1, keepdims=True)) * x,
        lambda x: np.max(x, axis=1) + np.sum(x, axis=1) - np.min(x, axis=1) + np.mean(x, axis=1),
        lambda x: np.argmax(x, axis=1), lambda x: np.clip(x, 0.1, 0.2), lambda x: np.where(x > 0.1, x, 0),
        lambda x: np.sort(x, axis=1)[:, -3], lambda x: np.partition(x, -2, axis=1)[:, -2:],
        lambda x: x[:, 1:4] - x[0, 2], lambda x: np.sort(x, axis=1)[:, ::-1][:, :2],
        lambda x: x[:, [6, 5, 4, 3, 2, 1, 0]], lambda x: (x > 0.1).sum(axis=1), lambda x: (x > 0.1).mean(axis=1),
        lambda x: np.where(x > 0.1, 1, 2).mean(axis=1), lambda x: (x > 0.1).argmax(axis=1),
        lambda x: x.sum(axis=(0, 1)), lambda x: x.argmax(axis=1).clip(0.5, 2.5),
        lambda x: np.clip(x, None, 0.2) - x.clip(0.1, None),
        lambda x: np.einsum("nk,nk->n", x, x), lambda x: np.negative(1 / x),
    ],
)  # fmt: skip
def test_functions_and_methods(function):
    check(function, VALUES)


def test_sorted_classes_of_one_and_ranks():
    check(margin, np.ones((1, 1)))
    knots = (0.1, 0.15, 0.1500001, 0.9)
    for score in (0.0, 0.1, 0.12, 0.15, 0.5, 0.9, 1.0):
        check(lambda x: rank_between(x, knots), np.array([score]), rtol=1e-9)


def test_ties_are_the_same_to_the_last_bit():
    for seed in (0, 7, 2**63 + 1):
        found = [traced(lambda key, seed=seed: tie_breaks(key, seed), COUNTS[i : i + 1])[0] for i in range(4)]
        assert found == tie_breaks(COUNTS, seed).tolist()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x > 0.1).max(axis=1), lambda x: np.sort(x > 0.1, axis=1),
        lambda x: np.isnan(x.argmax(axis=1)),
    ],
)  # fmt: skip
def test_what_onnx_does_not_compute_of_a_type_is_refused_before_a_file_is_written(function):
    with pytest.raises(TypeError, match=r"no .* of booleans in ONNX|isnan"):
        traced(function, VALUES)


CUBE = np.random.default_rng(1).random((3, 4, 5))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[1], lambda x: x[-1, 2], lambda x: x[1, :, 2], lambda x: x[:, -1], lambda x: x[:, 1:, ::2],
        lambda x: x[np.int64(2), 1:3, 4], lambda x: x[:, [2, 0, 2]], lambda x: x[[2, 0]], lambda x: x[:, :, [0, 3]],
        lambda x: x[()],
    ],
)  # fmt: skip
def test_indexing(function):
    check(function, CUBE)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[..., 0], lambda x: x[0, ...], lambda x: x[...], lambda x: x[None], lambda x: x[:, None],
        lambda x: x[True], lambda x: x[np.True_], lambda x: x[0, :, [0, 1]], lambda x: x[[0, 1], [0, 1]],
        lambda x: x[:, [[0, 1]]], lambda x: x[:, 1.0], lambda x: x["a"],
    ],
)  # fmt: skip
def test_indexing_of_other_kinds_is_refused(function):
    with pytest.raises(TypeError, match="there is no indexing by"):
        traced(function, CUBE)


def test_more_places_than_axes_and_changes_in_place_are_refused():
    with pytest.raises(IndexError):
        traced(lambda x: x[0, 0, 0, 0], CUBE)
    with pytest.raises(TypeError, match="add"):
        traced(lambda x: operator.iadd(x, 1.0), VALUES)
