"""Rows of a request whose call failed: each is run again by itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("fastapi")

from exeunt.errors import QueueFull
from exeunt.serve.input_reader import Rows
from exeunt.serve.service import run_rows

ROWS = Rows(np.arange(4.0)[:, None], None, np.arange(4), [None] * 4)


class Engine:
    """Fails what has more than one row, and refuses row `full`; `ended`: rows that were answered."""

    def __init__(self, full=None):
        self.full, self.ended = full, []

    async def answer(self, inputs, **_):
        if len(inputs) > 1:
            return SimpleNamespace(error=ValueError("broken"))
        (row,) = inputs[:, 0].tolist()
        if row == self.full:
            raise QueueFull("no room")
        await asyncio.sleep(0.01)
        self.ended.append(row)
        return SimpleNamespace(error=None, row=row)


def test_each_row_gets_its_own():
    found = asyncio.run(run_rows(Engine(), ROWS))
    assert [(places.tolist(), ticket.row) for places, ticket in found] == [([i], i) for i in range(4)]


def test_a_row_that_is_refused_is_the_requests_error_once_the_others_have_ended():
    """They would be answered after the request, and count for nobody."""
    engine = Engine(full=0)

    async def requested():
        with pytest.raises(QueueFull):
            await run_rows(engine, ROWS)
        assert sorted(engine.ended) == [1, 2, 3]

    asyncio.run(requested())
