"""What training minimises."""

from __future__ import annotations

import torch
from torch.nn import functional

from exeunt.torch.training.losses import cross_entropies, distillations, objective


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


def test_entropies_are_those_of_torch():
    logits, label = some_logits()
    expected = [functional.cross_entropy(x, label, reduction="none") for x in logits]
    assert torch.allclose(cross_entropies(logits, label), torch.stack(expected))


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
