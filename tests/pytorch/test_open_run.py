"""Run folders in PyTorch: old ones open, foreign code does not run, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from made_networks import noise, run_of_noise

from exeunt.errors import ArtefactError, InputError
from exeunt.torch.open_run import load_network, open_eager


def test_a_network_opens_with_its_weights(tmp_path):
    run, expected = run_of_noise(tmp_path)
    network = load_network(run).cpu()
    assert not network.training
    with torch.no_grad():
        for logits, before in zip(network(noise(30)), expected, strict=True):
            torch.testing.assert_close(logits, before)


def test_code_of_the_run_folders_choice_is_not_run_unless_it_is_trusted(tmp_path):
    run, _ = run_of_noise(tmp_path, "no_such_module:network")
    with pytest.raises(InputError, match="if you trust it, say so with --model no_such_module:network"):
        load_network(run)
    with pytest.raises(InputError, match="no module 'no_such_module'"):
        load_network(run, trusted="no_such_module:network")


def test_a_network_that_is_built_differently_here_is_refused(tmp_path):
    run, _ = run_of_noise(tmp_path, cost_factor=2.0)
    with pytest.raises(ArtefactError, match="another version of its library"):
        load_network(run)


def test_segments_are_those_asked_for(tmp_path):
    run, _ = run_of_noise(tmp_path)
    assert open_eager(run).segments == ((0, 0), (1, 1), (2, 2), (3, 3))
    assert open_eager(run, segments=((0, 1), (2, 3))).segments == ((0, 1), (2, 3))
