from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import get_model_weights

from exeunt.data import Preprocess
from exeunt.runs.run_inputs import load_preparation
from exeunt.torch.models.image_libraries import library_preprocess
from exeunt.torch.training import job_network as module
from exeunt.torch.training.job import TrainingJob
from exeunt.torch.training.run import run_training


@pytest.fixture
def picture():
    """A smooth picture, so that two resizers can be compared."""
    y, x = np.mgrid[:300, :420] / 60
    pixels = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x)], axis=-1)
    return Image.fromarray(((pixels + 1) * 127).astype(np.uint8))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_b_16", "inception_v3", "swin_v2_t"])
def test_torchvision_pictures_look_as_they_do_there(picture, name):
    prepare = library_preprocess(f"torchvision:{name}")
    theirs = get_model_weights(name).DEFAULT.transforms()(picture)
    ours = torch.from_numpy(prepare.normalise(prepare.resize(picture)))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.04  # some two grey levels: the crop may start a pixel beside


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18.a1_in1k", "vit_base_patch16_clip_224"])
def test_timm_pictures_look_as_they_do_there(picture, name):
    prepare = library_preprocess(f"timm:{name}")
    given = timm.get_pretrained_cfg(name).to_dict()
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=given))(picture)
    ours = torch.from_numpy(prepare.normalise(prepare.resize(picture)))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.04  # some two grey levels: the crop may start a pixel beside


@pytest.mark.parametrize(
    "spec", ["hf:some/model", "exeunt.zoo:digits", "timm:none_such", "torchvision:none_such",
             "torchvision:raft_small"],
)  # fmt: skip
def test_nothing_is_invented_where_no_library_says(spec):
    assert library_preprocess(spec) is None


def test_a_run_on_pretrained_weights_prepares_images_as_the_library_does(tmp_path, monkeypatch, picture):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    prepare = Preprocess(size=(32, 32), crop_share=0.5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    monkeypatch.setattr(module, "library_preprocess", lambda _: prepare)
    for part, n in (("train", 4), ("test", 6)):
        for k in range(2):
            (tmp_path / "data" / part / f"class{k}").mkdir(parents=True)
            for i in range(n):
                picture.rotate(10 * i + 5 * k + n).save(tmp_path / "data" / part / f"class{k}" / f"{i}.png")
    lines: list[str] = []
    run = run_training(
        TrainingJob(
            model="timm:convnext_atto", weights="pretrained", data=str(tmp_path / "data"), exits=1, batch_size=4,
            recipe={"mode": "joint", "epochs": 1}, fit=4, calibrate=4,
        ),
        tmp_path / "run", command="test", say=lines.append, progress=False,
    )  # fmt: skip
    assert load_preparation(run) == prepare
    assert any("32x32-crop-0.5-bilinear, mean 0.1, 0.2, 0.3, std 0.4, 0.5, 0.6" in line for line in lines)
