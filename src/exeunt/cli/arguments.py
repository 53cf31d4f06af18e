"""Arguments and groups of options that several commands share, and reading counts and shares from text.

A parameter of a command whose type is a dataclass stands for as many options as that has fields: see `with_groups`.
"""

from __future__ import annotations

import inspect
import math
import shlex
import sys
from collections.abc import Callable, Container
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import typer

from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.data import Dataset
    from exeunt.run.folder import RunFolder

STANDARD = "-"
"""The standard input, or the standard output."""
_MOST_INPUTS = 10**12
_ENGINES = ("local", "ray")

RunPath: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder that `exeunt train` made.")
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
_machines = partial(typer.Option, rich_help_panel="Many machines")


@dataclass(frozen=True)
class Cluster:
    """Where a job runs. Raises InputError for another engine, or an option of a cluster without one."""

    engine: Annotated[
        str, _machines(help="What runs the job: local (this machine), or ray (a cluster, see --address).")
    ] = "local"
    address: Annotated[
        str | None,
        _machines(
            help="Ray cluster: auto for that of this machine, or HOST:6379. Default: one is started here."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.engine not in _ENGINES:
            raise InputError(f"--engine must be one of {', '.join(_ENGINES)}, got {self.engine!r}")
        if not self.is_ray and (given := self.given):
            name = next(iter(given)).replace("_", "-")
            raise InputError(f"--{name} is of a cluster: add --engine ray, or leave it out")

    @property
    def is_ray(self) -> bool:
        """Whether a cluster runs the job."""
        return self.engine == "ray"

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, as the library takes them."""
        return given(self, without=("engine",))


@dataclass(frozen=True)
class ClusterWorkers(Cluster):
    """A cluster whose workers hold the network."""

    cpus_per_worker: Annotated[
        int | None, _machines(help="Cores that each worker computes on.", min=1, max=4096, show_default="1")
    ] = None
    gpus_per_worker: Annotated[
        float | None, _machines(help="GPUs of each worker.", min=0, max=64, show_default="0")
    ] = None


@dataclass(frozen=True)
class Answering:
    """How the network of a run answers inputs from disk."""

    batch_size: Annotated[int, typer.Option(help="Inputs per batch.", min=1)] = 128
    workers: Annotated[
        int | None,
        typer.Option(
            help="Threads that decode images while the network runs; 0 decodes between its calls. With --engine ray: "
            "how many copies of the network answer.",
            min=0,
            show_default="0, or 1 with ray",
        ),
    ] = None
    text_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the texts, or two for pairs of texts: premise,hypothesis. Default: that of the training."
        ),
    ] = None
    executor: ExecutorName = None
    trusted: TrustedModel = None

    def options(self, cluster: Cluster) -> dict[str, Any]:
        """Return the options as the library takes them, those of the cluster too."""
        workers = int(cluster.is_ray) if self.workers is None else self.workers
        return {**given(self, without=("text_column",)), "workers": workers, **cluster.given}

    def inputs(self, data: str, run: RunFolder) -> Dataset:
        """Open the inputs that `--data` names, as the run was trained on."""
        from exeunt.data import open_inputs, open_lines

        if data == STANDARD:
            content = b"" if sys.stdin is None else sys.stdin.buffer.read()
            return open_lines(content, run.manifest["inputs"]["kind"])
        trained_on, text = run.manifest["data"], column_names(self.text_column)
        known = trained_on.get("text", ())
        return open_inputs(data, label=trained_on.get("label"), text=text or known, of_training=not text)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with its groups of options spread out, as Typer takes them.

    A parameter whose type is a dataclass becomes one parameter for each field, of the field's type and default.
    """
    spread, groups = list[inspect.Parameter](), dict[str, Any]()
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        group = hints[name]
        if not is_dataclass(group):
            spread.append(parameter.replace(annotation=group, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[name], types = group, get_type_hints(group, include_extras=True)
        spread += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=types[field.name],
            )
            for field in fields(group)
        ]

    @wraps(command)
    def with_options(**options: Any) -> None:
        for name, group in groups.items():
            options[name] = group(**{field.name: options.pop(field.name) for field in fields(group)})
        command(**options)

    with_options.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return with_options


def given(group: Any, *, without: Container[str] = ()) -> dict[str, Any]:
    """Return the options of a group that were given; the library has the defaults of the others."""
    return {name: value for name, value in vars(group).items() if value is not None and name not in without}


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
