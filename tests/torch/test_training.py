from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_job import data, job, network

from exeunt.errors import ArtefactError, InputError
from exeunt.torch import train
from exeunt.torch.objectives import cross_entropies, distillations, exit_weights, objective
from exeunt.torch.recipe import rate_factor
from exeunt.torch.sharing import shared, unpack

JOB = Path(__file__).with_name("training_job.py")
# Sums over another number of threads round otherwise: bits are promised for the same number only.
SAME_THREADS = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
EVERY_MODE = pytest.mark.parametrize("mode", ["frozen", "joint", "distill"])


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def quick(net, loader=None, **options):
    loader = DataLoader(data(), batch_size=40, shuffle=True) if loader is None else loader
    return train(net, loader, **{"epochs": 2, "progress": False, "device": "cpu", **options})


# -- what is minimised ----------------------------------------------------------------------------------


def some_logits(m=3, n=5, k=4):
    torch.manual_seed(1)
    return [torch.randn(n, k, requires_grad=True) for _ in range(m)], torch.randint(0, k, (n,))


def test_the_joint_objective_is_the_weighted_sum_of_cross_entropies():
    logits, label = some_logits()
    weights = torch.tensor([1.0, 0.0, 3.0])
    loss, entropies = objective(logits, label, weights=weights)
    expected = [-(x.log_softmax(1)[range(5), label]).mean() for x in logits]
    assert torch.allclose(entropies, torch.stack(expected).detach())
    assert torch.allclose(loss, expected[0] + 3 * expected[2])


def test_distillation_is_the_divergence_from_the_last_exit_which_learns_from_labels_alone():
    logits, label = some_logits()
    loss, _ = objective(logits, label, weights=torch.ones(3), distill_weight=0.25, temperature=3.0)
    target = (logits[-1].detach() / 3).softmax(1)
    expected = functional.cross_entropy(logits[-1], label)
    for x in logits[:-1]:
        divergence = (target * (target.log() - (x / 3).log_softmax(1))).sum(1).mean() * 9
        expected = expected + 0.75 * functional.cross_entropy(x, label) + 0.25 * divergence
    assert torch.allclose(loss, expected, atol=1e-6)
    got = torch.autograd.grad(loss, logits[-1])[0]
    alone = torch.autograd.grad(functional.cross_entropy(logits[-1], label), logits[-1])[0]
    assert torch.allclose(got, alone)


def test_another_teacher_teaches_the_last_exit_too():
    logits, label = some_logits()
    teacher = torch.randn(5, 4)
    loss, _ = objective(logits, label, weights=torch.ones(3), teacher=teacher, distill_weight=1.0)
    assert torch.allclose(loss, distillations(logits, teacher, temperature=2.0).sum())
    assert distillations([teacher], teacher, temperature=2.0).abs().max() < 1e-6


@pytest.mark.parametrize("m", [1, 2, 5])
def test_named_exit_weights_have_mean_one(m):
    for kind in (None, "uniform", "linear"):
        assert exit_weights(kind, m).mean() == pytest.approx(1)
    if m > 1:
        weights = exit_weights("last", m)
        assert weights.mean() == pytest.approx(1)
        assert weights[-1] == pytest.approx(m / 2)
    assert (exit_weights("linear", m).diff() > 0).all()


@pytest.mark.parametrize("weights", ["middle", [1.0], [1.0, -1.0, 1.0], [1.0, float("nan"), 1.0]])
def test_exit_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(InputError, match="exit_weights"):
        exit_weights(weights, 3)


def test_learning_rates_follow_torchs_own_schedules():
    steps = 400
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    cosine = []
    for _ in range(steps):
        cosine.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()
    assert np.allclose([rate_factor(i / steps, "cosine") for i in range(steps)], cosine, atol=1e-6)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1.0, steps, pct_start=0.25, cycle_momentum=False
    )
    one_cycle = []
    for _ in range(steps - 1):
        one_cycle.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()
    ours = [rate_factor(i / steps, "one_cycle") for i in range(steps - 1)]
    assert np.abs(np.array(ours) - one_cycle).max() < 0.01  # they end one step apart
    assert {rate_factor(p, "constant") for p in (0.0, 0.3, 1.0)} == {1.0}


# -- the three ways to train ----------------------------------------------------------------------------


@EVERY_MODE
def test_training_lowers_the_loss_of_what_it_trains(mode):
    net, history = job(None, mode, epochs=12)
    trained = slice(0, -1) if mode == "frozen" else slice(None)
    first, last = history.epochs[0].validation_loss[trained], history.last.validation_loss[trained]
    assert all(b < a for a, b in zip(first, last, strict=True))
    assert min(history.last.validation_accuracy[trained]) > 0.6  # three classes
    assert not net.training


@pytest.mark.parametrize("cache", [True, False])
def test_frozen_leaves_the_backbone_as_it_is_to_the_last_bit(cache):
    net = network()
    before, x = copy.deepcopy(net.backbone).eval(), data().tensors[0]
    answers = before(x)
    heads = copy.deepcopy(net.heads)
    quick(net, cache=cache)
    assert same(net.backbone, before)
    assert torch.equal(net(x)[-1], answers)
    assert all(p.requires_grad for p in net.parameters())
    assert not any(same(a, b) for a, b in zip(net.heads, heads, strict=True))


def test_heads_trained_on_the_cache_match_heads_trained_through_the_backbone():
    """In half precision the cache rounds features to 1e-3; without shuffling both see the same batches."""
    loader = DataLoader(data(), batch_size=240)
    cached, direct = network(), network()
    for net, cache in ((cached, True), (direct, False)):
        quick(net, loader, cache=cache, batch_size=240, learning_rate=0.01)
    for a, b in zip(cached.heads.parameters(), direct.heads.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)


def test_the_cache_is_built_once_and_not_trusted_for_another_backbone(tmp_path):
    class Counting(DataLoader):
        batches = 0

        def __iter__(self):
            for batch in super().__iter__():
                Counting.batches += 1
                yield batch

    loader = Counting(data(), batch_size=60)
    quick(network(), loader, checkpoint_dir=tmp_path)
    assert Counting.batches == 4
    (tmp_path / "checkpoint.pt").unlink()
    quick(network(), loader, checkpoint_dir=tmp_path)
    assert Counting.batches == 5  # the first batch shows that the data is the same
    (tmp_path / "checkpoint.pt").unlink()
    other = network()
    with torch.no_grad():
        other.backbone.blocks[0][0].weight.mul_(2)
    quick(other, loader, checkpoint_dir=tmp_path)
    assert Counting.batches == 9


def test_features_too_large_for_half_precision_are_refused():
    net = network()
    with torch.no_grad():
        net.backbone.blocks[0][1].weight.mul_(1e6)
    with pytest.raises(InputError, match="cache=False"):
        quick(net)


@EVERY_MODE
def test_equal_seeds_give_equal_weights_and_others_do_not(mode):
    a, b, c = (network(dropout=0.2) for _ in range(3))
    for net, seed in ((a, 1), (b, 1), (c, 2)):
        torch.manual_seed(int(torch.randint(1000, (1,))))  # the global generator plays no part
        quick(net, mode=mode, seed=seed)
    assert same(a, b)
    assert not same(a, c)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    net = network()
    torch.manual_seed(5)
    quick(net, mode="joint")
    assert torch.equal(torch.rand(1), expected)


def test_with_the_original_network_as_only_teacher_labels_play_no_part():
    x, label = data().tensors
    trained = []
    for labels, teacher in ((label, "original"), (1 - label.clamp(max=1), "original"), (label, "self")):
        loader = DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=60)
        trained.append(network())
        quick(trained[-1], loader, mode="distill", distill_weight=1.0, teacher=teacher)
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "adamw"},
        {"schedule": "cosine"},
        {"schedule": "constant", "momentum": 0.0},
        {"precision": "bf16"},
        {"exit_weights": "linear", "gradient_balancing": True},
        {"exit_weights": [0.0, 0.5, 1.0]},
        {"smoothing": 0.1, "backbone_rate": 0.1},
    ],
)
def test_every_option_trains(options):
    net = network()
    history = quick(net, mode="joint", epochs=6, **options)
    assert history.last.train_loss[-1] < history.epochs[0].train_loss[-1]
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_backbone_rate_zero_keeps_its_weights():
    net = network()
    before = copy.deepcopy(dict(net.backbone.named_parameters()))
    quick(net, mode="joint", backbone_rate=0.0)
    assert all(torch.equal(p, before[name]) for name, p in net.backbone.named_parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "both"},
        {"epochs": 0},
        {"optimiser": "lion"},
        {"schedule": "step"},
        {"learning_rate": -1.0},
        {"precision": "fp8"},
        {"temperature": 0.0, "mode": "distill"},
        {"teacher": "nobody"},
        {"momentum": float("nan")},
    ],
)
def test_options_that_do_not_exist_are_refused(options):
    with pytest.raises(InputError):
        quick(network(), **options)


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 1), (torch.zeros(2, 1),), (torch.zeros(2), torch.zeros(2, 2))]
)
def test_batches_of_another_form_are_refused(batch):
    with pytest.raises(InputError, match=r"\(inputs, label\)"):
        unpack(batch)


def test_loaders_without_batches_or_labels_are_refused():
    for mode in ("frozen", "joint"):
        with pytest.raises(InputError, match="labels"):
            quick(network(), [(data().tensors[0], None)], mode=mode)
        with pytest.raises(InputError, match="no batches"):
            quick(network(), [], mode=mode)


def test_any_iterable_of_tuples_or_dicts_will_do():
    images, label = data().tensors
    as_dict = [({"x": images[:40]}, label[:40]), ({"x": images[40:]}, label[40:], torch.arange(200))]
    as_tuple = [((images[:40],), label[:40]), ((images[40:],), label[40:])]
    a, b = network(), network()
    quick(a, as_dict, mode="joint")
    quick(b, as_tuple, mode="joint")
    assert same(a, b)


# -- checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "kill_at"), [("frozen", 3), ("joint", 17)])
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_weights(tmp_path, mode, kill_at):
    """7 batches an epoch: joint dies in its third epoch, frozen while it fills the cache."""
    command = [sys.executable, str(JOB), str(tmp_path), mode, str(kill_at)]
    killed = subprocess.run(command, check=False, env=SAME_THREADS)
    assert killed.returncode == -signal.SIGKILL
    lines = tmp_path / "history.jsonl"
    assert lines.exists() == (mode == "joint")
    if mode == "joint":
        assert len(lines.read_text().splitlines()) == 2
    resumed, history = job(tmp_path, mode)
    unbroken, expected = job(None, mode)
    assert same(resumed, unbroken)
    assert [e.train_loss for e in history.epochs] == [e.train_loss for e in expected.epochs]
    assert [e.validation_accuracy for e in history.epochs] == [e.validation_accuracy for e in expected.epochs]
    assert not list(tmp_path.rglob("*.tmp")) or mode == "frozen"


@EVERY_MODE
def test_resumed_after_every_epoch_it_is_the_same(tmp_path, mode, monkeypatch):
    expected, _ = job(None, mode)

    class Enough(Exception):  # noqa: N818
        pass

    from exeunt.torch import loop

    save = loop.save_checkpoint

    def save_and_die(*args):
        save(*args)
        raise Enough

    monkeypatch.setattr(loop, "save_checkpoint", save_and_die)
    for _ in range(4):
        with pytest.raises(Enough):
            job(tmp_path, mode)
    resumed, history = job(tmp_path, mode)  # all epochs are done: nothing is left to train
    assert same(resumed, expected)
    assert [e.epoch for e in history.epochs] == [0, 1, 2, 3]


def test_history_is_one_line_of_json_per_epoch(tmp_path):
    _, history = job(tmp_path, "joint")
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == history.to_list()
    assert [len(line["train_accuracy"]) for line in lines] == [3] * 4
    assert 0 < lines[0]["learning_rate"] <= 0.1


def test_a_checkpoint_of_other_arguments_is_refused_by_name(tmp_path):
    job(tmp_path, "joint", epochs=1)
    with pytest.raises(InputError, match=r"epochs was 1 and is 2; learning_rate was 0.1 and is 0.3"):
        job(tmp_path, "joint", epochs=2, learning_rate=0.3)


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    job(tmp_path, "joint", epochs=1)
    file = tmp_path / "checkpoint.pt"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nonsense"):
        file.write_bytes(content)
        with pytest.raises(ArtefactError, match="delete it"):
            job(tmp_path, "joint", epochs=1)
    torch.save({"some": "thing"}, file)
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


# -- several processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_batch_without_overlap(world):
    batches = list(DataLoader(data(50), batch_size=13))
    parts = [list(shared(batches, rank, world)) for rank in range(world)]
    for i, (inputs, label) in enumerate(batches):
        assert torch.equal(torch.cat([p[i][0] for p in parts]), inputs)
        assert torch.equal(torch.cat([p[i][1] for p in parts]), label)
    with pytest.raises(InputError, match="last batch"):
        list(shared([(torch.zeros(1, 2), torch.zeros(1))], 0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["frozen", "joint"])
def test_two_processes_train_as_one(tmp_path, mode):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = tmp_path / "weights.pt"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}",
        str(JOB), str(target), mode, "share",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(command, check=True, env=environment, timeout=500)
    shared_state = torch.load(target, weights_only=True)
    alone, _ = job(None, mode, norm=False)
    for name, value in alone.state_dict().items():
        assert torch.allclose(shared_state[name], value, atol=1e-5), name


def test_entropies_are_those_of_torch():
    logits, label = some_logits()
    expected = [functional.cross_entropy(x, label) for x in logits]
    assert torch.allclose(cross_entropies(logits, label), torch.stack(expected))


def test_the_cache_is_not_trusted_for_data_that_differ_after_the_first_batch(tmp_path):
    class Known(TensorDataset):
        fingerprint = "a"

    inputs, label = (tensor.clone() for tensor in data().tensors)
    dataset = Known(inputs, label)
    quick(network(), DataLoader(dataset, batch_size=60), checkpoint_dir=tmp_path)
    before = (tmp_path / "features" / "training" / "features.f16").read_bytes()
    inputs[200:] += 1
    dataset.fingerprint = "b"
    (tmp_path / "checkpoint.pt").unlink()
    quick(network(), DataLoader(dataset, batch_size=60), checkpoint_dir=tmp_path)
    after = (tmp_path / "features" / "training" / "features.f16").read_bytes()
    assert len(after) == len(before)
    assert after != before


def test_the_cache_is_not_trusted_once_heads_read_fewer_features(tmp_path, monkeypatch):
    """Their options are the same; what a grid head pools to has changed."""
    from exeunt.torch.exits import heads

    quick(network(), checkpoint_dir=tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    before = (tmp_path / "features" / "training" / "features.f16").stat().st_size
    monkeypatch.setattr(heads, "_MOST_FEATURES", 8)
    quick(network(), checkpoint_dir=tmp_path)
    assert (tmp_path / "features" / "training" / "features.f16").stat().st_size < before
