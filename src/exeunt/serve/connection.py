"""HTTP connections: when their requests came, and how long a client may take."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_HEADERS_S, _HEADERS_BYTES = 10.0, 1 << 16
_UNREAD_S = 30.0
_LATEST_AT = 52
"""Where `struct tcp_info` of Linux has the milliseconds since the latest data."""


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """An HTTP connection that is closed if headers take too long or too many bytes, or if nobody reads an answer."""

    _bytes = 0
    _came: float | None = None  # when the data came that are read now, once somebody has asked
    _timers: dict[str, asyncio.TimerHandle]

    def connection_made(self, transport: Any) -> None:
        """Wait for a first request."""
        self._timers = {}
        self._socket = transport.get_extra_info("socket")
        super().connection_made(transport)
        self._watch_headers()

    def on_message_begin(self) -> None:
        """Note when a request began to come in."""
        super().on_message_begin()
        self.scope["state"]["begun"] = self._when_it_came()

    def on_message_complete(self) -> None:
        """Note when it had come in."""
        if self.cycle is not None:
            self.cycle.scope["state"]["read"] = self._when_it_came()
        super().on_message_complete()

    def _when_it_came(self) -> float:
        """Return when the machine received the latest data, however late the event loop reads them."""
        if self._came is None:
            self._came = time.monotonic() - _age_s(self._socket)
        return self._came

    def data_received(self, data: bytes) -> None:
        """Wait for the headers to end, unless they have."""
        self._came = None
        super().data_received(data)
        self._bytes += len(data)
        self._watch_headers()
        if self._bytes > _HEADERS_BYTES:
            self._close_without_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop("headers")
        self._stop("unread")
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read, since the buffer is full. Closing instead would keep it until it is read."""
        super().pause_writing()
        self._stop("unread")
        self._timers["unread"] = self.loop.call_later(_UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        self._stop("unread")

    def _watch_headers(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("headers")
            self._bytes = 0
        elif "headers" not in self._timers:
            self._timers["headers"] = self.loop.call_later(_HEADERS_S, self._close_without_request)

    def _close_without_request(self) -> None:
        self._stop("headers")
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _stop(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()


def _age_s(connection: Any) -> float:
    """Return how many seconds ago the machine received the latest data of a TCP connection; 0 if that is unknown."""
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LATEST_AT + 4)
    except (AttributeError, OSError):  # not Linux, or not TCP
        return 0.0
    return int.from_bytes(told[_LATEST_AT:], sys.byteorder) / 1e3
