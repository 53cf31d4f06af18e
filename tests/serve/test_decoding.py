"""Requests that wait for a decoder."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from functools import partial
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")

from exeunt.serve.decoding import Decoding
from exeunt.serve.image_decoding import MayTakeLong

LARGE = 1 << 20


class Body:
    """What a request sent."""


async def all_free(decoders):
    while decoders._lanes[0].free._value != 4:
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1 << 16, (1 << 16) + 1])
def test_what_is_small_is_read_where_it_came_in(size):
    """A thread is asked for what is large, or turns out to take long."""

    async def test():
        decoders = Decoding(1)
        reader = SimpleNamespace(place=7, for_little=SimpleNamespace(place=8))
        here = threading.get_ident()

        def read(given):
            return given.place, threading.get_ident() == here

        def long(given):
            if given.place == 8:
                raise MayTakeLong
            return read(given)

        assert await decoders(read, reader, size) == ((8, True) if size <= 1 << 16 else (7, False))
        assert await decoders(long, reader, size) == (7, False)
        decoders.close()

    asyncio.run(test())


def test_what_waits_for_a_decoder_is_let_go_with_its_client():
    """Whoever sends much and leaves, again and again, must not fill the memory. Those that are read are read to the
    end, and then others are.
    """

    async def test():
        decoders, go, begun, reader = Decoding(2), threading.Event(), [], SimpleNamespace(place=7)

        def read(body, _):
            begun.append(weakref.ref(body))
            return go.wait(20)

        bodies = [Body() for _ in range(50)]
        refs = [weakref.ref(body) for body in bodies]
        tasks = [asyncio.ensure_future(decoders(partial(read, body), reader, LARGE)) for body in bodies]
        del bodies
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
        del task, tasks
        gc.collect()
        assert sum(ref() is not None for ref in refs) <= 4
        go.set()
        assert await decoders(lambda reader: (reader.place, "read"), reader, LARGE) == (7, "read")
        assert len(begun) <= 4
        await asyncio.wait_for(all_free(decoders), 20)  # another thread may be about to say that it is done
        with pytest.raises(ZeroDivisionError):
            await decoders(lambda _: 1 / 0, reader, LARGE)
        await asyncio.sleep(0)
        assert decoders._lanes[0].free._value == 4
        decoders.close()

    asyncio.run(test())
