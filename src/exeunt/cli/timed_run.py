"""A run's network opened to be timed here, on inputs of the right shape and no meaning."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt.costs import CostModel
    from exeunt.engine.executor import Executor, Segments
    from exeunt.engine.plan import Plan
    from exeunt.policy import Policy
    from exeunt.run.folder import RunFolder
    from exeunt.torch.exits.network import EarlyExitNetwork


@dataclass(frozen=True, eq=False)
class Timed:
    """A run folder on one executor, `name`. `trusted`: see `exeunt.run.load`."""

    run: RunFolder
    name: str
    trusted: str | None

    @classmethod
    def of(cls, run: RunFolder, executor: str | None, trusted: str | None) -> Timed:
        """Choose the executor asked for, or the one that `exeunt predict` takes."""
        from exeunt.run.executors import default_executor

        return cls(run, default_executor(run) if executor is None else executor, trusted)

    def open(self, segments: Segments | None = None) -> Executor:
        """Return the executor, cut into these segments; by default one per exit."""
        from exeunt.run.executors import open_executor

        return open_executor(self.run, self.name, trusted=self.trusted, segments=segments)

    def planned(self, plan: Plan | None) -> Executor:
        """Return the executor with the segments of a plan."""
        return self.open(None if plan is None else plan.segments)

    def plan(self) -> Plan | None:
        """Return the plan that `exeunt bench --profile` made here, None if there is none."""
        from exeunt.run.runner import plan_here

        return plan_here(self.run, self.name)

    def uncut(self) -> Callable[[Any], Any]:
        """Return what runs the network without heads: its own forward in PyTorch, else one session for all of it."""
        if self.name == "eager":
            from exeunt.torch.executor import uncut

            return uncut(self.network)
        last = self.run.cost.n_exits - 1
        whole = self.open(((0, last),))
        return lambda inputs: whole.run(0, whole.start(inputs)[0], [last])

    def batch(self, n: int) -> Any:
        """Return n inputs such as the network takes: random images, or texts of the recorded length."""
        described = self.run.manifest["inputs"]
        if described["kind"] == "image":
            if described.get("size") is None:
                raise InputError("these images have no common size to time the network at: train with a size")
            return np.random.default_rng(0).standard_normal((n, 3, *described["size"]), dtype=np.float32)
        return self._texts(n)

    def uncut_cost(self) -> float:
        """Return the multiply-adds of the network without heads."""
        return float(self.network.backbone_macs)

    @cached_property
    def network(self) -> EarlyExitNetwork:
        """The network in PyTorch."""
        from exeunt.torch.open_run import load_network

        return load_network(self.run, trusted=self.trusted)

    def _texts(self, n: int) -> Any:
        if self.name == "onnx":
            from exeunt.onnx.manifest import FOLDER, OnnxManifest

            export = OnnxManifest.load(self.run.path / FOLDER)
            kinds = {name: export.tensors[name] for name in export.inputs}
            return {name: np.ones((n, *kind.shape[1:]), kind.dtype) for name, kind in kinds.items()}
        from exeunt.torch.models.inputs import synthetic_inputs
        from exeunt.torch.open_run import load_prepare

        return synthetic_inputs(load_prepare(self.run), n, length=self.run.manifest["inputs"].get("length"))


def settled(timed: Timed, choose: Callable[[CostModel], Policy], *, batch_size: int) -> CostModel:
    """Return milliseconds measured here, at the mix of exits of the policy that `choose` makes of them."""
    from exeunt.timing.pricing import settled_cost

    plan, calibrate = timed.plan(), timed.run.trace("calibrate")
    return settled_cost(
        timed.planned(plan),
        timed.batch(batch_size),
        choose,
        lambda policy: policy.route(calibrate),
        plan=plan,
    )
