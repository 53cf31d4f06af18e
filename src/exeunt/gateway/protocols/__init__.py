"""The protocols in which clients ask, each in a file that reads its requests and writes its answers."""

from __future__ import annotations

from exeunt.gateway.protocols.chat_completions import ChatCompletions
from exeunt.gateway.protocols.exchange import Exchange, Writer
from exeunt.gateway.protocols.messages import Messages
from exeunt.gateway.protocols.responses import Responses

PROTOCOLS: tuple[type[Exchange], ...] = (ChatCompletions, Messages, Responses)


def protocol_of(path: str) -> type[Exchange]:
    """Return the protocol in which a path is asked; chat completions for paths of none."""
    asked = [protocol for protocol in PROTOCOLS if path.startswith(protocol.path)]
    return asked[0] if asked else ChatCompletions


__all__ = ["PROTOCOLS", "Exchange", "Messages", "Writer", "protocol_of"]
