"""An answer that is known, as the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

_WORDS = 20
"""About so many characters in a chunk."""


async def chunks_of(body: Mapping[str, Any]) -> AsyncIterator[str]:
    """Yield the lines of server-sent events that say what a completion says."""
    about = {name: body[name] for name in ("id", "created", "model", "system_fingerprint") if name in body}
    choice = body["choices"][0]
    message = choice["message"]

    def line(delta: Mapping[str, Any], finish: Any = None, **more: Any) -> str:
        one = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({**about, 'object': 'chat.completion.chunk', 'choices': [one], **more})}\n\n"

    yield line({"role": "assistant", "content": ""})
    text = message.get("content") or ""
    for start in range(0, len(text), _WORDS):
        yield line({"content": text[start : start + _WORDS]})
    if message.get("refusal"):
        yield line({"refusal": message["refusal"]})
    if calls := message.get("tool_calls"):
        yield line({"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]})
    yield line({}, choice.get("finish_reason"))
    if "usage" in body:
        yield f"data: {json.dumps({**about, 'object': 'chat.completion.chunk', 'choices': [], 'usage': body['usage']})}\n\n"
    yield "data: [DONE]\n\n"
