"""An exported run answers images without PyTorch: what is imported tells, whatever the speed of the machine."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

HEAVY = {"torch", "torchvision", "transformers", "scipy", "sklearn", "matplotlib", "onnx"}


def test_an_image_is_answered_without_heavy_imports(exported, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    code = f"""
import json, sys
from exeunt.cli import main
sys.argv = ["exeunt", "predict", {str(exported.path)!r}, "--data", "x.png", "--out", "x.parquet"]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert "onnxruntime" in loaded
    assert not loaded & HEAVY
    assert pq.read_table(tmp_path / "x.parquet")["name"].to_pylist() == ["x.png"]
