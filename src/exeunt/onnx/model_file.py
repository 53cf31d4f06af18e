"""Reading ONNX models, joining them, and writing parts of them.

An ONNX file is a Protocol Buffers message: a sequence of fields, each a number, a length and that many bytes
(https://protobuf.dev/programming-guides/encoding/). Only the graph and its nodes, weights, inputs and outputs are
parsed (https://onnx.ai/onnx/api/classes.html); their bytes are copied unchanged.
"""

# Why not the package `onnx`: version 1.23 with `ml_dtypes` adds 33 MB to the 78 MB of ONNX Runtime, which is all that
# running an export needs otherwise, and 0.06 s of processor time (0.15 s on the clock) to the import, against 0.003 s.
# It reads and writes a model of 105 MB faster, in 0.24 s against 0.42 s, but that happens once.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exeunt.errors import ArtefactError

_GRAPH = 7  # of ModelProto
_NODE, _NAME, _WEIGHT, _INPUT, _OUTPUT = 1, 2, 5, 11, 12  # of GraphProto
_NAME_OF = {_WEIGHT: 8, _INPUT: 1, _OUTPUT: 1}  # the field with the name, of TensorProto and ValueInfoProto
# Within the field of an input or output, whatever its number: its TypeProto.Tensor.
_VALUE_TYPE = (None, 2, 1)
_TAKEN, _MADE, _ATTRIBUTE = 1, 2, 5  # of NodeProto
_INNER_GRAPHS = (6, 11)  # of AttributeProto
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5

ELEMENT_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
}
"""TensorProto.DataType by the name of NumPy's type."""


@dataclass(frozen=True)
class Node:
    """One operation: the names of the tensors it takes and makes, and its bytes. `nests`: it contains graphs."""

    takes: tuple[str, ...]
    makes: tuple[str, ...]
    nests: bool
    raw: bytes


@dataclass(frozen=True)
class OnnxGraph:
    """The graph of a model. `header`: the rest of the model's bytes. `weights`, `inputs`, `outputs`: bytes by name."""

    header: bytes
    nodes: list[Node]
    weights: dict[str, bytes]
    inputs: dict[str, bytes]
    outputs: dict[str, bytes]

    @classmethod
    def read(cls, data: bytes) -> OnnxGraph:
        """Read a model's file. Raises ArtefactError if it is not an ONNX model, or truncated."""
        header, graphs = bytearray(), []
        for number, content, raw in _fields(data):
            if number == _GRAPH:
                graphs.append(content)
            else:
                header += raw
        graph = cls(bytes(header), [], {}, {}, {})
        named = {_WEIGHT: graph.weights, _INPUT: graph.inputs, _OUTPUT: graph.outputs}
        for number, content, raw in (field for stored in graphs for field in _fields(stored)):
            if number == _NODE:
                graph.nodes.append(_node(content, raw))
            elif number in named:
                name = next(text for field, text, _ in _fields(content) if field == _NAME_OF[number])
                named[number][name.decode()] = raw
        if not graph.nodes:
            raise ArtefactError("this is not an ONNX model: it has no graph with operations")
        return graph

    def declared(self, name: str) -> tuple[str | None, tuple[int | None, ...]]:
        """Return what the graph says of an input or output: its type by NumPy's name, and its sizes.

        None stands for a size that varies, and for another type than those in ELEMENT_TYPES.
        """
        kind = _inside(self.inputs.get(name) or self.outputs.get(name, b""), _VALUE_TYPE)
        element = next((_varint(raw, 1)[0] for number, _, raw in _fields(kind) if number == 1), 0)
        sizes = [content for number, content, _ in _fields(_inside(kind, [2])) if number == 1]
        names = {number: type_ for type_, number in ELEMENT_TYPES.items()}
        return names.get(element), tuple(
            next((_varint(raw, 1)[0] for number, _, raw in _fields(size) if number == 1), None)
            for size in sizes
        )

    def needed(self, names: Iterable[str]) -> list[Node]:
        """Return the nodes that are needed to compute these tensors, in order."""
        makers = {name: i for i, node in enumerate(self.nodes) for name in node.makes}
        needed: set[int] = set()
        pending = [makers[name] for name in names if name in makers]
        while pending:
            i = pending.pop()
            if i not in needed:
                needed.add(i)
                pending += [makers[name] for name in self.nodes[i].takes if name in makers]
        return [self.nodes[i] for i in sorted(needed)]

    def model(self, outputs: Iterable[str]) -> bytes:
        """Return the file of a model that computes these tensors (any of the graph) and nothing else."""
        names = dict.fromkeys(outputs)
        nodes = self.needed(names)
        taken = dict.fromkeys(name for node in nodes for name in node.takes)
        weights = [self.weights[name] for name in taken if name in self.weights]
        inputs = [self.inputs[name] for name in taken if name in self.inputs]
        output_infos = [self.outputs.get(name, value_info(name, None)) for name in names]
        graph = [*(node.raw for node in nodes), _field(_NAME, b"exeunt"), *weights, *inputs, *output_infos]
        return self.header + _field(_GRAPH, b"".join(graph))


def join_graphs(graphs: Sequence[OnnxGraph]) -> OnnxGraph:
    """Return one graph that runs the graphs one after the other and has all their outputs.

    A tensor that one graph makes and a later one takes must have the same name in both. No other tensors may share a
    name, except for weights that are equal. A tensor that no earlier graph makes becomes an input.
    """
    joined = OnnxGraph(graphs[0].header, [], {}, {}, {})
    for graph in graphs:
        joined.inputs.update((name, raw) for name, raw in graph.inputs.items() if name not in joined.outputs)
        joined.outputs.update(graph.outputs)
        joined.weights.update(graph.weights)
        joined.nodes.extend(graph.nodes)
    return joined


def rename_inputs(graph: Any, names: Mapping[str, str]) -> None:
    """Rename inputs of a graph of the package `onnx`, and where its nodes take them."""
    for tensor in graph.input:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def value_info(name: str, dtype: str | None, *, output: bool = True) -> bytes:
    """Return the bytes of an output (or input) of a graph, of any shape. `dtype`: of NumPy; None for no type."""
    content = _field(1, name.encode())
    if dtype is not None:
        content += _field(2, _field(1, _number(1 << 3 | _VARINT) + _number(ELEMENT_TYPES[dtype])))
    return _field(_OUTPUT if output else _INPUT, content)


def _node(content: bytes, raw: bytes) -> Node:
    names: Mapping[int, list[str]] = {_TAKEN: [], _MADE: []}
    nests = False
    for number, inside, _ in _fields(content):
        if number in names:
            names[number].append(inside.decode())
        elif number == _ATTRIBUTE:
            nests = nests or any(field in _INNER_GRAPHS for field, _, _ in _fields(inside))
    return Node(tuple(names[_TAKEN]), tuple(names[_MADE]), nests, raw)


def _fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each field's number, its content (empty unless it is bytes), and its bytes with number and length."""
    position = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        kind, content = tag & 7, b""
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _BYTES:
            size, position = _varint(data, position)
            content = data[position : position + size]
            position += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ArtefactError(f"this is not an ONNX model: it has a field of unknown kind {kind}")
        if position > len(data):
            raise ArtefactError("this ONNX model is truncated")
        yield tag >> 3, content, data[start:position]


def _inside(data: bytes, path: Iterable[int | None]) -> bytes:
    """Return the content of the field at a path of numbers, None for any; empty where there is none."""
    for wanted in path:
        data = next((content for number, content, _ in _fields(data) if wanted in (None, number)), b"")
    return data


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a number of seven bits per byte, lowest first. Returns the number and the position after it."""
    number = shift = 0
    while position < len(data):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if byte < 0x80:
            return number, position
    raise ArtefactError("this ONNX model is truncated")


def _field(number: int, content: bytes) -> bytes:
    """Return the bytes of a field whose content is bytes."""
    return _number(number << 3 | _BYTES) + _number(len(content)) + content


def _number(number: int) -> bytes:
    stored = bytearray()
    while number >= 0x80:
        stored.append(number & 0x7F | 0x80)
        number >>= 7
    stored.append(number)
    return bytes(stored)
