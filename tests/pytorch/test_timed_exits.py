"""Exits that are placed by time: measured on a network, and kept for a training that resumes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from training_job import Net

from exeunt.data import open_source
from exeunt.errors import ArtefactError, InputError
from exeunt.timing.exit_placement import MeasuredPlaces, PlacedExits
from exeunt.torch import timed_exits
from exeunt.torch.executor import StagedExecutor
from exeunt.torch.timed_exits import exits_by_time
from exeunt.torch.training import job, job_network
from exeunt.torch.training.job import TrainingJob, keep_exits, with_kept_exits
from exeunt.torch.training.job_network import make_network

EXAMPLE = torch.randn(2, 1, 8, 8)
JOB = TrainingJob(
    model="exeunt.zoo:digits", data="sklearn:digits", exits="auto", exit_batch=(1, 64), recipe={"mode": "joint"}
)  # fmt: skip


def placed():
    half, head = np.full((2, 2), 0.5), np.full((2, 1), 0.05)
    measured = MeasuredPlaces(("blocks.1",), np.ones(2), half, head, np.full(1, 2e3), 1e4)
    return PlacedExits(measured, (0,), 32, (1, 64), np.array([1.08, 1.06]))


class Clocked(StagedExecutor):
    """Each call takes a millisecond, and each head that is wanted a tenth more: `now` is what its clock says."""

    now = 0.0

    def run(self, segment, state, wanted):
        Clocked.now += 1e-3 + 1e-4 * len(wanted)
        return super().run(segment, state, wanted)


@pytest.mark.parametrize("batches", [pytest.param((1, 8), marks=pytest.mark.slow), (8,)])
def test_a_network_is_timed_with_heads_at_all_its_places(monkeypatch, batches):
    monkeypatch.setattr(timed_exits, "_FOR_EXPORT", ("a package that is not there",))
    monkeypatch.setattr(timed_exits, "StagedExecutor", Clocked)
    monkeypatch.setattr(timed_exits, "choose_exits", lambda bench, hidden, sizes: (bench, hidden, sizes))
    bench, hidden, sizes = exits_by_time(Net(norm=True).eval(), EXAMPLE, batches, clock=lambda: Clocked.now)
    assert (hidden, sizes) == ([128, 64, 32], batches)
    said, per_input = [], 1 / np.array(batches)
    bench.say = said.append
    found = bench.measure(64)
    assert said == ["timing heads of 64 units at 3 places (eager, cpu)"]
    assert found.names == ("blocks.0", "blocks.1", "blocks.2")
    # The network in one call takes 1.1 ms, in four 4.1, so that a cut adds 1 and a head .1.
    np.testing.assert_allclose(found.whole, 1.1 * per_input)
    np.testing.assert_allclose(found.stage[0], np.array([1, 1, 1, 1.1]) / 4.1 * found.whole[0])
    np.testing.assert_allclose(found.head, 1.1 * per_input[:, None] * np.ones((1, 3)))
    floats = 64 * 128 + 64 + 4 * 64 + 3 * 64 + 3
    assert found.bytes == pytest.approx(4 * floats + 8)  # and a batch norm's counter
    assert found.network_bytes == sum(tensor.nbytes for tensor in Net(norm=True).state_dict().values())
    np.testing.assert_allclose(bench.with_exits(64, [1]), 2.0)
    np.testing.assert_allclose(bench.with_exits(64, [0, 1, 2]), 4.0)


def test_options_for_heads_are_kept_and_a_size_that_is_given_is_the_only_one(monkeypatch):
    monkeypatch.setattr(timed_exits, "choose_exits", lambda _, hidden, sizes: (hidden, sizes))
    placed = partial(exits_by_time, Net(norm=False).eval(), EXAMPLE)
    assert placed(hidden=96) == ([96], (64,))
    assert placed(head="paper") == ([0], (64,))
    for batches in ((), (0,), (64, -1)):
        with pytest.raises(InputError, match="batches of 1 input or more"):
            placed(batches)
    with pytest.raises(InputError, match="head 'mine' is not known"):
        placed(head="mine")


@pytest.mark.slow
def test_on_onnx_runtime_a_lone_input_is_answered_by_one_file(monkeypatch):
    """By a clock of which each answer takes one tick, whoever gives it."""

    def built(bench, hidden, sizes):
        bench.measure(8)
        return bench.with_exits(8, [0, 2])

    said, ticks = [], itertools.count()
    monkeypatch.setattr(timed_exits, "choose_exits", built)
    model = Net(norm=True).eval()
    shares = exits_by_time(model, EXAMPLE, (1, 64), clock=lambda: next(ticks), hidden=8, say=said.append)
    np.testing.assert_allclose(shares, 1.0)
    assert said == ["timing heads of 8 units at 3 places (onnx, cpu)"]


def test_a_job_is_made_with_the_exits_that_were_placed(monkeypatch):
    asked = {}

    def by_time(model, example, batches, **options):
        asked.update(options, batches=batches)
        return placed()

    monkeypatch.setattr(job_network, "exits_by_time", by_time)
    source = open_source(JOB.data)
    made = make_network(replace(JOB, head={"grid": 2}), source, print)
    assert asked["batches"] == (1, 64)
    assert (asked["grid"], asked["n_classes"]) == (2, 10)
    assert made.network.exit_names == ["blocks.1"]
    assert (made.network.options.hidden, made.network.options.grid) == (32, 2)
    assert made.placed.names == ("blocks.1",)


def test_placed_exits_are_kept_for_the_next_time(tmp_path, monkeypatch):
    assert with_kept_exits(JOB, tmp_path) is JOB
    keep_exits(None, tmp_path, print)
    assert not list(tmp_path.iterdir())
    said = []
    keep_exits(placed(), tmp_path, said.append)
    assert "108% of the network's 1 ms at batch 1" in said[0]
    kept = with_kept_exits(replace(JOB, head={"grid": 2}), tmp_path)
    assert (kept.exits, kept.head) == (("blocks.1",), {"grid": 2, "hidden": 32})
    by_hand = replace(JOB, exits=3)
    assert with_kept_exits(by_hand, tmp_path) is by_hand
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert with_kept_exits(JOB, tmp_path).exits == ("blocks.1",)
    with pytest.raises(InputError, match="without torchrun"):
        with_kept_exits(JOB, tmp_path / "another")
    (tmp_path / job._FILE).write_text(json.dumps({"exits": []}))
    with pytest.raises(ArtefactError, match="does not say where the exits are"):
        with_kept_exits(JOB, tmp_path)


def test_options_that_do_not_go_together_are_refused():
    by_hand, masks = "exit_batch is for exits='auto'", "exits of masks are not placed by time"
    for changes, message in (({"exits": 3}, by_hand), ({"masks": True}, masks)):
        with pytest.raises(InputError, match=message):
            replace(JOB, **changes).check()
