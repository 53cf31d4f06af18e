"""The comparison as one HTML file that opens offline: summary, charts to explore, tables, the command that made it.

The page loads nothing: style, program and data are inside, and its content security policy forbids anything else.
Without JavaScript the summary and the command still show.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from exeunt._support.files import write_text
from exeunt.errors import InputError

__all__ = ["DrawnWatch", "allowed_hash", "page_part", "render", "write_report"]

# In the order in which they run: each uses what stands before it.
_SCRIPTS = (
    "numbers",
    "elements",
    "state",
    "tooltip",
    "line_chart",
    "curves",
    "rate_bars",
    "tables",
    "notes",
    "controls",
)
_KEYS = ("version", "command", "splits", "seed", "delta", "reference", "summary", "overall", "traces")
_AT_ONCE = 6  # sentences of the summary shown below the first; the others are folded
_SLOT = re.compile(r"<!--(\w+)-->")


class DrawnWatch(NamedTuple):
    """What a watch found, in words, and its figure as SVG."""

    text: str
    svg: str


def write_report(
    data: dict[str, Any], path: str | Path, *, watches: Mapping[str, DrawnWatch] = MappingProxyType({})
) -> None:
    """Write the page of `data` and `watches` (see `render`) to `path`, atomically.

    Raises InputError where the folder does not exist, or as `render` does.
    """
    write_text(path, render(data, watches=watches))


def render(data: dict[str, Any], *, watches: Mapping[str, DrawnWatch] = MappingProxyType({})) -> str:
    """Return the page that shows `data`, the `to_dict()` of a comparison: the same to the byte for the same data.

    Costs and budgets are shares of the cost of each trace's `whole`, accuracies and gains shares of the inputs;
    a number that does not exist is None. Numbers are kept to seven digits. `watches`: of runs, by name.

    Raises InputError where a part is missing, nothing was compared, or a number is not finite.
    """
    _check(data)
    script = "\n".join(page_part(f"{name}.js") for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}}})();\n'
    style = page_part("page.css")
    measures = {trace.get("measure", "accuracy") for trace in data["traces"]}
    measure = escape(measures.pop() if len(measures) == 1 else "quality")
    fill = {
        "measure": measure,
        "Measure": measure[:1].upper() + measure[1:],
        "script": script,
        "script_hash": allowed_hash(script),
        "style": style,
        "style_hash": allowed_hash(style),
        "data": _embedded(data),
        "lead": _sentence(data["summary"][0]) if data["summary"] else "",
        "summary": _list(data["summary"][1 : 1 + _AT_ONCE]),
        "rest": _list(data["summary"][1 + _AT_ONCE :]),
        "watches": "".join(_figure(name, watch) for name, watch in watches.items()),
        "unwatched": "" if watches else "hidden",
        # A command breaks between its words, never after the hyphens of an option.
        "command": " ".join(f"<span>{escape(word)}</span>" for word in (data["command"] or "").split(" ")),
        "version": escape(str(data["version"])),
    }
    return _SLOT.sub(lambda slot: fill[slot[1]], page_part("page.html"))


def _check(data: dict[str, Any]) -> None:
    if missing := [key for key in _KEYS if key not in data]:
        raise InputError(f"a report needs the parts {', '.join(_KEYS)}; missing: {', '.join(missing)}")
    if not data["traces"] or any(not (t["budgets"] and t["policies"]) for t in data["traces"]):
        raise InputError("a report needs at least one trace, each with at least one budget and one policy")


def page_part(name: str) -> str:
    """Return the text of a file that pages are made of."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def allowed_hash(text: str) -> str:
    """Return the hash that a content security policy allows a text by: only that very text may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: dict[str, Any]) -> str:
    """Return JSON that holds no character that could end its element or open another."""
    try:
        text = json.dumps(_short(data), allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise InputError(f"a report's numbers are finite or None: {error}") from None
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _short(number: Any) -> Any:
    """Return `number` with every float at seven significant digits: half the size, no visible difference."""
    if isinstance(number, float):
        return float(f"{number:.7g}")
    if isinstance(number, dict):
        return {str(key): _short(entry) for key, entry in number.items()}
    if isinstance(number, (list, tuple)):
        return [_short(entry) for entry in number]
    return number


def _figure(name: str, watch: DrawnWatch) -> str:
    image = base64.b64encode(watch.svg.encode()).decode()
    shown = f'<img src="data:image/svg+xml;base64,{image}" alt="Evidence for drift over time, and shares of exits">'
    return f"<figure><figcaption><b>{escape(name)}</b>: {escape(watch.text)}</figcaption>{shown}</figure>"


def _list(sentences: list[str]) -> str:
    return "".join(f"<li>{_sentence(text)}</li>" for text in sentences)


def _sentence(text: str) -> str:
    """Return a sentence as HTML, with `names` in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
