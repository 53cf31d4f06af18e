"""Every error that Exeunt raises on purpose.

ExeuntError
 ├── InputError (also ValueError)     a given value cannot be used
 │    ├── NotCuttable                 a network cannot be cut, or not there
 │    │    ├── NotExportable          its code cannot become a graph
 │    │    └── MixedBatchAxis         a value mixes the rows with another axis
 │    ├── UnreadableInput             an input of a data set cannot be read
 │    │    ├── UnreadableImage        an image cannot be decoded in full
 │    │    └── UnreadableText         a cell holds no text
 │    ├── UnitError                   costs or budgets in units that do not mix
 │    ├── InfeasibleBudget            no policy meets, or can be certified for, this budget
 │    ├── Infeasible                  no policy can keep all guarantees together
 │    ├── OverBudget                  a ledger has not enough left for an attempt
 │    └── ModelStopped                a model billed more than its stated maximum
 ├── BatchFailed                      a batch of a stream could not be answered
 ├── QueueFull                        an engine holds as many rows as it may
 ├── ArtefactError                    a file or run folder is damaged, foreign or from a newer version
 ├── FileError (also OSError)         a file cannot be read or written (permissions, a full disk, a folder there)
 └── MissingExtra (also ImportError)  an optional dependency is not installed

ExeuntWarning (also UserWarning)      something works, but not as one would expect
 └── RunsWhole                        a network cannot be cut, so answering early saves nothing

Messages give the value, what is allowed, and the remedy.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

__all__ = [
    "ArtefactError",
    "BatchFailed",
    "ExeuntError",
    "ExeuntWarning",
    "FileError",
    "Infeasible",
    "InfeasibleBudget",
    "InputError",
    "MissingExtra",
    "MixedBatchAxis",
    "ModelStopped",
    "NotCuttable",
    "NotExportable",
    "OverBudget",
    "QueueFull",
    "RunsWhole",
    "UnitError",
    "UnreadableImage",
    "UnreadableInput",
    "UnreadableText",
    "one_line",
    "require",
]


class ExeuntError(Exception):
    """Base of every error that Exeunt raises on purpose."""


class InputError(ExeuntError, ValueError):
    """A given value cannot be used; the message says what is allowed."""


class NotCuttable(InputError):  # noqa: N818 - reads as what the model is
    """A model cannot be cut, or not at this place. It can still carry exits through hooks."""


class NotExportable(NotCuttable):
    """`torch.export` cannot turn this model into a graph with a variable batch size."""


class MixedBatchAxis(NotCuttable):
    """A value mixes the batch axis with another axis, so that no rows can be dropped from it."""


class UnreadableInput(InputError):  # noqa: N818 - reads as what the input is
    """An input cannot be read. `name` says which one and `reason` why."""

    kind = "input"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the {self.kind} {self.name}: {self.reason}"


class UnreadableImage(UnreadableInput):
    """An image cannot be decoded in full."""

    kind = "image"


class UnreadableText(UnreadableInput):
    """A cell that should hold a text holds something else, or nothing."""

    kind = "text"


class UnitError(InputError):
    """Costs or budgets whose units do not mix, such as MACs and milliseconds."""


class InfeasibleBudget(InputError):  # noqa: N818 - named for what it says, not that it is an error
    """No policy meets this budget, or none can be certified for it.

    `smallest_budget` (in the unit of the costs) is the least budget that is possible with these calibration inputs;
    `n_calibration_needed` is the number of calibration inputs that would suffice for this budget. Either is None if
    there is no such number.
    """

    def __init__(
        self,
        message: str,
        *,
        smallest_budget: float | None = None,
        n_calibration_needed: int | None = None,
    ) -> None:
        super().__init__(message)
        self.smallest_budget = smallest_budget
        self.n_calibration_needed = n_calibration_needed


class Infeasible(InputError):  # noqa: N818 - named for what it says, not that it is an error
    """No policy can be certified to keep all guarantees together.

    `binding` names the guarantee that fails, as an argument of `cheapest`: "max_loss", "budget", "max_early_loss",
    "max_early_worse", "max_tail". `nearest_budget` (in the unit of the costs) is the least budget that can be certified
    with these limits, or None if there is none. `nearest_limits`: by name, the least limit (of a tail: the share) of
    each guarantee at this budget, with the other limits as they were asked for; without those that would not do alone.
    """

    def __init__(
        self,
        message: str,
        *,
        binding: str,
        nearest_budget: float | None = None,
        nearest_limits: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(message)
        self.binding = binding
        self.nearest_budget = nearest_budget
        self.nearest_limits = dict(nearest_limits or {})

    @property
    def nearest_max_loss(self) -> float | None:
        """The least loss at this budget; None if there is none."""
        return self.nearest_limits.get("max_loss")


class OverBudget(InputError):  # noqa: N818 - named for what it says, not that it is an error
    """A ledger has not enough left. `asked` and `left`: in its unit. `wait_s`: until a rate may allow it, or None.

    `passing`: attempts are under way that may cost less than is held for them.
    """

    def __init__(
        self, message: str, *, asked: float, left: float, wait_s: float | None = None, passing: bool = False
    ) -> None:
        super().__init__(message)
        self.asked = asked
        self.left = left
        self.wait_s = wait_s
        self.passing = passing


class ModelStopped(InputError):  # noqa: N818 - named for what it says, not that it is an error
    """A model that billed more than its stated maximum is not asked again until its ledger resumes it."""


class BatchFailed(ExeuntError):  # noqa: N818 - named for what it says, not that it is an error
    """A batch of a stream could not be answered: `batch` says which, from 0, and the cause why."""

    def __init__(self, message: str, *, batch: int) -> None:
        super().__init__(message)
        self.batch = batch


class QueueFull(ExeuntError):  # noqa: N818 - named for what it says, not that it is an error
    """An engine holds its maximum of rows: ask again later."""


class ArtefactError(ExeuntError):
    """A file or run folder is damaged, edited, foreign, or written by a newer version."""


class FileError(ExeuntError, OSError):
    """A file cannot be read or written; the message names it and says why."""


class MissingExtra(ExeuntError, ImportError):  # noqa: N818 - reads as what is missing
    """An optional dependency is not installed; the message says which extra brings it."""


class ExeuntWarning(UserWarning):
    """Something works, but not as one would expect; the message says how to mend it."""


class RunsWhole(ExeuntWarning):
    """A network cannot be cut, so it runs whole: every input costs as much as the last exit."""


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, with its type unless the error is Exeunt's own."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return first if isinstance(error, ExeuntError) else f"{type(error).__name__}: {first[:300]}"


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or say which extra of Exeunt brings it.

    Raises MissingExtra when the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        raise MissingExtra(
            f"this needs the package {root!r}, which is not installed: {installing(extra)}"
        ) from None


def installing(extra: str) -> str:
    """Return how to install an extra of Exeunt, from a clone or from an index that has it."""
    return f'pip install ".[{extra}]" in the clone, or "exeunt[{extra}]" from an index that has it'
