"""Where the accuracy of a burst goes: one worker's engine and controller in virtual time, with outputs from traces.

    python -m benchmarks.serving.replayed_burst WORK/cascade --ms-per-row 0.25

Takes a run with policies for several budgets, as `benchmarks.serving --work WORK` makes it. Nothing is computed, so it
runs on a busy machine, too: a call takes `--call-ms` and each of its rows what the policies' costs say, scaled so that
answers of the original model's time take `--ms-per-row`; HTTP takes `--http-ms` a row. Requests of 16 rows come to one
of two workers: ten times 781 rows a second for five seconds, 0.3 of it before and after. Rows that begin under the
policy that the queue allows are compared with rows that only the settled policy holds back.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.serving.loads import QUANTILE, SLO_S, poisson
from benchmarks.serving.prepared import GIVEN_UP
from benchmarks.serving.virtual_time import answered
from experiments.pages import parser, table

from exeunt.engine.engine import Engine
from exeunt.evaluation.replay import evaluate
from exeunt.runs.folder import RunFolder
from exeunt.runs.saved_policies import named_by_budget
from exeunt.serve import latency_controller
from exeunt.serve.latency_controller import Controller, OperatingPoint

if TYPE_CHECKING:
    from exeunt.policy import Policy
    from exeunt.trace import ExitTrace

SIZE, PIECE = 16, 64
RATE, TIMES, CALM, BEFORE_S, BURST_S = 781 / 2, 10, 0.3, 1.5, 5.0


class Replayed:
    """An executor that reads outputs off a trace and lets a clock pass. `took`: seconds of its calls so far."""

    name, device, restarts, border, mask_scale = "replayed", "cpu", (), 1e-5, 1

    def __init__(self, trace: ExitTrace, call_s: float, row_s: np.ndarray) -> None:
        assert trace.log_probability is not None
        self._logits, self.n_exits, self.took = trace.log_probability, trace.n_exits, 0.0
        self.segments = tuple((exit_, exit_) for exit_ in range(self.n_exits))
        self.seconds = np.stack([np.full(self.n_exits, call_s), row_s])

    def start(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows, np.ones(len(rows), dtype=bool)

    def signature(self, _: Any) -> int:
        return 0

    def run(self, segment: int, rows: np.ndarray, wanted: Any) -> tuple[list[np.ndarray], np.ndarray]:
        self.took += float(self.seconds[0, segment] + self.seconds[1, segment] * len(rows))
        return [self._logits[rows[:, 0], exit_] for exit_ in wanted], rows

    def gather(self, parts: Any) -> np.ndarray:
        return np.concatenate([rows if some is None else rows[some] for rows, some in parts])

    def compact(self, rows: np.ndarray, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows[some], some

    def wait(self) -> None: ...


def replay(policies: dict[str, Policy], fit: Any, test: Any, given: Any) -> dict[str, Any]:
    """Let the requests come, and return what became of the rows of the burst."""
    first = next(iter(policies.values()))
    trace, scale = first.priced(test), given.ms_per_row / 1e3 / first.cost.reference
    steps = np.diff(first.cost.cumulative, prepend=0.0) * scale
    executor, http_s = Replayed(trace, given.call_ms / 1e3, steps), given.http_ms / 1e3
    few, many = executor.seconds[0] + executor.seconds[1], executor.seconds[0] + PIECE * executor.seconds[1]
    engine: Any = Engine(
        executor, policies, min_batch=(1,) * first.n_exits, seconds=tuple(many), single_row_seconds=tuple(few)
    )
    *_, engine.active = policies
    points = []
    for name, policy in policies.items():
        reach = np.array([policy.planned_shares[exit_:].sum() for exit_ in range(policy.n_exits)])
        row_s, pass_s = executor.seconds[1] @ reach + http_s, executor.seconds[0] @ (reach > 0)
        points.append(
            OperatingPoint(name, policy.budget, evaluate(policy, policy.priced(fit)).accuracy, row_s, pass_s)
        )
    least = 1 - float(trace.risk[-1]) - GIVEN_UP
    controller = Controller(points, slo_s=SLO_S, quantile=QUANTILE, min_accuracy=least)
    calm = poisson(CALM * RATE / SIZE, 2 * BEFORE_S + BURST_S)
    due = np.sort(np.concatenate([calm, poisson(TIMES * RATE / SIZE, BURST_S, 1, BEFORE_S)]))
    latency, answers = np.zeros(len(due)), {}

    def rows_of(place: int) -> np.ndarray:
        return (place * SIZE + np.arange(SIZE)) % trace.n

    def given_of(place: int) -> tuple[np.ndarray, dict[str, Any]]:
        rows = rows_of(place)
        return rows[:, None], {"id": trace.id[rows]}

    for place, ticket, latency[place] in answered(
        engine,
        executor,
        due,
        SIZE,
        given_of,
        controller=controller,
        call_seconds=executor.seconds,
        read_s=http_s,
    ):
        said = ticket.answers
        answers[place] = said.exit, said.label == trace.label[rows_of(place)], said.expired
    burst = np.flatnonzero((due >= BEFORE_S) & (due < BEFORE_S + BURST_S))
    exits, right, cut = (np.concatenate([answers[place][i] for place in burst]) for i in range(3))
    return {
        "in time": f"{(latency[burst] <= SLO_S).mean():.1%}",
        "right": f"{right.mean():.1%}",
        "cut off": f"{cut.mean():.1%}",
        "of these right": f"{right[cut].mean():.1%}" if cut.any() else "",
        "of the others": f"{right[~cut].mean():.1%}",
        "by exit": ", ".join(f"{share:.0%}" for share in np.bincount(exits, minlength=trace.n_exits) / len(exits)),
    }  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("run", type=Path)
    options.add_argument("--ms-per-row", type=float, default=0.25)
    options.add_argument("--call-ms", type=float, default=0.2)
    options.add_argument("--http-ms", type=float, default=0.09)
    given = options.parse_args()
    run = RunFolder.open(given.run)
    policies, (fit, test) = named_by_budget(run.policies), map(run.recorded, ("fit", "test"))
    share, rows = latency_controller._BEFORE_DEADLINE, []
    for name, most in (("settled policy", np.inf), ("and by the queue", share)):
        latency_controller._BEFORE_DEADLINE = most
        found = replay(policies, fit, test, given)
        rows.append([name, *found.values()])
    print(table(("rows begin under the", *found), rows))


if __name__ == "__main__":
    main()
