"""E-detectors of a batch are those of a slow loop, and their e-values have mean 1 under the urn, exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunt.errors import InputError
from exeunt.watch.e_detectors import FORGETTING, LARGEST, UrnDetectors, evidence_after

COUNTS = np.array([3, 1, 2])
COARSE = np.array([0, 0, 1])


VALUES = np.array([[0.5, 3], [1, 0.1], [1.5, 1]])


def detectors(counts=COUNTS, coarse=COARSE, values=VALUES):
    return UrnDetectors(counts, [coarse, np.arange(len(counts))], values)


def slow(counts, coarse, cells):
    """The e-values (d, n) and R_t (d, n) by their definitions, one input and one e-detector at a time."""
    found = []
    for division in (coarse, np.arange(len(counts))):
        urn = np.bincount(division, weights=counts).astype(float)
        urn[division[-1]] += 1
        late, evidence, of_one = np.zeros(len(urn)), 0.0, []
        for cell in division[cells]:
            p = urn / urn.sum()
            q = (20 * p + late) / (20 + late.sum())
            e = q[cell] / p[cell]
            evidence = e * (1 + evidence)
            of_one.append((e, evidence))
            late *= FORGETTING
            late[cell] += 1
            urn[cell] += 1
        found.append(of_one)
    for values in VALUES.T:
        urn, evidence, of_one = counts + np.array([0, 0, 1.0]), 0.0, []
        for cell in cells:
            e = values[cell] / (values @ urn / urn.sum())
            evidence = e * (1 + evidence)
            of_one.append((e, evidence))
            urn[cell] += 1
        found.append(of_one)
    return np.array(found)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=150), st.integers(1, 64))
def test_batches_of_any_size_give_what_a_slow_loop_gives(cells, size):
    cells, urn, e_values, evidence = np.array(cells), detectors(), [], []
    for start in range(0, len(cells), size):
        e_values.append(urn.e_values(cells[start : start + size]))
        evidence.append(evidence_after(e_values[-1], urn.evidence))
        urn.evidence = evidence[-1][:, -1]
    e, r = np.moveaxis(slow(COUNTS, COARSE, cells), 2, 0)
    np.testing.assert_allclose(np.concatenate(e_values, axis=1), e, rtol=1e-9)
    np.testing.assert_allclose(np.concatenate(evidence, axis=1), r, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_over_all_sequences_of_the_urn_the_evidence_after_n_inputs_has_mean_n(n):
    mean, total = np.zeros(4), 0.0
    for sequence in itertools.product(range(3), repeat=n):
        weights, probability = COUNTS + np.array([0.0, 0, 1]), 1.0
        for cell in sequence:
            probability *= weights[cell] / weights.sum()
            weights[cell] += 1
        urn = detectors()
        mean += probability * evidence_after(urn.e_values(np.array(sequence)), urn.evidence)[:, -1]
        total += probability
    assert total == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(mean, n, rtol=1e-12)


def test_given_any_past_the_next_e_value_has_mean_one():
    rng = np.random.default_rng(0)
    for n in (0, 1, 63, 64, 300):
        past = rng.integers(0, 3, n)
        found = []
        for cell in range(3):
            urn = detectors()
            for start in range(0, n, 64):
                urn.e_values(past[start : start + 64])
            found.append(urn.e_values(np.array([cell]))[:, 0])
        weights = COUNTS + np.array([0, 0, 1]) + np.bincount(past, minlength=3)
        np.testing.assert_allclose(np.average(found, axis=0, weights=weights), 1, rtol=1e-12)


def test_a_batch_that_the_urn_says_is_impossible_has_finite_evidence():
    urn = detectors(np.array([10**12, 0]), np.array([0, 0]), VALUES[:2])
    evidence = evidence_after(urn.e_values(np.ones(64, dtype=np.int64)), np.full(4, 1e40))
    assert np.isfinite(evidence).all()
    assert evidence[:, -1].max() > 1e100
    urn = detectors(np.array([10**12, 0]), np.array([0, 0]), VALUES[:2, :0])
    assert urn.e_values(np.array([1])).max() == 1.0  # nothing was seen recently
    assert urn.e_values(np.array([1])).max() == LARGEST


def test_the_state_of_other_cells_is_refused():
    with pytest.raises(InputError, match="other cells"):
        detectors().restore(detectors(np.array([1, 2]), np.array([0, 0]), VALUES[:2]).to_dict())
