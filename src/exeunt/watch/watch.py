"""The watch of a policy: told where inputs were answered, it raises an alarm once they are unlike calibration's."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Floats
from exeunt._support.checked_types import check_kind
from exeunt._support.sealed_json import content_digest, read_sealed, write_sealed
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.policy.watched_cells import WatchedCells
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.derived import score_matrix
from exeunt.trace.groups import n_units
from exeunt.watch.alarm_report import Alarm, changed_since, drift_alarm, loss_alarm
from exeunt.watch.e_detectors import MOST, MOST_EVIDENCE, EvidenceCurve, UrnDetectors, evidence_after
from exeunt.watch.loss_detector import LossDetector
from exeunt.watch.observed_inputs import LatestInputs, ObservedBatch, ObservedInputs

VERSION = 1
_FORMAT = "exeunt-watch"


class _State(TypedDict):
    calibration: str
    run_length: float
    of_several: bool
    n: int
    urn: Mapping[str, Any] | None
    scored: bool | None
    alarm: Mapping[str, Any] | None
    loss_alarm: Mapping[str, Any] | None
    groups: list[int]
    losses: Mapping[str, Any] | None


class Watch:
    """Notices that inputs are no longer like those that a policy was calibrated on, without labels.

    Without drift the mean number of inputs until an alarm is at least `run_length`, a theorem on average over
    calibrations (docs/explanation/watch.md). An alarm stands, and there is no other, until `restart`.
    `of_several`: give True where several watches follow policies of one calibration, as for several budgets or servers.
    Then `run_length` holds for the inputs of all of them together, whatever their number.

    Tell it of inputs in order of arrival, not in the order in which their answers end: easy ones end first, which looks
    like drift. Inputs that come in groups, such as turns of a conversation, frames of a video or requests of a user,
    are alike. Name the group of each (`update(..., groups=)`): a group counts once, by its first input, and
    `run_length` counts groups. Without names every input counts as independent of the others, and there are alarms
    without drift, soon and nearly always.

    ::

        watch = ex.Watch(policy)
        for alarm in watch.update(exits, scores, ties):      # of a batch, (n,) each
            print(alarm)

    Raises InputError for a policy that keeps nothing to watch by, and for a run length below 10.
    """

    def __init__(self, policy: Policy, *, run_length: float = 1e5, of_several: bool = False) -> None:
        if not isinstance(policy, Policy):
            raise InputError(
                f"a watch is of one policy, got {type(policy).__name__}: open a file with ex.Policy.load, and make a "
                "watch for each policy of a set"
            )
        if policy.watched is None:
            raise InputError(
                "this policy keeps nothing to watch by: it is a router that looks at features first, was made by an "
                "earlier version, or was calibrated on more than a million inputs with copies among them; calibrate it "
                "again, or on fewer"
            )
        arrays.check_between(run_length, "run_length", 10, 1e12, inclusive=True)
        self.policy, self.run_length, self.of_several = policy, float(run_length), of_several
        self.cells: WatchedCells = policy.watched
        # Several e-detectors of one calibration: P(alarm within t inputs) <= t / threshold, so the mean is half of it.
        times = 2 * self.cells.plans if of_several or self.cells.plans > 1 else 1
        self.threshold = times * self.run_length
        """The evidence at which there is an alarm."""
        self.alarm: Alarm | None = None
        """The alarm of drift that stands."""
        self.loss_alarm: Alarm | None = None
        """The alarm of a loss that stands."""
        self.curve = EvidenceCurve()
        self.n = 0
        """Inputs so far, without those that were left out."""
        self._inputs = ObservedInputs(policy, self.cells)
        self._urn: UrnDetectors | None = None  # made once it is known whether inputs have scores
        self._latest = LatestInputs()
        self._of_losses: LossDetector | None = None

    @property
    def evidence(self) -> float:
        """The evidence for drift: some hundreds without, and an alarm at `threshold`."""
        return 0.0 if self._urn is None else float(self._urn.evidence.mean())

    @property
    def shares(self) -> Floats | None:
        """Shares of the exits among the recent inputs, (m,); None before any."""
        exits = self._latest.exits
        return np.bincount(exits, minlength=self.policy.n_exits) / len(exits) if len(exits) else None

    def update(
        self,
        exits: ArrayLike,
        scores: ArrayLike | None = None,
        first_scores: ArrayLike | None = None,
        ties: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        decided: ArrayLike | None = None,
    ) -> list[Alarm]:
        """Take note of inputs, in the order in which they came, and return the alarms that they raise.

        `exits` (n,): where the policy answered. `scores` (n,): its score there. `first_scores` (n,): its score at exit
        `cells.first`, the first that can answer; of a policy whose `cells` are not `by_exit` these alone are watched.
        Without scores, exits alone are watched; either all inputs have both or none. `ties` (n,): the numbers of
        `PolicyState.tie`, needed where calibration inputs repeat.
        `groups` (n,): the names of the groups that inputs come in, as in calibration; the first input of each counts,
        the others are left out, as long as it is among the latest 10,000 groups. `decided` (n,):
        False for inputs that a deadline, a breaker or a ledger decided instead of the policy; they are left out.

        Raises InputError for inputs that this policy cannot have answered so, or that cannot be watched.
        """
        observed = self._inputs.told(exits, scores, first_scores, ties, groups, decided)
        n = len(observed.exits)
        if n and self._urn is None:
            self._begin()
        if n <= MOST:
            return self._batch(observed) if n else []
        parts = (slice(start, start + MOST) for start in range(0, n, MOST))
        return [alarm for part in parts for alarm in self._batch(observed.only(part))]

    def replay(self, inputs: ExitTrace | CascadeTrace, *, seed: int | None = None) -> list[Alarm]:
        """Take note of the inputs of a trace, as if the policy answered them, and return the alarms.

        They come in the order of the trace, or with a `seed` in a random one: files are often sorted by class. Groups
        stay together then, each in its own order.
        """
        if not isinstance(inputs, ExitTrace | CascadeTrace):
            raise InputError(
                f"replay takes recorded outputs (ex.ExitTrace.load), got {type(inputs).__name__}; where answers are "
                "given one batch after another, use update"
            )
        if seed is not None:
            units = np.random.default_rng(seed).permutation(n_units(inputs.n, inputs.groups))
            inputs = inputs.take(units if inputs.groups is None else inputs.groups.rows(units))
        policy, exits = self.policy, self.policy.route(inputs)
        trace = policy.along(inputs)
        scores = score_matrix(policy.score, policy.answer.on(trace))
        groups = None if trace.groups is None else trace.groups.key
        ties = tie_breaks(trace.keys(policy.ties), policy.seed)
        at_first = scores[:, self.cells.first]
        return self.update(exits, scores[np.arange(trace.n), exits], at_first, ties, groups=groups)

    def update_losses(self, loss: ArrayLike, reference: ArrayLike | None = None) -> list[Alarm]:
        """Take note of the losses in [0, 1] of answers, as they become known, and return the alarms that they raise.

        `loss` (n,): 1 is a wrong answer, or one that differs from the reference's. `reference` (n,): the losses of the
        full network, or of the certificate's reference, on the same inputs; not of agreement. Of inputs in groups give
        the mean of each group. While the loss is as certified, an alarm comes after `run_length` losses on average.

        Raises InputError for losses outside [0, 1], or a policy without a certified loss.
        """
        if self._of_losses is None:
            self._of_losses = LossDetector.of(self.policy.loss_certificate)
        detector = self._of_losses
        crossing = detector.update(detector.losses(loss, reference), self.threshold)
        if crossing is None or self.loss_alarm is not None:
            return []
        self.loss_alarm = loss_alarm(self.policy, *crossing, detector.certified)
        return [self.loss_alarm]

    def restart(self) -> None:
        """Take alarms back, so that there can be others: the evidence begins anew, and what was seen still counts."""
        self.alarm = self.loss_alarm = None
        self._latest, self.curve = LatestInputs(), EvidenceCurve()
        if self._urn is not None:
            self._urn.evidence = np.zeros_like(self._urn.evidence)
        if self._of_losses is not None:
            self._of_losses.restart()

    # -- evidence ---------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._urn = self._inputs.urn()
        self._equally = np.full(len(self._urn.evidence), 1 / len(self._urn.evidence))

    def _batch(self, observed: ObservedBatch) -> list[Alarm]:
        """Take note of at most `MOST` inputs."""
        cells = self._inputs.cells_of(observed, self.n)
        urn, n = cast("UrnDetectors", self._urn), len(cells)
        self._latest.add(observed.exits, cells, observed.ties)
        evidence = evidence_after(urn.e_values(cells), urn.evidence)
        mean = self._equally @ evidence
        peak = float(mean[mean.argmax()])
        urn.evidence = (
            evidence[:, -1].copy() if peak < MOST_EVIDENCE else np.minimum(evidence[:, -1], MOST_EVIDENCE)
        )
        self.n += n
        self.curve.add(self.n, peak)
        if peak < self.threshold or self.alarm is not None:
            return []
        self.alarm = self._alarm(urn, n - 1 - int(np.argmax(mean >= self.threshold)))
        return [self.alarm]

    def _alarm(self, urn: UrnDetectors, later: int) -> Alarm:
        """Return the alarm at the input before the `later` latest ones."""
        latest, n, group_of = self._latest, self.n - later, urn.divisions[-1]
        counts = urn.held - np.bincount(group_of[latest.cells], minlength=len(urn.held))
        end = len(latest.exits) - later
        exits, cells, ties = latest.exits[:end], group_of[latest.cells[:end]], latest.ties
        period = changed_since(counts, cells)
        since, first = period[0], n - len(cells) + 1
        share = counts + np.bincount(cells[:since], minlength=len(counts))
        share /= share.sum()
        middle = np.cumsum(share) - share / 2
        spread = math.sqrt(max(float(share @ middle**2) - 0.25, 1e-9) / (len(cells) - since))
        surer = (0.5 - float(middle[cells[since:]].mean())) / spread
        return drift_alarm(
            self.policy,
            n,
            tuple(first + place for place in period),  # type: ignore[arg-type]
            exits[since:],
            surer=surer,
            repeated="" if ties is None else self._repeated(ties[since:end]),
        )

    def _repeated(self, ties: Floats) -> str:
        """Return a sentence on copies among the inputs since a change, if there are more or fewer than expected."""
        total = sum(copies * number for copies, number in self.cells.repeats.items())
        n = min(len(ties), total)
        expected = max(n - self.cells.expected_distinct(n), 0.0)
        copies = n - len(np.unique(ties[:n]))
        if self.policy.ties == "row" or abs(copies - expected) <= 5 * math.sqrt(expected + 1):
            return ""
        more = "more" if copies > expected else "less"
        return (
            f"They repeat {more} than in calibration: {counted(copies, 'copy', 'copies')} of others among {n:,}, "
            f"{expected:.0f} expected."
        )

    # -- files --------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the state as JSON with a digest, atomically; `load` goes on from it."""
        write_sealed(path, "watch", self.to_dict(), format_=_FORMAT, version=VERSION)

    @classmethod
    def load(cls, path: str | Path, policy: Policy) -> Watch:
        """Read the state of a policy's watch. Raises ArtefactError for another file, or that of another policy."""
        remedy = "begin another watch"
        return read_sealed(
            path,
            "watch",
            lambda body: cls.from_dict(body, policy),
            kind="watch",
            format_=_FORMAT,
            version=VERSION,
            remedy=remedy,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form of the state."""
        losses = self._of_losses
        return {
            "calibration": content_digest(self.cells.to_dict()),
            "run_length": self.run_length,
            "of_several": self.of_several,
            "n": self.n,
            "urn": None if self._urn is None else self._urn.to_dict(),
            "scored": self._inputs.scored,
            "alarm": self.alarm and self.alarm.to_dict(),
            "loss_alarm": self.loss_alarm and self.loss_alarm.to_dict(),
            "curve": self.curve.to_dict(),
            "latest": self._latest.to_dict(),
            "groups": list(self._inputs.groups),
            "losses": None if losses is None else losses.to_dict(),
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any], policy: Policy) -> Watch:
        """Rebuild from `to_dict`. Raises InputError for the state of another policy's watch, and for what is none."""
        check_kind(body, _State, "watch")
        watch = cls(policy, run_length=body["run_length"], of_several=body["of_several"])
        if body["calibration"] != content_digest(watch.cells.to_dict()):
            raise InputError("this state is of the watch of a policy of another calibration")
        watch._inputs.scored = body["scored"]
        watch._inputs.groups = OrderedDict.fromkeys(body["groups"])
        if body["urn"] is not None:
            watch._begin()
            cast("UrnDetectors", watch._urn).restore(body["urn"])
        watch.n = body["n"]
        watch.alarm, watch.loss_alarm = (
            body[name] and Alarm.from_dict(body[name]) for name in ("alarm", "loss_alarm")
        )
        watch.curve = EvidenceCurve.from_dict(body["curve"])
        watch._latest = LatestInputs.from_dict(body["latest"])
        if body["losses"] is not None:
            watch._of_losses = LossDetector.of(policy.loss_certificate)
            watch._of_losses.restore(body["losses"])
        if watch.n < 0:
            raise InputError(f"n is a number of inputs, got {watch.n}")
        watch._latest.check_below(policy.n_exits, 0 if watch._urn is None else watch._urn.n_cells)
        return watch
