"""HTTP connections: when their requests came, how long a client may take, and refusing under overload.

A server that is asked for several times what it can answer must refuse in a fraction of the time of an answer. So
requests that hold small inputs, and come too late, are refused here, before the application sees them. Clients that ask
again at once would still take all the time. So their refusals wait.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import time
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_HEADERS_S, _HEADERS_BYTES = 10.0, 1 << 16
_UNREAD_S = 30.0
_SMALL = 1 << 16
"""Bytes of a request at most that is refused before the application sees it."""
_AGAIN_S, _WAITS_S = 1.0, (0.0, 0.0, 0.05, 0.1, 0.2, 0.4)
"""Who asks again within so many seconds of a refusal (what `Retry-After` says) waits this long: for the first refusal,
the second, and so on. Later ones wait as long as the last.
"""
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
_LATEST_AT = 52
"""Where `struct tcp_info` of Linux has the milliseconds since the latest data."""


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """An HTTP connection that is closed if headers take too long or too many bytes, or if nobody reads an answer."""

    _bytes = 0
    _came: float | None = None  # when the data came that are read now, once somebody has asked
    _timers: dict[str, asyncio.TimerHandle]
    _held: bytearray | None = None  # the body so far of a request that may be refused
    _was_refused = False  # the latest one
    _refused_at, _in_a_row = -math.inf, 0  # when, and how many since the latest pause, or request passed on
    _refusal: bytes | None = None  # that waits

    def connection_made(self, transport: Any) -> None:
        """Wait for a first request."""
        self._timers = {}
        self._socket = transport.get_extra_info("socket")
        super().connection_made(transport)
        self._watch_headers()

    def on_message_begin(self) -> None:
        """Note when a request began to come in."""
        self._send_refusal()
        super().on_message_begin()
        self.scope["state"]["begun"] = self._when_it_came()

    def on_headers_complete(self) -> None:
        """Pass the request on to the application, unless it may be refused."""
        if self._may_be_refused():
            self._held = bytearray()
        else:
            self._pass_on_headers()

    def _pass_on_headers(self) -> None:
        self._in_a_row = 0
        super().on_headers_complete()

    def _pass_on(self) -> None:
        """Pass the request on with what is held of its body: it is not refused, or comes slowly."""
        body, self._held = bytes(self._held or b""), None
        self._pass_on_headers()
        super().on_body(body)

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        """Note when it had come in, or refuse it."""
        if self._held is not None:
            if (refusal := self.app_state["inputs"].refusal(self.url, self._held)) is not None:
                self._held = None
                self._refuse(refusal)
                return
            self._pass_on()
        if self.cycle is not None:
            self.cycle.scope["state"]["read"] = self._when_it_came()
        super().on_message_complete()

    def _may_be_refused(self) -> bool:
        """Whether a request comes too late, by its headers, is small, and is the only one of its connection."""
        inputs = self.app_state.get("inputs")
        if inputs is None or not inputs.is_late(self._when_it_came()):
            return False
        size = dict(self.headers).get(b"content-length", b"")
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and self.parser.get_http_version() != "1.0"  # whose connection is closed after the answer
            and not (self.parser.should_upgrade() or self.expect_100_continue or self.flow.write_paused)
            and size.isdigit()
            and len(size) <= len(str(_SMALL))  # else it may take long to read
            and int(size) <= _SMALL
        )

    def _refuse(self, body: bytes) -> None:
        about = b"".join(b"%b: %b\r\n" % one for one in self.server_state.default_headers)
        self._refusal = b"%bcontent-length: %d\r\n%b\r\n%b" % (_UNAVAILABLE, len(body), about, body)
        self._was_refused = True
        if time.monotonic() > self._refused_at + _AGAIN_S:
            self._in_a_row = 0
        wait_s = _WAITS_S[min(self._in_a_row, len(_WAITS_S) - 1)]
        self._in_a_row += 1
        if wait_s:
            self.flow.pause_reading()
            self._timers["refusal"] = self.loop.call_later(wait_s, self._send_refusal)
        else:
            self._send_refusal()

    def _send_refusal(self) -> None:
        self._stop("refusal")
        if self._refusal is not None:
            self.transport.write(self._refusal)
            self._refusal, self._refused_at = None, time.monotonic()
            self.on_response_complete()

    def shutdown(self) -> None:
        """Let nobody wait longer for a refusal."""
        self._send_refusal()
        super().shutdown()

    def _when_it_came(self) -> float:
        """Return when the machine received the latest data, however late the event loop reads them.

        While a refusal waits, nothing is read: that is not counted.
        """
        if self._came is None:
            self._came = max(time.monotonic() - _age_s(self._socket), self._refused_at)
        return self._came

    def data_received(self, data: bytes) -> None:
        """Wait for the headers to end, unless they have."""
        self._came, self._was_refused = None, False
        super().data_received(data)
        self._bytes += len(data)
        self._watch_headers()
        if self._bytes > _HEADERS_BYTES + (0 if self._held is None else _SMALL):
            self._wait_no_longer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        for name in [*self._timers]:
            self._stop(name)
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
        if self._was_refused or (self.cycle is not None and not self.cycle.response_complete):
            self._stop("headers")
            self._bytes = 0
        elif "headers" not in self._timers:
            self._timers["headers"] = self.loop.call_later(_HEADERS_S, self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        self._stop("headers")
        if self._held is not None:
            self._pass_on()
        elif self.cycle is None or self.cycle.response_complete:
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
