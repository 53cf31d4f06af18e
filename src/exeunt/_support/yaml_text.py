"""YAML files as people write them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from exeunt._support.files import why_it_failed
from exeunt._support.outside_json import check_outside
from exeunt.errors import FileError, InputError, one_line, require

_ENTRIES = 100_000
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(file: Path, *, extra: str) -> Any:
    """Return what a YAML file holds. `extra`: of Exeunt, which brings PyYAML.

    Raises what `yaml_root` raises, and InputError, with the line, for a name that is there twice, of which YAML would
    take the last, and for numbers that are not finite or that 64 bits do not hold.
    """
    root, yaml = yaml_root(file, extra=extra), require("yaml", extra=extra)
    if (twice := _name_that_is_there_twice(root, yaml)) is not None:
        raise InputError(f"{file}, line {twice.start_mark.line + 1}: {twice.value} is there twice")
    if root is None:
        return None
    with _yaml_errors(file, yaml):
        _check_size(root, yaml)
        _check_numbers(root, yaml)
        document = yaml.SafeLoader("").construct_document(root)
        check_outside(document)
        return document


def yaml_root(file: Path, *, extra: str) -> Any:
    """Return the root node of a YAML file, whose nodes know their lines; None where there is nothing but comments.

    Raises InputError, with the line, for what is not YAML, FileError for a file that cannot be read.
    """
    yaml: Any = require("yaml", extra=extra)
    with _yaml_errors(file, yaml):
        return yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)


@contextmanager
def _yaml_errors(file: Path, yaml: Any) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot read {file}: {why_it_failed(error)}") from error
    except UnicodeDecodeError:
        raise InputError(f"{file} is not YAML: it is no text in UTF-8") from None
    except RecursionError:
        raise InputError(f"{file} is not YAML that can be read: it is nested too deeply") from None
    except (OverflowError, ValueError) as error:  # of its own, too: there is no month 13
        raise InputError(f"{file} is not YAML that can be read: {one_line(error)}") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        why = f"{problem} in line {mark.line + 1}" if mark and problem else str(error).splitlines()[0]
        raise InputError(f"{file} is not YAML: {why}") from None


def _check_size(root: Any, yaml: Any) -> None:
    """Raise ValueError for a file whose aliases repeat so much that it is large, or hold themselves."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if (known := sizes.get(id(node), 1)) == 0:
            raise ValueError("an alias stands within what it repeats")
        if id(node) in sizes or not isinstance(node, yaml.CollectionNode):
            return known
        sizes[id(node)] = 0
        sizes[id(node)] = size_below = 1 + sum(map(size, _held(node, yaml)))
        if size_below > _ENTRIES:
            raise ValueError(f"with what its aliases repeat it has more than {_ENTRIES:,} entries")
        return size_below

    size(root)


def _name_that_is_there_twice(root: Any, yaml: Any) -> Any:
    """Return the node of a name that a mapping has already; None if there is none."""
    for node in _nodes(root, yaml):
        names = set()
        for name, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(name, yaml.ScalarNode):
                if name.value in names:
                    return name
                names.add(name.value)
    return None


def _check_numbers(root: Any, yaml: Any) -> None:
    """Raise ValueError for a number, or a name that is one, that is not finite or that 64 bits do not hold."""
    loader = yaml.SafeLoader("")
    for node in _nodes(root, yaml):
        if node.tag not in _NUMBERS or not isinstance(node, yaml.ScalarNode):
            continue
        try:
            number = loader.construct_object(node)
            check_outside([number])
        except ValueError as error:
            raise ValueError(f"in line {node.start_mark.line + 1} {error}") from None
        if not math.isfinite(number):
            raise ValueError(
                f"in line {node.start_mark.line + 1} it holds {node.value:.20}, which is no number here"
            )


def _nodes(root: Any, yaml: Any) -> Iterator[Any]:
    """Yield each node once, names of mappings included; an alias leads to a node once more."""
    left, known = [root], {id(root)}
    while left:
        yield (node := left.pop())
        for child in _held(node, yaml):
            if id(child) not in known:
                known.add(id(child))
                left.append(child)


def _held(node: Any, yaml: Any) -> Iterator[Any]:
    """Yield the nodes that a node holds, names of a mapping included."""
    if isinstance(node, yaml.MappingNode):
        yield from chain.from_iterable(node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
