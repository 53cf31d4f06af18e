"""A run folder of a network of pictures of 6 x 6 pixels: exported and calibrated, without PyTorch."""

from __future__ import annotations

import numpy as np
from made_stages import WIDTH, K, image_stages, logits_of
from onnx import TensorProto, compose, helper, numpy_helper, save

import exeunt as ex
from exeunt._files import file_digest
from exeunt.data.preprocess import Preprocess
from exeunt.onnx.manifest import OnnxManifest, OnnxStage, OnnxTensor
from exeunt.run.folder import RunFolder
from made_runs import ABOUT

SIDE, M = 6, 3


def stages_on_pictures():
    """Three stages; the first reads "x" (n, 3, 6, 6)."""
    first, *others = image_stages(M)
    graph = first.model.graph
    weight = np.random.default_rng(9).normal(size=(3 * SIDE**2, WIDTH)).astype(np.float32) / 9
    reads = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "reads"], ["pixels"]),
        *graph.node,
    ]
    del graph.node[:], graph.input[:]
    graph.node.extend(reads)
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE]))
    graph.initializer.append(numpy_helper.from_array(weight, "reads"))
    return [first, *others]


def made_web_run(folder, way: Preprocess | None = None):
    way = way or Preprocess(size=(SIDE, SIDE))
    stages = stages_on_pictures()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (400, SIDE, SIDE, 3), dtype=np.uint8)
    logits = logits_of(stages, [{"x": way.normalise(noise)}])
    cost = ex.CostModel(1e6 * np.arange(1.0, M + 1), unit="MACs")
    trace = ex.ExitTrace.from_logits(logits, cost=cost, label=logits[:, -1].argmax(axis=1))
    parts = dict(zip(("fit", "calibrate", "test"), trace.split(), strict=True))
    (folder / "onnx").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    about = ABOUT | {
        "inputs": {"kind": "image", **way.to_dict()},
        "class_names": ["<i>ant</i>", "bee", "cow", "dog", "emu"][:K],
    }
    run = RunFolder.create(folder, cost=cost, traces=parts, about=about)
    run.save_policy(ex.msdnet(parts["fit"], parts["calibrate"], budget="60%"))
    _export(run, stages)
    return run


def _export(run, stages):
    folder, written = run.path / "onnx", []
    for i, (model, logits) in enumerate(stages):
        file = folder / f"stage-{i:02d}.onnx"
        compose.add_prefix_graph(  # as an exporter does: no two stages share a name inside
            model.graph,
            f"own{i}/",
            rename_inputs=False,
            rename_outputs=False,
            rename_value_infos=False,
            inplace=True,
        )
        save(model, str(file))
        takes, gives = (tuple(value.name for value in of) for of in (model.graph.input, model.graph.output))
        written.append(OnnxStage(file.name, file_digest(file), takes, gives, logits, 0.0))
    row = OnnxTensor("float32", (None, WIDTH), 0)
    tensors = {"x": OnnxTensor("float32", (None, 3, SIDE, SIDE), 0), "state0": row, "state1": row}
    tensors |= {f"logits{i}": OnnxTensor("float32", (None, K), 0) for i in range(M)}
    OnnxManifest(("x",), tensors, tuple(written), run.manifest["files"]["weights.safetensors"]).save(folder)
