"""An answer that is known, as the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

_LENGTH = 20
"""Characters in a chunk."""


async def chunks_of(body: Mapping[str, Any]) -> AsyncIterator[str]:
    """Yield the lines of server-sent events that say what a completion says."""
    about = {name: body[name] for name in ("id", "created", "model", "system_fingerprint") if name in body}
    choice = body["choices"][0]
    message = choice["message"]

    def line(*choices: Mapping[str, Any], **more: Any) -> str:
        return f"data: {json.dumps({**about, 'object': 'chat.completion.chunk', 'choices': choices, **more})}\n\n"

    def said(finish: Any = None, **delta: Any) -> str:
        return line({"index": 0, "delta": delta, "finish_reason": finish})

    yield said(role="assistant", content="")
    text = message.get("content") or ""
    for start in range(0, len(text), _LENGTH):
        yield said(content=text[start : start + _LENGTH])
    if message.get("refusal"):
        yield said(refusal=message["refusal"])
    if calls := message.get("tool_calls"):
        yield said(tool_calls=[{"index": i, **call} for i, call in enumerate(calls)])
    yield said(choice.get("finish_reason"))
    if "usage" in body:
        yield line(usage=body["usage"])
    yield "data: [DONE]\n\n"
