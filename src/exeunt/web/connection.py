"""HTTP connections: how many there may be, when their requests came, how long a client may take, and refusing under
overload.

A server that is asked for several times what it can answer must refuse in a fraction of the time of an answer. So
requests that hold small inputs, and come too late, are refused here, before the application sees them. Clients that ask
again at once would still take all the time. So their refusals wait.

Requests that a client sends before it has the answers of others cost memory and time. Of each connection at most one
waits; what follows it stays in bytes, and is read once the answers are sent.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import time
from collections import Counter, deque
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from exeunt.web.limits import TOO_MANY, client_of, part_of

_HEADERS_S, _HEADERS_BYTES = 10.0, 1 << 16
_UNREAD_S = 30.0
_SMALL = 1 << 16
"""Bytes of a request at most that is refused before the application sees it."""
_AGAIN_S, _WAITS_S = 1.0, (0.0, 0.0, 0.05, 0.1, 0.2, 0.4)
"""Who asks again within so many seconds of a refusal (what `Retry-After` says) waits this long: for the first refusal,
the second, and so on. Later ones wait as long as the last.
"""
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
REFUSED = "refused_connection"
"""Under this name the state of an application may have what counts a connection without room, and returns the body of
its answer.
"""
_END_OF_HEADERS = b"\r\n\r\n"
_PIECE = 512
"""Bytes of a body of unknown length that are read at a time: few requests fit there that may follow it."""
_DIGITS = 16
"""A length of so many digits is of nothing that anybody sends."""
_AHEAD = 64 << 20
"""Bytes that all connections may have sent ahead, with those that are held of them."""
_LATEST_AT = 52
"""Where `struct tcp_info` of Linux has the milliseconds since the latest data."""


class Room:
    """Room for `limit` connections to a process; `proxies` may have all of them, any other address a part.

    `ahead`: bytes that were sent before the answers of earlier requests, or that are held of requests which may be
    refused.
    """

    def __init__(self, limit: int, proxies: tuple[str, ...] = ()) -> None:
        self.limit, self.of_one, self.proxies = limit, part_of(limit), proxies
        self.ahead = self._all = 0
        self._of: Counter[str] = Counter()
        self._waiting: deque[Connection] = deque()

    def enter(self, address: str) -> bool:
        """Take a place for a connection, which is left later in any case. Return whether there was one."""
        client = client_of(address, self.proxies)
        self._all += 1
        self._of[client] += 1
        return self._all <= self.limit and (not client or self._of[client] <= self.of_one)

    def leave(self, address: str) -> None:
        """Give the place of a connection back."""
        client = client_of(address, self.proxies)
        self._all -= 1
        self._of[client] -= 1
        if not self._of[client]:
            del self._of[client]

    def later(self, connection: Connection) -> None:
        """Let a connection go on with what it was sent ahead. One does so at a time, and all others come between."""
        self._waiting.append(connection)
        if len(self._waiting) == 1:
            connection.loop.call_soon(self._next)

    def _next(self) -> None:
        try:
            self._waiting[0].go_on()
        finally:
            self._waiting.popleft()
            if self._waiting:
                self._waiting[0].loop.call_soon(self._next)


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """An HTTP connection that is closed if there is no room, if headers take too long or too many bytes, or if nobody
    reads an answer.
    """

    _bytes = 0
    _ahead = b""  # that is read once answers are sent
    _reads_body, _of_body = False, 0  # whether a body comes, and how many bytes of it have
    _length: int | None = None  # of the body; None where that is not known
    _address = ""
    _came: float | None = None  # when the data came that are read now, once somebody has asked
    _timers: dict[str, asyncio.TimerHandle]
    _held: bytearray | None = None  # the body so far of a request that may be refused
    _was_refused = False  # the latest one
    _refused_at, _in_a_row = -math.inf, 0  # when, and how many since the latest pause, or request passed on
    _refusal: bytes | None = None  # that waits

    def __init__(self, *arguments: Any, room: Room, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._room = room

    def connection_made(self, transport: Any) -> None:
        """Wait for a first request."""
        self._timers = {}
        self._socket = transport.get_extra_info("socket")
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if self._room.enter(self._address):
            self._watch_headers()
        else:
            refused = self.app_state.get(REFUSED, lambda: b'{"error":"%b"}' % TOO_MANY.encode())
            self._send_unavailable(refused(), b"connection: close\r\n")
            transport.close()

    def on_message_begin(self) -> None:
        """Note when a request began to come in."""
        self._send_refusal()
        super().on_message_begin()
        self.scope["state"]["begun"] = self._when_it_came()

    def on_headers_complete(self) -> None:
        """Pass the request on to the application, unless it may be refused."""
        self._reads_body, self._of_body = True, 0
        length = dict(self.headers).get(b"content-length", b"")
        self._length = int(length) if length.isdigit() and len(length) < _DIGITS else None
        if self._may_be_refused():
            self._held = bytearray()
        else:
            self._pass_on_headers()

    def _pass_on_headers(self) -> None:
        self._in_a_row = 0
        super().on_headers_complete()

    def _pass_on(self) -> None:
        """Pass the request on with what is held of its body: it is not refused, or comes slowly."""
        body = self._released()
        self._pass_on_headers()
        super().on_body(body)

    def _released(self) -> bytes:
        """Return what is held of a body, and hold it no longer."""
        body, self._held = bytes(self._held or b""), None
        self._room.ahead -= len(body)
        return body

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        self._of_body += len(body)
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body
            self._room.ahead += len(body)
            if self._room.ahead > _AHEAD:
                self._pass_on()  # to the application, which bounds the bodies that come in

    def on_message_complete(self) -> None:
        """Note when it had come in, or refuse it."""
        self._reads_body = False
        if self._held is not None:
            if (refusal := self.app_state["inputs"].refusal(self.url, self._held)) is not None:
                self._released()
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
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and self.parser.get_http_version() != "1.0"  # whose connection is closed after the answer
            and not (self.parser.should_upgrade() or self.expect_100_continue or self.flow.write_paused)
            and self._length is not None
            and self._length <= _SMALL
        )

    def _refuse(self, body: bytes) -> None:
        self._refusal = body
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
            self._send_unavailable(self._refusal)
            self._refusal, self._refused_at = None, time.monotonic()
            self.on_response_complete()

    def _send_unavailable(self, body: bytes, more: bytes = b"") -> None:
        default_headers = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        self.transport.write(
            b"%bcontent-length: %d\r\n%b%b\r\n%b" % (_UNAVAILABLE, len(body), more, default_headers, body)
        )

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
        """Read requests, unless one waits; then keep what follows it."""
        self._came = None
        self._read(self._taken() + data if self._ahead else data)

    def _read(self, data: bytes) -> None:
        start = 0
        while start < len(data) and not (self._is_busy() or self.transport.is_closing()):
            end = self._end_of_piece(data, start)
            self._read_piece(data[start:end])
            start = end
        if start < len(data) and not self.transport.is_closing():
            self._keep(data[start:])

    def _is_busy(self) -> bool:
        """Whether a whole request waits for its answer, or for that of an earlier one."""
        if self._refusal is not None or self.pipeline:
            return True
        return not self._reads_body and self.cycle is not None and not self.cycle.response_complete

    def _end_of_piece(self, data: bytes, start: int) -> int:
        """Return where to stop reading, so that hardly more than one request ends before."""
        if self._reads_body:
            return start + (_PIECE if self._length is None else max(self._length - self._of_body, 1))
        end = data.find(_END_OF_HEADERS, start) + len(_END_OF_HEADERS)
        several = end >= len(_END_OF_HEADERS) and data.find(_END_OF_HEADERS, end) >= 0
        return end if several else len(data)

    def _read_piece(self, data: bytes) -> None:
        """Read, and wait for the headers to end, unless they have."""
        self._was_refused = False
        super().data_received(data)
        self._bytes += len(data)
        self._watch_headers()
        if self._bytes > _HEADERS_BYTES + (0 if self._held is None else _SMALL):
            self._wait_no_longer()

    def _taken(self) -> bytes:
        """Return the bytes that were sent ahead, and keep them no longer."""
        data = self._ahead
        self._keep(b"")
        return data

    def _keep(self, data: bytes) -> None:
        self._room.ahead += len(data) - len(self._ahead)
        self._ahead = data
        if data:
            self.flow.pause_reading()
            if self._room.ahead > _AHEAD:
                self.transport.abort()

    def on_response_complete(self) -> None:
        """Read the bytes that were sent ahead, once it is this connection's turn."""
        super().on_response_complete()
        if self._ahead:
            self._room.later(self)

    def go_on(self) -> None:
        """Read the bytes that were sent ahead."""
        if self._ahead:
            self._read(self._taken())

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._room.leave(self._address)
        self._room.ahead -= len(self._ahead)
        self._ahead = b""
        self._released()
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
    """Return how many seconds ago the machine received the latest data of a TCP connection; 0 if unknown."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LATEST_AT + 4)
    except (AttributeError, OSError):  # not Linux, or not TCP
        return 0.0
    return int.from_bytes(info[_LATEST_AT:], sys.byteorder) / 1e3
