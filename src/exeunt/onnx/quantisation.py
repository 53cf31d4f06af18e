"""Quantising exported stages to int8: those of images by the ranges that inputs show, those of texts in blocks.

Each stage stays an ordinary ONNX model with float tensors at its ends. Where ONNX Runtime optimises stages of images
joined, 8-bit integers cross the cuts (see `exeunt.onnx.cutting`).
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import ge
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.files import file_digest
from exeunt.errors import require
from exeunt.onnx.manifest import OnnxManifest, OnnxStage
from exeunt.onnx.model_file import OnnxGraph, join_graphs

_CHANNELS = 4
"""Channels that ONNX Runtime's 8-bit convolutions take at a time; fewer are copied one by one."""
_BLOCK = 128
"""Weights of a block: with 32, a layer takes a third longer."""
_IN_8_BITS = 4
"""ONNX Runtime's name for products of 8-bit integers."""


def quantise_export(
    source: Path, folder: Path, batches: Iterable[Mapping[str, NDArray[Any]]], *, reduce_range: bool = False
) -> None:
    """Write the stages of the export in `source` to `folder`, quantised to int8, with a manifest.

    `batches`: inputs by name, to measure the ranges of activations on; a few hundred inputs are enough. A network of
    texts does not need them. `reduce_range`: give the weights of images' networks 7 bits, so that two products of them
    fit into 16 bits.
    """
    onnx = require("onnx", extra="export")
    manifest = OnnxManifest.load(source)
    of_texts = any(tensor.pad is not None for tensor in manifest.tensors.values())
    with _without_advice():
        if of_texts:
            models = [_in_blocks(onnx.load(source / stage.file)) for stage in manifest.stages]
        else:
            models = _by_ranges(onnx, source, manifest.stages, iter(batches), reduce_range)
    written = []
    for stage, model in zip(manifest.stages, models, strict=True):
        onnx.save(model, folder / stage.file)
        written.append(replace(stage, sha256=file_digest(folder / stage.file)))
    replace(manifest, stages=tuple(written)).save(folder)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hide what quantisers log: advice, and a line for each layer. One of them sets up logging when it is imported."""
    logger = logging.getLogger()
    level, handlers, disabled = logger.level, logger.handlers[:], logger.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logger.setLevel(level)
        logger.handlers[:] = handlers


def _by_ranges(
    onnx: Any,
    source: Path,
    stages: Sequence[OnnxStage],
    batches: Iterator[Mapping[str, NDArray[Any]]],
    reduce_range: bool,
) -> list[Any]:
    """Return stages with weights per channel and activations by their ranges, both in 8 bits, or weights in 7.

    The whole network is quantised at once, so that both sides of a cut agree on the scale of what crosses it. Then it
    is cut into stages again.
    """
    tools = require("onnxruntime.quantization", extra="export")
    graphs = [OnnxGraph.read((source / stage.file).read_bytes()) for stage in stages]
    model = onnx.load_from_string(join_graphs(graphs).model(stage.logits for stage in stages))
    _average_by_convolution(onnx, model)
    fillings = _fill_channels(onnx, model)
    with tempfile.TemporaryDirectory() as temporary:
        plain, quantised = Path(temporary) / "plain.onnx", Path(temporary) / "int8.onnx"
        onnx.save(model, plain)
        tools.quantize_static(
            plain,
            quantised,
            SimpleNamespace(get_next=lambda: next(batches, None)),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            nodes_to_exclude=fillings,
        )
        extractor = onnx.utils.Extractor(onnx.load(quantised))
    return [extractor.extract_model(list(stage.takes), list(stage.gives)) for stage in stages]


def _in_blocks(stage: Any) -> Any:
    """Return a stage with the weights of its layers in 8 bits, in blocks with a scale each.

    Activations are rounded when it runs, each token by scales of its own: a few tokens have values hundreds of times as
    large as the others', and one range for all of them would leave the others no digits.
    """
    tools = require("onnxruntime.quantization.matmul_nbits_quantizer", extra="export")
    options = tools.DefaultWeightOnlyQuantConfig(
        block_size=_BLOCK, is_symmetric=True, accuracy_level=_IN_8_BITS, bits=8
    )
    quantiser = tools.MatMulNBitsQuantizer(stage, algo_config=options)
    quantiser.process()
    return quantiser.model.model


def _average_by_convolution(onnx: Any, model: Any) -> None:
    """Make average pools convolutions with equal weights, which ONNX Runtime computes in 8 bits without rearranging.

    All heads of a ResNet-20 together took 70% of the network's own time at batch 256, and take 30% so.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    known = {tensor.name: tensor.type.tensor_type for tensor in inferred}
    for node in model.graph.node:
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
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
        shape = {"kernel_shape": size, "strides": size, "group": channels}
        node.CopyFrom(onnx.helper.make_node("Conv", [node.input[0], name], list(node.output), **shape))


def _fill_channels(onnx: Any, model: Any) -> list[str]:
    """Give convolutions of an image empty channels, up to four, for which ONNX Runtime has fast 8-bit kernels.

    Answers stay the same: the weights of these channels are 0. Returns the names of the nodes that add them. The first
    convolution of a ResNet-20 took 0.034 of the network's 0.195 ms per image at batch 128; with four channels it takes
    0.010. Convolutions whose windows do not overlap would take longer and stay as they are.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    users = Counter(name for node in model.graph.node for name in node.input)
    names = []
    for node in list(model.graph.node):
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
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(before_and_after.ravel(), f"{name}/sizes")
        )
        filling = onnx.helper.make_node("Pad", [node.input[0], f"{name}/sizes"], [name], name)
        model.graph.node.insert(list(model.graph.node).index(node), filling)
        node.input[0] = name
        names.append(name)
    return names


def _options(onnx: Any, node: Any) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
