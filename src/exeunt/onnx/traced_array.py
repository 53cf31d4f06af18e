"""Arrays that write each operation on them as an ONNX operator: running NumPy code turns it into a graph.

So a score, an answer or a rule is written once, in NumPy, for replay, for the engine and for an exported model.
The tables below list the operations that have a form in ONNX; for others NumPy raises a TypeError with their name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partialmethod
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from exeunt.policy.calibration import at_least
from exeunt.score.confidence import margin, softmax
from exeunt.score.learned import add_weighted, bent, larger, rank_between


@dataclass
class Branch:
    """The operators and weights of a graph, or of a branch in it."""

    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)


class GraphWriter:
    """Writes operators into a branch. A branch inside another may use what the outer one has made before."""

    def __init__(self) -> None:
        self._branches: list[Branch] = []
        self._count = 0

    @contextmanager
    def branch(self) -> Iterator[Branch]:
        """Write into a new branch while the block runs."""
        self._branches.append(Branch())
        yield self._branches[-1]
        self._branches.pop()

    def node(self, operator: str, inputs: Sequence[str], n_outputs: int = 1, **attributes: Any) -> list[str]:
        """Write an operator; returns the names of its outputs."""
        outputs = [self._new_name() for _ in range(n_outputs)]
        self._branches[-1].nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs

    def constant(self, number: Any, dtype: DTypeLike | None = None) -> str:
        """Write a constant; returns its name."""
        name = self._new_name()
        self._branches[-1].weights.append(numpy_helper.from_array(np.array(number, dtype=dtype), name))
        return name

    def graft(self, graph: GraphProto) -> None:
        """Write the operators and weights of a graph, whose names stay."""
        self._branches[-1].nodes.extend(graph.node)
        self._branches[-1].weights.extend(graph.initializer)

    def named(self, array: Any, dtype: DTypeLike) -> str:
        """Return the name of a value of this type: a traced array, cast if necessary; anything else is a constant."""
        return array.astype(dtype).name if isinstance(array, TracedArray) else self.constant(array, dtype)

    def _new_name(self) -> str:
        self._count += 1
        return f"policy/{self._count}"


@dataclass(frozen=True, eq=False)
class TracedArray(NDArrayOperatorsMixin):
    """The output `name` of an operator. `example`: an array of its type and shape, for NumPy to infer others from."""

    writer: GraphWriter
    name: str
    example: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes, all of which are known."""
        return self.example.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.example.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        return self.example.dtype

    def __repr__(self) -> str:
        return f"<array {self.shape} of {self.dtype} known when the model runs>"

    def __len__(self) -> int:
        return len(self.example)

    def __bool__(self) -> bool:
        raise TypeError("a value is not known before the model runs, so no `if` can depend on it")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError(
            "a value is not known before the model runs, so np.asarray and the like cannot return it"
        )

    def astype(self, dtype: DTypeLike, *, copy: bool = True) -> TracedArray:  # noqa: ARG002 - it never changes
        """Return it in another type."""
        if self.dtype == dtype:
            return self
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.operated("Cast", [self.name], self.example.astype(dtype), to=kind)

    def operated(self, operator: str, inputs: Sequence[str], example: Any, **attributes: Any) -> TracedArray:
        """Return the output of an operator on arrays of these names."""
        (name,) = self.writer.node(operator, inputs, **attributes)
        return TracedArray(self.writer, name, np.asarray(example))

    def __getitem__(self, key: Any) -> TracedArray:
        """Return a part by whole numbers and slices, one for each of the first axes, or by slices and one list.

        Raises TypeError for any other key.
        """
        keys = key if isinstance(key, tuple) else (key,)
        others = [key for key in keys if not isinstance(key, slice)]
        if not (all(map(_is_number, others)) or (len(others) == 1 and np.ndim(others[0]) == 1)):
            raise TypeError(
                f"there is no indexing by {key!r} here: give whole numbers and slices, one for each of the first axes, "
                "or slices and one list of places"
            )
        sliced, axis = self, 0
        for one in keys:
            places = np.arange(sliced.shape[axis])[one]
            if not np.array_equal(places, np.arange(sliced.shape[axis])):
                index = self.writer.constant(places)
                sliced = sliced.operated(
                    "Gather", [sliced.name, index], sliced.example.take(places, axis), axis=axis
                )
            axis += places.ndim
        return sliced

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Write an operation on each element."""
        examples = [array.example if isinstance(array, TracedArray) else array for array in inputs]
        logical = all(np.asarray(example).dtype == bool for example in examples)
        operator = (_LOGICAL if logical else _ELEMENTWISE).get(ufunc)
        if operator is None or method != "__call__" or options:
            return NotImplemented
        with np.errstate(all="ignore"):
            example = np.asarray(ufunc(*examples))
        kind = np.result_type(*examples, *([] if example.dtype == bool else [example]))
        if operator in _OF_REAL_NUMBERS and kind.kind != "f":
            return NotImplemented
        names = [self.writer.named(array, kind) for array in inputs]
        return self.operated(operator, names, example, **_ATTRIBUTES.get(operator, {}))

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        """Write a function of NumPy."""
        form = _FUNCTIONS.get(function)
        return NotImplemented if form is None else form(*inputs, **options)

    def argmax(self, axis: int) -> TracedArray:
        """Return the places of the largest values along an axis, the first of equal ones."""
        values = self.astype(np.int32) if self.dtype == bool else self
        return self.operated("ArgMax", [values.name], self.example.argmax(axis), axis=axis, keepdims=0)

    def clip(self, low: Any, high: Any) -> TracedArray:
        """Return the values within limits, of which either may be None."""
        example = self.example.clip(low, high)
        limits = [
            "" if limit is None else self.writer.constant(limit, example.dtype) for limit in (low, high)
        ]
        return self.operated("Clip", [self.astype(example.dtype).name, *limits], example)

    def _reduced(self, operator: str, axis: Any, *, keepdims: bool = False) -> TracedArray:
        method = getattr(self.example, operator.removeprefix("Reduce").lower())
        example = np.asarray(method(axis=axis, keepdims=keepdims))  # of the type that NumPy computes in
        if example.dtype == bool:
            raise TypeError(f"there is no {operator} of booleans in ONNX: make numbers of them")
        axes = self.writer.constant(np.reshape(axis, -1), np.int64)
        return self.operated(
            operator, [self.astype(example.dtype).name, axes], example, keepdims=int(keepdims)
        )

    max = partialmethod(_reduced, "ReduceMax")
    min = partialmethod(_reduced, "ReduceMin")
    sum = partialmethod(_reduced, "ReduceSum")
    mean = partialmethod(_reduced, "ReduceMean")


def _is_number(key: Any) -> bool:
    return isinstance(key, (int, np.integer)) and not isinstance(key, bool)


def _where(condition: TracedArray, first: Any, second: Any) -> TracedArray:
    examples = [array.example if isinstance(array, TracedArray) else array for array in (first, second)]
    example = np.where(condition.example, *examples)
    names = [condition.writer.named(array, example.dtype) for array in (first, second)]
    return condition.operated("Where", [condition.name, *names], example)


def _einsum(equation: str, *operands: Any) -> TracedArray:
    traced = next(operand for operand in operands if isinstance(operand, TracedArray))
    examples = [operand.example if isinstance(operand, TracedArray) else operand for operand in operands]
    example = np.einsum(equation, *examples)
    names = [traced.writer.named(operand, example.dtype) for operand in operands]
    return traced.operated("Einsum", names, example, equation=equation)


def _sort(values: TracedArray, axis: int = -1) -> TracedArray:
    if values.dtype == bool:
        raise TypeError("there is no sorting of booleans in ONNX: make numbers of them")
    n = values.writer.constant([values.shape[axis]], np.int64)
    ordered, _ = values.writer.node("TopK", [values.name, n], 2, axis=axis, largest=0)
    return TracedArray(values.writer, ordered, values.example)


_ELEMENTWISE: dict[np.ufunc, str] = {
    np.add: "Add",
    np.subtract: "Sub",
    np.multiply: "Mul",
    np.divide: "Div",
    np.power: "Pow",
    np.negative: "Neg",
    np.absolute: "Abs",
    np.exp: "Exp",
    np.log: "Log",
    np.sqrt: "Sqrt",
    np.tanh: "Tanh",
    np.floor: "Floor",
    np.ceil: "Ceil",
    np.sign: "Sign",
    np.maximum: "Max",
    np.minimum: "Min",
    np.greater: "Greater",
    np.greater_equal: "GreaterOrEqual",
    np.less: "Less",
    np.less_equal: "LessOrEqual",
    np.equal: "Equal",
    np.isnan: "IsNaN",
    np.bitwise_xor: "BitwiseXor",
    np.right_shift: "BitShift",
}
_LOGICAL: dict[np.ufunc, str] = {
    np.bitwise_and: "And",
    np.bitwise_or: "Or",
    np.bitwise_xor: "Xor",
    np.invert: "Not",
    np.equal: "Equal",
    np.logical_and: "And",
    np.logical_or: "Or",
    np.logical_not: "Not",
}
"""Operators of booleans."""
_OF_REAL_NUMBERS = {"Floor", "Ceil", "IsNaN"}
_ATTRIBUTES = {"BitShift": {"direction": "RIGHT"}}
_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.shape: lambda values: values.shape,
    np.where: _where,
    np.einsum: _einsum,
    np.sort: _sort,
    np.partition: lambda values, kth, axis=-1: _sort(values, axis),  # noqa: ARG005 - a sorted array will do
    np.max: TracedArray.max,
    np.min: TracedArray.min,
    np.sum: TracedArray.sum,
    np.mean: TracedArray.mean,
    np.argmax: TracedArray.argmax,
    np.clip: TracedArray.clip,
}


def _softmax(logits: TracedArray) -> TracedArray:
    return logits.operated("Softmax", [logits.name], logits.example, axis=1)


def _margin(probabilities: TracedArray) -> TracedArray:
    if probabilities.shape[1] < 2:
        return probabilities.max(axis=1) * 0.0 + 1.0  # type: ignore[no-any-return]
    writer = probabilities.writer
    top, _ = writer.node("TopK", [probabilities.name, writer.constant([2], np.int64)], 2, axis=1)
    difference = writer.constant([1.0, -1.0], probabilities.dtype)
    return probabilities.operated("MatMul", [top, difference], probabilities.example[:, 0])


def _rank_between(score: TracedArray, knots: Sequence[float]) -> TracedArray:
    low, high = np.array(knots[:-1]), np.array(knots[1:])
    passed = ((score - low) / (high - low)).clip(0.0, 1.0)  # (1,) against (pieces,): there is one input
    return score.operated("ReduceMean", [passed.name], score.example, keepdims=1)


def _bent(rank: TracedArray, bends: NDArray[Any]) -> list[TracedArray]:
    return [(rank - bends).clip(0.0, 1.0)]  # side by side, as `_add_weighted` takes them


def _add_weighted(total: TracedArray, weights: NDArray[Any], features: Sequence[TracedArray]) -> TracedArray:
    if not features:
        return total
    example = np.concatenate([feature.example for feature in features])
    joined = total.operated("Concat", [feature.name for feature in features], example, axis=0)
    column = total.writer.constant(weights[:, None], total.dtype)
    return total + joined.operated("MatMul", [joined.name, column], total.example)  # type: ignore[no-any-return]


def _at_least(score: TracedArray, tie: TracedArray, least_score: float, least_tie: float) -> TracedArray:
    with_less_tie = np.nextafter(least_score, np.inf)  # the score must then be larger
    return score >= np.where(tie >= least_tie, least_score, with_less_tie)  # type: ignore[no-any-return]


_SHORTER: dict[Any, Callable[..., Any]] = {
    softmax: _softmax,
    margin: _margin,
    rank_between: _rank_between,
    bent: _bent,
    larger: lambda a, b: a.operated("Max", [a.name, a.writer.named(b, a.dtype)], a.example),
    add_weighted: _add_weighted,
    at_least: _at_least,
}
"""Functions with a form of fewer operators than their NumPy operations: each costs a microsecond at every exit."""
for _function, _form in _SHORTER.items():
    _function.register(TracedArray, _form)
