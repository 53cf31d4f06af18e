"""Models read, joined and cut, with the `onnx` package as the judge."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from exeunt.errors import ArtefactError  # noqa: E402
from exeunt.onnx.model_file import OnnxGraph, join_graphs, value_info  # noqa: E402

FLOAT = onnx.TensorProto.FLOAT


def model(takes, gives, weight, scale):
    """gives = takes * weight + takes; a second output is its negative."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Mul", [takes, weight], [f"{gives}/product"]),
        helper.make_node("Add", [f"{gives}/product", takes], [gives]),
        helper.make_node("Neg", [gives], [f"{gives}/negative"]),
    ]
    names = takes, gives, f"{gives}/negative"
    values = [helper.make_tensor_value_info(name, FLOAT, ["n", 2]) for name in names]
    weights = [onnx.numpy_helper.from_array(np.full(300, scale, np.float32)[:2], weight)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def run(data, outputs):
    onnx.checker.check_model(onnx.load_from_string(data))
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(outputs, {"x": np.array([[1, 2]], np.float32)})


def test_joined_models_compute_one_after_the_other_and_only_what_is_needed_is_kept():
    whole = join_graphs([OnnxGraph.read(model("x", "y", "w", 2)), OnnxGraph.read(model("y", "z", "w2", 4))])
    (z, minus_y) = run(whole.model(["z", "y/negative"]), ["z", "y/negative"])
    np.testing.assert_array_equal(z, [[15, 30]])
    np.testing.assert_array_equal(minus_y, [[-3, -6]])
    assert list(whole.inputs) == ["x"]
    few = OnnxGraph.read(whole.model(["y"]))
    assert [node.makes for node in few.nodes] == [("y/product",), ("y",)]
    assert list(few.weights) == ["w"]
    assert list(few.outputs) == ["y"]
    np.testing.assert_array_equal(run(whole.model(["y"]), ["y"])[0], [[3, 6]])


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_entries_of_inputs_are_as_onnx_writes_them(dtype):
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    written = onnx.GraphProto.FromString(value_info("some/name", dtype, output=False))
    assert written.input[0] == onnx.helper.make_tensor_value_info("some/name", kind, None)
    assert onnx.GraphProto.FromString(value_info("y", None)).output[0].name == "y"


SHAPES = {"float32": ["n", 3, 300], "int64": ["n", "t"], "float16": [7], "bool": []}


@pytest.mark.parametrize(("dtype", "shape"), SHAPES.items())
def test_what_is_declared_of_inputs_and_outputs_is_what_onnx_writes(dtype, shape):
    helper, kind = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    read = OnnxGraph.read(helper.make_model(graph).SerializeToString())
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    assert read.declared("x") == read.declared("y") == (dtype, sizes)
    assert read.declared("z") == (None, ())


def test_every_truncation_is_noticed():
    data = model("x", "y", "w", 2)
    whole = OnnxGraph.read(data)
    for size in range(len(data)):
        try:
            part = OnnxGraph.read(data[:size])
        except ArtefactError:
            continue
        assert part.nodes == whole.nodes  # cut behind the graph, between two fields


def test_graphs_inside_operations_are_seen():
    helper = onnx.helper
    identity = helper.make_node("Identity", ["x"], ["out"])
    out = helper.make_tensor_value_info("out", FLOAT, None)
    branch = helper.make_graph([identity], "b", [], [out])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", [], [])
    (found,) = OnnxGraph.read(helper.make_model(graph).SerializeToString()).nodes
    assert found.nests
    assert found.takes == ("c",)
