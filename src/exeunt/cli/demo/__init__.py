"""`exeunt demo`: from a recorded log of paid services to a certified policy, in some seconds and without a network."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from exeunt._support.files import make_folder
from exeunt._support.text import echo
from exeunt.cli.calibrate import calibrate
from exeunt.cli.compare import compare
from exeunt.cli.evaluate import evaluate
from exeunt.cli.options import option, with_groups
from exeunt.errors import InputError

_LOG = "faces.parquet"
_PRICES = {"price": "GitHub_CNN=0.001,FacePP=5,Microsoft=10,Google=15", "price_per": 10_000}


@dataclass(frozen=True, kw_only=True)
class _Options:
    out: Path = option("The folder to write into.", default=Path("exeunt-demo"))


@with_groups
def demo(options: _Options) -> None:
    """From a log to a certified policy: what four services said of 6,000 faces in 2020, at their prices."""
    folder = options.out
    if folder.exists() and any(folder.iterdir()) and not (folder / _LOG).exists():
        raise InputError(f"{folder} is not empty: name another folder with --out")
    make_folder(folder)
    demonstrate(folder)


def demonstrate(folder: Path) -> None:
    """Write the log and what becomes of it into a folder."""
    log = folder / _LOG
    for name in (_LOG, "LICENSE", "README.md"):
        (folder / name).write_bytes(files(__name__).joinpath(name).read_bytes())
    _show(calibrate, log, max_loss="2%", policy="eero", out=folder / "run", **_PRICES)
    _show(evaluate, folder / "run", figures=False)
    budgets = {"budgets": "20%,40%,60%", "policies": "auto", "delta": "0.05", "splits": 2}
    _show(compare, log, **budgets, workers=0, out=folder / "report.html", **_PRICES)
    echo(f"\nopen {folder / 'report.html'} in a browser; then do the same with a log of your own")


def _show(command: Callable[..., None], path: Path, **options: Any) -> None:
    """Print a command as it would be typed, and run it. A switch that is off is typed as --no-NAME."""
    words = ["exeunt", command.__name__, str(path)]
    for name, setting in options.items():
        flag = name.replace("_", "-")
        words += [f"--no-{flag}"] if setting is False else [f"--{flag}", str(setting)]
    echo(f"\n$ {shlex.join(words)}")
    inputs = {"traces": [path]} if command is compare else {"path": path}
    command(**inputs, **options)
