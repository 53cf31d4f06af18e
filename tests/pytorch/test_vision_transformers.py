"""Vision transformers of both libraries: an exit after every block, and the same answers in ONNX Runtime."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers
from onnx_stages import check_logits

from exeunt.onnx.executor import OnnxExecutor
from exeunt.torch import attach
from exeunt.torch.to_onnx import export_network

pytest.importorskip("onnxscript")

SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {"image_size": 32, "num_labels": 5}


VIT = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
SWIN = {"patch_size": 2, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2), "window_size": 4}


def of_timm(name, sizes):
    return lambda: timm.create_model(name, img_size=32, num_classes=5, **sizes)


def of_hugging_face(kind, **sizes):
    config = getattr(transformers, f"{kind}Config")
    return lambda: getattr(transformers, f"{kind}ForImageClassification")(config(**IMAGE, **sizes))


NETWORKS = {
    "timm vit": of_timm("vit_tiny_patch16_224", VIT),
    "timm deit": of_timm("deit_tiny_distilled_patch16_224", VIT),
    "timm swin": of_timm("swin_tiny_patch4_window7_224", SWIN),
    "vit": of_hugging_face("ViT", **SMALL, patch_size=8),
    "deit": of_hugging_face("DeiT", **SMALL, patch_size=8),
    # PyTorch's exporter refuses it as it is: it takes attention for one that is laid out otherwise.
    "swin": of_hugging_face("Swin", **SWIN),
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
    check_logits(OnnxExecutor(tmp_path, threads=1), network, images, rtol=1e-4)
