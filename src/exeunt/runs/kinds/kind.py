"""What tells a kind of run from the others, as commands ask for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def imported(name: str) -> Any:
    """Return what "module:name" stands for; the module is imported only now."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class ExecutorKind:
    """How an executor is opened, and what it needs.

    `opener`: "module:function", called as `open_x(run, threads=, trusted=, segments=)` and imported only then, so
    that this layer needs neither PyTorch nor ONNX Runtime. "" where the kind of run refuses to "run".
    `package`: what must be installed; `extra`: the extra of Exeunt that installs it.
    `needs`: a file that the run folder must have; `remedy`: what to do if that file is missing, {run} for the run's
    path.
    `checker`: "module:function", called as `check_x(run)` without the package: returns in a few words what the
    executor's own files hold, and raises if they are damaged or belong to another network. "" without such files.
    `device`: "module:function", called as `x_device()`: returns the device that the executor will compute on (see
    `exeunt.engine.executor.Executor.device`). "" for the processor.
    """

    opener: str
    needs: str
    remedy: str
    package: str = "numpy"
    extra: str = ""
    checker: str = ""
    device: str = ""


@dataclass(frozen=True, kw_only=True)
class RunKind:
    """A kind of run. To add one, write a file beside this one with a `KIND`: nothing else names the kinds.

    `file`: the file of a run folder that its network is in. `holds`: what that file holds, for messages.
    `made_by`: how to make such a run anew, for messages; "" for what `exeunt train` makes.
    `executors`: what can run the network, by name, in order of preference; none for a kind that no job runs.
    `models`: "module:function", called as `models(file, digest)` with the checked path of `file` and the run's own
    digest: returns the run's models, each an `exeunt.runs.manifest.CascadeEntry`. "" for a run of one network.
    `last_exit`: what answers at the network's last exit.
    `is_paid`: whether answers cost money, so that a policy may choose whom to ask, and nothing is timed.
    `actions`: by verb ("calibrate", "evaluate", "predict", "serve"), "module:function" that does it in place of the
    usual one.
    `refuses`: by verb ("run", "time", "join" a cascade), why such a run cannot, and what to do; {run} is the run's
    path, {unit} the unit of its costs.
    """

    file: str
    holds: str
    made_by: str = ""
    executors: Mapping[str, ExecutorKind] = field(default_factory=dict)
    models: str = ""
    last_exit: str = "own classifier"
    is_paid: bool = False
    actions: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)

    def action(self, verb: str, usual: Callable[..., Any]) -> Callable[..., Any]:
        """Return what does this with such a run: by default the usual function."""
        return imported(self.actions[verb]) if verb in self.actions else usual
