from __future__ import annotations

import os
import stat

import pytest
import torch

from exeunt.torch.models.weights import load_weights, save_weights


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_weights_are_as_readable_as_any_other_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_weights(torch.nn.Linear(2, 3), tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == 0o666 & ~umask


def test_weights_read_back_to_the_last_bit(tmp_path):
    saved, loaded = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert torch.equal(saved.weight, loaded.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
