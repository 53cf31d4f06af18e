"""The real CIFAR images, where they are at hand."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from exeunt.data import Preprocess, open_source, plan_split
from exeunt.data.splits import PARTS

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the CIFAR tables are not at hand"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_cifar100_decodes_in_seconds_and_loads_at_once(cache: Path) -> None:
    source = open_source(DATA / "cifar100")
    assert (source.n_classes, source.class_names[26]) == (100, "crab")
    assert np.bincount(source.train.labels).tolist() == [500] * 100
    start = time.perf_counter()
    ready = source.decoded(Preprocess(), cache=cache)
    assert time.perf_counter() - start < 60
    start = time.perf_counter()
    again = open_source(DATA / "cifar100").decoded(Preprocess(), cache=cache)
    assert time.perf_counter() - start < 10
    assert again.train.pixels.shape == (50_000, 32, 32, 3)
    raw = pq.read_table(DATA / "cifar100" / "test.parquet")
    for i in range(0, 10_000, 997):
        image = Image.open(io.BytesIO(raw["img"][i].as_py()["bytes"])).convert("RGB")
        assert np.array_equal(again.test.content(i), np.asarray(image))
        assert again.test.labels[i] == raw["fine_label"][i].as_py()
    assert again.fingerprint == ready.fingerprint
    measured = Preprocess().measured_on(again.train, n_sample=50_000)
    np.testing.assert_allclose(measured.mean, (0.507075, 0.486549, 0.440918), atol=2e-6)
    np.testing.assert_allclose(measured.std, (0.267334, 0.256438, 0.276150), atol=2e-6)


def test_the_known_duplicates_of_cifar100_are_found(cache: Path) -> None:
    source = open_source(DATA / "cifar100").decoded(Preprocess(), cache=cache)
    train, test = source.train.content_keys(), source.test.content_keys()
    assert len(train) - len(np.unique(train)) == 14
    assert len(test) - len(np.unique(test)) == 2
    assert np.isin(test, train).sum() == 10
    assert np.isin(train, test).sum() == 10
    for pretrained in (False, True):
        plan = plan_split(source, pretrained=pretrained)
        # Rows are drawn to fit and calibrate whatever their content; the others train, but for copies of test images.
        drawn = [] if pretrained else [plan.select(source, part) for part in ("fit", "calibrate")]
        copies = sum(int(np.isin(part.content_keys(), test).sum()) for part in drawn)
        assert plan.dropped + copies == 10
        assert not np.isin(plan.select(source, "train").content_keys(), test).any()


def test_cifar10_has_no_duplicates(cache: Path) -> None:
    source = open_source(DATA / "cifar10").decoded(Preprocess(), cache=cache)
    keys = np.concatenate([source.train.content_keys(), source.test.content_keys()])
    assert len(np.unique(keys)) == 60_000
    plan = plan_split(source, fit=0, calibrate=1000)
    assert [plan.size(p) for p in PARTS] == [49_000, 0, 1_000, 10_000]
    assert plan.dropped == 0
