"""YAML files as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exeunt._files import why_it_failed
from exeunt.errors import FileError, InputError, require


def read_yaml(file: Path, *, extra: str) -> Any:
    """Return what a YAML file holds. `extra`: of Exeunt, which brings PyYAML.

    Raises InputError, with the line, for what is no YAML, and for a name that is there twice, of which YAML would take
    the last; FileError for a file that cannot be read.
    """
    yaml: Any = require("yaml", extra=extra)
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if (twice := _name_that_is_there_twice(root, yaml)) is not None:
            raise InputError(f"{file}, line {twice.start_mark.line + 1}: {twice.value} is there twice")
        return None if root is None else loader.construct_document(root)
    except OSError as error:
        raise FileError(f"cannot read {file}: {why_it_failed(error)}") from error
    except UnicodeDecodeError:
        raise InputError(f"{file} is no YAML: it is no text in UTF-8") from None
    except RecursionError:
        raise InputError(f"{file} is no YAML that can be read: it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file} is no YAML: {why_no_yaml(error)}") from None


def why_no_yaml(error: Any) -> str:
    """Return an error of PyYAML in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{problem} in line {mark.line + 1}" if mark and problem else str(error).splitlines()[0]


def _name_that_is_there_twice(root: Any, yaml: Any) -> Any:
    """Return the node of a name that a mapping has already; None if there is none."""
    left, seen = [root], {id(root)}
    while left:
        node, names = left.pop(), set()
        if not isinstance(node, yaml.CollectionNode):
            continue
        for entry in node.value:
            name, value = entry if isinstance(node, yaml.MappingNode) else (None, entry)
            if isinstance(name, yaml.ScalarNode):
                if name.value in names:
                    return name
                names.add(name.value)
            if id(value) not in seen:  # an alias leads to a node once more
                seen.add(id(value))
                left.append(value)
    return None
