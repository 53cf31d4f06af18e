"""What all live models share: waiting for money that others hold."""

from __future__ import annotations

import asyncio
import time

import pytest

import exeunt as ex
from exeunt.live.live_model import LiveModel, Reply


class Cheap(LiveModel):
    """May cost 10 and costs 1."""

    def most(self, given):
        return 10.0

    async def _call(self, given, client):
        await asyncio.sleep(0.02)
        return Reply("yes", 0.9, 1.0)


async def ask_all(model, n, ledger):
    return await asyncio.gather(*(model.ask(i, ledger=ledger) for i in range(n)))


def test_an_attempt_waits_for_money_that_others_hold_and_do_not_need():
    ledger = ex.Ledger(total="50 usd")
    replies = asyncio.run(ask_all(Cheap(), 40, ledger))  # at most four fit at the same time, then fewer
    assert [one.answer for one in replies] == ["yes"] * 40
    assert (ledger.spent, ledger.reserved) == (40.0, 0.0)
    refused = asyncio.run(ask_all(Cheap(), 12, ledger))  # one more is affordable, whatever it costs
    assert [one.answer for one in refused].count("yes") == 1
    assert ledger.spent == 41.0
    assert {one.failed.partition(":")[0] for one in refused if one.answer is None} == {"not asked"}


def test_it_waits_no_longer_than_for_an_answer():
    ledger = ex.Ledger(total="15 usd")
    held = ledger.reserve(10)
    model, begun = Cheap(timeout_s=0.2), time.monotonic()
    (reply,) = asyncio.run(ask_all(model, 1, ledger))
    assert reply.failed.startswith("not asked: ")
    assert reply.attempts == 0
    assert time.monotonic() - begun < 2
    held.release()
    (reply,) = asyncio.run(ask_all(model, 1, ledger))
    assert reply.answer == "yes"


def test_what_no_waiting_mends_is_refused_at_once():
    ledger = ex.Ledger(total="15 usd")
    ledger.reserve(2)
    with pytest.raises(ex.OverBudget) as caught:
        ledger.reserve(16)
    assert not caught.value.passing
    with pytest.raises(ex.OverBudget) as caught:
        ledger.reserve(14)
    assert caught.value.passing


def test_settled_attempts_without_a_key_do_not_stay(tmp_path):
    ledger = ex.Ledger(total="500 usd", file=tmp_path / "money.db")
    asyncio.run(ask_all(Cheap(), 5, ledger))
    asyncio.run(Cheap().ask(0, ledger=ledger, key="mine"))
    holds = ledger._store.run(lambda books, _: books._sql("SELECT key FROM hold").fetchall())
    assert len(holds) == 1
    assert holds[0][0].startswith("mine/model/")
