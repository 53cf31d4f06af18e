"""What training minimises; the three ways to train, their options, and the cache of features."""

from __future__ import annotations

import copy
import re
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_job import attached, data, job, network, same

from exeunt.errors import InputError
from exeunt.torch import train
from exeunt.torch.batches import unpack
from exeunt.torch.exits import heads
from exeunt.torch.training.losses import cross_entropies, distillations, objective
from exeunt.torch.training.recipe import rate_factor

CACHED_OR_NOT = pytest.mark.parametrize("cache", [True, False])
EVERY_MODE = pytest.mark.parametrize("mode", ["frozen", "joint", "distill"])


def quick(net, loader=None, **options):
    loader = DataLoader(data(), batch_size=40, shuffle=True) if loader is None else loader
    return train(net, loader, **{"epochs": 2, "progress": False, "device": "cpu", **options})


@EVERY_MODE
def test_training_lowers_the_loss_of_what_it_trains(mode):
    net, history = job(None, mode, epochs=8)
    trained = slice(0, -1) if mode == "frozen" else slice(None)
    first, last = history.epochs[0].validation_loss[trained], history.last.validation_loss[trained]
    assert all(b < a for a, b in zip(first, last, strict=True))
    assert min(history.last.validation_accuracy[trained]) > 0.6  # three classes
    assert not net.training


@CACHED_OR_NOT
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


class Counting(DataLoader):
    """A loader that counts the batches that it gives out."""

    batches = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.batches += 1
            yield batch


def test_the_cache_is_built_once_and_not_trusted_for_another_backbone(tmp_path):
    other = network()
    with torch.no_grad():
        other.backbone.blocks[0][0].weight.mul_(2)
    # The second time, the first batch shows that the data is the same.
    for net, read in ((network(), 4), (network(), 1), (other, 4)):
        loader = Counting(data(), batch_size=60)
        quick(net, loader, checkpoint_dir=tmp_path)
        assert loader.batches == read
        (tmp_path / "checkpoint.pt").unlink()


@pytest.mark.parametrize(("layer", "factor", "said"), [(1, 1e6, "cache=False"), (0, torch.nan, "not finite")])
def test_features_too_large_for_half_precision_or_not_finite_are_refused(layer, factor, said):
    net = network()
    with torch.no_grad():
        net.backbone.blocks[0][layer].weight.mul_(factor)
    with pytest.raises(InputError, match=said):
        quick(net)


@EVERY_MODE
def test_equal_seeds_give_equal_weights_and_others_do_not(mode):
    a, b, c = (network(dropout=0.2) for _ in range(3))
    for net, seed in ((a, 1), (b, 1), (c, 2)):
        torch.manual_seed(int(torch.randint(1000, (1,))))  # the global generator plays no part
        before = torch.get_rng_state()
        quick(net, mode=mode, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
    assert same(a, b)
    assert not same(a, c)


def test_with_the_original_network_as_only_teacher_labels_play_no_part():
    x, label = data().tensors
    trained = []
    for labels, teacher in ((label, "original"), (1 - label.clamp(max=1), "original"), (label, "self")):
        loader = DataLoader(TensorDataset(x, labels), batch_size=60)
        trained.append(network())
        quick(trained[-1], loader, mode="distill", distill_weight=1.0, teacher=teacher)
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "adamw"},
        {"schedule": "cosine", "precision": "bf16"},
        {"schedule": "constant", "momentum": 0.0},
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
    ("option", "value"),
    [
        ("mode", "both"),
        ("epochs", 0),
        ("optimiser", "lion"),
        ("schedule", "step"),
        ("learning_rate", -1.0),
        ("precision", "fp8"),
        ("temperature", 0.0),
        ("teacher", "nobody"),
        ("momentum", float("nan")),
    ],
)
def test_options_that_do_not_exist_are_refused(option, value):
    with pytest.raises(InputError, match=option):
        quick(network(), **{"mode": "distill", option: value})


def test_batches_of_another_form_and_loaders_without_batches_or_labels_are_refused():
    for batch in (torch.zeros(2, 1), (torch.zeros(2, 1),), (torch.zeros(2), torch.zeros(2, 2))):
        with pytest.raises(InputError, match=r"\(inputs, label\)"):
            unpack(batch)
    for mode in ("frozen", "joint"):
        for loader, said in (([(data().tensors[0], None)], "labels"), ([], "no batches")):
            with pytest.raises(InputError, match=said):
                quick(network(), loader, mode=mode)


def test_any_iterable_of_tuples_or_dicts_will_do():
    images, label = data().tensors
    as_dict = [({"x": images[:40]}, label[:40]), ({"x": images[40:]}, label[40:], torch.arange(200))]
    as_tuple = [((images[:40],), label[:40]), ((images[40:],), label[40:])]
    a, b = network(), network()
    quick(a, as_dict, mode="joint")
    quick(b, as_tuple, mode="joint")
    assert same(a, b)


def test_without_a_length_the_rate_changes_between_epochs_only():
    batches = list(DataLoader(data(), batch_size=40))

    class Lengthless:
        """A loader that does not know how many batches it has."""

        def __iter__(self):
            return iter(batches)

    history = quick(network(), Lengthless(), mode="joint", epochs=4)
    expected = [0.1 * rate_factor(epoch / 4, "one_cycle") for epoch in range(4)]
    assert [epoch.learning_rate for epoch in history.epochs] == expected


@pytest.mark.parametrize(("rate", "epoch"), [(1e30, 1), (1e6, 2)])
def test_a_training_that_diverges_says_so_with_epoch_and_learning_rate(tmp_path, rate, epoch):
    loader = DataLoader(data(), batch_size=120, shuffle=True)
    said = f"diverged in epoch {epoch} of 2, at a learning rate of up to {rate:g}: the loss of exit"
    plain = {"schedule": "constant", "momentum": 0.0, "weight_decay": 0.0, "mode": "joint"}
    with pytest.raises(InputError, match=re.escape(said)):
        quick(network(), loader, learning_rate=rate, checkpoint_dir=tmp_path, **plain)
    assert (tmp_path / "checkpoint.pt").exists() is (epoch == 2)


def rates_of(schedule, steps=400, **options):
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference, rates = schedule(optimiser, **options), []
    for _ in range(steps - 1):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()
    return np.array(rates)


def test_learning_rates_follow_torchs_own_schedules():
    schedules, at = torch.optim.lr_scheduler, np.arange(399) / 400
    cosine, one_cycle = ([rate_factor(p, name) for p in at] for name in ("cosine", "one_cycle"))
    assert np.allclose(cosine, rates_of(schedules.CosineAnnealingLR, T_max=400), atol=1e-6)
    theirs = rates_of(schedules.OneCycleLR, max_lr=1.0, total_steps=400, pct_start=0.25, cycle_momentum=False)
    assert np.abs(one_cycle - theirs).max() < 0.01  # they end one step apart
    assert {rate_factor(p, "constant") for p in (0.0, 0.3, 1.0)} == {1.0}


FEATURES = "features/training/features.f16"


def test_the_cache_is_not_trusted_for_data_that_differ_after_the_first_batch(tmp_path):
    inputs, label = (tensor.clone() for tensor in data().tensors)
    dataset = TensorDataset(inputs, label)
    kept = []
    for fingerprint in ("a", "b"):
        dataset.fingerprint = fingerprint
        quick(network(), DataLoader(dataset, batch_size=60), checkpoint_dir=tmp_path)
        kept.append((tmp_path / FEATURES).read_bytes())
        inputs[200:] += 1
        (tmp_path / "checkpoint.pt").unlink()
    assert len(kept[0]) == len(kept[1])
    assert kept[0] != kept[1]


def test_the_cache_is_not_trusted_once_heads_read_fewer_features(tmp_path, monkeypatch):
    """Their options are the same; what a grid head pools to has changed."""
    quick(network(), checkpoint_dir=tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    before = (tmp_path / FEATURES).stat().st_size
    monkeypatch.setattr(heads, "_MOST_FEATURES", 8)
    made_now = attached.__wrapped__(batch_norm=True)  # not a copy, whose heads were made before
    quick(made_now, checkpoint_dir=tmp_path)
    assert (tmp_path / FEATURES).stat().st_size < before


class Unlabelled(DataLoader):
    """Batches whose label is None, or -1 for all but the first so many inputs."""

    def __init__(self, known=0):
        super().__init__(data(), batch_size=40)
        self.known = known

    def __iter__(self):
        for x, y in super().__iter__():
            yield x, torch.where(torch.arange(len(y)) < self.known, y, -1) if self.known else None


@lru_cache
def jointly_trained():
    return job(None, "joint", epochs=8)[0]


@pytest.mark.parametrize("known", [0, 10])
@CACHED_OR_NOT
def test_heads_learn_the_networks_own_output_where_there_are_no_labels(known, cache):
    net, trained = network(), jointly_trained()
    net.backbone.load_state_dict(trained.backbone.state_dict())
    history = quick(net, Unlabelled(known), unlabelled=True, cache=cache, epochs=10)
    with torch.no_grad():
        *exits, last = [x.argmax(1) for x in net(data().tensors[0])]
    agreement = [(said == last).float().mean().item() for said in exits]
    assert min(agreement) > 0.8
    assert history.last.train_accuracy[-1] == (1.0 if not known else pytest.approx(1.0, abs=0.2))


def test_the_whole_network_learns_from_a_teacher_without_labels():
    net = network()
    before = copy.deepcopy(net.backbone).eval()
    options = {"mode": "distill", "teacher": "original", "learning_rate": 0.01, "backbone_rate": 0.1}
    quick(net, Unlabelled(), unlabelled=True, **options)
    assert not same(net.backbone, before)
    x = data().tensors[0]
    moved = (net(x)[-1].softmax(1) - before(x).softmax(1)).abs().mean()
    assert moved < 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "gives none for some inputs: heads learn without them from .* unlabelled=True"),
        ({"unlabelled": True, "mode": "joint"}, "nothing to learn from in mode 'joint'"),
        ({"unlabelled": True, "mode": "distill"}, "--mode distill --teacher original"),
    ],
)
@pytest.mark.parametrize("known", [0, 10])
def test_missing_labels_are_refused_where_something_learns_from_labels_alone(options, said, known):
    with pytest.raises(InputError, match=said):
        quick(network(), Unlabelled(known), **options)


def some_logits(m=3, n=5, k=4):
    torch.manual_seed(1)
    return [torch.randn(n, k, requires_grad=True) for _ in range(m)], torch.randint(0, k, (n,))


def test_the_joint_objective_is_the_sum_of_cross_entropies():
    logits, label = some_logits()
    loss, entropies = objective(logits, label)
    expected = [-(x.log_softmax(1)[range(5), label]).mean() for x in logits]
    assert torch.allclose(entropies, torch.stack(expected).detach())
    assert torch.allclose(loss, sum(expected))


def test_distillation_is_the_divergence_from_the_last_exit_which_learns_from_labels_alone():
    logits, label = some_logits()
    loss, _ = objective(logits, label, distill_weight=0.25, temperature=3.0)
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
    loss, _ = objective(logits, label, teacher=teacher, distill_weight=1.0)
    assert torch.allclose(loss, distillations(logits, teacher, temperature=2.0).mean(1).sum())
    assert distillations([teacher], teacher, temperature=2.0).abs().max() < 1e-6


def test_inputs_without_a_label_learn_the_teachers_output_and_class_and_the_others_their_label():
    logits, label = some_logits()
    label[[1, 3]] = -1
    teacher = torch.randn(5, 4)
    loss, _ = objective(logits, label, unlabelled=True, teacher=teacher, temperature=3.0)
    target = (teacher / 3).softmax(1)
    expected = 0.0
    for x in logits:
        for row in range(5):
            if label[row] < 0:
                divergence = (target[row] * (target[row].log() - (x[row] / 3).log_softmax(0))).sum() * 9
                said = functional.cross_entropy(x[row], teacher[row].argmax())
                expected += (divergence + said) / 2 / 5
            else:
                expected += functional.cross_entropy(x[row], label[row]) / 5
    assert torch.allclose(loss, expected, atol=1e-6)


def test_without_any_label_exits_learn_the_last_exits_output_alone():
    logits, _ = some_logits()
    loss, entropies = objective(logits, None, unlabelled=True)
    said = logits[-1].argmax(1)
    soft = distillations(logits, logits[-1], temperature=2.0)[:-1].mean(1).sum()
    hard = cross_entropies(logits, said)[:-1].mean(1).sum()
    assert torch.allclose(loss, (soft + hard) / 2 + functional.cross_entropy(logits[-1], said))
    assert torch.allclose(entropies, cross_entropies(logits, said).mean(1))
