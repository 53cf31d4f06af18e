"""Arguments that several verbs share, and reading counts and shares from text."""

from __future__ import annotations

import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from exeunt.errors import InputError

_MOST_INPUTS = 10**12
_ENGINES = ("local", "ray")

RunPath: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder that `exeunt train` made.", show_default=False)
]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)]
ExecutorName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="What runs the network: eager (PyTorch) or onnx (ONNX Runtime). Default: onnx if the run was exported, "
        "else eager."
    ),
]
TrustedModel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Needed only if code of your own makes the network: repeat its name to allow that code to run.",
    ),
]

InputColumn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Column of the texts, or two for pairs of texts: premise,hypothesis. Default: that of the training."
    ),
]
BatchSize: TypeAlias = Annotated[int, typer.Option(help="Inputs per batch.", min=1)]
InputWorkers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Threads that decode images while the network runs; 0 decodes between its calls. With --engine ray: "
        "how many copies of the network answer.",
        min=0,
        show_default="0, or 1 with ray",
    ),
]

_machines = partial(typer.Option, rich_help_panel="Many machines")
EngineName: TypeAlias = Annotated[
    str, _machines(help="What runs the job: local (this machine), or ray (a cluster, see --address).")
]
ClusterAddress: TypeAlias = Annotated[
    str | None,
    _machines(help="Ray cluster: auto for that of this machine, or HOST:6379. Default: one is started here."),
]
CpusPerWorker: TypeAlias = Annotated[
    int | None, _machines(help="Cores that each worker computes on.", min=1, max=4096, show_default="1")
]
GpusPerWorker: TypeAlias = Annotated[
    float | None, _machines(help="GPUs of each worker.", min=0, max=64, show_default="0")
]


def of_cluster(engine: str, **options: Any) -> dict[str, Any]:
    """Return the options of a cluster that were given; they, or the engine, may be wrong (InputError)."""
    given = {name: value for name, value in options.items() if value is not None}
    if engine not in _ENGINES:
        raise InputError(f"--engine must be one of {', '.join(_ENGINES)}, got {engine!r}")
    if engine == "local" and given:
        name = next(iter(given)).replace("_", "-")
        raise InputError(f"--{name} is of a cluster: add --engine ray, or leave it out")
    return given


def this_command() -> str:
    """Return the command that runs, as a line for the shell."""
    return shlex.join(["exeunt", *sys.argv[1:]])


def column_names(text: str | None) -> tuple[str, ...]:
    """Read "premise,hypothesis" as names of columns; None is none."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def count_or_share(text: str | None, name: str) -> float | None:
    """Read "1000" as a count, "5%" or "0.05" as a share; None stays None."""
    if text is None:
        return None
    value = _number(text)
    is_share = text.endswith("%") or 0 < value < 1
    if not (0 <= value < 1 if is_share else 0 <= value <= _MOST_INPUTS and value == int(value)):
        raise InputError(f"{name} must be a count such as 1000 or a share such as 5%, got {text!r}")
    return value if is_share else int(value)


def share(text: str, name: str) -> float:
    """Read "5%" or "0.05" as a number between 0 and 1."""
    value = _number(text)
    if not 0 < value < 1:
        raise InputError(f"{name} must be a share between 0 and 1, such as 5% or 0.05, got {text!r}")
    return value


def delta_or_none(text: str) -> float | None:
    """Read `--delta`: a share, or "none"."""
    return None if text.lower() == "none" else share(text, "delta")


def three_numbers(text: str | None, name: str) -> tuple[float, float, float] | None:
    """Read "0.49,0.48,0.45", a number per colour; None stays None."""
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{name} must be three numbers such as 0.49,0.48,0.45, got {text!r}") from None
    return red, green, blue


def _number(text: str) -> float:
    """Read a number or a percentage; what is neither is NaN, which lies in no range."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return math.nan
