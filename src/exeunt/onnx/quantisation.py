"""Quantising exported stages to int8: static, weights per channel, activations by the ranges that inputs show.

The whole network is quantised at once, so that both sides of a cut agree on the scale of what crosses it. Then it is
cut into stages again. Each is an ordinary ONNX model with float tensors at its ends, and where ONNX Runtime optimises
the stages joined, 8-bit integers cross the cuts (see `exeunt.onnx.cutting`).
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.errors import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from exeunt.onnx.manifest import OnnxManifest

__all__ = ["quantised_stages"]


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
    with tempfile.TemporaryDirectory() as folder:
        plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        onnx.save(whole, plain)
        with _without_advice():
            tools.quantize_static(
                plain, quantised, _reader(tools, batches),
                quant_format=tools.QuantFormat.QDQ, per_channel=True,
                activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
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
        options: dict[str, Any] = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
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
