"""Runs with every file that a command writes, and ways to damage a file."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import exeunt as ex
from damaged_files import damage
from exeunt.data import Preprocess
from exeunt.engine.plan import Plan
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.torch import attach, record
from exeunt.torch.models.by_name import build_model, save_model_config
from exeunt.torch.models.preparation import save_preparation, synthetic_inputs
from exeunt.torch.models.weights import save_weights

WORDS = ["good", "fine", "great", "bad", "poor", "awful", "the", "film", "was", "and", "plot"]


def image_run(folder: Path) -> RunFolder:
    """An untrained network for images of 8x8 pixels."""
    inputs = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return _finished(folder, "exeunt.zoo:digits", Preprocess(size=(8, 8)), inputs, 10)


def text_run(folder: Path) -> RunFolder:
    """An untrained transformer in the Hugging Face form, and its tokeniser."""
    source = folder.parent / "source"
    tokenizer, config = tokenizer_and_config(source)
    config.save_pretrained(source)
    texts = [" ".join(np.random.default_rng(i).choice(WORDS, 5)) for i in range(60)]
    inputs = dict(tokenizer(texts, padding="max_length", max_length=8, return_tensors="pt"))
    return _finished(folder, f"hf:{source}", tokenizer, inputs, 2)


def tokenizer_and_config(folder: Path) -> tuple[Any, Any]:
    """Save the tokeniser of a tiny transformer in a folder; return it, and the transformer's configuration."""
    import transformers

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=16, max_position_embeddings=32, num_labels=2, **sizes)
    return tokenizer, config


def _finished(folder: Path, spec: str, prepare: Any, inputs: Any, n_classes: int) -> RunFolder:
    folder.mkdir()
    backbone = build_model(spec, n_classes=n_classes)
    example = synthetic_inputs(prepare, 2, length=8)
    network = attach(backbone, example, 2, verbose=False).eval()
    label = torch.arange(60) % n_classes
    trace = record(network, [(inputs, label, torch.arange(60))])
    save_weights(network, folder / "weights.safetensors")
    save_model_config(spec, network.backbone, folder)
    split = {"source": "noise", "fingerprint": "0", "seed": 0, "pretrained": False, "matched_by": "content"}
    about = {
        "model": {"spec": spec, "weights": None, "n_classes": n_classes, "macs": network.backbone_macs},
        "network": network.config(),
        "inputs": save_preparation(prepare, folder, example),
        "class_names": [f"class {k}" for k in range(n_classes)],
        "data": {"name": "noise", "label": None, "fingerprint": "0"},
        "split": {**split, "dropped": 0, "parts": {}},
        "training": {},
        "provenance": {},
    }
    parts = dict(zip(TRACED, trace.split(), strict=True))
    run = RunFolder.create(folder, cost=network.cost, traces=parts, about=about)
    run.save_policy(ex.eero(parts["fit"], parts["calibrate"], budget="60%"))
    for executor in ("eager", "onnx"):
        run.save_plan(Plan.unmeasured(executor, tuple((i, i) for i in range(trace.n_exits))))
    return run


DAMAGE = ("flip", "truncate", "empty", "folder", "link", "unreadable", "remove", "pipe")


@contextmanager
def damaged(file: Path, harm: str) -> Iterator[None]:
    """Damage a file; afterwards it is whole again."""
    content = file.read_bytes()
    if harm == "unreadable":
        with pytest.MonkeyPatch.context() as patch:
            _make_unreadable(file, patch)
            yield
            file.chmod(0o644)
        return
    damage(file, harm)
    try:
        yield
    finally:
        if file.is_dir():
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_bytes(content)


def _make_unreadable(file: Path, patch: pytest.MonkeyPatch) -> None:
    """Take the permission to read away; root needs none, so for root `open` is made to refuse."""
    file.chmod(0)
    if os.access(file, os.R_OK):
        opened = io.open

        def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path) == os.fspath(file):
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments, **options)

        patch.setattr(io, "open", refuse)
        patch.setattr(builtins, "open", refuse)
