"""The one file, answered by ONNX Runtime from other languages: Node, with its native library, and C++."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_stages import WIDTH, image_stages, session, trace_of
from onnx import save

import exeunt as ex
from exeunt.onnx.nested_if import model_with_policy

PROGRAM, HEADERS = Path(__file__).with_name("one_file.cpp"), Path("/usr/include/onnxruntime")
SCRIPT = """
const ort = require("onnxruntime-node");
const { model, inputs, keys } = JSON.parse(require("fs").readFileSync(process.argv[2]));
ort.InferenceSession.create(model).then(async (session) => {
  const found = [];
  for (let i = 0; i < keys.length; i++) {
    const made = await session.run({
      pixels: new ort.Tensor("float32", Float32Array.from(inputs[i]), [1, inputs[i].length]),
      key: new ort.Tensor("uint64", BigUint64Array.of(BigInt(keys[i])), [1]),
    });
    found.push([Number(made.label.data[0]), Number(made.exit.data[0]), made.cost.data[0]]);
  }
  console.log(JSON.stringify(found));
});
"""


@pytest.fixture
def asked(tmp_path):
    """A model in one file; inputs (n, WIDTH) and keys (n,); and what Python says of each: label, exit, cost."""
    stages, rng = image_stages(4), np.random.default_rng(3)
    pixels = (rng.normal(size=(500, WIDTH)) * rng.uniform(0.1, 3, size=(500, 1))).astype(np.float32)
    keys = rng.integers(0, 2**64, 500, dtype=np.uint64)
    trace = trace_of(stages, [{"pixels": pixels}], key=keys)
    policy = ex.auto(trace.take(slice(200)), trace.take(slice(200, 300)), budget="60%", answer="ensemble")
    model = model_with_policy(stages, policy)
    save(model, str(tmp_path / "model.onnx"))
    runs = session(model)
    given = [{"pixels": row[None], "key": key[None]} for row, key in zip(pixels, keys, strict=True)]
    expected = np.array([np.concatenate(runs.run(["label", "exit", "cost"], one)) for one in given])
    assert len(set(expected[:, 1])) > 1
    return tmp_path / "model.onnx", pixels, keys, expected


def check(found, expected):
    """Another version of ONNX Runtime may round otherwise."""
    assert np.shape(found) == np.shape(expected)
    assert np.all(np.array(found) == expected, axis=1).mean() > 0.99


@pytest.mark.slow
def test_node_answers_as_python_does(node_modules, asked, tmp_path):
    if shutil.which("node") is None or not (node_modules / "onnxruntime-node").is_dir():
        pytest.skip("npm install --prefix tests --no-save --ignore-scripts onnxruntime-node")
    model, pixels, keys, expected = asked
    given = {"model": str(model), "inputs": pixels.tolist(), "keys": [str(key) for key in keys]}
    (tmp_path / "given.json").write_text(json.dumps(given))
    (tmp_path / "run.cjs").write_text(SCRIPT)
    done = subprocess.run(
        ["node", tmp_path / "run.cjs", tmp_path / "given.json"],
        capture_output=True, text=True, check=True, env=os.environ | {"NODE_PATH": str(node_modules)},
    )  # fmt: skip
    check(json.loads(done.stdout), expected)


@pytest.mark.skipif(not (shutil.which("g++") and HEADERS.is_dir()), reason="no g++ or libonnxruntime-dev")
def test_cpp_answers_as_python_does(asked, tmp_path):
    model, pixels, keys, expected = asked
    program = tmp_path / "one_file"
    subprocess.run(["g++", "-std=c++17", "-I", HEADERS, PROGRAM, "-o", program, "-lonnxruntime"], check=True)
    rows = (" ".join(map(str, [key, *row])) for key, row in zip(keys, pixels.tolist(), strict=True))
    done = subprocess.run(
        [program, model, str(WIDTH)],
        input="\n".join(rows), capture_output=True, text=True, check=True,
    )  # fmt: skip
    check([[float(word) for word in line.split()] for line in done.stdout.splitlines()], expected)
