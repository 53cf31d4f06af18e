"""Options of a table that were left out, as far as the names of its columns tell them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from shlex import quote
from typing import Any

from exeunt.cli.tables import Tables
from exeunt.errors import InputError

_USUAL = {
    "price": ("{}_cost", "cost_{}", "{}_price", "price_{}"),
    "confidence": ("{}_confidence", "confidence_{}", "{}_logprob", "logprob_{}", "{}_score", "score_{}"),
    "prediction": ("{}_prediction", "prediction_{}", "{}_label", "label_{}"),
    "loss": ("{}_grade", "grade_{}", "{}_loss", "loss_{}"),
}
"""How columns are called that the options do not name, with {} for the model's name."""


def guessed(options: Tables, there: Sequence[str], say: Callable[[str], None]) -> Tables:
    """Return the options with those that were left out, by the names of the columns `there`; prints which.

    Raises InputError where fewer than two models are named or told.
    """
    names = options.model_names or _guessed_models(there)
    if len(set(names)) < max(2, len(names)):
        raise InputError(
            f"name two models or more, each once, such as --models mini,big --price 0.1,2, got "
            f"{','.join(names) or 'none'}; or for one network what its exits cost, such as --cost 1,4,13, with "
            f"--confidence 'conf_{{}}' --prediction 'pred_{{}}'. The columns are {', '.join(there)}"
        )
    guesses: dict[str, Any] = {} if options.model_names else {"models": ",".join(names)}
    graded = options.label == "label" and "label" not in there and options.prediction is None
    wanted = {
        "price": not options.described,
        "confidence": True,
        "prediction": not graded and options.loss is None,
        "loss": graded,
    }
    for role in (role for role in _USUAL if wanted[role] and getattr(options, role) is None):
        known = {text: sum(text.replace("{}", name) in there for name in names) for text in _USUAL[role]}
        if known[pattern := max(known, key=known.__getitem__)]:
            guesses[role] = pattern
    if "grade" in guesses.get("loss", "") and (options.better, options.measure) == (None, "quality"):
        guesses |= {"better": "higher", "measure": "grade"}
    if guesses:
        told = " ".join(f"--{role} {quote(pattern)}" for role, pattern in guesses.items())
        say(f"told by the names of the columns: {told}")
    if "price" in guesses:
        guesses["price"] = ",".join(f"{name}={guesses['price'].replace('{}', name)}" for name in names)
    return replace(options, **guesses)


def _guessed_models(there: Sequence[str]) -> tuple[str, ...]:
    """Return the names for which columns tell a price, and a prediction or a grade."""
    for pattern in _USUAL["price"]:
        before, after = pattern.split("{}")
        names = [name[len(before) : len(name) - len(after)] for name in there if name != before + after]
        names = [name for name in names if name and pattern.replace("{}", name) in there]
        answers = (*_USUAL["prediction"], *_USUAL["loss"])
        if names := [name for name in names if any(text.replace("{}", name) in there for text in answers)]:
            return tuple(dict.fromkeys(names))
    return ()
