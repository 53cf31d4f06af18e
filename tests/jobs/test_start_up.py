"""An exported run answers images without PyTorch: what is imported tells, whatever the speed of the machine."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import exeunt as ex
from exeunt.data import Preprocess
from exeunt.runs.runner import load

HEAVY = {"torch", "torchvision", "transformers", "scipy", "sklearn", "matplotlib", "onnx", "pandas"}


def test_an_image_is_answered_without_heavy_imports(exported, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    code = f"""
import json, sys
from exeunt.cli.main import main
sys.argv = ["exeunt", "predict", {str(exported.path)!r}, "--data", "x.png"]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert "onnxruntime" in loaded
    assert not loaded & HEAVY
    header, row = done.stdout.splitlines()
    assert header.startswith("name,label,class_name,confidence,exit,cost")
    assert row.startswith("x.png,")


def test_a_runner_prepares_images_without_pytorch(exported, tmp_path):
    """What PyTorch would import is not to be had."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "x.png")
    np.save(tmp_path / "rest.npy", pixels[1:])
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
import exeunt.runs
runner = exeunt.load({str(exported.path)!r})
answers = runner(runner.prepare(["x.png", *np.load("rest.npy")]))
print(answers.label.tolist(), answers.exit.tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    answers = load(exported, executor="onnx")(
        Preprocess.from_dict(exported.manifest["inputs"]).normalise(pixels)
    )
    assert done.stdout.strip() == f"{answers.label.tolist()} {answers.exit.tolist()}"


@pytest.mark.parametrize("executor", ["onnx", "eager"])
def test_raw_pixels_are_refused_with_the_way_out(exported, executor):
    runner = load(exported, executor=executor, trusted="exeunt.zoo:digits")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    rows = pixels.transpose(0, 3, 1, 2)
    for raw in (rows, rows.astype(np.float32), rows.astype(np.int64), pixels):
        with pytest.raises(ex.InputError, match=r"runner\.prepare"):
            runner(raw)
    with pytest.raises(ex.InputError, match=r"must be real numbers \(float32\), got uint8: prepare"):
        runner.executor.start(rows)
    assert runner(runner.prepare(pixels)).valid.all()
