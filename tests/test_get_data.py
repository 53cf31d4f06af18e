"""The script that fetches the documentation's data, with stand-ins for what the loaders download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from exeunt.data.by_name import open_source

pytest.importorskip("torchvision")
pytest.importorskip("datasets")

SCRIPT = Path(__file__).parents[1] / "docs" / "get_data.py"


@pytest.fixture
def get_data():
    spec = importlib.util.spec_from_file_location("get_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(n: int, size: int):
    """(image, class) pairs as torchvision gives them: image i is grey value i, its class i % 2."""
    from PIL import Image

    return [(Image.new("RGB", (size, size), (i, i, i)), i % 2) for i in range(n)]


LOADERS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "flowers": "Flowers102"}


@pytest.mark.parametrize(("name", "loader"), LOADERS.items())
def test_images(get_data, name, loader, tmp_path, monkeypatch, capsys):
    import torchvision.datasets

    def download(root, *, train=None, split=None, download):
        return pictures(6 if train or split == "train" else 4, 8)

    monkeypatch.setattr(torchvision.datasets, loader, download)
    get_data.main([name], tmp_path)
    assert get_data.LICENCES[name] in capsys.readouterr().out
    source = open_source(tmp_path / name)
    assert (len(source.train), len(source.test), source.n_classes) == (6, 4, 2)
    greys = [int(source.test.content(i).max()) for i in range(4)]
    assert sorted(greys) == [0, 1, 2, 3]
    assert [grey % 2 for grey in greys] == source.test.labels.tolist()
    get_data.main([name], tmp_path)
    assert "is there already" in capsys.readouterr().out


def test_texts(get_data, tmp_path, monkeypatch):
    import datasets

    rows = {"text": ["a", "b"], "label": [0, 1], "label_text": ["x", "y"]}
    parts = {part: datasets.Dataset.from_dict(rows) for part in ("train", "test")}
    monkeypatch.setattr(datasets, "load_dataset", lambda _: parts)
    get_data.main(["banking77"], tmp_path)
    source = open_source(tmp_path / "banking77")
    assert np.array_equal(source.train.labels, [0, 1])
    assert source.train.content(1) == "b"


def test_an_interrupted_download_leaves_no_finished_folder(get_data, tmp_path, monkeypatch):
    import torchvision.datasets

    broken = mock.Mock(side_effect=OSError("no network"))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", broken)
    with pytest.raises(OSError, match="no network"):
        get_data.main(["cifar10"], tmp_path)
    assert not (tmp_path / "cifar10").exists()
