"""Whose a run folder is: `project.json` says which options, data and split an unfinished run began with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exeunt import _files
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["claim", "refuse_other"]

_FILE = "project.json"
_DATA = ("data_fingerprint", "split_digest")


def refuse_other(out: Path, described: Mapping[str, Any]) -> None:
    """Raise InputError if a run with other options, or on other data, was begun in `out`.

    `described`: JSON-able, what is known of this run; data and split are left out until they are known.
    """
    if not (out / _FILE).is_file():
        return
    before, now = _flat(_files.read_json(out / _FILE)), _flat(_plain(described))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    options = [name for name in changed if name not in _DATA]
    mend = "choose another --out, or remove the folder"
    if options:
        told = "; ".join(f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in options)
        raise InputError(
            f"{out} holds a run with other options ({told}): repeat its command to finish it, {mend}"
        )
    if any(name in before and name in now for name in changed):
        raise InputError(
            f"the data, or how it is split, has changed since the run in {out} began, so inputs that it has "
            f"trained on could be among those that it is measured on: bring the data back, {mend}"
        )


def claim(out: Path, described: Mapping[str, Any]) -> None:
    """Make `out` the folder of this run; raises InputError if it is another's or cannot be made."""
    _files.check_writable(out, f"cannot make the run folder {out}")
    out.mkdir(parents=True, exist_ok=True)
    refuse_other(out, described)
    _files.write_json(out / _FILE, _plain(described))


def _plain(value: Any) -> Any:
    """Return what JSON makes of tuples and mappings, so that a fresh project equals a stored one."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, "recipe.mode" and the like, so that a change is told by its name."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{prefix}{name}.") if isinstance(item, dict) else {prefix + name: item}
    return flat
