"""What certificates say is true often enough where inputs repeat or come in groups: see `tests.recalibrations`."""

from __future__ import annotations

import pytest
from tests.recalibrations import CERTIFICATES, DELTA, POPULATIONS, interval, violations

# A small model of few contents may be worse than the most frequent label.
pytestmark = pytest.mark.filterwarnings("ignore:model 'small' is right:exeunt.errors.ExeuntWarning")
_CASES = [(one, other) for one in CERTIFICATES for other in POPULATIONS]
_FEW = ("one input is 50%", "Zipf", "two contents")
_TOGETHER = "loss and cost together", "loss, graded answers"
"""What these rest on is tested apart, so that few recalibrations of the usual log do."""
_LEVEL = 2e-4
"""Of error, two-sided: with it four certificates of four that are false are too many, as with 2e-6 eight of eight."""


@pytest.mark.parametrize(
    ("certificate", "population"),
    [case for case in _CASES if case[1] in (_FEW[1:2] if case[0] in _TOGETHER else _FEW)],
)
def test_few_recalibrations(certificate: str, population: str) -> None:
    count, n = violations(certificate, population, 4)
    allowed = 0.0 if "quota" in certificate else DELTA
    assert n > 0 or population != "Zipf"  # something is certified
    assert n == 0 or interval(count, n, _LEVEL)[0] <= allowed


@pytest.mark.parametrize(
    ("population", "n"), [("groups, mean over groups", 6), ("groups, at most 20 inputs count", 4)]
)
def test_few_recalibrations_by_groups(population: str, n: int) -> None:
    count, certified = violations("cost", population, n)
    assert certified >= n // 2
    assert interval(count, certified, _LEVEL)[0] <= DELTA


def test_certificates_are_broken_where_groups_are_not_named() -> None:
    count, certified = violations("cost", "unnamed", 25)
    assert certified == 25
    assert interval(count, certified, _LEVEL)[0] > DELTA


@pytest.mark.slow
@pytest.mark.parametrize(("certificate", "population"), _CASES)
def test_2000_recalibrations(certificate: str, population: str) -> None:
    count, n = violations(certificate, population, 2_000)
    allowed = 0.0 if "quota" in certificate else DELTA
    # A family-wise error of 1% over all cases.
    assert n == 0 or interval(count, n, 2 * 0.01 / len(_CASES))[0] <= allowed
