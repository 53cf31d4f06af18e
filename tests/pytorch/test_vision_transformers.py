"""Vision transformers of both libraries: an exit after every block, and the same answers in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_stages import logits_with_drops

from exeunt.onnx.executor import OnnxExecutor
from exeunt.torch import attach
from exeunt.torch.to_onnx import export_network

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
pytest.importorskip("onnxscript")

SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {"image_size": 32, "num_labels": 5}


def timm_vit(name):
    return timm.create_model(
        name, img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5
    )


def timm_swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=12, depths=(1, 2),
        num_heads=(2, 2), num_classes=5,
    )  # fmt: skip


def hf_swin():
    config = transformers.SwinConfig(
        **IMAGE, patch_size=2, embed_dim=12, depths=[1, 2], num_heads=[2, 2], window_size=4
    )
    return transformers.SwinForImageClassification(config)


NETWORKS = {
    "timm vit": lambda: timm_vit("vit_tiny_patch16_224"),
    "timm deit": lambda: timm_vit("deit_tiny_distilled_patch16_224"),
    "timm swin": timm_swin,
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**SMALL, **IMAGE, patch_size=8)
    ),
    "deit": lambda: transformers.DeiTForImageClassification(
        transformers.DeiTConfig(**SMALL, **IMAGE, patch_size=8)
    ),
    "swin": hf_swin,  # PyTorch's exporter refuses it as it is: it takes attention for one that is laid out otherwise
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_cut_at_every_block_and_exported(name, tmp_path):
    torch.manual_seed(0)
    images = torch.randn(5, 3, 32, 32)
    network = attach(NETWORKS[name](), images[:2], 2, verbose=False).eval()
    assert network.n_exits == 3
    manifest = export_network(network, images[:2], tmp_path, say=lambda _: None)
    assert max(stage.max_difference for stage in manifest.stages) < 1e-5
    with torch.no_grad():
        expected = [logits.numpy() for logits in network(images)]
    found = logits_with_drops(OnnxExecutor(tmp_path, threads=1), images.numpy(), np.arange(5))
    for logits, (rows, values) in zip(expected, found, strict=True):
        np.testing.assert_allclose(values, logits[rows], rtol=1e-4, atol=1e-5)
