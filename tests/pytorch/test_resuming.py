"""A training that is killed and resumed, or shared by processes, ends as one that is neither."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from training_job import Enough, data, die_after_saving, job, same

from exeunt.errors import ArtefactError, InputError
from exeunt.torch.batches import shared

SLOW = pytest.mark.slow
JOB = Path(__file__).with_name("training_job.py")
# Sums over another number of threads round otherwise: bits are guaranteed for the same number only.
SAME_THREADS = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.mark.parametrize(("mode", "kill_at"), [("joint", 17), pytest.param("frozen", 3, marks=SLOW)])
def test_killed_at_any_moment_it_resumes_and_ends_with_the_same_weights(tmp_path, mode, kill_at):
    """7 batches an epoch: joint dies in its third epoch, frozen while it fills the cache."""
    command = [sys.executable, str(JOB), str(tmp_path), mode, str(kill_at)]
    killed = subprocess.run(command, check=False, env=SAME_THREADS)
    assert killed.returncode == -signal.SIGKILL
    lines = tmp_path / "history.jsonl"
    assert lines.exists() == (mode == "joint")
    if mode == "joint":
        assert len(lines.read_text().splitlines()) == 2
    resumed, history = job(tmp_path, mode)
    uninterrupted, expected = job(None, mode)
    assert same(resumed, uninterrupted)
    for name in ("train_loss", "validation_accuracy"):
        assert [getattr(e, name) for e in history.epochs] == [getattr(e, name) for e in expected.epochs]
    assert [json.loads(line) for line in lines.read_text().splitlines()] == history.to_list()
    assert not list(tmp_path.rglob("*.tmp")) or mode == "frozen"


@pytest.mark.parametrize("mode", ["frozen", "joint", "distill"])
def test_resumed_after_every_epoch_it_is_the_same(tmp_path, mode, monkeypatch):
    expected, _ = job(None, mode)

    die_after_saving(monkeypatch)
    for _ in range(4):
        with pytest.raises(Enough):
            job(tmp_path, mode)
    resumed, history = job(tmp_path, mode)  # all epochs are done: nothing is left to train
    assert same(resumed, expected)
    assert [e.epoch for e in history.epochs] == [0, 1, 2, 3]


def test_a_checkpoint_that_is_damaged_foreign_or_of_other_arguments_is_refused(tmp_path):
    job(tmp_path, "joint", epochs=1)
    with pytest.raises(InputError, match=r"epochs was 1 and is 2; learning_rate was 0.1 and is 0.3"):
        job(tmp_path, "joint", epochs=2, learning_rate=0.3)
    file = tmp_path / "checkpoint.pt"
    whole, foreign = file.read_bytes(), io.BytesIO()
    torch.save({"some": "thing"}, foreign)
    for content in (whole[: len(whole) // 2], b"", b"nonsense", foreign.getvalue()):
        file.write_bytes(content)
        with pytest.raises(ArtefactError, match="delete it"):
            job(tmp_path, "joint", epochs=1)


def test_a_checkpoint_cannot_run_code(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"format": "exeunt-training-1", "state": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ArtefactError):
        job(tmp_path, "joint", epochs=1)
    assert not marker.exists()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_batch_without_overlap(world):
    batches = list(DataLoader(data(50), batch_size=13))
    parts = [list(shared(batches, rank, world)) for rank in range(world)]
    for i, (inputs, label) in enumerate(batches):
        assert torch.equal(torch.cat([p[i][0] for p in parts]), inputs)
        assert torch.equal(torch.cat([p[i][1] for p in parts]), label)
    with pytest.raises(InputError, match="last batch"):
        list(shared([(torch.zeros(1, 2), torch.zeros(1))], 0, 2))


def together(target, mode, *, folder="nothing", kill_at=-1, nodes=1):
    """Train with two processes, as one node or two; returns the statuses of the nodes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={2 // nodes}", f"--nnodes={nodes}",
                f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}",
                str(JOB), str(target), mode, str(kill_at), str(folder),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        for node in range(nodes)
    ]  # fmt: skip
    return [one.wait(timeout=500) for one in begun]


def check_trained_as_one(target, mode):
    shared_state, alone = torch.load(target, weights_only=True), job(None, mode, norm=False)[0]
    for name, value in alone.state_dict().items():
        assert torch.allclose(shared_state[name], value, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["frozen", "joint"])
def test_two_processes_train_as_one(tmp_path, mode):
    assert together(tmp_path / "weights.pt", mode) == [0]
    check_trained_as_one(tmp_path / "weights.pt", mode)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kill_at"), [("frozen", 3), ("joint", 17)])
def test_two_machines_without_a_folder_in_common_resume_what_they_began(tmp_path, mode, kill_at):
    target, folder = tmp_path / "weights.pt", tmp_path / "kept"
    assert 0 not in together(target, mode, folder=folder, kill_at=kill_at, nodes=2)
    if mode == "joint":
        assert len((folder / "0" / "history.jsonl").read_text().splitlines()) == 2
        assert not (folder / "1" / "history.jsonl").exists()
    assert together(target, mode, folder=folder, nodes=2) == [0, 0]
    check_trained_as_one(target, mode)
