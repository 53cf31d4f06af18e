"""Run folders of networks of pictures and of texts: exported and calibrated, without PyTorch."""

from __future__ import annotations

import numpy as np
from made_stages import WIDTH, K, image_stages, logits_of, text_stages
from onnx import TensorProto, compose, helper, numpy_helper, save

import exeunt as ex
from exeunt._support.files import file_digest
from exeunt.data.preprocess import Preprocess
from exeunt.onnx.manifest import OnnxManifest, OnnxStage, OnnxTensor
from exeunt.rules import baselines
from exeunt.runs.folder import RunFolder
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
    noise = np.random.default_rng(0).integers(0, 256, (400, SIDE, SIDE, 3), dtype=np.uint8)
    logits = logits_of(stages, [{"x": way.normalise(noise)}])
    row = OnnxTensor("float32", (None, WIDTH), 0)
    tensors = {"x": OnnxTensor("float32", (None, 3, SIDE, SIDE), 0), "state0": row, "state1": row}
    return _made(folder, stages, logits, tensors, {"kind": "image", **way.to_dict()})


WORDS = ("good", "bad", "the", "film")
LONGEST = 12


def made_text_run(folder, transformers):
    """A run on texts, with a tokeniser of four words."""
    stages = text_stages()
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=LONGEST)
    tokenizer.save_pretrained(folder / "tokenizer")
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 9, (1, length)) for length in rng.integers(2, LONGEST, 400)]
    logits = logits_of(stages, [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows])
    tokens = OnnxTensor("int64", (None, None), 0, pad=0)
    words = OnnxTensor("float32", (None, None, WIDTH), 0)
    tensors = {"input_ids": tokens, "attention_mask": tokens, "words": words}
    inputs = {"kind": "text", "folder": "tokenizer", "length": 6, "longest": LONGEST}
    return _made(folder, stages, logits, tensors, inputs)


def _made(folder, stages, logits, tensors, inputs):
    m = len(stages)
    cost = ex.CostModel(1e6 * np.arange(1.0, m + 1), unit="MACs")
    trace = ex.ExitTrace.from_logits(logits, cost=cost, label=logits[:, -1].argmax(axis=1))
    parts = dict(zip(("fit", "calibrate", "test"), trace.split(), strict=True))
    (folder / "onnx").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    about = ABOUT | {
        "model": {**ABOUT["model"], "n_classes": 5},
        "network": {"exits": [f"layer{i}" for i in range(m - 1)]},
        "inputs": inputs,
        "class_names": ["<i>ant</i>", "bee", "cow", "dog", "emu"],
        "data": {"name": "texts", "text": ["text"]},
    }
    run = RunFolder.create(folder, cost=cost, traces=parts, about=about)
    run.save_policy(baselines.msdnet(parts["fit"], parts["calibrate"], budget="60%" if m > 2 else "75%"))
    _export(run, stages, tensors)
    return run


def _export(run, stages, tensors):
    folder, written = run.path / "onnx", []
    for i, (model, logits) in enumerate(stages):
        file = folder / f"stage-{i:02d}.onnx"
        compose.add_prefix_graph(  # as an exporter does: no two stages share a name inside
            model.graph, f"own{i}/", rename_inputs=False, rename_outputs=False, rename_value_infos=False, inplace=True
        )  # fmt: skip
        save(model, str(file))
        takes, gives = (tuple(value.name for value in of) for of in (model.graph.input, model.graph.output))
        written.append(OnnxStage(file.name, file_digest(file), takes, gives, logits, 0.0))
    inputs = tuple(name for name, tensor in tensors.items() if name in written[0].takes)
    tensors |= {f"logits{i}": OnnxTensor("float32", (None, K), 0) for i in range(len(stages))}
    weights = run.files.digests["weights.safetensors"]
    OnnxManifest(inputs, tensors, tuple(written), weights, LONGEST).save(folder)
