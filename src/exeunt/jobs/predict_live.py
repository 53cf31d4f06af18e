"""`exeunt predict` with live models: services and functions that are asked, and paid, input by input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import pyarrow as pa

from exeunt._support.arrays import Floats
from exeunt._support.journal import Journal
from exeunt._support.paths import AnyPath, RemotePath
from exeunt._support.sealed_json import content_digest
from exeunt.data import Dataset
from exeunt.engine.answers import Answers
from exeunt.errors import InputError, UnreadableInput
from exeunt.jobs.batches import PreparedBatch
from exeunt.jobs.blocks import Block, BlockEnd, DoneBlock, OpenBlock
from exeunt.jobs.parts import JOURNAL
from exeunt.jobs.predict import PredictJob
from exeunt.jobs.summary import PredictionSummary, Tally
from exeunt.ledger import Ledger
from exeunt.live.live_cascade import LiveAnswer, LiveAnswers, LiveCascade, run_in_own_thread
from exeunt.live.live_run import check_models, live_cascade
from exeunt.live.models_file import read_models
from exeunt.policy import Pace, PolicySet

T = TypeVar("T", bound="LiveJob")

_EXTRA = {"asked": pa.string(), "degraded": pa.bool_()}
"""Columns beside those of networks: the last model that was asked, and whether money for a further one was short."""


@dataclass(frozen=True, kw_only=True)
class LiveJob(PredictJob):
    """A job that answers inputs by asking.

    `live`: the models and the policy. `money`: opens what pays, as partial(Ledger, ...). On a cluster each worker opens
    `models`, a file as `exeunt.live.models_file` reads it, and `money` as it stands: a ledger that was lost is
    an error, and not begun anew with the whole total. What was under way at a worker that dies counts as spent, and is
    asked for again: `spare` is how many first answers money is kept for besides one for each input, as far as there is
    some. `most`: what an attempt at each model may cost at most, known once the job has begun.

    `folder`, `digest`: where answers of this job are kept as they come, since they were paid for; a file a block.

    Raises InputError if the probabilities of all classes are to be written.
    """

    live: LiveCascade
    money: Callable[..., Ledger] | None = None
    models: Path | None = None
    spare: int = 0
    most: Mapping[str, float] = field(default_factory=dict)
    folder: Path | None = None
    digest: str = ""
    is_repeatable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.written.needs_probabilities:
            raise InputError(
                "live models give no probabilities of all classes: leave out --top and --probabilities"
            )
        object.__setattr__(self, "written", replace(self.written, kept={**self.written.kept, **_EXTRA}))

    @property
    def block_size(self) -> int:
        """Few inputs, which are asked about together."""
        return 256

    def begin(
        self: T,
        inputs: Dataset,
        left: Sequence[Block],
        *,
        folder: AnyPath | None = None,
        digest: str = "",
        force: bool = False,
    ) -> T:
        """Check that the inputs cost what was certified, and keep money for an answer to each that has none.

        Raises InputError, also for answers of another job unless `force` removes them, and for a folder in an object
        store, which keeps no lines; OverBudget if the total does not suffice.
        """
        if isinstance(folder, RemotePath):
            raise InputError(
                f"answers that are paid for are kept line by line, which {folder} cannot do: name a folder on a disk "
                "that all machines share"
            )
        highest = check_models(self.run, self.live.models, _readable(inputs))
        job, to_come = replace(self, folder=folder, digest=digest, most=highest), 0
        for block in left:
            journal = job._journal(block)
            if journal.of_another_job and not force:
                raise InputError(
                    f"{folder} holds answers that were paid for by another command, or before the policy or the inputs "
                    "changed: let that command go on, or ask for all answers anew with --force"
                )
            if journal.of_another_job:
                journal.remove()
            to_come += block.n - len(journal.found)
        if self.money is not None:
            self.live.ledger = self.money()
        if (ledger := self.live.ledger) is not None:
            first = min(job.firsts)
            spare = max(0, min(self.spare, int(ledger.left / first) - to_come - 1)) if first > 0 else 0
            ledger.promise(first, answered=len(inputs) - to_come - spare)
            job = replace(job, spare=spare)
        return job

    @property
    def firsts(self) -> list[float]:
        """The most that a first answer to an input may cost, by policy that may answer."""
        return [self.live.cheapest_answer(self.most)]

    @property
    def model_names(self) -> Sequence[str]:
        """Names of the models that may be asked."""
        return self.live.policy.models

    def pace_for(self, ledger: Ledger | None, n: int) -> Pace | None:  # noqa: ARG002 - of jobs that have one
        """Return what chooses the policy of each of the next n inputs; None for the job's own."""
        return None

    def _journal(self, block: Block) -> Journal:
        """Return the answers to a block so far, by their place in it."""
        path = None if self.folder is None else self.folder / JOURNAL.format(f"{block.start:012d}")
        return Journal(path, self.digest, mode=0o600)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to other machines: all but the models, which hold keys and connections."""
        if self.models is None or (self.money is None and self.live.ledger is not None):
            raise InputError(
                "workers open the models and the ledger themselves: give LiveJob their file, models=..., and "
                "money=partial(Ledger, ...)"
            )
        return {name: field for name, field in vars(self).items() if name != "live"}

    def open(self, threads: int | None = None) -> LiveCascade:  # type: ignore[override]  # noqa: ARG002
        """Return the live cascade, opened anew on another machine."""
        if "live" in vars(self):
            return self.live
        live = live_cascade(self.run, read_models(cast(Path, self.models)))
        live.ledger = None if self.money is None else self.money(total=None, inputs=0)
        return live

    def answer(  # type: ignore[override]
        self,
        opened: LiveCascade,
        arriving: Iterable[tuple[Block, PreparedBatch | BlockEnd]],
        *,
        ordered: bool = True,  # noqa: ARG002 - one block after the other
    ) -> Iterator[DoneBlock]:
        """Yield each block once it is answered; see `Job.answer`."""
        places = [entry.name for entry in self.run.cascade]
        blocks: dict[int, tuple[OpenBlock, list[PreparedBatch]]] = {}
        for block, batch in arriving:
            into, batches = blocks.setdefault(block.start, (OpenBlock(block), []))
            if not isinstance(batch, BlockEnd):
                into.take_in(batch, strict=self.strict)
                batches.append(batch)
                continue
            del blocks[block.start]
            replies = self._said(opened, block, [batch for batch in batches if len(batch.positions)])
            if replies:
                answers = answers_of([*replies.values()], opened, places)
                into.results.append((np.array(list(replies)), answers))
            into.why |= {row: answer.why for row, answer in replies.items()}
            extra: dict[str, list[Any]] = {
                "asked": [replies[row].model if row in replies else None for row in range(block.n)],
                "degraded": [row in replies and replies[row].short_of_money for row in range(block.n)],
            }
            if opened.classes is None:
                texts = [replies[row].answer if row in replies else None for row in range(block.n)]
                extra |= {"class_name": texts, "label": [None] * block.n}
            done = self._done(into, batch._replace(kept={**batch.kept, **extra}), np.arange(len(places)))
            unpaid = sum(answer.answer is None and answer.short_of_money for answer in replies.values())
            yield done._replace(tally=replace(done.tally, n_unpaid=unpaid))

    def _said(self, live: LiveCascade, block: Block, batches: list[PreparedBatch]) -> dict[int, LiveAnswer]:
        """Return the answers by their places in the block: those of the journal, and those of the models."""
        journal = self._journal(block)
        known = {row: LiveAnswer(**answer) for row, answer in journal.found.items()}
        requests = [
            (int(row), content, key)
            for batch in batches
            for row, content, key in zip(batch.positions, batch.inputs, self._keys(batch, block), strict=True)
            if int(row) not in known
        ]
        # Batches are of texts of similar lengths, and a pace needs a mixed order.
        requests.sort(key=lambda request: request[0])
        if requests:
            places, inputs, keys = (list(column) for column in zip(*requests, strict=True))
            pace = self.pace_for(live.ledger, len(inputs))

            def keep(i: int, answer: LiveAnswer) -> None:
                if answer.answer is not None and not answer.short_of_money:  # others are asked for again
                    journal.add(places[i], asdict(replace(answer, id=None)))

            async def ask() -> LiveAnswers:
                try:
                    return await live.ask(inputs, ids=keys, pace=pace, on_answer=keep)
                finally:
                    await live.close()

            known |= dict(zip(places, run_in_own_thread(ask()), strict=True))
        return known

    def _cost_apart(self, arrays: dict[str, Any]) -> Floats:
        return np.asarray(arrays["cost"])

    def describe(self, inputs: Dataset, *, by_content: bool) -> dict[str, Any]:
        """Return everything that the results depend on; the models, by what they are."""
        models = {name: self.live.models[name].identity for name in self.model_names}
        return {**super().describe(inputs, by_content=by_content), "models": models}


def _readable(inputs: Dataset) -> Iterator[Any]:
    for i in range(len(inputs)):
        with suppress(UnreadableInput):
            yield inputs.content(i)


def answers_of(answers: Sequence[LiveAnswer], live: LiveCascade, places: Sequence[str]) -> Answers:
    """Return what live models said as the engine's answers: costs are what was paid.

    `places`: names of the models; exits are places among these. Answers in text have the label 0.
    """
    codes = {name: code for code, name in enumerate(live.classes or ())}
    if live.classes is None:
        codes = {answer.answer: 0 for answer in answers if answer.answer is not None}
    exits = {name: exit_ for exit_, name in enumerate(places)}
    label = np.array([codes.get(answer.answer or "", -1) for answer in answers], dtype=np.int64)
    valid = label >= 0
    return Answers(
        label=label,
        confidence=np.where(valid, [answer.confidence for answer in answers], np.nan),
        exit=np.array([exits.get(answer.model, 0) for answer in answers], dtype=np.int64),
        cost=np.array([answer.cost for answer in answers]),
        valid=valid,
        borderline=np.zeros(len(label), dtype=np.bool_),
        expired=np.array([answer.late for answer in answers], dtype=np.bool_),
        degraded=np.array([answer.short_of_money for answer in answers], dtype=np.bool_),
        score=np.array([answer.score for answer in answers], dtype=np.float64),
        first_score=np.array([answer.first_score for answer in answers], dtype=np.float64),
        tie=np.array([answer.tie for answer in answers], dtype=np.float64),
    )


@dataclass(frozen=True, kw_only=True)
class PacedJob(LiveJob):
    """A job that answers each input under one of `policies`: the one that what is left for the inputs to come allows.

    `pace`: what chooses, once the job has begun; `kept`: money for the `spare`. The ledger knows what is left and how
    many inputs are to come, whatever other workers do and whatever was killed. The pace follows it before each block.

    Raises InputError without a ledger.
    """

    policies: PolicySet
    pace: Pace | None = None
    kept: float = 0.0

    def begin(self, inputs: Dataset, left: Sequence[Block], **options: Any) -> PacedJob:
        """Begin as a `LiveJob` does, with money for the cheapest first answer of all policies."""
        job = super().begin(inputs, left, **options)
        if (ledger := job.live.ledger) is None:
            raise InputError("a pace spends what a ledger holds: give money=partial(Ledger, total='5 usd')")
        job = replace(job, kept=job.spare * min(job.firsts))
        if ledger.to_come == job.spare:
            return job
        return replace(job, pace=Pace(self.policies, firsts=job.firsts, **job._to_spend(ledger, 1)))

    def _to_spend(self, ledger: Ledger, n: int) -> dict[str, Any]:
        """Return what is left for how many inputs to come, at least `n`."""
        return {"total": max(0.0, ledger.left - self.kept), "inputs": max(n, ledger.to_come - self.spare)}

    @property
    def firsts(self) -> list[float]:
        """The most that a first answer to an input may cost, by policy."""
        return [self.live.cheapest_answer(self.most, policy) for policy in self.policies]

    @property
    def model_names(self) -> Sequence[str]:
        """Names of the models that any policy asks."""
        return self.policies.models

    def pace_for(self, ledger: Ledger | None, n: int) -> Pace | None:
        """Return the pace, for what is left now."""
        if self.pace is not None and ledger is not None:
            self.pace.update(**self._to_spend(ledger, n))
        return self.pace

    @property
    def planned(self) -> None:
        """None: no policy says what all inputs will cost."""

    def summary(
        self,
        total: Tally,
        out: Path | str | None,
        files: Sequence[AnyPath] = (),  # noqa: ARG002 - a watch is of inputs under one policy
    ) -> PredictionSummary:
        """Return the summary of all inputs, without the budget of a policy."""
        return replace(PredictionSummary.of_job(total, self.policy, out), budget=None)

    def describe(self, inputs: Dataset, *, by_content: bool) -> dict[str, Any]:
        """Return everything that the results depend on, but for the total, which may be raised."""
        policies = content_digest([policy.to_dict() for policy in self.policies])
        return {**super().describe(inputs, by_content=by_content), "policy": policies}
