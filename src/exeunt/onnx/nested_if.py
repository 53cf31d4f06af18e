"""One ONNX model that answers and exits early by itself: stages, heads and policy, each stage in a branch of an `If`.

    If(inputs are finite)
        stage 0, score; If(it leaves) answer 0
                        else stage 1, score; If(it leaves) answer 1
                                             else ...

It takes one input. The policy is not written again: `Policy.decide` runs on arrays that write ONNX operators
(`exeunt.onnx.traced_array`). The weights of a stage lie inside its branch. In the outer graph ONNX Runtime would not
arrange them for its convolutions, which would then take 1.9 times as long.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, compose, helper
from onnx.checker import check_model
from onnx.utils import Extractor

from exeunt.engine.decider import class_probabilities
from exeunt.errors import InputError, one_line
from exeunt.onnx.traced_array import Branch, GraphWriter, TracedArray
from exeunt.policy import Policy, PolicyState
from exeunt.policy.calibration import at_least
from exeunt.score.confidence import GATE, Evidence, softmax
from exeunt.score.tie_breaking import tie_breaks

KEY = "key"
"""Name of the input that breaks ties."""
_MOST_EXITS = 31  # Protocol Buffers nests at most 100 messages; a branch takes three


class ModelStage(NamedTuple):
    """A stage with its head. `logits`: name of that output (n, k). Its other outputs are for later stages."""

    model: ModelProto
    logits: str


def model_with_policy(
    stages: Sequence[ModelStage],
    policy: Policy,
    *,
    exits: Sequence[int] | None = None,
    about: Mapping[str, Any] | None = None,
) -> ModelProto:
    """Return a model that answers one input as the engine does under this policy.

    `stages`: in order. A tensor that one stage gives and a later one takes has the same name in both, and no other
    tensor between stages has this name. A tensor that no earlier stage gives is an input of the model.
    `exits`: the stage of each of the policy's exits, ascending; by default every stage is one. `about`: kept in the
    model's metadata, each entry as JSON, beside the policy's name, budget and costs.

    The model's inputs are those of the stages, for a batch of one, and "key" (1,), uint64, the number of the input that
    breaks ties. Its outputs are "label" (1,), int64; "probabilities" (1, k), float32; "exit" (1,), int64; "cost"
    (1,), float64, in the policy's unit. An input that has, or leads to, values that are not finite has no answer: its
    label and exit are -1. Stages after the last exit at which the policy answers are not in the model.

    Raises InputError if the policy has another number of exits, if its score or answer has no form in ONNX, if it
    answers at more than 31 exits, or if stages were exported with several opsets.
    """
    chosen_exits = tuple(range(len(stages))) if exits is None else tuple(exits)
    if policy.n_exits != len(chosen_exits):
        raise InputError(f"the policy has {policy.n_exits} exits but the network has {len(chosen_exits)}")
    of_policy = {
        "cost": policy.cost.to_dict(),
        "policy": {"name": policy.name, "budget": policy.budget, "run": policy.run},
    }
    return _ModelWriter(stages, policy, chosen_exits).model({**(about or {}), **of_policy})


class _ModelWriter:
    """The model while it is written."""

    def __init__(self, stages: Sequence[ModelStage], policy: Policy, exits: tuple[int, ...]) -> None:
        self.policy, self.exits, self.writer = policy, exits, GraphWriter()
        if policy.looks_once and exits[0] == 0:
            raise InputError(
                "the policy chooses an input's exit at the network's gate, and the first stage is an exit"
            )
        always = np.isneginf(policy.limits.score) & np.isneginf(policy.limits.tie)
        always[-1] = True
        self.last = int(np.argmax(always))
        self.stages = stages[: exits[self.last] + 1]
        self.k = self._width(self.stages[-1])
        self.outputs = {
            "label": (TensorProto.INT64, [1]),
            "probabilities": (TensorProto.FLOAT, [1, self.k]),
            "exit": (TensorProto.INT64, [1]),
            "cost": (TensorProto.DOUBLE, [1]),
        }

    def model(self, about: Mapping[str, Any]) -> ModelProto:
        """Return the whole model."""
        n_answering = 1 + int(np.count_nonzero(self.policy.active[: self.last]))
        if n_answering > _MOST_EXITS:
            raise InputError(
                f"the policy answers at {n_answering} exits, in one file it can at {_MOST_EXITS}: switch some off"
            )
        inputs = _inputs(self.stages)
        with self.writer.branch() as branch:
            key: Any = TracedArray(self.writer, KEY, np.zeros(1, dtype=np.uint64))
            begun = PolicyState(tie_breaks(key, self.policy.seed), self.policy.score.init(1), {})

            def answered() -> list[str]:
                return self._looked_at(begun) if self.policy.looks_once else self._answered_from(0, 0, begun)

            results = self._either(
                self._are_finite(inputs), answered, lambda: self._written(-1, np.nan, -1, 0.0)
            )
            for name, made_name in zip(self.outputs, results, strict=True):
                branch.nodes.append(helper.make_node("Identity", [made_name], [name]))
        key_input = helper.make_tensor_value_info(KEY, TensorProto.UINT64, [1])
        graph = self._graph(branch, list(self.outputs), [*inputs, key_input])
        model = helper.make_model(graph, producer_name="exeunt", **_versions(self.stages))
        helper.set_model_props(model, {name: json.dumps(entry) for name, entry in about.items()})
        check_model(model)
        return model

    def _answered_from(
        self, stage: int, exit_: int, state: PolicyState, finite_before: TracedArray | None = None
    ) -> list[str]:
        """Write the model from this stage and this exit on; returns the names of the outputs.

        `finite_before`: whether logits of exits at which no input is answered were finite. If they were not there is no
        answer, even if later values are finite again, since a ReLU makes 0 of NaN.
        """
        while exit_ < self.last and not self.policy.needs[exit_]:
            exit_ += 1
        name = self._grafted(stage, self.exits[exit_])
        example = np.zeros((1, self.k), dtype=np.float32)
        logits: Any = TracedArray(self.writer, name, example).astype(np.float64)
        policy = self.policy
        try:
            decision = policy.decide(exit_, Evidence(softmax(logits)), state)
        except Exception as error:  # a score of the user may do anything
            raise InputError(
                f"the score {policy.score.name!r} with {policy.answer.name} answers cannot be written as ONNX: "
                f"{one_line(error)}; choose another --answer or --policy"
            ) from error
        finite = np.abs(logits.sum(axis=1)) < np.inf
        finite = finite if finite_before is None else finite & finite_before
        active = policy.active[exit_]

        def answered() -> list[str]:
            return self._answered(exit_, decision.answer, finite)

        def went_on() -> list[str]:
            before = None if active else finite
            return self._answered_from(self.exits[exit_] + 1, exit_ + 1, decision.state, before)

        if exit_ == self.last:
            return answered()
        return self._either(decision.leave | ~finite, answered, went_on) if active else went_on()

    def _answered(self, exit_: int, answer: Mapping[str, Any], finite: Any) -> list[str]:
        """Write an exit's answer, or that there is none; returns the names of the outputs."""
        return self._written(
            np.where(finite, answer["prediction"], -1),
            np.where(finite, class_probabilities(answer), np.nan),
            np.where(finite, exit_, -1),
            self.policy.cost.cumulative[exit_],
        )

    def _looked_at(self, state: PolicyState) -> list[str]:
        """Write the model of a policy that looks once, from the gate on; returns the names of the outputs."""
        width = self._width(self.stages[0])
        features: Any = TracedArray(self.writer, self._grafted(0, 0), np.zeros((1, width), dtype=np.float32))
        _, memory = self.policy.score(0, {GATE: features}, state.memory)
        finite = np.abs(features.astype(np.float64).sum(axis=1)) < np.inf
        return self._sent_from(1, 0, PolicyState(state.tie, memory, {}), finite)

    def _sent_from(self, stage: int, exit_: int, state: PolicyState, finite: Any) -> list[str]:
        """Write the stages from this one on, with the head of the input's own exit alone."""
        policy = self.policy
        while exit_ < self.last and not policy.active[exit_]:
            exit_ += 1
        place = self.exits[exit_]

        def answered() -> list[str]:
            name = self._grafted(place, place, head_alone=exit_ < self.last)
            logits: Any = TracedArray(self.writer, name, np.zeros((1, self.k), dtype=np.float32))
            logits = logits.astype(np.float64)
            return self._answered(
                exit_, Evidence(softmax(logits)), finite & (np.abs(logits.sum(axis=1)) < np.inf)
            )

        if exit_ == self.last:
            self._grafted(stage, place - 1, heads=False)
            return answered()
        self._grafted(stage, place, heads=False)
        score, _ = policy.score(exit_, {}, state.memory)
        limit = float(policy.limits.score[exit_]), float(policy.limits.tie[exit_])
        leave: Any = at_least(score, state.tie, *limit)
        return self._either(
            leave,
            answered,
            lambda: self._sent_from(place + 1, exit_ + 1, state, finite),
        )

    def _grafted(self, first: int, last: int, *, heads: bool = True, head_alone: bool = False) -> str:
        """Write these stages, each with its outputs for later ones; returns the name of the last one's logits.

        The last stage has its head, without `heads` it has none; `head_alone`: the rest of it is written already.
        """
        for number, (model, logits) in enumerate(self.stages[first : last + 1], start=first):
            later = {tensor.name for stage in self.stages[number + 1 :] for tensor in stage.model.graph.input}
            wanted = [tensor.name for tensor in model.graph.output if tensor.name in later]
            needed = dict.fromkeys([*wanted, *([logits] if number == last and heads else [])])
            takes = [tensor.name for tensor in model.graph.input]
            part = Extractor(model).extract_model(takes, list(needed)).graph
            if head_alone:
                _drop_nodes(part, Extractor(model).extract_model(takes, wanted).graph)
            options: dict[str, Any] = dict.fromkeys(
                ("rename_inputs", "rename_outputs", "rename_value_infos"), False
            )
            compose.add_prefix_graph(part, f"within{number}/", inplace=True, **options)
            self.writer.graft(part)
        return self.stages[last].logits

    @staticmethod
    def _width(stage: ModelStage) -> int:
        """Return how many numbers a stage's head gives for an input."""
        (shape,) = (v.type.tensor_type.shape for v in stage.model.graph.output if v.name == stage.logits)
        return int(shape.dim[1].dim_value)

    def _either(
        self, condition: TracedArray, then: Callable[[], list[str]], otherwise: Callable[[], list[str]]
    ) -> list[str]:
        """Write an `If` with the branches that `then` and `otherwise` write; returns the names of the outputs."""
        branches = {}
        for name, write in (("then_branch", then), ("else_branch", otherwise)):
            with self.writer.branch() as branch:
                outputs = write()
            branches[name] = self._graph(branch, outputs)
        return self.writer.node("If", [condition.name], len(self.outputs), **branches)

    def _written(self, *answer: Any) -> list[str]:
        """Write label, probabilities, exit and cost as outputs of a branch; returns their names."""
        names = []
        for output, (kind, shape) in zip(answer, self.outputs.values(), strict=True):
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            array = output if isinstance(output, TracedArray) else np.broadcast_to(output, shape)
            names += self.writer.node("Identity", [self.writer.named(array, dtype)])
        return names

    def _are_finite(self, inputs: Sequence[ValueInfoProto]) -> TracedArray:
        """Write whether all values of the inputs are finite."""
        finite = TracedArray(self.writer, self.writer.constant(True), np.array(True))
        for tensor in inputs:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type)
            if dtype.kind == "f":
                (zeros,) = self.writer.node("Mul", [tensor.name, self.writer.constant(0, dtype)])
                (total,) = self.writer.node("ReduceSum", [zeros], keepdims=0)
                finite = finite & (TracedArray(self.writer, total, np.zeros((), dtype)) == 0.0)
        return finite

    def _graph(
        self, branch: Branch, outputs: Sequence[str], inputs: Sequence[ValueInfoProto] = ()
    ) -> GraphProto:
        output_infos = [
            helper.make_tensor_value_info(name, *kind)
            for name, kind in zip(outputs, self.outputs.values(), strict=True)
        ]
        return helper.make_graph(branch.nodes, "exeunt", inputs, output_infos, branch.weights)


def _drop_nodes(graph: GraphProto, written: GraphProto) -> None:
    """Remove the nodes and weights of a graph that are in another one, whose values the rest of it then takes."""
    made = {name for node in written.node for name in node.output}
    nodes = [node for node in graph.node if not made.issuperset(node.output)]
    taken = {name for node in nodes for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in taken]
    for field, kept in (("node", nodes), ("initializer", weights)):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(kept)


def _inputs(stages: Sequence[ModelStage]) -> list[ValueInfoProto]:
    """Return the tensors that no stage gives, as inputs of a batch of one."""
    made_inside = {tensor.name for stage in stages for tensor in stage.model.graph.output}
    taken = {tensor.name: tensor for stage in stages for tensor in stage.model.graph.input}
    inputs = []
    for name, info in taken.items():
        if name not in made_inside:
            single = ValueInfoProto()
            single.CopyFrom(info)
            single.type.tensor_type.shape.dim[0].dim_value = 1
            inputs.append(single)
    return inputs


def _versions(stages: Sequence[ModelStage]) -> dict[str, Any]:
    """Return the versions of operators and of the format. Raises InputError if stages have different operators."""
    opsets = {opset.domain: opset for stage in stages for opset in stage.model.opset_import}
    used = {opset.version for stage in stages for opset in stage.model.opset_import if not opset.domain}
    if len(used) > 1:
        raise InputError(
            f"one file has operators of one version, the networks were exported with opset "
            f"{' and '.join(map(str, sorted(used)))}: export them again with one version of Exeunt"
        )
    return {
        "opset_imports": list(opsets.values()),
        "ir_version": max(stage.model.ir_version for stage in stages),
    }
