"""How soon a gateway falls back when its policy's answers become worse, and how often it does without a reason.

    python -m experiments.gateway_falls_back
    python -m experiments.gateway_falls_back --measure ../shared/data --encoder FOLDER [--runs 200]

Writes the page again from the kept numbers, or measures (some minutes). A policy is certified on the first 3,000 graded
questions in a random order, as in `experiments.gateway`. Its requests are drawn from the other questions, a share of
them is audited, and the gateway's watch is told of each audit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from exeunt.gateway.certify import certify
from exeunt.gateway.recorded_trace import trace_of
from exeunt.gateway.records import Record, Said
from experiments.gateway import DELTA, REFERENCE, recorded
from experiments.pages import RESULTS, kept_numbers, parser, table, write_page
from experiments.router import asked

from exeunt.gateway.answering import Active
from exeunt.gateway.live_watch import LiveWatch

PAGE = RESULTS / "gateway-falls-back.md"
SHADOW, MAX_LOSS, BELOW = 3_000, 0.05, 0.10
AUDITS = (0.01, 0.05, 0.2)
WITHOUT, MOST = 20_000, 200_000
"""Requests of a run without a change, and at most of one with a change."""


def runs_of(active: Active, lost: Any, audit: float, seed: int, n: int) -> int | None:
    """Return the request at which the gateway falls back; None if it does not within n requests.

    `lost` (k, 2): the losses of the policy and of the reference on questions that requests are drawn from.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        watch = LiveWatch(active, Path(folder) / "watch.json", run_length=1e5, audit=audit)
        for request in np.flatnonzero(rng.random(n) < audit).tolist():
            own, reference = 1 - lost[rng.integers(len(lost))]
            said = {"policy": Said(0.0, grade=float(own)), REFERENCE: Said(0.0, grade=float(reference))}
            record = Record(0.0, "audit", "", "", "", "", said, answered="policy")
            if watch.audited(record, REFERENCE) is not None:
                return request + 1
    return None


def measure(data: Path, encoder: str, runs: int) -> dict[str, Any]:
    records, models = recorded(*asked(data, encoder))
    trace = trace_of(records, models).trace
    rows = np.random.default_rng(0).permutation(trace.n)
    policy = certify(trace.take(rows[:SHADOW]), REFERENCE, max_loss=MAX_LOSS, delta=DELTA).policy
    live = trace.take(rows[SHADOW:])
    exits = policy.route(live)
    own = policy.answer.on(policy.priced(live)).quality[np.arange(live.n), exits]
    reference = live[REFERENCE].quality[:, 0]
    wanted = float(reference.mean()) - MAX_LOSS - BELOW
    worse = np.where(np.random.default_rng(1).random(live.n) < wanted / own.mean(), own, 0.0)
    found: dict[str, Any] = {
        "runs": runs, "grade": float(own.mean()), "reference": float(reference.mean()), "worse": float(worse.mean()),
        "audits": {},
    }  # fmt: skip
    active = Active("p1", policy, None)
    for audit in AUDITS:
        same, after = (
            [
                runs_of(active, 1 - np.stack([grades, reference], axis=1), audit, seed, n)
                for seed in range(runs)
            ]
            for grades, n in ((own, WITHOUT), (worse, MOST))
        )
        found["audits"][f"{audit:g}"] = {"false": sum(one is not None for one in same), "after": after}
        print(
            audit,
            found["audits"][f"{audit:g}"]["false"],
            np.median([one or MOST for one in after]),
            flush=True,
        )
    return found


def page(found: dict[str, Any]) -> str:
    rows = []
    for audit, one in found["audits"].items():
        after = np.array([at or MOST for at in one["after"]])
        quantiles = [f"{round(float(np.quantile(after, share)), -1):,.0f}" for share in (0.5, 0.1, 0.9)]
        rows.append(
            [f"{float(audit):.0%}", one["false"], *quantiles, f"{np.median(after) * float(audit):.0f}"]
        )
    about = (
        f"A policy is certified to lose at most {100 * MAX_LOSS:.0f} points against {REFERENCE} on the first "
        f"{SHADOW:,} questions of one order (see [the road of a gateway](gateway.md)). On the other questions its mean "
        f"grade is {found['grade']:.3f}, the reference's {found['reference']:.3f}. `false`: of {found['runs']} runs of "
        f"{WITHOUT:,} requests without a change, those in which the gateway fell back. `requests`: from a change, "
        f"after which the policy's grade is {found['worse']:.3f}, {100 * BELOW:.0f} points below what is certified. "
        "The watch is set to 100,000 requests until a false alarm, which audits share with exits; exits are not looked "
        "at here."
    )
    return "\n\n".join([
        "# When a gateway falls back",
        "Made by `python -m experiments.gateway_falls_back`; numbers in [json](gateway-falls-back.json).",
        about,
        table(["audited", "false", "requests, median", "10%", "90%", "audits, median"], rows),
    ])  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="DATA")
    options.add_argument("--encoder", default="", help="folder of a sentence encoder")
    options.add_argument("--runs", type=int, default=200)
    given = options.parse_args()
    found = measure(given.measure, given.encoder, given.runs) if given.measure else kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
