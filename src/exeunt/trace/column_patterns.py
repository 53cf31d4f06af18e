"""Which columns of a table belong to which exit: lists of names, or patterns such as "conf_{}"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from exeunt.errors import InputError

__all__ = ["exit_columns", "matching_columns", "model_columns"]


def exit_columns(
    confidence: str | Sequence[str], prediction: str | Sequence[str], there: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the columns of confidences and those of predictions, in the order of the exits.

    Raises InputError for patterns that number the exits differently: each pair would be of two exits.
    """
    if (
        isinstance(confidence, str)
        and isinstance(prediction, str)
        and "{}" in confidence
        and "{}" in prediction
    ):
        numbers = [list(_numbered(pattern, there)) for pattern in (confidence, prediction)]
        if numbers[0] != numbers[1]:
            shown = [", ".join(map(str, found)) for found in numbers]
            raise InputError(
                f"the columns {confidence} are numbered {shown[0]} and the columns {prediction} are numbered "
                f"{shown[1]}: rename them, or list them in the order of the exits"
            )
    confidences, predictions = (
        matching_columns(names, there) if isinstance(names, str) else list(names)
        for names in (confidence, prediction)
    )
    return confidences, predictions


def matching_columns(pattern: str, there: Sequence[str]) -> list[str]:
    """Return the columns that a text means: "a,b" as listed, "conf_{}" all that are numbered, in that order.

    Raises InputError if one of a list is not there, or none of a pattern.
    """
    if "{}" in pattern:
        return list(_numbered(pattern, there).values())
    listed = [name.strip() for name in pattern.split(",")]
    missing = [name for name in listed if name not in there]
    if missing:
        raise InputError(
            f"the table has no column {', '.join(missing)}; it has {', '.join(there) or 'none'} "
            "(a pattern has {} in place of the exit's number: conf_{})"
        )
    return listed


def _numbered(pattern: str, there: Sequence[str]) -> dict[int, str]:
    """Return the columns of a pattern by their numbers, in order."""
    numbered = re.compile(re.escape(pattern).replace(re.escape("{}"), r"(\d+)"))
    matches = [match for name in there if (match := numbered.fullmatch(name))]
    found = {int(match[1]): match[0] for match in matches}
    if not found:
        raise InputError(
            f"the table has no column {pattern} with a number for {{}}; it has {', '.join(there) or 'none'}"
        )
    if len(found) < len(matches):
        raise InputError(
            f"two columns {pattern} have the same number: {', '.join(match[0] for match in matches)}; list them "
            "one by one"
        )
    return dict(sorted(found.items()))


def model_columns(pattern: str, names: Sequence[str], what: str) -> list[str]:
    """Return the columns of models, named by a pattern with {} in place of the name; `what` they hold."""
    if "{}" not in pattern:
        raise InputError(f"{what} must hold {{}} in place of a model's name, got {pattern!r}")
    if other := [name for name in names if not isinstance(name, str)]:
        raise InputError(f"models are named by texts, got {other[0]!r}: write {str(other[0])!r}")
    return [pattern.replace("{}", name) for name in names]
