"""Reading files of lines, JSON objects or plain texts, so that a bad line does not spoil the others."""

from __future__ import annotations

import json
from typing import Any

from exeunt._places import AnyPath
from exeunt.data.stored_texts import BadCell
from exeunt.errors import ArtefactError

__all__ = ["read_json_records", "read_lines", "split_lines"]


def read_lines(content: bytes) -> list[str | BadCell]:
    """Return lines as texts, without their ends. An empty line is an empty text."""
    return [_decoded(line) for line in split_lines(content)]


def split_lines(content: bytes) -> list[bytes]:
    """Return lines without their ends, and without a byte order mark."""
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    return lines[:-1] if lines[-1] == b"" else lines


def read_json_records(file: AnyPath) -> dict[str, list[Any]]:
    """Return the columns of a file with one JSON object per line, or with one array of objects.

    A name that a line lacks is None there. A line that is not a JSON object is a BadCell in every column. Raises
    ArtefactError for a file that starts as an array and is none.
    """
    records = _records(file)
    names = dict.fromkeys(name for record in records if isinstance(record, dict) for name in record)
    return {
        name: [record.get(name) if isinstance(record, dict) else record for record in records]
        for name in names
    }


def _records(file: AnyPath) -> list[dict[str, Any] | BadCell]:
    content = file.read_bytes()
    lines = [line for line in split_lines(content) if line.strip()]
    if lines and lines[0].lstrip().startswith(b"["):
        try:
            return [_record(value) for value in json.loads(content.decode("utf-8-sig"))]
        except ValueError as error:
            raise ArtefactError(f"cannot read {file}: {error}; write one JSON object per line") from error
    return [_parsed(line) for line in lines]


def _parsed(line: bytes) -> dict[str, Any] | BadCell:
    text = _decoded(line)
    if isinstance(text, BadCell):
        return text
    try:
        return _record(json.loads(text))
    except ValueError:
        return BadCell("its line is not JSON")


def _record(value: Any) -> dict[str, Any] | BadCell:
    return value if isinstance(value, dict) else BadCell("its line is not a JSON object")


def _decoded(line: bytes) -> str | BadCell:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return BadCell("it is not UTF-8")
