"""Where an exported network is cut: at its files' seams, or inside the graph that ONNX Runtime made of the whole.

On a processor ONNX Runtime keeps feature maps in blocks of channels and adds a shortcut inside the convolution
before it. Given stage by stage it must turn every state into the common layout and back, and cannot add a shortcut
that comes from outside: a ResNet-56 in 27 stages took 1.2 times its time at batch 64. So the whole network is
optimised first, and cut afterwards: each session gets operations as they were made for the whole, and the state is
handed on in whatever layout they chose. Rows can be dropped from it all the same.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.onnx.model_file import ELEMENT_TYPES, OnnxPart, joined, value_info

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from exeunt.engine.executor import Segments
    from exeunt.onnx.manifest import OnnxManifest, OnnxTensor
    from exeunt.onnx.model_file import Node

__all__ = ["OnnxCut", "cut_at_seams", "cut_optimised"]

_PROBES = (3, 5)  # numbers of rows that tell which axis of a tensor they are


@dataclass(frozen=True)
class OnnxCut:
    """One model per segment. `live`: tensors handed on behind each; `axis`: that of the rows, None if shared."""

    parts: tuple[OnnxPart, ...]
    live: tuple[tuple[str, ...], ...]
    axis: Mapping[str, int | None]
    optimised: bool


def cut_at_seams(manifest: OnnxManifest, parts: Sequence[OnnxPart], segments: Segments) -> OnnxCut:
    """Join the files of each segment's stages. It always works, and ONNX Runtime optimises each on its own."""
    live = tuple(manifest.live_after(last) for _, last in segments)
    axis = {name: tensor.batch_dim for name, tensor in manifest.tensors.items()}
    joint = tuple(joined(parts[first : last + 1]) for first, last in segments)
    return OnnxCut(joint, live, axis, optimised=False)


def cut_optimised(
    manifest: OnnxManifest, parts: Sequence[OnnxPart], segments: Segments, ort: Any
) -> OnnxCut | None:
    """Cut the graph that ONNX Runtime makes of the whole network.

    Returns None where that graph hands on something that rows cannot be dropped from.
    """
    logits = [stage.logits for stage in manifest.stages]
    whole = _optimised(joined(parts).model(logits), ort)
    if any(node.nests for node in whole.nodes):
        return None
    nodes = _by_segment(whole, logits, segments)
    live = _crossing(whole, nodes)
    crossing = dict.fromkeys(name for names in live for name in names if name not in whole.inputs)
    found = _probed(whole, manifest, list(crossing), ort)
    if found is None:
        return None
    axis, dtype = found
    for name in manifest.inputs:
        axis[name], dtype[name] = manifest.tensors[name].batch_dim, manifest.tensors[name].dtype
    pieces = tuple(
        _piece(whole, nodes[i], [logits[e] for e in range(first, last + 1)], live[i], dtype)
        for i, (first, last) in enumerate(segments)
    )
    return OnnxCut(pieces, tuple(live), axis, optimised=True)


def _optimised(model: bytes, ort: Any) -> OnnxPart:
    """Return what ONNX Runtime makes of a model on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3  # it warns that the file is for this machine
        options.optimized_model_filepath = str(file)
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return OnnxPart.read(file.read_bytes())


def _by_segment(whole: OnnxPart, logits: Sequence[str], segments: Segments) -> list[list[Node]]:
    """Put each operation into the first segment with an exit that needs it."""
    placed: set[Node] = set()
    nodes: list[list[Node]] = []
    for first, last in segments:
        needed = whole.needed(logits[first : last + 1])
        nodes.append([node for node in needed if node not in placed])
        placed.update(needed)
    return nodes


def _crossing(whole: OnnxPart, nodes: Sequence[Sequence[Node]]) -> list[tuple[str, ...]]:
    """Return the tensors made in or before each segment and taken after it."""
    made: dict[str, None] = dict.fromkeys(name for name in whole.inputs if name not in whole.weights)
    live = []
    for i, segment in enumerate(nodes):
        made |= dict.fromkeys(name for node in segment for name in node.makes)
        later = {name for after in nodes[i + 1 :] for node in after for name in node.takes}
        live.append(tuple(name for name in made if name in later))
    return live


def _probed(
    whole: OnnxPart, manifest: OnnxManifest, names: Sequence[str], ort: Any
) -> tuple[dict[str, int | None], dict[str, str]] | None:
    """Run the network on 3 and on 5 rows to see where each tensor has them, and of what type it is.

    Returns None where a tensor depends on the number of rows otherwise than by having as many rows.
    """
    if not names:
        return {}, {}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(whole.model(names), options, providers=["CPUExecutionProvider"])
    few, more = (
        session.run(list(names), {name: _zeros(manifest.tensors[name], rows) for name in manifest.inputs})
        for rows in _PROBES
    )
    axis: dict[str, int | None] = {}
    for name, small, large in zip(names, few, more, strict=True):
        if str(small.dtype) not in ELEMENT_TYPES or not _rows_at(small, large, name, axis):
            return None
    return axis, {name: str(value.dtype) for name, value in zip(names, few, strict=True)}


def _rows_at(small: NDArray[Any], large: NDArray[Any], name: str, axis: dict[str, int | None]) -> bool:
    """Enter the axis of a tensor's rows, seen with both numbers of rows; False if there is no clear one."""
    different = [i for i, sizes in enumerate(zip(small.shape, large.shape, strict=True)) if len({*sizes}) > 1]
    if not different:
        axis[name] = None
        return np.array_equal(small, large)
    axis[name] = different[0]
    return len(different) == 1 and (small.shape[different[0]], large.shape[different[0]]) == _PROBES


def _zeros(tensor: OnnxTensor, rows: int) -> NDArray[Any]:
    return np.zeros([rows if size is None else size for size in tensor.shape], dtype=tensor.dtype)


def _piece(
    whole: OnnxPart,
    nodes: Sequence[Node],
    logits: Sequence[str],
    live: Sequence[str],
    dtype: Mapping[str, str],
) -> OnnxPart:
    """Return the model of a segment, with whatever it may be asked for as its outputs."""
    made = {name for node in nodes for name in node.makes}
    taken = {name for node in nodes for name in node.takes if name in dtype and name not in made}
    given = [*logits, *(name for name in live if name in made)]
    return OnnxPart(
        whole.head,
        list(nodes),
        {name: whole.weights[name] for node in nodes for name in node.takes if name in whole.weights},
        {name: value_info(name, dtype[name], output=False) for name in taken},
        {name: value_info(name, dtype.get(name, "float32")) for name in given},
    )
