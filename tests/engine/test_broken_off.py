"""Calls that are broken off: what is no failure of a call comes out of it, and leaves an engine that can go on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from made_executors import made_logits
from stepping import advance
from test_contract import ROWS, check
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine


@dataclass
class Interrupted(TraceExecutor):
    """Somebody presses Ctrl-C in the call before segment `at` of the rows."""

    at: int = 2

    def run(self, segment, state, wanted):
        if segment == self.at:
            self.at = -1
            raise KeyboardInterrupt
        return super().run(segment, state, wanted)


@pytest.mark.parametrize("steps", [True, False])
def test_an_interrupted_call_gives_its_tickets_up_and_no_other(case, policy, steps):
    engine = Engine(Interrupted(made_logits()), policy)
    gone = [engine.submit(case.inputs(rows), id=rows) for rows in (ROWS[:20], ROWS[20:50])]
    waits = engine.submit(case.larger(ROWS[60:80]), id=ROWS[60:80])
    if steps:
        advance(engine, 0, 3)
        advance(engine, 1)
    with pytest.raises(KeyboardInterrupt):
        engine.step(flush=gone[1]) if steps else engine.drain()
    done = engine.drain()
    assert set(done) == {*gone, waits}
    assert engine.rows == engine.table.stale == 0
    for ticket in gone:
        assert isinstance(ticket.error, ex.ExeuntError)
        assert str(ticket.error) == "a call was broken off: KeyboardInterrupt()"
    check(waits.answers, policy, case.trace, ROWS[60:80])
