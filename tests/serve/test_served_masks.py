"""A network that answers with masks, in JSON and as a tensor of texts."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import pytest
from made_server import CLASSES, SIDE, PixelExecutor, made_images, made_run, prepared, running
from PIL import Image

from exeunt.score.mask_confidence import mask_of


class MaskExecutor(PixelExecutor):
    """Answers each pixel as `PixelExecutor` answers the image, but for the first row, which is of class 0."""

    def run(self, segment, state, wanted):
        (logits, *_), state = super().run(segment, state, wanted or [segment])
        masks = np.repeat(np.repeat(logits[:, :, None, None], SIDE, axis=2), SIDE, axis=3)
        masks[:, :, 0] = 0
        masks[:, 0, 0] = logits.max()
        return [masks for _ in wanted], state


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    network = {"exits": ["a", "b"], "masks": True}
    run = made_run(tmp_path_factory.mktemp("served") / "masks", network=network)
    with running(run, MaskExecutor()) as server, httpx.Client(base_url=server.url) as client:
        yield client


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_answers_hold_masks(served):
    images = made_images(6)
    found = served.post("/predict", json={"images": [*map(encoded, images), "YQ=="]}).json()["answers"]
    for answer in found[:-1]:
        mask = mask_of(answer["mask"])
        assert mask.shape == (SIDE, SIDE)
        assert (mask[0] == 0).all()
        assert (mask[1:] == answer["label"]).all()
    assert found[-1]["mask"] is None
    assert found[-1]["error"]


def test_masks_are_an_output_of_the_inference_protocol(served):
    about = served.get("/v2/models/masks").json()["outputs"]
    assert about[-1] == {"name": "mask", "datatype": "BYTES", "shape": [-1]}
    images = prepared(made_images(3))
    tensor = {
        "name": "image",
        "datatype": "FP32",
        "shape": list(images.shape),
        "data": images.ravel().tolist(),
    }
    body = {"inputs": [tensor], "outputs": [{"name": "mask"}, {"name": "label"}]}
    masks, labels = served.post("/v2/models/masks/infer", json=body).json()["outputs"]
    assert [mask_of(runs)[-1, -1] for runs in masks["data"]] == labels["data"]
    every = served.post("/v2/models/masks/infer", json={"inputs": [tensor]}).json()["outputs"]
    assert every[-1]["name"] == "mask"
    assert CLASSES > 2
