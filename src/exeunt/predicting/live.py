"""`exeunt predict` with live models: services and functions that are asked, and paid, input by input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from exeunt.data import Dataset
from exeunt.engine.answers import Answers
from exeunt.errors import UnreadableInput
from exeunt.live.live_cascade import LiveAnswers, LiveCascade, run_apart
from exeunt.live.live_run import check_models
from exeunt.predicting.batches import PreparedBatch
from exeunt.predicting.blocks import Block, BlockEnd, DoneBlock, OpenBlock
from exeunt.predicting.predict import PredictJob


@dataclass(frozen=True, kw_only=True)
class LiveJob(PredictJob):
    """A job that answers inputs by asking. `live`: the models, the policy, and what pays."""

    live: LiveCascade

    @property
    def block_size(self) -> int:
        """Few inputs: the answers that an interruption loses were paid for."""
        return 256

    def begin(self, inputs: Dataset, done: int) -> None:
        """Check that the inputs cost what was certified, and keep money for an answer to each that has none.

        Raises InputError, and OverBudget if the total does not suffice.
        """
        contents = list(_readable(inputs))
        check_models(self.run, self.live.models, contents)
        if self.live.ledger is not None:
            self.live.ledger.promise(self.live.least(contents), answered=done)

    def open(self, threads: int | None = None) -> LiveCascade:  # type: ignore[override]  # noqa: ARG002
        """Return the live cascade."""
        return self.live

    def answer(  # type: ignore[override]
        self,
        opened: LiveCascade,
        arriving: Iterable[tuple[Block, PreparedBatch | BlockEnd]],
        *,
        ordered: bool = True,  # noqa: ARG002 - one block after the other
    ) -> Iterator[DoneBlock]:
        """Yield each block once it is answered; see `Job.answer`."""
        blocks: dict[int, tuple[OpenBlock, list[PreparedBatch]]] = {}
        for block, item in arriving:
            into, batches = blocks.setdefault(block.start, (OpenBlock(block), []))
            if not isinstance(item, BlockEnd):
                into.take_in(item, strict=self.strict)
                batches.append(item)
                continue
            del blocks[block.start]
            if read := [batch for batch in batches if len(batch.positions)]:
                inputs = [one for batch in read for one in batch.inputs]
                keys = np.concatenate([self._keys(batch, block) for batch in read])
                said = run_apart(_asked(opened, inputs, keys))
                positions = np.concatenate([batch.positions for batch in read])
                into.results.append((positions, answers_of(said, opened)))
                into.why |= {at: one.why for at, one in zip(positions.tolist(), said, strict=True)}
            places = [entry.name for entry in self.run.cascade]
            yield self._done(into, item, np.array([places.index(name) for name in opened.policy.models]))

    def describe(self, inputs: Dataset, *, by_content: bool) -> dict[str, Any]:
        """Return everything that the results depend on; the models, by what they are."""
        models = {name: self.live.models[name].identity for name in self.live.policy.models}
        return {**super().describe(inputs, by_content=by_content), "models": models}


def _readable(inputs: Dataset) -> Iterator[Any]:
    for i in range(len(inputs)):
        with suppress(UnreadableInput):
            yield inputs.content(i)


async def _asked(live: LiveCascade, inputs: list[Any], keys: Any) -> LiveAnswers:
    try:
        return await live.ask(inputs, ids=keys)
    finally:
        await live.close()


def answers_of(said: LiveAnswers, live: LiveCascade) -> Answers:
    """Return what live models said as the engine's answers: exits are those of the policy, costs what was paid."""
    codes = {name: code for code, name in enumerate(live.classes or ())}
    exits = {name: exit_ for exit_, name in enumerate(live.policy.models)}
    label = np.array([codes.get(one.answer or "", -1) for one in said], dtype=np.int64)
    valid = label >= 0
    late = np.array([one.late for one in said], dtype=np.bool_)
    return Answers(
        label=label,
        confidence=np.where(valid, [one.confidence for one in said], np.nan),
        exit=np.array([exits.get(one.model, 0) for one in said], dtype=np.int64),
        cost=np.array([one.cost for one in said]),
        valid=valid,
        borderline=np.zeros(len(label), dtype=np.bool_),
        expired=late,
        degraded=np.array([one.short_of_money for one in said], dtype=np.bool_),
    )
