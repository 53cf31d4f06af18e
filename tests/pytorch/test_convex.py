"""Linear heads that are solved: against scikit-learn, resumed, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from training_job import Enough, Net, data, die_after_saving, same

from exeunt.errors import InputError
from exeunt.torch import attach, train
from exeunt.torch.training import convex
from exeunt.torch.training.convex import PENALTIES, solve


def linear(**options):
    torch.manual_seed(7)
    return attach(Net(norm=True), data().tensors[0][:2], 2, verbose=False, **{"hidden": 0, **options})


def solved(net, folder=None, **options):
    loader = DataLoader(data(), batch_size=60, shuffle=True)
    held_out = DataLoader(data(48), batch_size=16)
    return train(
        net, loader, validation=held_out, checkpoint_dir=folder, device="cpu", progress=False,
        **{"optimiser": "lbfgs", **options},
    )  # fmt: skip


def objective(weight, bias, inputs, label, penalty):
    scale = inputs.std(0, unbiased=False)
    entropy = functional.cross_entropy(functional.linear(inputs, weight, bias), label)
    return float(entropy + penalty / 2 * (weight * scale).square().sum())


@pytest.mark.parametrize("penalty", [0.1, 1e-2, 1e-3])
def test_a_solution_is_that_of_scikit_learn(penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (500,), generator=rng)
    inputs = torch.randn(500, 6, generator=rng) * torch.tensor([1e-3, 1, 1, 5, 100, 1]) + 3
    inputs[:, 1] += label
    inputs[:, 5] = 2.0  # constant: it has no scale
    mean, scale = inputs.mean(0), inputs.std(0, unbiased=False).clamp_min(1e-6)
    theirs = linear_model.LogisticRegression(C=1 / (500 * penalty), tol=1e-8, max_iter=10_000)
    theirs.fit(((inputs - mean) / scale).double().numpy(), label.numpy())
    weight, bias = solve(inputs, label, 4, penalty)
    expected = theirs.predict_proba(((inputs - mean) / scale).double().numpy())
    found = functional.linear(inputs, weight, bias).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=3e-3)


def test_a_solution_found_from_another_is_the_same():
    images, label = data().tensors
    inputs = images.flatten(1)
    first = solve(inputs, label, 3, 0.1)
    again = solve(inputs, label, 3, 0.01, first)
    fresh = solve(inputs, label, 3, 0.01)
    values = [objective(*solution, inputs, label, 0.01) for solution in (first, again, fresh)]
    assert values[1] == pytest.approx(values[2], abs=1e-4)
    assert values[0] > values[2] + 1e-3


def test_solved_heads_fit_better_than_those_of_gradient_descent_and_the_backbone_stays():
    net, slow = linear(), linear()
    before = copy.deepcopy(net.backbone)
    history = solved(net)
    solved(slow, optimiser="sgd", epochs=2, learning_rate=0.01)
    assert same(net.backbone, before)
    assert history.last.penalties is not None
    assert set(history.last.penalties) <= set(PENALTIES)
    images, label = data().tensors
    with torch.no_grad():
        ours, theirs = ([functional.cross_entropy(x, label) for x in found(images)] for found in (net, slow))
    assert all(a < b for a, b in zip(ours[:2], theirs[:2], strict=True))
    assert history.last.train_loss[:2] == pytest.approx([float(x) for x in ours[:2]], abs=2e-3)
    assert history.last.validation_accuracy is not None


def test_the_penalty_is_chosen_on_inputs_held_out():
    """Where labels are noise the strongest is best; where they are not a weaker one."""
    rng = torch.Generator().manual_seed(0)
    inputs, label = torch.randn(300, 20, generator=rng), torch.randint(0, 3, (300,), generator=rng)
    rows = np.arange(300)
    noise, accuracy = convex.chosen_penalty(inputs, label, rows[:240], rows[240:], 3)
    assert (noise, accuracy < 0.6) == (PENALTIES[0], True)
    inputs[:, 0] += 5 * label
    clear, accuracy = convex.chosen_penalty(inputs, label, rows[:240], rows[240:], 3)
    assert (clear < noise, accuracy > 0.9) == (True, True)


def test_killed_after_every_head_it_ends_with_the_same_weights(tmp_path, monkeypatch):
    expected = linear()
    history = solved(expected)

    die_after_saving(monkeypatch)
    for _ in range(2):
        with pytest.raises(Enough):
            solved(linear(), tmp_path)
    resumed = linear()
    again = solved(resumed, tmp_path)  # all heads are done: nothing is left to solve
    assert same(resumed, expected)
    assert again.last.train_loss == history.last.train_loss
    assert again.last.penalties == history.last.penalties


@pytest.mark.parametrize(
    ("head", "options", "said"),
    [
        ({"hidden": 4}, {}, "solves linear heads: take hidden=0"),
        ({"stacked": True}, {}, "solves linear heads"),
        ({}, {"cache": False}, "needs features that are kept"),
        ({}, {"mode": "joint"}, "for mode 'frozen' alone"),
    ],
)
def test_what_cannot_be_solved_is_refused(head, options, said):
    with pytest.raises(InputError, match=said):
        solved(linear(**head), **options)


def test_features_that_do_not_fit_into_memory_are_refused_with_a_way_out(monkeypatch):
    net = linear()
    monkeypatch.setattr("exeunt._limits.usable_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"the features of 240 inputs takes .* learn by gradients"):
        solved(net)
