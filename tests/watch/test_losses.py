"""Losses that are larger than certified are noticed from labels that come late."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from made import planned

from exeunt.errors import InputError
from exeunt.policy import LossCertificate
from exeunt.policy.certificates import CERTAIN
from exeunt.watch import Watch
from exeunt.watch.loss_detector import LossDetector

AGREEMENT = LossCertificate(0.1, 0.05, 0.01, "betting", 0.08, 500, "large", measure="agreement")
ACCURACY = LossCertificate(0.1, 0.05, 0.01, "betting", 0.08, 500)


def policy_with(certificate):
    return replace(planned(np.random.default_rng(0), 100), loss_certificate=certificate)


def test_over_all_losses_as_certified_the_evidence_after_n_of_them_has_mean_n():
    for certificate, values, shares in (
        (AGREEMENT, (0.0, 1.0), (0.9, 0.1)), (ACCURACY, (-1.0, 0.0, 1.0), (0.2, 0.5, 0.3)),
    ):  # fmt: skip
        mean = np.zeros(5)
        for sequence in itertools.product(range(len(values)), repeat=5):
            detector = LossDetector.of(certificate)
            detector.update(np.array(values)[list(sequence)], np.inf)
            mean += np.prod(np.array(shares)[list(sequence)]) * detector.evidence
        np.testing.assert_allclose(mean, 5, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_more_loss_than_certified_is_an_alarm_whatever_the_batches(size):
    rng = np.random.default_rng(0)
    losses = np.append(rng.random(1000) < 0.05, rng.random(600) < 0.4).astype(float)
    watch = Watch(policy_with(AGREEMENT))
    found = [
        alarm for start in range(0, 1600, size) for alarm in watch.update_losses(losses[start : start + size])
    ]
    (alarm,) = found
    assert alarm.kind == "loss"
    assert alarm.void
    assert 1000 < alarm.at < 1080
    assert 950 < alarm.since <= 1010
    assert "at most 10.00% was certified" in str(alarm)
    again = Watch.from_dict(watch.to_dict(), watch.policy)
    assert again.loss_alarm == alarm
    assert again.update_losses(losses[1000:]) == []
    again.restart()
    assert len(again.update_losses(losses[1000:])) == 1


def test_a_loss_as_certified_raises_no_alarm_and_accuracy_is_compared_with_the_reference():
    rng = np.random.default_rng(0)
    watch = Watch(policy_with(ACCURACY))
    wrong, wrong_too = (rng.random((2, 5000)) < np.array([[0.3], [0.25]])).astype(float)
    assert watch.update_losses(wrong, wrong_too) == []
    assert len(watch.update_losses(np.ones(400), wrong_too[:400])) == 1
    for given, message in (
        ((wrong,), "give its losses on the same inputs as reference"),
        ((wrong - 2, wrong_too), r"loss must lie in \[0, 1\], 1 being a wrong answer, got -2 to -1"),
        ((wrong, [0.0]), "reference must have shape"),
    ):
        with pytest.raises(InputError, match=message):
            watch.update_losses(*given)


@pytest.mark.parametrize("certificate", [None, replace(ACCURACY, bound=CERTAIN)])
def test_a_policy_without_a_certified_loss_has_nothing_to_compare_with(certificate):
    with pytest.raises(InputError, match="no certified loss"):
        Watch(policy_with(certificate)).update_losses([0.0])


def test_one_loss_where_none_was_certified_is_finite_evidence():
    detector = LossDetector.of(replace(AGREEMENT, max_loss=0.0))
    detector.update(np.ones(200), np.inf)
    assert np.isfinite(detector.evidence).all()
