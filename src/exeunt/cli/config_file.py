"""The options of a command in a YAML file: read from it, and written as one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from exeunt._support.yaml_text import yaml_root
from exeunt.errors import InputError, require


def option_names(context: typer.Context) -> list[str]:
    """Return the names of the parameters that a file may hold."""
    return [option.name for option in context.command.params if option.name not in (None, "config")]


def read_config(file: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the text of each option in a YAML file, by the name of its parameter; null leaves an option out.

    A list is the text with commas. Raises InputError, with the line, for what is no option with a value.
    """
    yaml = require("yaml", extra="cli")
    known, texts = set(names), dict[str, str | None]()
    for key, node in _entries(file, yaml):
        place, name = f"{file}, line {key.start_mark.line + 1}", str(key.value).replace("-", "_")
        if name not in known:
            close = get_close_matches(name, known, n=1)
            mend = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
            raise InputError(f"{place}: there is no option {key.value!r}: {mend}")
        if name in texts:
            raise InputError(f"{place}: {name} is there twice")
        if (text := _text(node, yaml)) is None:
            raise InputError(f"{place}: {name} must be one value, or a list of them")
        texts[name] = None if node.tag == "tag:yaml.org,2002:null" else text
    return {name: text for name, text in texts.items() if text is not None}


def as_config(context: typer.Context, *, without: Collection[str]) -> str:
    """Return the text of a file for `--config` with all options that have a value, but for those in `without`."""
    yaml = require("yaml", extra="cli")
    values = {name: context.params[name] for name in option_names(context) if name not in without}
    plain = {name: str(option) if isinstance(option, Path) else option for name, option in values.items()}
    options = {name: option for name, option in plain.items() if option is not None}
    return str(yaml.safe_dump(options, sort_keys=False, allow_unicode=True))


def _entries(file: Path, yaml: Any) -> list[tuple[Any, Any]]:
    """Return the nodes of the names and values in a YAML file, which know their lines."""
    if file.is_dir():
        raise InputError(f"--config takes a file, and {file} is a folder")
    root = yaml_root(file, extra="cli")
    if root is None:  # nothing but comments
        return []
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{file} must hold options, one a line, such as 'epochs: 30'")
    return list(root.value)


def _text(node: Any, yaml: Any) -> str | None:
    """Return the text of a node on the command line; None if the node is no value and no list of values."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(
        isinstance(element, yaml.ScalarNode) for element in node.value
    ):
        return ",".join(str(element.value) for element in node.value)
    return None
