"""Options of commands: how they are declared, those that several commands share, and reading them from text.

A command is a function `(path, group, ...)`. Each group is a dataclass whose fields are options: see `with_groups`.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_type_hints

import typer

from exeunt.errors import InputError

STANDARD = "-"
"""The standard input, or the standard output."""
_MOST_INPUTS = 10**12
_ENGINES = ("local", "ray")

RunPath: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder that `exeunt train` made; RUN@int8 is the run at this precision, RUN@50% the run with its "
        "policy for this budget.",
        show_default=False,
    ),
]


def option(help: str, *names: str, default: Any = None, panel: str | None = None, **limits: Any) -> Any:  # noqa: A002
    """Return a field of a group of options; without `names`, the option has the name of the field.

    `default`: MISSING for a required option; False for a flag. `panel`: the title in `--help`. `limits`: as
    `typer.Option` takes them.
    """
    return field(default=default, metadata={"names": names, "help": help, "rich_help_panel": panel, **limits})


def options_under(panel: str) -> Callable[..., Any]:
    """Return `option` for the options under one title of `--help`."""
    return partial(option, panel=panel)


def trusted_option() -> Any:
    """Return the option `--model`, which allows the code of a model to run."""
    return option(
        "Needed only if code of your own makes the network: repeat its name to allow that code to run.",
        "--model",
    )


def seed_option() -> Any:
    """Return the option `--seed`."""
    return option("Seed of all random numbers.", default=0, min=0)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with its groups of options spread out, as Typer takes them.

    A parameter whose type is a dataclass becomes one parameter for each of its fields.
    """
    spread, groups = list[Parameter](), dict[str, Any]()
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in signature(command).parameters.items():
        if is_dataclass(group := hints[name]):
            groups[name] = group
            types = get_type_hints(group)  # type: ignore[arg-type]
            for option in fields(group):
                limits = dict(option.metadata)
                names = limits.pop("names")
                if limits.keys() & {
                    "min",
                    "max",
                }:  # a range takes half of a narrow screen, and errors tell it
                    limits.setdefault("metavar", "<float>" if "float" in str(types[option.name]) else "<int>")
                if not names and option.default is False:
                    names = (f"--{option.name.replace('_', '-')}",)  # without --no-...
                kind: Any = Annotated[types[option.name], typer.Option(*names, **limits)]
                default = Parameter.empty if option.default is MISSING else option.default
                spread.append(
                    Parameter(option.name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                )
        else:
            spread.append(parameter.replace(annotation=group, kind=Parameter.KEYWORD_ONLY))

    @wraps(command)
    def with_options(*arguments: Any, **options: Any) -> None:
        for name, group in groups.items():
            named = {field.name for field in fields(group)} & options.keys()
            options[name] = group(**{name: options.pop(name) for name in named})
        command(*arguments, **options)

    with_options.__signature__ = Signature(spread)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return with_options


def given(group: Any, *, without: Container[str] = ()) -> dict[str, Any]:
    """Return the options of a group that were given; the library has the defaults of the others."""
    return {
        name: setting for name, setting in vars(group).items() if setting is not None and name not in without
    }


def changed(*groups: Any) -> str:
    """Return the options of groups that differ from their defaults, as people write them; "" for none."""
    return ", ".join(
        next(iter(option.metadata["names"]), f"--{option.name.replace('_', '-')}")
        for group in groups
        for option in fields(group)
        if option.default is not MISSING and getattr(group, option.name) not in (option.default, [])
    )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What runs the network of a run. Raises InputError for an executor that there is not."""

    executor: str | None = option(
        "What runs the network: eager (PyTorch) or onnx (ONNX Runtime). Default: onnx if the run was exported, else "
        "eager."
    )
    trusted: str | None = trusted_option()

    def __post_init__(self) -> None:
        from exeunt.runs.executors import executor_kind

        if self.executor is not None:
            executor_kind(self.executor)


@dataclass(frozen=True, kw_only=True)
class LiveExecution(Execution):
    """The same for runs that live models may answer."""

    models: Path | None = option(
        "A YAML file of services and functions: for a run that `exeunt record --models` made, and for `exeunt record` "
        "without RUN."
    )

    @property
    def of_network(self) -> dict[str, Any]:
        """The options of a run whose network is run."""
        return {"executor": self.executor, "trusted": self.trusted}


cluster_option = options_under("Many machines")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a job runs. Raises InputError for another engine, or an option of a cluster without one."""

    engine: str = cluster_option(
        "What runs the job: local (this machine), or ray (a cluster, see --address).", default="local"
    )
    address: str | None = cluster_option(
        "Ray cluster: auto for the one of this machine, or HOST:6379. Default: one is started here."
    )

    def __post_init__(self) -> None:
        if self.engine not in _ENGINES:
            raise InputError(f"--engine must be one of {', '.join(_ENGINES)}, got {self.engine!r}")
        if not self.is_ray and (some := self.given):
            name = next(iter(some)).replace("_", "-")
            raise InputError(f"--{name} is of a cluster: add --engine ray, or leave it out")

    @property
    def is_ray(self) -> bool:
        """Whether a cluster runs the job."""
        return self.engine == "ray"

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, as the library takes them."""
        return given(self, without=("engine",))


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C inside the block say what is kept of the work, and how to resume it."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept()) from None


def standard_input() -> bytes:
    """Return all of the standard input."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def this_command() -> str:
    """Return the command that runs, as a line for the shell."""
    return shlex.join(["exeunt", *sys.argv[1:]])


def column_names(text: str | None) -> tuple[str, ...]:
    """Read "premise,hypothesis" as names of columns; None as no names."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def count_or_share(text: str | None, name: str) -> float | None:
    """Read "1000" as a count, "5%" or "0.05" as a share; None stays None."""
    if text is None:
        return None
    number = _number(text)
    is_share = text.endswith("%") or 0 < number < 1
    if not (0 <= number < 1 if is_share else 0 <= number <= _MOST_INPUTS and number == int(number)):
        raise InputError(f"{name} must be a count such as 1000 or a share such as 5%, got {text!r}")
    return number if is_share else int(number)


def share(
    text: str, name: str, *, or_zero: bool = False, or_one: bool = False, example: str = "5% or 0.05"
) -> float:
    """Read "5%" or "0.05" as a number between 0 and 1."""
    number = _number(text)
    if not 0 < number < 1 and not (or_zero and number == 0) and not (or_one and number == 1):
        range_text = "above 0% and at most 100%" if or_one else "between 0 and 1"
        raise InputError(f"{name} must be a share {range_text}, such as {example}, got {text!r}")
    return number


def delta_or_none(text: str) -> float | None:
    """Read `--delta`: a share, or "none"."""
    from exeunt._support.arrays import check_delta  # NumPy: late

    return None if text.lower() == "none" else check_delta(share(text, "delta"))


def numbers(
    text: str | None,
    allowed: str,
    *,
    kind: Callable[[str], Any] = float,
    least: float = -math.inf,
    count: int | None = None,
) -> Any:
    """Read "1,4,13" as a tuple of numbers of this `kind`; None stays None. One number stands for all of a `count`.

    Raises InputError that begins with `allowed`, for other texts, numbers below `least`, or not `count` of them.
    """
    if text is None:
        return None
    try:
        parsed = tuple(kind(part) for part in text.split(","))
    except ValueError:
        parsed = ()
    if count and len(parsed) == 1:
        parsed *= count
    if not parsed or min(parsed) < least or count not in (None, len(parsed)):
        raise InputError(f"{allowed}, got {text!r}")
    return parsed


def _number(text: str) -> float:
    """Read a number or a percentage; any other text is NaN, which lies in no range."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return math.nan
