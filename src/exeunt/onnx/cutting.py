"""Cutting an exported network into segments: between its files, or inside the graph that ONNX Runtime optimised.

On a processor ONNX Runtime keeps feature maps in blocks of channels and adds a shortcut inside the convolution before
it. If it optimised each stage alone, it would convert every state to the common layout and back, and could not fuse a
shortcut that comes from an earlier stage: a ResNet-56 in 27 stages took 1.2 times as long at batch 64. So the whole
network is optimised first and cut afterwards. The state then has the layout of the optimised operations, and rows can
be dropped from it all the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt.engine.executor import Segments
from exeunt.engine.inputs import padded_length
from exeunt.onnx.manifest import OnnxManifest, OnnxTensor
from exeunt.onnx.model_file import ELEMENT_TYPES, Node, OnnxGraph, join_graphs, value_info

_MERGING = ["CommonSubexpressionElimination", "ShapeInputMerge"]
"""Optimisers of ONNX Runtime that read the number of rows once for all segments: no rows can be dropped from that."""
_PROBES = (3, 5)  # numbers of rows of two runs that show which axis of each tensor holds the rows


@dataclass(frozen=True)
class OnnxCut:
    """One graph per segment.

    `states`: names of the tensors passed on after each segment. `axis`: the axis of the rows by tensor, None for a
    tensor that all rows share. `optimised`: the graphs are parts of one that ONNX Runtime has optimised.
    """

    graphs: tuple[OnnxGraph, ...]
    states: tuple[tuple[str, ...], ...]
    axis: Mapping[str, int | None]
    optimised: bool


def cut_between_files(manifest: OnnxManifest, stages: Sequence[OnnxGraph], segments: Segments) -> OnnxCut:
    """Join the stages of each segment. This always works, but ONNX Runtime then optimises each segment alone."""
    states = tuple(manifest.state_after(last) for _, last in segments)
    axis = {name: tensor.batch_dim for name, tensor in manifest.tensors.items()}
    graphs = tuple(join_graphs(stages[first : last + 1]) for first, last in segments)
    return OnnxCut(graphs, states, axis, optimised=False)


def cut_optimised(
    manifest: OnnxManifest, stages: Sequence[OnnxGraph], segments: Segments, ort: Any
) -> OnnxCut | None:
    """Join all stages, let ONNX Runtime (`ort`) optimise the network, and cut its graph into the segments.

    Returns None if rows cannot be dropped from a tensor between two segments of that graph.
    """
    logits = [stage.logits for stage in manifest.stages]
    graph = _optimised(join_graphs(stages).model(logits), ort)
    if any(node.nests for node in graph.nodes):
        return None
    nodes = _by_segment(graph, logits, segments)
    states = _states(graph, nodes)
    inside = dict.fromkeys(name for names in states for name in names if name not in graph.inputs)
    axis: dict[str, int | None] = {name: manifest.tensors[name].batch_dim for name in manifest.inputs}
    dtype = {name: manifest.tensors[name].dtype for name in manifest.inputs}
    if inside and not _probe(graph, manifest, list(inside), ort, axis, dtype):
        return None
    graphs = tuple(
        _segment_graph(graph, nodes[i], logits[first : last + 1], states[i], dtype)
        for i, (first, last) in enumerate(segments)
    )
    return OnnxCut(graphs, tuple(states), axis, optimised=True)


def _optimised(model: bytes, ort: Any) -> OnnxGraph:
    """Return the graph that ONNX Runtime makes of a model on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3  # else it warns that the file is for this machine
        options.optimized_model_filepath = str(file)
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=_MERGING)
        return OnnxGraph.read(file.read_bytes())


def _by_segment(graph: OnnxGraph, logits: Sequence[str], segments: Segments) -> list[list[Node]]:
    """Return the nodes of each segment: a node belongs to the first segment with an exit that needs it."""
    placed: set[Node] = set()
    nodes: list[list[Node]] = []
    for first, last in segments:
        needed = graph.needed(logits[first : last + 1])
        nodes.append([node for node in needed if node not in placed])
        placed.update(needed)
    return nodes


def _states(graph: OnnxGraph, nodes: Sequence[Sequence[Node]]) -> list[tuple[str, ...]]:
    """Return the tensors that are made in or before each segment and taken after it."""
    tensors: dict[str, None] = dict.fromkeys(name for name in graph.inputs if name not in graph.weights)
    states = []
    for i, segment in enumerate(nodes):
        tensors |= dict.fromkeys(name for node in segment for name in node.makes)
        later = {name for after in nodes[i + 1 :] for node in after for name in node.takes}
        states.append(tuple(name for name in tensors if name in later))
    return states


def _probe(
    graph: OnnxGraph,
    manifest: OnnxManifest,
    names: Sequence[str],
    ort: Any,
    axis: dict[str, int | None],
    dtype: dict[str, str],
) -> bool:
    """Run the network on 3 and on 5 rows; enter the axis of the rows and the type of each tensor.

    Returns False if a tensor of 3 rows is anything but 3 rows of the tensor of 5, in shape or type.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(graph.model(names), options, providers=["CPUExecutionProvider"])
    tokens = padded_length(1, manifest.longest_text)
    few, more = (
        session.run(
            list(names), {name: _zeros(manifest.tensors[name], rows, tokens) for name in manifest.inputs}
        )
        for rows in _PROBES
    )
    for name, small, large in zip(names, few, more, strict=True):
        sizes = list(zip(small.shape, large.shape, strict=True))
        different = [i for i, (few_, more_) in enumerate(sizes) if few_ != more_]
        has_rows = len(different) == 1 and sizes[different[0]] == _PROBES
        is_shared = not different and np.array_equal(small, large)
        if str(small.dtype) not in ELEMENT_TYPES or not (has_rows or is_shared):
            return False
        axis[name], dtype[name] = different[0] if has_rows else None, str(small.dtype)
    return True


def _zeros(tensor: OnnxTensor, rows: int, tokens: int) -> NDArray[Any]:
    sizes = [
        size if size is not None else rows if axis == tensor.batch_dim else tokens
        for axis, size in enumerate(tensor.shape)
    ]
    return np.zeros(sizes, tensor.dtype)


def _segment_graph(
    graph: OnnxGraph,
    nodes: Sequence[Node],
    logits: Sequence[str],
    state: Sequence[str],
    dtype: Mapping[str, str],
) -> OnnxGraph:
    """Return the graph of a segment, with its logits and its state as outputs."""
    tensors = {name for node in nodes for name in node.makes}
    taken = {name for node in nodes for name in node.takes if name in dtype and name not in tensors}
    outputs = [*logits, *(name for name in state if name in tensors)]
    return OnnxGraph(
        graph.header,
        list(nodes),
        {name: graph.weights[name] for node in nodes for name in node.takes if name in graph.weights},
        {name: value_info(name, dtype[name], output=False) for name in taken},
        {name: value_info(name, dtype.get(name, "float32")) for name in outputs},
    )
