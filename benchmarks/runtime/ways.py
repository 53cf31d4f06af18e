"""The ways in which a network is run: original, in stages, and in stages by the plan made here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from benchmarks.runtime import networks
from torch.fx.experimental.optimization import fuse

from exeunt._support.files import read_json
from exeunt.engine.plan import Plan
from exeunt.runs.executors import open_executor
from exeunt.runs.runner import Runner
from exeunt.score.confidence import Evidence, softmax
from exeunt.timing.planner import profile_and_plan
from exeunt.torch.open_run import load_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.runtime.networks import Case

    from exeunt.engine.answers import Answers
    from exeunt.engine.executor import Executor
    from exeunt.policy import Policy
    from exeunt.runs.folder import RunFolder

EXECUTORS = ("eager", "onnx")
SHARES = (0.8, 0.6, 0.4)
SIZES = (1, 2, 8, 32, 64, 128, 256)  # rows per call at which segments are measured
WHOLE_BATCH = 10**6  # rows per call: batches are not split


@dataclass(frozen=True)
class Limits:
    """How long a cell may take: rounds of turns, and seconds after which none begins once there are three."""

    rounds: int
    seconds: float


@dataclass(eq=False)
class Network:
    """A network with everything that it takes to run it in each way on one executor."""

    case: Case
    run: RunFolder
    executor: str
    original_macs: float = field(init=False)

    def __post_init__(self) -> None:
        self.original_macs = float(read_json(self.run.path / "backbone.json")["macs"])
        n = networks.FIT + networks.POOL
        self.pool = networks.images(n, self.case.side, 1)[networks.FIT :]
        self.keys = networks.keys(n)[networks.FIT :]
        within = [share for share in SHARES if share * self.original_macs > self.run.cost.first]
        self.policies = {share: networks.policy_for(self.run, share, self.original_macs) for share in within}
        self.staged = open_executor(self.run, self.executor)
        self.plan = self.run.plan(self.executor)
        segments = None if self.plan is None else self.plan.segments
        same = segments in (None, self.staged.segments)
        self.planned: Executor = (
            self.staged if same else open_executor(self.run, self.executor, segments=segments)
        )
        self.original = original(self.run, self.executor)
        # ONNX Runtime folds batch norms into convolutions anyway; so do our stages in PyTorch.
        self.folded = original(self.run, self.executor, fold=True) if self.executor == "eager" else None

    def batch(self, number: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
        """Return the number-th batch of the pool, and its keys; after the last comes the first again."""
        start = number % max(1, len(self.pool) // size) * size
        return self.pool[start : start + size], self.keys[start : start + size]

    def without_plan(self, policy: Policy) -> Runner:
        """Return a runner of whole batches that drops answered rows after every exit."""
        naive = Plan.unmeasured(self.executor, self.staged.segments, piece=WHOLE_BATCH)
        return Runner(self.staged, policy, naive)

    def with_plan(self, policy: Policy) -> Runner:
        """Return a runner by the plan in the run folder."""
        return Runner(self.planned, policy, self.plan)

    def answering(self, runner: Runner, size: int) -> Callable[[int], Answers]:
        """Return what answers the number-th batch."""

        def call(number: int) -> Answers:
            inputs, keys = self.batch(number, size)
            return runner(inputs, id=keys)

        return call

    def original_in(self, piece: int, size: int, *, folded: bool = False) -> Callable[[int], None]:
        """Return what runs the number-th batch through the original model, in pieces of `piece`."""
        run = (self.folded or self.original) if folded else self.original

        def call(number: int) -> None:
            for part in self.batch(number, size)[0].split(piece):
                run(part)

        return call

    def share_left(self, runner: Runner, size: int, rounds: int) -> float:
        """Return the multiply-adds of rounds 0 to rounds - 1, as a share of the original model's.

        Exits are those of the recorded outputs: nothing is run.
        """
        trace = self.run.trace("calibrate")
        cost = runner.policy.cost.cumulative[runner.policy.route(trace)]
        at = dict(zip(trace.id.tolist(), cost.tolist(), strict=True))
        costs = [
            np.mean([at[key] for key in self.batch(number, size)[1].tolist()]) for number in range(rounds)
        ]
        return float(np.mean(costs) / self.original_macs)


def original(run: RunFolder, executor: str, *, fold: bool = False) -> Callable[[Any], Any]:
    """Return what runs the network as it is, without heads, to label and confidence.

    In PyTorch the network's own forward, with `fold` after PyTorch's own folding of batch norms. In ONNX Runtime
    one session for all of it, which skips what only heads need.
    """
    if executor == "eager":
        backbone = load_network(run).backbone
        backbone = fuse(backbone) if fold else backbone

        @torch.inference_mode()
        def forward(inputs: torch.Tensor) -> Any:
            return _answered(backbone(inputs).numpy())

        return forward
    last = run.cost.n_exits - 1
    whole = open_executor(run, executor, segments=((0, last),))
    return lambda inputs: _answered(whole.run(0, whole.start(inputs)[0], [last])[0][0])


def _answered(logits: Any) -> Any:
    evidence = Evidence(softmax(np.asarray(logits, dtype=np.float64)))
    return evidence["prediction"], evidence["max_probability"]


def profile(run: RunFolder, executor: str, limits: Limits) -> dict[str, Any]:
    """Measure the executor's segments here and leave the plan in the run folder."""
    side = run.manifest["inputs"]["size"][0]
    _, plan = profile_and_plan(
        lambda segments: open_executor(run, executor, segments=segments), networks.images(8, side, 2),
        sizes=SIZES, repeats=limits.rounds, max_seconds=limits.seconds,
    )  # fmt: skip
    run.save_plan(plan)
    return {"plan": plan.to_dict()}
