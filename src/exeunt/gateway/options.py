"""What becomes of each option of a request: of chat completions here, of other protocols in their own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exeunt.errors import InputError

USED, PASSED, CAPPED = ("used", "passed on", "capped")
TAKEN, DROPPED = ("taken, not passed on", "dropped, and the header `x-exeunt-dropped` names it")
TAKES, REFUSED = ("passed on where `takes` names it", "refused")


@dataclass(frozen=True)
class Option:
    """What becomes of an option. `outcome`: one of those above. `note`: what else there is to say, or why it is
    refused. `values`: those that are taken; any if there are none.
    """

    outcome: str
    note: str = ""
    values: tuple[Any, ...] = ()


_UNKNOWN_COST = "it could cost more than is known before a call"
_AT_MOST = "at the model's `max_tokens`; the header `x-exeunt-max-tokens` then says what it is"

CACHE_KEY = "passed on as an HMAC of client and key, to models with `prompt_cache_key: true`"

CHAT_OPTIONS: Mapping[str, Option] = {
    "model": Option(USED, "`auto`, `auto:POLICY`, or the name of a model"),
    "messages": Option(PASSED, "texts, images, and calls of tools and their results; no audio and no files"),
    "max_tokens": Option(CAPPED, _AT_MOST),
    "max_completion_tokens": Option(CAPPED, _AT_MOST),
    "stream": Option(USED),
    "stream_options": Option(USED, "`include_usage`"),
    **dict.fromkeys(("temperature", "top_p", "seed", "stop"), Option(PASSED)),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "logit_bias"), Option(PASSED)),
    **dict.fromkeys(("response_format", "verbosity", "logprobs", "top_logprobs"), Option(PASSED)),
    "reasoning_effort": Option(PASSED, "to models with `reasons: true`"),
    "tools": Option(PASSED, "of type `function` or `custom`, to models with `tools: true`"),
    **dict.fromkeys(("tool_choice", "parallel_tool_calls"), Option(PASSED)),
    "user": Option(TAKEN, "the unit, with `units: user`"),
    "metadata": Option(TAKEN, "`conversation` names the conversation"),
    "store": Option(TAKEN, "no answer is stored to be fetched later"),
    "safety_identifier": Option(TAKEN),
    "prompt_cache_key": Option(USED, CACHE_KEY),
    **dict.fromkeys(("prompt_cache_retention", "prompt_cache_options"), Option(TAKEN)),
    "n": Option(TAKEN, "more answers cost more: ask again", (1,)),
    "modalities": Option(TAKEN, "audio has no known price", (["text"],)),
    "service_tier": Option(TAKEN, "other tiers have other prices", ("auto", "default")),
    **dict.fromkeys(("top_k", "min_p", "top_a", "typical_p", "repetition_penalty"), Option(TAKES)),
    **dict.fromkeys(("min_tokens", "ignore_eos", "stop_token_ids", "bad_words"), Option(TAKES)),
    **dict.fromkeys(("include_stop_str_in_output", "skip_special_tokens"), Option(TAKES)),
    **dict.fromkeys(("chat_template_kwargs", "enable_thinking"), Option(TAKES)),
    "thinking": Option(
        TAKES, "and to models with `protocol: anthropic`; else dropped, and `x-exeunt-dropped` names it"
    ),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), Option(TAKES)),
    **dict.fromkeys(("structured_outputs", "grammar", "json_schema"), Option(TAKES)),
    **dict.fromkeys(("audio", "web_search_options", "moderation"), Option(REFUSED, _UNKNOWN_COST)),
    "prediction": Option(REFUSED, "what is predicted amiss is billed as well"),
    "functions": Option(REFUSED, "`tools` has replaced it"),
    "function_call": Option(REFUSED, "`tool_choice` has replaced it"),
}
"""What becomes of every option of chat completions: those of OpenAI, and some that other servers take."""

PASSED_ON = tuple(
    name for name, option in CHAT_OPTIONS.items() if option.outcome in (PASSED, TAKES) and name != "messages"
)
"""Options that are passed on as they are."""
OF_SOME_MODELS = frozenset(name for name, option in CHAT_OPTIONS.items() if option.outcome == TAKES)
HINTS = frozenset({"thinking"})
"""Options that are left out where a model does not take them: it thinks as it does."""
LIMITS = tuple(name for name, option in CHAT_OPTIONS.items() if option.outcome == CAPPED)


def check_options(body: Mapping[str, Any], options: Mapping[str, Option]) -> None:
    """Raise InputError for an option that is refused, or that nobody knows: it could cost more than is known before."""
    for name, argument in body.items():
        option = options.get(name)
        if option is None:
            known = ", ".join(name for name, option in options.items() if option.outcome != REFUSED)
            raise InputError(
                f"the option {name!r:.60} could cost more than is known before a call: leave it out; known are {known}"
            )
        if argument is None:
            continue
        if option.outcome == REFUSED:
            raise InputError(f"the option {name!r} is refused: {option.note}".replace("`", ""))
        if option.values and argument not in option.values:
            allowed = " or ".join(map(json.dumps, option.values))
            why = f"{name} may be {allowed} alone here, got {argument!r:.40}: {option.note}"
            raise InputError(why.replace("`", ""))


def options_table(options: Mapping[str, Option]) -> str:
    """Return what becomes of options as a table in Markdown; those with the same fate in one row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, option in options.items():
        values = " or ".join(f"`{json.dumps(known)}`" for known in option.values)
        outcome = f"{option.outcome}; only {values}" if values else option.outcome
        rows.setdefault((outcome, option.note), []).append(f"`{name}`")
    lines = ["| option | what becomes of it | |", "| --- | --- | --- |"]
    lines += [f"| {', '.join(names)} | {outcome} | {note} |" for (outcome, note), names in rows.items()]
    return "\n".join(lines)
