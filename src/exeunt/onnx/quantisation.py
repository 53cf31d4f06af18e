"""Quantising exported stages to int8: static, weights per channel, activations by the ranges that inputs show.

The whole network is quantised at once, so that both sides of a cut agree on the scale of what crosses it. Then it is
cut into stages again. Each is an ordinary ONNX model with float tensors at its ends, and where ONNX Runtime optimises
the stages joined, 8-bit integers cross the cuts (see `exeunt.onnx.cutting`).
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import ge
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exeunt.errors import require

if TYPE_CHECKING:
    from exeunt.onnx.manifest import OnnxManifest

__all__ = ["quantised_stages"]

_CHANNELS = 4
"""Channels that ONNX Runtime's 8-bit convolutions take at a time; fewer are copied one by one."""


def quantised_stages(
    stages: Sequence[Any], manifest: OnnxManifest, batches: Iterable[Mapping[str, NDArray[Any]]]
) -> list[Any]:
    """Return the stages, `onnx.ModelProto`s, quantised to int8.

    `batches`: inputs by name, to measure the ranges of activations on; a few hundred inputs will do.
    """
    onnx = require("onnx", extra="export")
    tools = require("onnxruntime.quantization", extra="export")
    whole = _joined(onnx, stages, manifest)
    _average_by_convolution(onnx, whole)
    fillings = _fill_channels(onnx, whole)
    with tempfile.TemporaryDirectory() as folder:
        plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        onnx.save(whole, plain)
        with _without_advice():
            tools.quantize_static(
                plain, quantised, _reader(tools, batches),
                quant_format=tools.QuantFormat.QDQ, per_channel=True,
                activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
                nodes_to_exclude=fillings,
            )  # fmt: skip
        extractor = onnx.utils.Extractor(onnx.load(quantised))
    return [extractor.extract_model(list(stage.takes), list(stage.gives)) for stage in manifest.stages]


def _joined(onnx: Any, stages: Sequence[Any], manifest: OnnxManifest) -> Any:
    """Return one model of all stages, whose names are distinct, with the logits of every exit as outputs."""
    whole = onnx.ModelProto()
    whole.CopyFrom(stages[0])
    for stage in stages[1:]:
        whole.graph.node.extend(stage.graph.node)
        known = {weight.name for weight in whole.graph.initializer}
        whole.graph.initializer.extend(w for w in stage.graph.initializer if w.name not in known)
    given = {value.name: value for stage in stages for value in (*stage.graph.input, *stage.graph.output)}
    del whole.graph.input[:], whole.graph.output[:]
    whole.graph.input.extend(given[name] for name in manifest.inputs)
    whole.graph.output.extend(given[stage.logits] for stage in manifest.stages)
    # Stages name their numbers of rows each for itself.
    for value in (*whole.graph.input, *whole.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    return whole


def _average_by_convolution(onnx: Any, whole: Any) -> None:
    """Make average pools convolutions with equal weights, which ONNX Runtime computes in 8 bits without rearranging.

    All heads of a ResNet-20 together took 70 % of the network's own time at batch 256, then 30 %.
    """
    known = {
        value.name: value.type.tensor_type
        for value in onnx.shape_inference.infer_shapes(whole).graph.value_info
    }
    for node in whole.graph.node:
        options = _options(onnx, node)
        size: list[int] = options.get("kernel_shape") or []
        plain = (
            options.get("strides") == size
            and not any(options.get("pads", ()))
            and not options.get("ceil_mode")
        )
        if node.op_type != "AveragePool" or not plain or node.input[0] not in known:
            continue
        channels = known[node.input[0]].shape.dim[1].dim_value
        weights = np.full((channels, 1, *size), 1 / np.prod(size), dtype=np.float32)
        name = f"{node.output[0]}/average"
        whole.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
        node.CopyFrom(
            onnx.helper.make_node(
                "Conv",
                [node.input[0], name],
                list(node.output),
                kernel_shape=size,
                strides=size,
                group=channels,
            )
        )


def _fill_channels(onnx: Any, whole: Any) -> list[str]:
    """Give convolutions of an image empty channels, up to four, which ONNX Runtime has a fast way for in 8 bits.

    Answers stay the same: the weights of these channels are 0. Returns the names of the nodes that add them. The first
    convolution of a ResNet-20 took .034 of the network's .195 ms per image at batch 128; with four channels it takes
    .010. Where windows do not overlap, it would take longer.
    """
    weights = {weight.name: weight for weight in whole.graph.initializer}
    users = Counter(name for node in whole.graph.node for name in node.input)
    names = []
    for node in list(whole.graph.node):
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or users[weight.name] > 1 or weight.dims[1] >= _CHANNELS:
            continue
        options = _options(onnx, node)
        strides = options.get("strides") or [1] * len(weight.dims[2:])
        if options.get("group", 1) > 1 or any(map(ge, strides, weight.dims[2:])):
            continue
        values = onnx.numpy_helper.to_array(weight)
        before_and_after = np.zeros((2, values.ndim), dtype=np.int64)
        before_and_after[1, 1] = _CHANNELS - values.shape[1]
        name = f"{node.output[0]}/filled"
        weight.CopyFrom(onnx.numpy_helper.from_array(np.pad(values, before_and_after.T), weight.name))
        whole.graph.initializer.append(
            onnx.numpy_helper.from_array(before_and_after.ravel(), f"{name}/sizes")
        )
        filling = onnx.helper.make_node("Pad", [node.input[0], f"{name}/sizes"], [name], name)
        whole.graph.node.insert(list(whole.graph.node).index(node), filling)
        node.input[0] = name
        names.append(name)
    return names


def _options(onnx: Any, node: Any) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the quantiser's advice, on the root logger, to fold what the exporter has folded already."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reader(tools: Any, batches: Iterable[Mapping[str, NDArray[Any]]]) -> Any:
    """Return the batches as what ONNX Runtime's quantiser reads."""

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: np.asarray(value) for name, value in batch.items()}

    return Reader()
