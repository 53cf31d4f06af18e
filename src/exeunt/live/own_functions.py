"""Functions of a user's own, which a YAML file names as "module:name". Their code runs."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

from exeunt.errors import InputError

_OF_OTHERS = 0o022
"""The mode of a file or a folder that its group, or all, may write to."""
_appended: set[str] = set()
"""The folders in which modules are looked for last."""


@dataclass(frozen=True)
class Signature:
    """What a function takes, such as "request, answer", and what it returns, in words."""

    takes: str
    returns: str

    def of(self, name: str) -> str:
        """Return how the function is written."""
        return f"`def {name}({self.takes})`, which returns {self.returns}"

    def check(self, function: Callable[..., Any]) -> None:
        """Raise InputError for a function that cannot be called so. Code that does not tell what it takes is let by."""
        try:
            known = inspect.signature(function)
        except (TypeError, ValueError):
            return
        try:
            known.bind(*self.takes.split(", "))
        except TypeError as error:
            name = getattr(function, "__name__", "function")
            raise InputError(
                f"{name}{known} cannot be called as it is: {error}; write {self.of(name)}"
            ) from None


def function_named(text: str, signature: Signature) -> Any:
    """Return what "module:name" names, and run the module.

    Raises InputError for another text, and where there is no such function, or one that takes something else.
    """
    module, _, name = text.partition(":")
    if not module or not name.isidentifier():
        raise InputError(f"a function is written module:name, got {text!r}")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # it is there, and imports another
            raise
        if module.endswith(".py") or "/" in module:
            stem = Path(module.removesuffix(".py")).name
            raise InputError(
                f"a function is written module:name, without the ending and the folder of its file: for {name} in "
                f"{stem}.py beside the YAML file write {stem}:{name}, got {text!r}"
            ) from None
        file = f"{module.replace('.', '/')}.py"
        raise InputError(
            f"there is no module {module}: write {signature.of(name)}, into {file} beside the YAML file"
        ) from None
    try:
        function = getattr(imported, name)
    except AttributeError:
        raise InputError(
            f"the module {module}, {getattr(imported, '__file__', None) or 'of Python'}, has no {name}: write "
            f"{signature.of(name)}. A module of your own has a name that no installed one has"
        ) from None
    if not callable(function):
        raise InputError(
            f"{text} is no function, it is {type(function).__name__}: write {signature.of(name)}"
        )
    signature.check(function)
    return function


def find_beside(text: str, folder: Path) -> None:
    """Let the module of "module:name" be imported from a folder, unless it is installed. The folder is looked in last.

    Raises InputError where others than its owner may write to the folder, or to the module: their code would run.
    """
    module = text.partition(":")[0]
    root = module.partition(".")[0]
    beside = PathFinder.find_spec(root, [str(folder)]) if root else None
    if beside is None or (_is_installed(root) and not _is_found(beside, folder)):
        return
    if os.name == "posix":
        for place in (folder, *_files_of(module, folder)):
            _check_own(place, root)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        _appended.add(str(folder))


def _files_of(module: str, folder: Path) -> Iterator[Path]:
    """Yield the file of a module, and the folders and files of the packages that it lies in."""
    places = [str(folder)]
    for part in module.split("."):
        if (spec := PathFinder.find_spec(part, places)) is None:
            return
        places = [*(spec.submodule_search_locations or ())]
        yield from map(Path, places)
        if spec.origin is not None:
            yield Path(spec.origin)


def _check_own(place: Path, root: str) -> None:
    """Raise InputError where others may write to a file or a folder of the module `root`."""
    status = place.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise InputError(
            f"{place} belongs to another user, and the code of {root} there would run: copy it, with the YAML "
            "file, to a folder of your own"
        )
    if status.st_mode & _OF_OTHERS:
        raise InputError(
            f"others may write to {place}, and the code of {root} there would run: `chmod go-w "
            f"{quote(str(place))}` keeps it yours"
        )


def _is_installed(root: str) -> bool:
    """Whether a module is found without a further folder; a part of a namespace may lie in any."""
    if root in sys.modules:
        return True
    spec = find_spec(root)
    return spec is not None and spec.origin is not None


def _is_found(beside: ModuleSpec, folder: Path) -> bool:
    """Whether a module is that of a folder which was appended for another one: it is checked all the same."""
    if str(folder) not in _appended:
        return False
    try:
        spec = find_spec(beside.name)
    except ValueError:  # of __main__
        return False
    return spec is not None and spec.origin == beside.origin
