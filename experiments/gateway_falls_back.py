"""How soon a gateway falls back when its policy's answers become worse, and how often it does without a reason.

    python -m experiments.gateway_falls_back
    python -m experiments.gateway_falls_back --measure ../shared/data --encoder FOLDER [--runs 100]

Writes the page again from the kept numbers, or measures (some ten minutes). A gateway certifies a policy on graded
questions, in units, as in `experiments.gateway`. Then units are drawn from questions that did not fit it, a share of
them is audited, and the gateway's own `LivePolicy` is told of each audited unit.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.gateway import MAX_LOSS, PACE, REFERENCE, Questions, Road
from experiments.gateway_traffic import TURNS, RequestStream
from experiments.pages import RESULTS, Measurements, kept_numbers, parser, table, write_page

from exeunt.gateway.live_policy import LivePolicy
from exeunt.stream.records import COMPARED, Record, Said
from exeunt.stream.units import Unit

PAGE = RESULTS / "gateway-falls-back.md"
KINDS = {"each question once": 3_000, "conversations": 1_500}
"""Units until the policy is taken that is the cheapest one certified by then."""
BELOW = 0.10
AUDITS = (0.01, 0.05, 0.2)
WITHOUT, MOST = 20_000, 200_000
"""Units of a run without a change, and at most of one with a change."""


class Answers:
    """What a certified policy's answers are worth, in units of a kind of traffic.

    `rows`: of a unit that it answers; `may_answer`: the share of all requests that these are. `own`, `reference` (q,):
    the grade of the policy's answer to each question, and of the reference's; `answered` (q,): by which model.
    """

    def __init__(self, questions: Questions, name: str) -> None:
        self.traffic = RequestStream(name, 0, KINDS[name], PACE, questions.task)
        self.folder = tempfile.TemporaryDirectory()
        road = Road(questions, self.traffic, Path(self.folder.name))
        asyncio.run(road.drive())
        self.gateway, certifier = road.gateway, road.gateway.certifier
        passed = [(one, plan) for one in certifier.proposals for plan in one.plans if plan.passed is not None]
        proposal, plan = min(passed, key=lambda pair: pair[1].share)
        self.name, self.rows, self.policy = plan.name, proposal.rows, plan.policy
        trace = road.known.trace
        names = np.array([step.model for step in self.policy.cascade])[self.policy.route(trace)]
        of = {model: k for k, model in enumerate(questions.price)}
        self.answered = names
        self.own = questions.grade[np.arange(len(names)), [of[model] for model in names]]
        self.reference = questions.grade[:, of[REFERENCE]]
        weights = self.traffic.weights(self.rows, road.fitted[proposal.number])
        self._share = weights.answered / weights.answered.sum()
        self.may_answer = float(weights.answered.sum() / weights.every.sum())
        self._sizes = (1, 1) if name == "each question once" else TURNS
        self._of_task = [np.flatnonzero(questions.task == task) for task in range(questions.task.max() + 1)]

    def lost(self, own: Any) -> float:
        """Return the mean loss per request, over all requests, where these are the grades of the policy's answers."""
        return float(self.may_answer * (self._share @ (self.reference - own)))

    def worse(self, loss: float) -> Any:
        """Return grades of the policy's answers, some of which are wrong now by lot, that lose so much per request."""
        lot = np.random.default_rng(1).permutation(np.flatnonzero(self.answered != REFERENCE))
        own = self.own.copy()
        gone = self.may_answer * np.cumsum(self._share[lot] * own[lot])
        own[lot[: int(np.searchsorted(gone, loss - self.lost(own)))]] = 0.0
        return own

    def records(self, own: Any) -> list[list[Record]]:
        """Return the record of each question, at each place of a unit."""
        made = []
        for q, (answer, model) in enumerate(zip(own.tolist(), self.answered.tolist(), strict=True)):
            said = {model: Said(0.0, grade=answer), REFERENCE: Said(0.0, grade=float(self.reference[q]))}
            record = Record(0, 0.0, "", "", said, policy=self.name, answered=model, compared=COMPARED)
            made.append([replace(record, row=row) for row in range(self.rows)])
        return made

    def unit(self, records: list[list[Record]], rng: Any) -> list[Record]:
        """Return the first requests of a unit, drawn by lot."""
        if self._sizes == (1, 1):
            return [records[int(np.searchsorted(self._sums, rng.random()))][0]]
        task = self._of_task[int(rng.integers(len(self._of_task)))]
        n = min(int(rng.integers(*self._sizes, endpoint=True)), self.rows)
        return [records[int(q)][row] for row, q in enumerate(task[rng.integers(0, len(task), n)])]

    @property
    def _sums(self) -> Any:
        return self.__dict__.setdefault("_cumulated", np.cumsum(self._share))

    def live(self, audit: float) -> LivePolicy:
        """Return what watches the policy where this share of the units is audited."""
        gateway = self.gateway
        config = replace(gateway.config, shadow=replace(gateway.config.shadow, audit=audit))
        return LivePolicy(
            config, gateway.policies, features=gateway.features, metrics=gateway.metrics, clock=gateway.clock,
            on_change=lambda _: None,
        )  # fmt: skip


def falls_back(
    answers: Answers, records: list[list[Record]], live: LivePolicy, audit: float, seed: int, n: int
) -> int | None:
    """Return the unit at which the gateway falls back; None if it does not within n units."""
    rng = np.random.default_rng(seed)
    live.activate(answers.name)
    begun = 0
    while (begun := begun + int(rng.geometric(audit))) <= n:
        unit = Unit(begun, "", 0.0, 0.0)
        live.audit(unit)
        live.unit_ended(unit, answers.unit(records, rng))
        if live.fallen is not None:
            return begun
    return None


def measure(data: Path, encoder: str, runs: int) -> dict[str, Any]:
    kept = Measurements(Path("runs/gateway-falls-back.jsonl"))
    logging.getLogger("exeunt.gateway").setLevel(logging.CRITICAL)  # which would tell of each alarm
    questions = Questions.read(data, encoder)
    return {"runs": runs, "kinds": {name: of_kind(kept, questions, name, runs) for name in KINDS}}


def of_kind(kept: Measurements, questions: Questions, name: str, runs: int) -> dict[str, Any]:
    answers = Answers(questions, name)
    grades = {"same": answers.own, "limit": answers.worse(MAX_LOSS), "worse": answers.worse(MAX_LOSS + BELOW)}
    found: dict[str, Any] = {
        "rows": answers.rows, "units": KINDS[name], "may answer": answers.may_answer,
        "lost": {what: answers.lost(own) for what, own in grades.items()}, "audits": {},
    }  # fmt: skip
    records = {what: answers.records(own) for what, own in grades.items()}
    for audit in AUDITS:
        live = answers.live(audit)

        def run(what: str, n: int, seed: int, *, audit: float = audit, live: LivePolicy = live) -> Any:
            made: Callable[[], Any] = partial(falls_back, answers, records[what], live, audit, seed, n)
            return kept.of(name, what, audit, seed, measure=made)

        at = {
            what: [run(what, MOST if what == "worse" else WITHOUT, seed) for seed in range(runs)]
            for what in grades
        }
        found["audits"][f"{audit:g}"] = {
            "false": sum(one is not None for one in at["same"]), "limit": sum(one is not None for one in at["limit"]),
            "after": at["worse"],
        }  # fmt: skip
        print(
            name,
            audit,
            found["audits"][f"{audit:g}"]["limit"],
            np.median([one or MOST for one in at["worse"]]),
            flush=True,
        )
    asyncio.run(answers.gateway.close())
    answers.folder.cleanup()
    return found


def page(found: dict[str, Any]) -> str:
    rows, about = [], []
    for name, kind in found["kinds"].items():
        unit = "request" if name == "each question once" else "conversation"
        lost = kind["lost"]
        about.append(
            f"Units that are {unit}s: certified on {kind['units']:,} units, the policy answers "
            + ("each request" if unit == "request" else f"the first {kind['rows']} requests of each")
            + f" and loses {100 * lost['same']:.2f} points per request on what did not fit it; at the limit it loses "
            f"{100 * lost['limit']:.2f}, after the change {100 * lost['worse']:.2f}."
        )
        for audit, one in kind["audits"].items():
            after = np.array([at or MOST for at in one["after"]])
            quantiles = [f"{round(float(np.quantile(after, share)), -1):,.0f}" for share in (0.5, 0.1, 0.9)]
            rows.append([
                unit, f"{float(audit):.0%}", one["false"], one["limit"], *quantiles,
                f"{np.median(after) * float(audit):.0f}",
            ])  # fmt: skip
    legend = (
        f"A policy is certified to lose at most {100 * MAX_LOSS:.0f} points per request against {REFERENCE} (see "
        "[the road of a gateway](gateway.md)), and its answers are audited by unit: "
        f"the reference answers, too, and what a unit lost is one update. `false`: of {found['runs']} runs of "
        f"{WITHOUT:,} units without a change, those in which the gateway fell back; `at the limit`: the same where the "
        "policy loses exactly as much as is certified. `units`: from a change by which some of its answers are wrong "
        f"by lot, {100 * BELOW:.0f} points below what is certified. The watch is set to 100,000 units until a false "
        "alarm, which audits share with exits; exits are not looked at here."
    )
    return "\n\n".join([
        "# When a gateway falls back",
        "Made by `python -m experiments.gateway_falls_back`; numbers in [json](gateway-falls-back.json).",
        legend, " ".join(about),
        table(["unit", "audited", "false", "at the limit", "units, median", "10%", "90%", "audits, median"], rows),
    ])  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="DATA")
    options.add_argument("--encoder", default="", help="folder of a sentence encoder")
    options.add_argument("--runs", type=int, default=100)
    given = options.parse_args()
    found = measure(given.measure, given.encoder, given.runs) if given.measure else kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
