"""The network of a run, opened to be timed on this machine. `bench` and `calibrate --of time` use it.

It is part of the command line because it needs the run folder, PyTorch and ONNX together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.errors import InputError, UnitError

if TYPE_CHECKING:
    from exeunt.engine.executor import Executor, Segments
    from exeunt.engine.plan import Plan
    from exeunt.policy import Policy
    from exeunt.run.folder import RunFolder
    from exeunt.torch.exits.network import EarlyExitNetwork


def is_of_time(of: str, budgets: Sequence[str | float]) -> bool:
    """Return whether budgets are of time, as `of` says: "auto" goes by their units. Raises InputError for others."""
    from exeunt.budget_text import is_duration, parse_budget

    if of not in ("auto", "macs", "time"):
        raise InputError(f"--of must be macs or time, got {of!r}")
    if of == "macs" or (of == "auto" and not any(is_duration(str(budget)) for budget in budgets)):
        return False
    try:  # before anything is timed
        for budget in budgets:
            parse_budget(str(budget), full=1.0, unit="ms")
    except UnitError as error:
        given = ", ".join(map(str, budgets))
        raise UnitError(
            f"budgets of time are shares such as 60% or times such as 4ms, got {given}: for multiply-adds give neither "
            "--of time nor a time"
        ) from error
    return True


@dataclass(frozen=True, eq=False)
class TimedNetwork:
    """A run folder with the executor `name`. `trusted`: see `exeunt.run.load`."""

    run: RunFolder
    name: str
    trusted: str | None

    @classmethod
    def of(cls, run: RunFolder, executor: str | None, trusted: str | None) -> TimedNetwork:
        """Choose the executor asked for, by default the one that `exeunt predict` uses; one that cannot is refused."""
        from exeunt.run.executors import chosen_executor

        return cls(run, chosen_executor(run, executor), trusted)

    @property
    def plan(self) -> Plan | None:
        """The run's plan for this executor on the device that it computes on here."""
        from exeunt.run.executors import executor_device

        return self.run.plan(self.name, executor_device(self.name))

    def open(self, segments: Segments | None = None) -> Executor:
        """Open the executor with these segments; by default one per exit."""
        from exeunt.run.executors import open_executor

        return open_executor(self.run, self.name, trusted=self.trusted, segments=segments)

    def open_of(self, policy: Policy) -> Executor:
        """Return the executor with the exits and models that a policy runs, as `exeunt.run.load` opens it."""
        from exeunt.run.executors import open_executor
        from exeunt.run.runner import segments_for

        run = replace(self.run, steps=policy.cascade)
        return open_executor(run, self.name, trusted=self.trusted, segments=segments_for(run, policy))

    def original(self) -> Callable[[Any], Any]:
        """Return a function that runs the network without heads: PyTorch's own forward, or one session for it all."""
        if self.name == "eager":
            from exeunt.torch.executor import original

            return original(self.network)
        from exeunt.timing.bench import whole_network

        return whole_network(self.open(((0, self.run.cost.n_exits - 1),)))

    def batch(self, n: int) -> Any:
        """Return n inputs: random images, or texts of the length in the manifest; raw ones of its data."""
        from exeunt._limits import check_memory

        inputs = self.run.manifest["inputs"]
        if inputs.get("raw"):
            return self._raw(n)
        is_image = inputs["kind"] == "image"
        if is_image and inputs.get("size") is None:
            raise InputError("these images have no common size to time the network at: train with a size")
        each = 4 * 3 * inputs["size"][0] * inputs["size"][1] if is_image else 8 * 3 * inputs["length"]
        check_memory(n * each, f"a batch of {n:,} inputs", "choose a smaller --batch-size")
        if not is_image:
            return self._texts(n)
        return np.random.default_rng(0).standard_normal((n, 3, *inputs["size"]), dtype=np.float32)

    def _raw(self, n: int) -> Any:
        """Return n inputs of the calibration part as they are: they are prepared as a part of answering."""
        from exeunt.predicting.batches import prepared_batches
        from exeunt.run.inputs import part_data

        data = part_data(self.run, "calibrate")
        rows = np.arange(n) % len(data)
        return next(prepared_batches(self.run, data.take(rows), batch_size=n, workers=0)).inputs

    def original_macs(self) -> float:
        """Return the multiply-adds of the network without heads."""
        counted = self.run.manifest["model"].get("macs")  # not of runs that earlier versions made
        return float(self.network.backbone_macs if counted is None else counted)

    @cached_property
    def network(self) -> EarlyExitNetwork:
        """The network in PyTorch."""
        from exeunt.torch.open_run import load_network

        return load_network(self.run, trusted=self.trusted)

    def _texts(self, n: int) -> Any:
        if self.name == "onnx":
            from exeunt.onnx.manifest import FOLDER, OnnxManifest

            export = OnnxManifest.load(self.run.path / FOLDER)
            tensors = {name: export.tensors[name] for name in export.inputs}
            length = self.run.manifest["inputs"]["length"]
            return {
                name: np.ones(
                    (n, *(length if size is None else size for size in tensor.shape[1:])), tensor.dtype
                )
                for name, tensor in tensors.items()
            }
        from exeunt.run.inputs import load_preparation
        from exeunt.torch.models.inputs import synthetic_inputs

        return synthetic_inputs(
            load_preparation(self.run), n, length=self.run.manifest["inputs"].get("length")
        )
