"""Whether inputs look exchangeable with the calibration inputs, as every guarantee of a policy assumes.

Rows that are exchangeable can be divided anew at random, and nothing is changed. The tests here hold under such
permutations alone: equal scores and inputs that repeat make them speak less often, never more often. Where rows come
in groups, the means of groups are permuted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt.guarantees.confidence_intervals import is_right_or_wrong
from exeunt.trace.derived import score_matrix
from exeunt.trace.grades import how_good
from exeunt.trace.groups import Groups

if TYPE_CHECKING:
    from exeunt.policy import Policy
    from exeunt.trace import ExitTrace

NOTICED = 0.001
"""The p-value below which inputs are said not to be exchangeable."""


class Difference(NamedTuple):
    """How inputs differ from the calibration inputs: the p-value of what differs most, and a sentence about it."""

    p_value: float
    text: str

    def __str__(self) -> str:
        return (
            f"These inputs are not exchangeable with the calibration inputs (p = {self.p_value:.2g}): {self.text}. "
            "So the expected cost and the guarantee do not describe them. Usual reasons: the network or its heads were "
            "trained on the calibration inputs (--unseen was given, but the weights had seen them); these inputs come "
            "from another source or a later time; they were prepared in another way. Calibrate on inputs like these "
            "that nothing was trained on: exeunt train --calibration-data FILE, or exeunt calibrate --traces FOLDER."
        )


def difference(
    policy: Policy, exits: Integers, trace: ExitTrace, calibration: ExitTrace | None = None
) -> Difference | None:
    """Return how the inputs of a trace differ from the calibration inputs; None unless p < 0.001.

    The p-value is of the hypothesis that both are exchangeable. Four groups of tests share it equally (Bonferroni, also
    within a group): Fisher's exact tests (1) of the shares that leave at each exit, of the inputs that reached it, and
    (2) of how often the last exit is right (where answers are graded, a Kolmogorov-Smirnov test of their quality);
    Kolmogorov-Smirnov tests (3) of how sure exits are altogether (of the
    ranks of an input's scores among all inputs, averaged over the exits), and (4) of the scores of each exit.

    `exits` (n,): where the policy answers the inputs. `trace`, `calibration`: of the exits that the policy runs;
    without `calibration` only its counts are known, for (1). Where rows come in groups, the means of groups are
    compared: (1) is left out, and (2) is a Kolmogorov-Smirnov test.
    """
    tests: list[Iterable[Difference]] = []
    if policy.counts is not None and trace.groups is None and policy.n_groups is None:
        tests.append(_by_exit(policy.counts, exits))
    if calibration is not None:
        both = [policy.answer.on(part) for part in (calibration, trace)]
        tests.append(_by_correctness(*both))
        Groups.joined(groups := [part.groups for part in both])  # of one kind
        tests += _by_score([score_matrix(policy.score, part) for part in both], groups)
    least = _least(test for some in tests for test in _least(some))
    return least[0] if least and least[0].p_value < NOTICED else None


def _least(tests: Iterable[Difference]) -> list[Difference]:
    """Return the test with the least p-value, corrected for the number of tests; nothing without tests."""
    by_p_value = sorted(tests)
    return [test._replace(p_value=len(by_p_value) * test.p_value) for test in by_p_value[:1]]


def _by_exit(calibrated: Integers, exits: Integers) -> Iterator[Difference]:
    """Compare how many inputs leave at each exit: numbers (m,) in calibration, and exits (n,) now."""
    counts = np.bincount(exits, minlength=len(calibrated))
    reached = [counts[::-1].cumsum()[::-1] for counts in (calibrated, counts)]
    for exit_ in range(len(calibrated) - 1):
        sizes = [int(reached_by[exit_]) for reached_by in reached]
        if min(sizes) > 0:
            text = (
                f"of the inputs that reach exit {exit_}, {{:.1%}} left in calibration and {{:.1%}} leave now"
            )
            yield _fisher(text, [int(calibrated[exit_]), int(counts[exit_])], sizes)


def _by_correctness(calibration: ExitTrace, trace: ExitTrace) -> Iterator[Difference]:
    """Compare how good the last exit's answers are, if both traces measure the same."""
    alike = (calibration.measure, calibration.reference) == (trace.measure, trace.reference)
    if alike and calibration.has_loss and trace.has_loss:
        quality = [part.quality[:, -1] for part in (calibration, trace)]
        of_each = how_good(trace.measure)
        text = f"the last exit {of_each} of the calibration inputs, and it {of_each} of these"
        if trace.groups is None and all(map(is_right_or_wrong, quality)):
            yield _fisher(text, [int(quality_of.sum()) for quality_of in quality], [calibration.n, trace.n])
        else:
            p_value = _kolmogorov_smirnov(quality, [calibration.groups, trace.groups]).pvalue
            yield Difference(float(p_value), text.format(*(quality_of.mean() for quality_of in quality)))


def _fisher(text: str, counts: list[int], of: list[int]) -> Difference:
    from scipy.stats import fisher_exact

    p_value = fisher_exact([counts, np.subtract(of, counts)]).pvalue
    return Difference(float(p_value), text.format(*np.divide(counts, of)))


def _kolmogorov_smirnov(values: Sequence[Any], groups: Sequence[Groups | None]) -> Any:
    """Compare two samples of values (n,), or of the means of groups."""
    from scipy.stats import ks_2samp

    pairs = zip(values, groups, strict=True)
    return ks_2samp(*(scores if of is None else of.means(scores) for scores, of in pairs))


def _by_score(both: Sequence[Floats], groups: Sequence[Groups | None]) -> list[list[Difference]]:
    """Compare scores of calibration and now, (c, m) and (n, m), over all exits and at each."""
    from scipy.stats import rankdata

    n, scores = len(both[0]), np.concatenate(both)
    ranks = rankdata(np.where(np.isnan(scores), -np.inf, scores), axis=0)

    def compare(values: Floats, where: str) -> Difference:
        test = _kolmogorov_smirnov([values[:n], values[n:]], groups)
        # The sign of F(calibration) - F(now) where it is largest.
        more = "more" if test.statistic_sign > 0 else "less"
        return Difference(float(test.pvalue), f"{where} {more} sure of them than of the calibration inputs")

    each = [compare(column, f"exit {exit_} is") for exit_, column in enumerate(ranks.T)]
    return [[compare(ranks.mean(axis=1), "the exits are")], each]
