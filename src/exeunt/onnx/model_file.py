"""ONNX models taken apart and put together, without the `onnx` package: running an export needs no such thing.

An ONNX file is a Protocol Buffers message: a row of fields, each a number, a length and that many bytes
(https://protobuf.dev/programming-guides/encoding/). Of all of it only the model's graph, and the graph's nodes,
weights, inputs and outputs need telling apart (https://onnx.ai/onnx/api/classes.html); they are copied as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exeunt.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["ELEMENT_TYPES", "Node", "OnnxPart", "joined", "value_info"]

_GRAPH = 7  # of ModelProto
_NODE, _NAME, _WEIGHT, _INPUT, _OUTPUT = 1, 2, 5, 11, 12  # of GraphProto
_NAME_OF = {
    _WEIGHT: 8,
    _INPUT: 1,
    _OUTPUT: 1,
}  # the field that holds the name, of TensorProto and ValueInfoProto
_TAKEN, _MADE, _ATTRIBUTE = 1, 2, 5  # of NodeProto
_INNER_GRAPHS = (6, 11)  # of AttributeProto
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5

ELEMENT_TYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}
"""TensorProto.DataType of NumPy's types."""


@dataclass(frozen=True)
class Node:
    """An operation: the tensors it takes and makes, and all of it as stored. `nests`: it holds graphs itself."""

    takes: tuple[str, ...]
    makes: tuple[str, ...]
    nests: bool
    raw: bytes


@dataclass(frozen=True)
class OnnxPart:
    """A model taken apart. `head`: all but the graph. `weights`, `inputs`, `outputs`: by name, as stored."""

    head: bytes
    nodes: list[Node]
    weights: dict[str, bytes]
    inputs: dict[str, bytes]
    outputs: dict[str, bytes]

    @classmethod
    def read(cls, data: bytes) -> OnnxPart:
        """Take a model's file apart. Raises ArtefactError if it is none."""
        head, graphs = bytearray(), []
        for number, content, raw in _fields(data):
            if number == _GRAPH:
                graphs.append(content)
            else:
                head += raw
        part = cls(bytes(head), [], {}, {}, {})
        named = {_WEIGHT: part.weights, _INPUT: part.inputs, _OUTPUT: part.outputs}
        for number, content, raw in (field for graph in graphs for field in _fields(graph)):
            if number == _NODE:
                part.nodes.append(_node(content, raw))
            elif number in named:
                name = next(text for field, text, _ in _fields(content) if field == _NAME_OF[number])
                named[number][name.decode()] = raw
        if not part.nodes:
            raise ArtefactError("this is no ONNX model: it has no graph with operations")
        return part

    def needed(self, names: Iterable[str]) -> list[Node]:
        """Return the nodes that it takes to compute these tensors, in order."""
        makers = {name: i for i, node in enumerate(self.nodes) for name in node.makes}
        found: set[int] = set()
        open_ = [makers[name] for name in names if name in makers]
        while open_:
            i = open_.pop()
            if i not in found:
                found.add(i)
                open_ += [makers[name] for name in self.nodes[i].takes if name in makers]
        return [self.nodes[i] for i in sorted(found)]

    def model(self, outputs: Iterable[str]) -> bytes:
        """Return a model that computes these tensors (any that there are) and nothing else."""
        names = dict.fromkeys(outputs)
        nodes = self.needed(names)
        taken = dict.fromkeys(name for node in nodes for name in node.takes)
        weights = [self.weights[name] for name in taken if name in self.weights]
        inputs = [self.inputs[name] for name in taken if name in self.inputs]
        given = [self.outputs.get(name, value_info(name, None)) for name in names]
        graph = [*(node.raw for node in nodes), _field(_NAME, b"exeunt"), *weights, *inputs, *given]
        return self.head + _field(_GRAPH, b"".join(graph))


def joined(parts: Sequence[OnnxPart]) -> OnnxPart:
    """Return one model: the parts one after the other, with all their outputs.

    Tensors that one part gives and a later one takes must have the same name in both, and no other two
    tensors, but weights that are the same, may share a name. What no part before gives is taken from outside.
    """
    whole = OnnxPart(parts[0].head, [], {}, {}, {})
    for part in parts:
        whole.inputs.update((name, raw) for name, raw in part.inputs.items() if name not in whole.outputs)
        whole.outputs.update(part.outputs)
        whole.weights.update(part.weights)
        whole.nodes.extend(part.nodes)
    return whole


def value_info(name: str, dtype: str | None, *, output: bool = True) -> bytes:
    """Return the entry of an output (or input) of a graph, of any shape; without a type if that is None."""
    content = _field(1, name.encode())
    if dtype is not None:
        tensor = _number(1 << 3 | _VARINT) + _number(ELEMENT_TYPES[dtype])
        content += _field(2, _field(1, tensor))
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
    """Yield each field's number, its content (empty unless bytes), and all of it with number and length."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        kind, content = tag & 7, b""
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            size, at = _varint(data, at)
            content = data[at : at + size]
            at += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ArtefactError(f"this is no ONNX model: a field of unknown kind {kind}")
        if at > len(data):
            raise ArtefactError("this ONNX model is truncated")
        yield tag >> 3, content, data[start:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits per byte, the lowest first; returns it and the place behind it."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at
    raise ArtefactError("this ONNX model is truncated")


def _field(number: int, content: bytes) -> bytes:
    """Return a field of bytes as it is stored."""
    return _number(number << 3 | _BYTES) + _number(len(content)) + content


def _number(value: int) -> bytes:
    stored = bytearray()
    while value >= 0x80:
        stored.append(value & 0x7F | 0x80)
        value >>= 7
    stored.append(value)
    return bytes(stored)
