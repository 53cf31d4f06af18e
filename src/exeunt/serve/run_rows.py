"""Running the rows of a request. If the network fails, each runs alone, so that only those fail that must."""

from __future__ import annotations

import asyncio
from typing import Any

from exeunt._support.arrays import Integers
from exeunt.serve.engine_thread import EngineThread
from exeunt.serve.input_reader import Rows
from exeunt.serve.live_engine import LiveEngine
from exeunt.serve.spending import Payer


async def run_rows(
    engine: EngineThread | LiveEngine, rows: Rows, *, payer: Payer | None = None, **options: Any
) -> list[tuple[Integers, Any]]:
    """Run the rows that could be read. Return their places and their ticket; if the network fails, one for each row.

    `payer`: pays for them. `options`: what `EngineThread.answer` takes beside inputs and keys.
    """

    async def run(which: slice) -> tuple[Integers, Any]:
        inputs = rows.inputs
        chosen = {k: v[which] for k, v in inputs.items()} if hasattr(inputs, "items") else inputs[which]
        keys = None if rows.keys is None or engine.ties == "row" else rows.keys[which]
        places = rows.places[which]
        if payer is None:
            return places, await engine.answer(chosen, id=keys, **options)
        return places, await engine.paid_answer(payer, len(places), chosen, id=keys, **options)

    if len(rows.places) == 0:
        return []
    together = await run(slice(None))
    if together[1].error is None or len(rows.places) == 1:
        return [together]
    each = (run(slice(i, i + 1)) for i in range(len(rows.places)))
    apart = await asyncio.gather(*each, return_exceptions=True)  # none goes on once the request is answered
    for outcome in apart:
        if isinstance(outcome, BaseException):
            raise outcome
    return apart  # type: ignore[return-value]
