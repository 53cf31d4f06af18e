"""Stages with random weights, and what they say of inputs, stage by stage: no PyTorch, no `If`."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import exeunt as ex
from exeunt.onnx.nested_if import ModelStage

WIDTH, K, UNIT = 6, 5, "MMACs"


def session(model, **options):
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads, made.log_severity_level = 1, 3
    for name, value in options.items():
        setattr(made, name, value)
    return onnxruntime.InferenceSession(model.SerializeToString(), made, providers=["CPUExecutionProvider"])


def stage(i, nodes, weights, takes, gives):
    """Give all stages the same names inside: they must not meet."""
    graph = helper.make_graph(
        nodes, f"stage{i}",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in takes.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in gives.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def image_stages(m, k=K, seed=0):
    """Stages of a residual network on "pixels" (n, 6); the last also reads what the first gave."""
    rng = np.random.default_rng(seed)
    row = (TensorProto.FLOAT, ["n", WIDTH])
    stages = []
    for i in range(m):
        before = "pixels" if i == 0 else f"state{i - 1}"
        takes = {before: row} | ({"state0": row} if i == m - 1 > 1 else {})
        weights = {
            "w": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
            "b": rng.normal(size=WIDTH).astype(np.float32),
            "head": rng.normal(size=(WIDTH, k)).astype(np.float32) * (1.0 + 0.2 * i) / WIDTH**0.5,
        }
        nodes = [
            helper.make_node("Gemm", [before, "w", "b"], ["h"]),
            helper.make_node("Erf", ["h"], ["e"]),
            helper.make_node("Add", ["e", "state0" if len(takes) == 2 else before], [f"state{i}"]),
            helper.make_node("MatMul", [f"state{i}", "head"], [f"logits{i}"]),
        ]
        gives = {f"logits{i}": (TensorProto.FLOAT, ["n", k])} | ({f"state{i}": row} if i < m - 1 else {})
        model = stage(i, nodes, weights, takes, gives)
        stages.append(ModelStage(model, f"logits{i}"))
    return stages


def text_stages():
    """Two stages on "input_ids" and "attention_mask" (n, t) of any length t."""
    rng = np.random.default_rng(0)
    tokens = (TensorProto.INT64, ["n", "t"])
    words = (TensorProto.FLOAT, ["n", "t", WIDTH])
    stages = []
    for i in range(2):
        given = {"input_ids": tokens} if i == 0 else {"words": words}
        look_up = ["table", "input_ids"] if i == 0 else ["words", "table"]
        weights = {
            "table": rng.normal(size=(9, WIDTH) if i == 0 else (WIDTH, WIDTH)).astype(np.float32),
            "head": 2 * rng.normal(size=(WIDTH, K)).astype(np.float32),
            "last": np.array([-1]),
            "middle": np.array([1]),
        }
        kept = "words" if i == 0 else "deep"
        nodes = [
            helper.make_node("Gather" if i == 0 else "MatMul", look_up, ["made"]),
            helper.make_node("Cast", ["attention_mask"], ["shown"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["shown", "last"], ["column"]),
            helper.make_node("Mul", ["made", "column"], [kept]),
            helper.make_node("ReduceSum", [kept, "middle"], ["sum"], keepdims=0),
            helper.make_node("MatMul", ["sum", "head"], [f"logits{i}"]),
        ]
        gives = {f"logits{i}": (TensorProto.FLOAT, ["n", K])} | ({"words": words} if i == 0 else {})
        model = stage(i, nodes, weights, {**given, "attention_mask": tokens}, gives)
        stages.append(ModelStage(model, f"logits{i}"))
    return stages


def logits_of(stages, batches):
    """Every stage's logits (n, m, k) of batches of inputs, each stage in a session of its own."""
    runs = [session(stage.model) for stage in stages]
    found = []
    for inputs in batches:
        state = dict(inputs)
        for run in runs:
            names = [value.name for value in run.get_outputs()]
            given = {value.name: state[value.name] for value in run.get_inputs()}
            state |= dict(zip(names, run.run(names, given), strict=True))
        found.append(np.stack([state[stage.logits] for stage in stages], axis=1))
    return np.concatenate(found)


def trace_of(stages, batches, *, key):
    """What the stages say of batches of inputs, as a trace; labels follow the last exit, most of the time."""
    logits = logits_of(stages, batches).astype(np.float64)
    rng = np.random.default_rng(1)
    label = np.where(rng.uniform(size=len(logits)) < 0.8, logits[:, -1].argmax(axis=1), 0)
    cost = ex.CostModel(np.arange(1.0, len(stages) + 1), unit=UNIT)
    return ex.ExitTrace.from_logits(logits, cost=cost, label=label, id=key)
