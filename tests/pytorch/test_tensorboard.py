"""The scalars of a training for TensorBoard, read back with its own reader."""

from __future__ import annotations

import sys

import pytest
from torch.utils.data import DataLoader
from training_job import data, network

from exeunt.errors import MissingExtra
from exeunt.torch import train


def trained(tmp_path, **options):
    loader = DataLoader(data(), batch_size=120)
    shared = {"validation": loader, "tensorboard": tmp_path / "scalars", "progress": False, "device": "cpu"}
    return train(network(), loader, **{**shared, **options})


def scalars(folder):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_every_epoch_is_a_step_of_each_scalar(tmp_path):
    history = trained(tmp_path, epochs=3)
    found = scalars(tmp_path / "scalars")
    names = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    m = len(history.last.train_loss)
    assert set(found) == {"learning_rate", *(f"{name}/exit {i}" for name in names for i in range(m))}
    for name in names:
        for i in range(m):
            expected = [(epoch.epoch, pytest.approx(getattr(epoch, name)[i])) for epoch in history.epochs]
            assert found[f"{name}/exit {i}"] == expected
    assert found["learning_rate"] == [(e.epoch, pytest.approx(e.learning_rate)) for e in history.epochs]


def test_an_epoch_that_was_trained_before_is_not_written_again(tmp_path):
    options = {"epochs": 2, "checkpoint_dir": tmp_path / "training"}
    trained(tmp_path, **options)
    trained(tmp_path, **options)
    assert [step for step, _ in scalars(tmp_path / "scalars")["learning_rate"]] == [0, 1]


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtra, match=r"exeunt\[tensorboard\]"):
        trained(tmp_path)
