"""Calls that are broken off: what is no failure of a call comes out of it, and leaves an engine that can go on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
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


@dataclass(frozen=True)
class Taciturn:
    """An answer that says a class, but not how sure that is."""

    name: str = "taciturn"

    def needs(self, exit_):
        return False

    def __call__(self, exit_, evidence, memory):
        return {name: evidence[name] for name in ("margin", "prediction")}, memory


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


def test_an_answer_that_lacks_what_is_entered_gives_the_tickets_of_the_call_up(case, policy):
    engine = Engine(TraceExecutor(made_logits()), {"good": policy, "bad": replace(policy, answer=Taciturn())})
    gone = engine.submit(case.inputs(ROWS[:20]), policy="bad")
    waits = engine.submit(case.larger(ROWS[20:50]), policy="good", id=ROWS[20:50])
    with pytest.raises(KeyError, match="max_probability"):
        engine.drain()
    assert set(engine.drain()) == {gone, waits}
    assert isinstance(gone.error, KeyError)
    assert np.isnan(gone.answers.confidence).all()
    check(waits.answers, policy, case.trace, ROWS[20:50])
