"""An exported run answers images without PyTorch: what is imported tells, whatever the speed of the machine."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from job_inputs import FACTORY, noise, write_pictures

import exeunt as ex
from exeunt.runs.runner import load

HEAVY = {"torch", "torchvision", "transformers", "scipy", "sklearn", "matplotlib", "onnx", "pandas"}


def test_an_image_is_answered_without_heavy_imports(exported, tmp_path):
    code = f"""
import json, sys
from exeunt.cli.main import main
sys.argv = ["exeunt", "predict", {str(exported.path)!r}, "--data", "000.bmp"]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    folder = write_pictures(tmp_path, noise(1))
    given = {"capture_output": True, "text": True, "check": True, "cwd": folder}
    done = subprocess.run([sys.executable, "-c", code], **given)
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert "onnxruntime" in loaded
    assert not loaded & HEAVY
    header, row = done.stdout.splitlines()
    assert header.startswith("name,label,class_name,confidence,exit,cost")
    assert row.startswith("000.bmp,")


@pytest.mark.parametrize("executor", ["onnx", "eager"])
def test_raw_pixels_are_refused_with_the_way_out(exported, executor):
    runner, pixels = load(exported, executor=executor, trusted=FACTORY), noise(3)
    rows = pixels.transpose(0, 3, 1, 2)
    for raw in (rows, rows.astype(np.float32), rows.astype(np.int64), pixels):
        with pytest.raises(ex.InputError, match=r"runner\.prepare"):
            runner(raw)
    with pytest.raises(ex.InputError, match=r"must be real numbers \(float32\), got uint8: prepare"):
        runner.executor.start(rows)
    assert runner(runner.prepare(pixels)).valid.all()
