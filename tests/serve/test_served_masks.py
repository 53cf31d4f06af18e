"""A network that answers with masks, in JSON and as a tensor of texts."""

from __future__ import annotations

import numpy as np
import pytest
from made_server import CLASSES, SIDE, PixelExecutor, in_base64, made_images, made_run, prepared, running

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
    with running(run, MaskExecutor()) as server:
        yield server


def test_answers_hold_masks(served):
    found = served.answers([*in_base64(made_images(6)), "YQ=="])
    for answer in found[:-1]:
        mask = mask_of(answer["mask"])
        assert mask.shape == (SIDE, SIDE)
        assert (mask[0] == 0).all()
        assert (mask[1:] == answer["label"]).all()
    assert found[-1]["mask"] is None
    assert found[-1]["error"]


def test_masks_are_an_output_of_the_inference_protocol(served):
    about = served.client.get("/v2/models/masks").json()["outputs"]
    assert about[-1] == {"name": "mask", "datatype": "BYTES", "shape": [-1]}
    images = prepared(made_images(3))
    tensor = {"name": "image", "datatype": "FP32", "shape": images.shape, "data": images.ravel().tolist()}
    body = {"inputs": [tensor], "outputs": [{"name": "mask"}, {"name": "label"}]}
    masks, labels = served.client.post("/v2/models/masks/infer", json=body).json()["outputs"]
    assert [mask_of(runs)[-1, -1] for runs in masks["data"]] == labels["data"]
    every = served.client.post("/v2/models/masks/infer", json={"inputs": [tensor]}).json()["outputs"]
    assert every[-1]["name"] == "mask"
    assert CLASSES > 2
