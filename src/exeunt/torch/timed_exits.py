"""Exits placed by time: a network is timed on this machine with heads at all its places, before any of them learns."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn

from exeunt._support.arrays import Floats
from exeunt._support.limits import check_memory, usable_cores
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor, Segments
from exeunt.engine.plan import segments_between
from exeunt.errors import ExeuntWarning, InputError, NotCuttable
from exeunt.policy import Policy
from exeunt.policy.calibration import Thresholds
from exeunt.timing.bench import forced_exits, heads_policy, whole_network
from exeunt.timing.exit_placement import MeasuredPlaces, PlacedExits, choose_exits
from exeunt.timing.profile import measure_profile
from exeunt.timing.timing_tools import time_interleaved
from exeunt.torch.calls import Inputs
from exeunt.torch.devices import limit_threads
from exeunt.torch.executor import StagedExecutor
from exeunt.torch.exits.attach import attach
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.named_inputs import read_example
from exeunt.torch.to_onnx import export_network

AUTO = "auto"
"""The value of `exits` for exits placed by time."""
BATCHES = (64,)
"""Inputs at a time that they are placed for by default."""
_MOST_PLACES = 24
"""Places that are timed; more lie a few percent of a network apart."""
_HALVINGS = 2
_ROUNDS, _SECONDS = 9, 15.0
_CALLS_OF = 32  # inputs that a measurement of the network as built takes at least
_FOR_EXPORT = ("onnx", "onnxscript", "onnxruntime")
_LEAST_ADDED = 1e-3  # share of the network's time that all heads take at least, whatever was measured
_UNREACHABLE = 2.0  # a margin that no input has


def exits_by_time(
    model: nn.Module,
    example: Inputs,
    batches: Sequence[int] = BATCHES,
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = print,
    **options: Any,
) -> PlacedExits:
    """Return where exits pay for their time in a network on this machine, and how large their heads are.

    `model`, `example`, `options`: as `attach` takes them; `hidden`, if given, is the size of the heads. `batches`:
    numbers of inputs at a time for each of which all heads together may take a tenth of the network's time.
    ONNX Runtime is timed where the network can be exported: stage by stage, and a lone input in one file with its exits
    inside. Else PyTorch is timed.

    Raises InputError for batches below 1, where even one head takes longer, and for what `attach` refuses; NotCuttable
    for a network that cannot be cut.
    """
    if not batches or min(batches) < 1:
        raise InputError(f"exits are placed for batches of 1 input or more, got {list(batches)}")
    limit_threads()
    with TemporaryDirectory(prefix="exeunt-") as folder:
        bench = _NetworkBench(model, example, tuple(batches), options, Path(folder), clock, say)
        head_options = bench.attached(options.get("hidden")).options
        hidden = (
            0 if head_options is None or head_options.head in ("paper", "global") else head_options.hidden
        )
        halvings = 0 if options.get("hidden") is not None or hidden == 0 else _HALVINGS
        sizes = [hidden >> halved for halved in range(halvings + 1) if halved == 0 or hidden >> halved]
        return choose_exits(bench, sizes, tuple(batches))


@dataclass(eq=False)
class _Opened:
    """A network with heads at all its places, opened to be timed. `open_`: with given segments, by default all cuts.

    `folder`: of the export; None on PyTorch. `whole`: the network in one call.
    """

    open_: Callable[[Segments | None], Executor]
    folder: Path | None
    whole: Executor


@dataclass(eq=False)
class _NetworkBench:
    """A `Bench` of a network on ONNX Runtime or PyTorch. `folder`: where it is exported to."""

    model: nn.Module
    example: Inputs
    batches: tuple[int, ...]
    options: Mapping[str, Any]
    folder: Path
    clock: Callable[[], float]
    say: Callable[[str], None]
    _opened: dict[int, _Opened] = field(default_factory=dict)

    def attached(self, hidden: int | None) -> EarlyExitNetwork:
        """Return the network with a head at each of its places."""
        options = {**self.options, "hidden": hidden}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExeuntWarning)  # that there are fewer places
            return attach(
                self.model, self.example, _MOST_PLACES, check=False, verbose=False, **options
            ).eval()

    def measure(self, hidden: int) -> MeasuredPlaces:
        """Return what a head of this size at each place takes."""
        network = self.attached(hidden)
        opened = self._opened[hidden] = self._open(network, self.folder / str(hidden))
        finest = opened.open_(None)
        self.say(
            f"timing heads of {hidden} units at {len(network.heads)} places ({finest.name}, {finest.device})"
        )
        limits: Any = {
            "sizes": self.batches,
            "repeats": _ROUNDS,
            "max_seconds": _SECONDS,
            "clock": self.clock,
        }
        inputs = self._inputs(max(self.batches))
        each, alone = (measure_profile(executor, inputs, **limits) for executor in (finest, opened.whole))
        order = [each.sizes.index(size) for size in self.batches]
        run, head, (network_seconds,) = (
            table[:, order] * 1e3 / self.batches for table in (each.run, each.head, alone.run)
        )
        # Of the time that all heads add as built, each has the share that it has of their times one by one.
        apart = head[:-1] + np.maximum(run.sum(axis=0) - network_seconds, 0.0) / len(network.heads)
        added = (
            np.maximum(self.with_exits(hidden, range(len(network.heads))) - 1, _LEAST_ADDED) * network_seconds
        )
        return MeasuredPlaces(
            names=tuple(network.exit_names),
            whole=network_seconds,
            stage=(run / run.sum(axis=0) * network_seconds).T,
            head=(apart / apart.sum(axis=0) * added).T,
            bytes=np.array([_bytes(head) for head in network.heads]),
            network_bytes=_bytes(network.backbone),
        )

    def with_exits(self, hidden: int, places: Sequence[int]) -> Floats:
        """Return the time with heads of this size at these places where no input leaves, as a share of its own."""
        opened = self._opened[hidden]
        policy = heads_policy(opened.whole.n_exits, places)
        segments = segments_between([*places, policy.n_exits - 1])
        shares = []
        for size in self.batches:
            if size == 1 and opened.folder is not None:
                built = _one_file(opened.folder, policy, opened.whole)
            else:
                to_end = forced_exits(policy, np.full(size, policy.n_exits - 1))
                built = Engine(opened.open_(segments), to_end).answer
            ways = {"exits": built, "whole": whole_network(opened.whole)}
            inputs, times = self._inputs(size), max(1, _CALLS_OF // size)

            def calls(answer: Callable[[Any], Any], inputs: Any = inputs, times: int = times) -> Any:
                return lambda _: [answer(inputs) for _ in range(times)]

            taken = time_interleaved(
                {name: calls(answer) for name, answer in ways.items()},
                rounds=_ROUNDS,
                max_seconds=_SECONDS,
                clock=self.clock,
            )
            shares.append(float(np.median(taken["exits"] / taken["whole"])))
        return np.array(shares)

    def _inputs(self, rows: int) -> Inputs:
        batch = read_example(self.model, self.example)
        each = sum(tensor.nbytes for tensor in batch.tensors) // batch.n
        check_memory(rows * each, f"a batch of {rows:,} inputs", "choose a smaller --exit-batch")
        places = np.arange(rows) % batch.n
        return replace(batch, tensors=tuple(tensor[places] for tensor in batch.tensors)).inputs

    def _open(self, network: EarlyExitNetwork, folder: Path) -> _Opened:
        """Open a network on ONNX Runtime, or on PyTorch where it cannot be exported. Raises NotCuttable."""
        all_exits = ((0, network.n_exits - 1),)
        if all(find_spec(package) for package in _FOR_EXPORT):
            from exeunt.onnx.executor import OnnxExecutor

            try:
                folder.mkdir()
                export_network(network, self.example, folder, say=lambda _: None)
            except NotCuttable:
                raise
            except InputError as error:
                self.say(f"PyTorch is timed, not ONNX Runtime: {error}")
            else:

                def exported(segments: Segments | None) -> Executor:
                    return OnnxExecutor(folder, segments=segments)

                return _Opened(exported, folder, exported(all_exits))

        def in_torch(segments: Segments | None) -> Executor:
            return StagedExecutor(network, self.example, segments=segments)

        return _Opened(in_torch, None, in_torch(all_exits))


def _one_file(folder: Path, policy: Policy, network: Executor) -> Callable[[Any], Any]:
    """Return what answers a lone input by one file with the policy's exits inside, at none of which it leaves."""
    import onnxruntime

    from exeunt.onnx.nested_if import KEY, model_with_policy
    from exeunt.onnx.one_file import read_stages

    score = np.where(policy.active, _UNREACHABLE, policy.limits.score)
    nobody_leaves = replace(policy, limits=Thresholds(score, policy.limits.tie))
    model = model_with_policy(read_stages(folder), nobody_leaves).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = usable_cores(), 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    key = np.zeros(1, dtype=np.uint64)
    return lambda inputs: session.run(None, {**network.start(inputs)[0], KEY: key})


def _bytes(module: nn.Module) -> float:
    return float(sum(tensor.nbytes for tensor in module.state_dict().values()))
