"""A run folder ready to answer: `load` it, call it with a batch, or give it a stream of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exeunt._arrays import check_positive
from exeunt.engine.flow import Flow, answer
from exeunt.engine.plan import Plan
from exeunt.engine.stream import Bounds, answered
from exeunt.errors import InputError
from exeunt.run.executors import default_executor, open_executor
from exeunt.run.folder import RunFolder
from exeunt.timing.measurement import is_here

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike

    from exeunt.engine.answers import Answers
    from exeunt.engine.executor import Executor
    from exeunt.policy import Policy

__all__ = ["Runner", "load", "plan_file", "plan_here", "profile_file"]


class Runner:
    """Answers inputs with one network under one policy. Not to be shared by threads.

    `plan`: how calls are made up; by default pieces of 64 and rows dropped after every segment.

    Raises InputError if policy, plan and network do not go together.
    """

    def __init__(self, executor: Executor, policy: Policy, plan: Plan | None = None) -> None:
        self.executor = executor
        self.policy = policy
        self.plan = Flow(executor, policy, plan).plan  # checks that they go together

    def __call__(self, inputs: Any, *, id: ArrayLike | None = None) -> Answers:  # noqa: A002
        """Answer a batch: an array or tensor with one row per input, or a mapping of names to such.

        `id` (n,): keys of the inputs, which break ties, by default 0..n-1: give them where inputs come in several
        batches. Inputs that hold NaN or infinite values are flagged in `Answers.valid`.
        """
        return answer(self.executor, self.policy, inputs, id=id, plan=self.plan)

    def stream(
        self,
        batches: Iterable[Any],
        *,
        pool_rows: int | None = None,
        max_rows_in_flight: int | None = None,
        max_wait_s: float | None = None,
        ordered: bool = True,
        errors: str = "raise",
    ) -> Iterator[Answers]:
        """Answer batch after batch; survivors of several batches are run together, so that late stages are full.

        `batches`: any iterable of what `__call__` takes, or of pairs (inputs, id). Without ids the inputs are
        numbered on through the stream. Rows may wait in the arrays that were given: fill no array anew whose
        answers have not come.
        `pool_rows`: rows wait before a segment until there are so many, by default what the plan says is best.
        `max_rows_in_flight`: most rows that were taken in and not given out (by default 32 times `pool_rows`; a
        single larger batch is run alone). Memory is bounded by it. Once it is reached, the oldest batch goes on.
        `max_wait_s`: a batch that has been waiting for so long goes on without more company, even while the next
        is awaited; a thread then reads `batches`.
        `ordered`: give answers out in the order of the batches, else as they are finished; `Answers.batch` tells
        which they are.
        `errors`: what becomes of a batch that fails: "raise" gives out the answers of all batches taken in, then
        raises BatchFailed; "skip" gives out failed Answers (`error` is set, no input is valid) and goes on. An
        exception of `batches` itself is raised as it is, also after the answers.
        """
        if errors not in ("raise", "skip"):
            raise InputError(f"errors must be 'raise' or 'skip', got {errors!r}")
        for name, value in {"pool_rows": pool_rows, "max_rows_in_flight": max_rows_in_flight}.items():
            if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
        wait = None if max_wait_s is None else check_positive(max_wait_s, "max_wait_s")
        pools = self.plan.piece if pool_rows is None else (pool_rows,) * len(self.plan.segments)
        bounds = Bounds(
            pool_rows=pools,
            max_rows=32 * max(pools) if max_rows_in_flight is None else max_rows_in_flight,
            max_wait_s=wait,
        )
        flow = Flow(self.executor, self.policy, self.plan)
        return answered(flow, batches, bounds, ordered=ordered, skip=errors == "skip")


def load(
    path: str | Path | RunFolder,
    *,
    executor: str | None = None,
    threads: int | None = None,
    trusted: str | None = None,
    policy: Policy | None = None,
    plan: Plan | None = None,
) -> Runner:
    """Open a run folder to answer with.

    `executor`: "eager" (PyTorch) or "onnx" (ONNX Runtime); by default ONNX Runtime where the run folder was exported
    and it is installed, else PyTorch.
    `threads`: to compute with; None leaves it to the library. In PyTorch the number is one for the whole process.
    `trusted`: the run folder's `package.module:factory`, if a function of somebody's own makes its network and you
    trust it. `policy`: by default the run's own. `plan`: by default the one in the run folder, if it was measured on a
    machine such as this.

    Raises InputError if there is no run folder, no policy, or no such executor; ArtefactError if it is damaged.
    """
    run = path if isinstance(path, RunFolder) else RunFolder.open(path)
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    name = default_executor(run) if executor is None else executor
    chosen = run.policy if policy is None else policy
    plan = plan_here(run, name) if plan is None else plan
    segments = None if plan is None else plan.segments
    opened = open_executor(run, name, threads=threads, trusted=trusted, segments=segments)
    return Runner(opened, chosen, plan)


def plan_here(run: RunFolder, executor: str) -> Plan | None:
    """Return the plan that a run folder keeps for an executor; None if there is none, or it is another machine's."""
    file = plan_file(run, executor)
    plan = Plan.load(file) if file.is_file() else None
    return plan if plan is not None and (not plan.machine or is_here(plan.machine)) else None


def plan_file(run: RunFolder, executor: str) -> Path:
    """Return where a run folder keeps the plan for an executor."""
    return run.path / f"plan-{executor}.json"


def profile_file(run: RunFolder, executor: str) -> Path:
    """Return where a run folder keeps what was measured of an executor."""
    return run.path / f"profile-{executor}.json"
