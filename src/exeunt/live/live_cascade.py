"""Asking the live models of a cascade about inputs, as its policy decides."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np

from exeunt._support.text import counted
from exeunt.costs.budget_text import amount_text
from exeunt.engine.inputs import input_keys, raw_rows
from exeunt.errors import InputError
from exeunt.ledger.ledger import Ledger
from exeunt.live.function_model import FeatureModel
from exeunt.live.live_model import LATE, NOT_ASKED, LiveModel, Reply, check_unit, shares_of, work_through
from exeunt.policy import Pace, Policy
from exeunt.policy.ensemble_answer import OwnAnswer
from exeunt.score.confidence import FEATURES, LOG_PROBABILITY, NO_ANSWER, PartialEvidence
from exeunt.trace.cascade_step import before, is_tree
from exeunt.trace.fields import id_keys

T = TypeVar("T")


@dataclass(frozen=True)
class LiveAnswer:
    """The answer to an input. `answer`: a class or a text; None if no model gave one.

    `model`: the last one that was asked. `cost`: in US dollars, of all models that were asked; `bound`: the part of it
    that no model reported. `failed`: why models gave no answer, by name. `confidence`: of the model that gave the
    answer; the probability if it is that of an ensemble. `late`: a further model was not asked, or not waited for,
    because of the deadline. `replies`: of the models that were asked, by name. `given_by`: the last of them that gave
    this answer; "" if none did. `exit`: the policy's exit at which it was answered. `score`, `first_score`, `tie`: what
    `exeunt.Watch` is told of the input; None where the policy keeps nothing to watch by.
    """

    id: Any
    answer: str | None
    model: str
    cost: float
    bound: float = 0.0
    failed: Mapping[str, str] = field(default_factory=dict)
    confidence: float = 0.0
    late: bool = False
    replies: Mapping[str, Reply] = field(default_factory=dict, repr=False)
    given_by: str = ""
    exit: int = 0
    score: float | None = None
    first_score: float | None = None
    tie: float | None = None

    @property
    def why(self) -> str:
        """Why there is no answer, by model."""
        return "; ".join(f"{name}: {why}" for name, why in self.failed.items()) or "no model gave an answer"

    @property
    def told_to_clients(self) -> str:
        """The same without the messages of functions, which may hold the input or keys, and of ledgers."""
        short = {name: why.partition(":")[0] for name, why in self.failed.items()}
        return replace(self, failed=short).why

    @property
    def short_of_money(self) -> bool:
        """Whether the ledger did not let a model be asked."""
        return any(map(short_of_money, self.failed.values()))


class LiveAnswers(Sequence[LiveAnswer]):
    """Answers in the order of the inputs; printed, they say who answered, what it cost, and which models failed."""

    def __init__(self, answers: Sequence[LiveAnswer], models: Sequence[str]) -> None:
        self._answers, self._models = tuple(answers), models

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, place: Any) -> Any:
        return self._answers[place]

    @property
    def cost(self) -> float:
        """What all answers cost, in US dollars."""
        return sum(answer.cost for answer in self._answers)

    @property
    def failed(self) -> Counter[str]:
        """How many inputs each model gave no answer to."""
        return Counter(name for answer in self._answers for name in answer.failed)

    def __str__(self) -> str:
        last = Counter(answer.model for answer in self._answers)
        shown = ", ".join(f"{last[name]:,} at {name}" for name in self._models if last[name])
        lines = [f"{counted(len(self), 'input')} for {amount_text(self.cost, 'usd')}: {shown or 'none'}"]
        if self.failed:
            named = ", ".join(f"{name} to {counted(n, 'input')}" for name, n in self.failed.items())
            lines.append(
                f"No answer of {named}. These went on, or have the answer known by then. What is certified holds only "
                "if models fail as often as on the calibration inputs."
            )
        if silent := sum(answer.answer is None for answer in self._answers):
            lines.append(f"{counted(silent, 'input has', 'inputs have')} no answer at all.")
        return "\n".join(lines)


class LiveCascade:
    """Live models and the policy that decides which of them are asked.

    `models`: by the names that the policy knows them by. `classes`: names of the classes in the order of the traces
    that the policy was made on; by default those of the models, None for answers in text. `ledger`: what pays for each
    attempt, and refuses those that it cannot pay for; these give no answer. `concurrency`: inputs at the same time.

    Models whose answers the policy does not need are not asked. Where a model gives no answer, the one known by then is
    kept: `policy` is the given one with that rule, and `policy.answers(trace)` replays it. Where the ledger refuses the
    model that a router has chosen, and there is no answer yet, the next cheaper one is asked.
    """

    def __init__(
        self,
        models: Mapping[str, LiveModel],
        policy: Policy,
        *,
        classes: Sequence[str] | None = None,
        ledger: Ledger | None = None,
        concurrency: int = 64,
    ) -> None:
        check_unit(ledger)
        self.models = dict(models)
        self._check_models(policy)
        known = {models[name].classes for name in policy.models if not isinstance(models[name], FeatureModel)}
        self.classes = next(iter(known)) if classes is None else tuple(map(str, classes))
        if (classes is None and len(known) > 1) or not known <= {self.classes, None}:
            raise InputError(
                "the models differ in their classes: give all of them those of the policy's traces"
            )
        self._codes = None if self.classes is None else {name: k for k, name in enumerate(self.classes)}
        self.ledger, self.concurrency = ledger, concurrency
        self._given = policy
        carries = isinstance(policy.answer, OwnAnswer) and not policy.answer.carries
        self.policy = replace(policy, answer=OwnAnswer(carries=True)) if carries else policy

    def _check_models(self, policy: Policy) -> None:
        if not policy.models or any(step.n_exits != 1 or step.exits != (0,) for step in policy.cascade):
            raise InputError(
                "a live cascade needs a policy of models with one exit each: make it with ex.cascade"
            )
        if missing := [name for name in policy.models if name not in self.models]:
            raise InputError(
                f"the policy asks {missing[0]!r}, and there are {', '.join(self.models)}: give that model"
            )

    def cheapest_answer(self, highest: Mapping[str, float], policy: Policy | None = None) -> float:
        """Return the most that the cheapest answer to an input may cost; `highest`: what each model may cost.

        `policy`: in place of the own one.
        """
        policy = policy or self._given
        cascade = policy.cascade

        def cheapest(exit_: int) -> float:
            name = cascade[exit_].model
            if not isinstance(self.models[name], FeatureModel):
                return highest[name]
            following = (k for k in range(len(cascade)) if before(cascade, k) == exit_)
            return highest[name] + min(map(cheapest, following))

        return cheapest(int(np.argmax(policy.needs)))

    async def ask(
        self,
        inputs: Mapping[Any, Any] | Sequence[Any],
        *,
        ids: Sequence[Any] | None = None,
        ledger: Ledger | None = None,
        within_s: float | None = None,
        pace: Pace | None = None,
        on_answer: Callable[[int, LiveAnswer], None] | None = None,
    ) -> LiveAnswers:
        """Answer inputs: a sequence, or a mapping from ids to inputs.

        `ids`: texts or whole numbers, by default made from the content. They break ties as those of a trace do.
        `ledger`: pays for these in place of the cascade's own. `within_s`: after so many seconds an input gets the
        answer known by then. `pace`: chooses the policy for each of these inputs, see `Pace`. `on_answer`: gets the
        place of each input and its answer, as they come.
        """
        if isinstance(inputs, str):
            raise InputError("give a list of inputs: a text alone would be read letter by letter")
        names = list(inputs) if isinstance(inputs, Mapping) else None if ids is None else list(ids)
        contents = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        if names is None:
            keys = input_keys(raw_rows(contents), len(contents)) if contents else np.empty(0, np.uint64)
            names = keys.tolist()
        else:
            keys = id_keys(names, len(contents)) if contents else np.empty(0, np.uint64)
        answers: dict[int, LiveAnswer] = {}
        due = asyncio.get_running_loop().time() + (math.inf if within_s is None else within_s)

        for policy in () if pace is None else pace.policies:
            self._check_models(policy)
        if pace is not None and len(contents) > pace.to_come:
            raise InputError(
                f"the pace has {counted(pace.to_come, 'input')} to come, got {len(contents):,}: give it the number "
                "of all"
            )

        async def answer(i: int) -> None:
            policy = self._given if pace is None else pace.begin()
            answers[i] = await self._answer(
                policy, names[i], contents[i], keys[i : i + 1], ledger or self.ledger, due
            )
            if pace is not None:
                pace.end(policy, answers[i].cost)
            if on_answer is not None:
                on_answer(i, answers[i])

        at_once = self.concurrency if pace is None else min(self.concurrency, pace.at_once)
        await work_through(range(len(contents)), answer, min(at_once, len(contents)))
        models = self.policy.models if pace is None else pace.models
        return LiveAnswers([answers[i] for i in range(len(contents))], models)

    def ask_sync(self, inputs: Mapping[Any, Any] | Sequence[Any], **options: Any) -> LiveAnswers:
        """Answer inputs as `ask` does, from code that is not asynchronous, also in a notebook."""

        async def ask() -> LiveAnswers:
            try:
                return await self.ask(inputs, **options)
            finally:
                await self.close()

        return run_in_own_thread(ask())

    async def close(self) -> None:
        """Close the models' connections of this event loop."""
        for model in self.models.values():
            await model.close()

    async def _answer(
        self, policy: Policy, id_: Any, content: Any, key: Any, ledger: Ledger | None, due: float
    ) -> LiveAnswer:
        needed = policy.needs  # to keep answers needs no further ones
        if isinstance(policy.answer, OwnAnswer):
            policy = replace(policy, answer=OwnAnswer(carries=True))
        state, exit_ = policy.init(1, id=key), 0
        replies: dict[str, Reply] = {}
        givers: dict[int, str] = {}
        failed: dict[str, str] = {}
        cost = bound = 0.0
        label, confidence, late, asked_model = NO_ANSWER, None, False, ""
        watched, first_score = policy.watched, None
        while True:
            exit_ += int(np.argmax(needed[exit_:]))
            name = policy.cascade[exit_].model
            tells = isinstance(self.models[name], FeatureModel)
            promised = label == NO_ANSWER and not tells  # any model's answer will do for the first
            final = policy.thresholds[exit_] == -math.inf
            reply = await self.models[name].ask(
                content, name=name, ledger=ledger, promised=promised, until=due, final=final
            )
            asked_model = name if reply.attempts else asked_model
            cost, bound = cost + reply.cost, bound + reply.bound
            code = NO_ANSWER if reply.answer is None else self._code(reply.answer, exit_)
            if code == NO_ANSWER and reply.features is None:
                failed[name] = reply.failed or "its answer is none of the classes"
            cheaper = _cheaper(policy, exit_) if label == NO_ANSWER and short_of_money(reply.failed) else -1
            if cheaper >= 0:
                exit_ = cheaper
                continue
            replies[name], givers[code] = reply, name
            evidence = self._evidence(reply, code, tells=tells)
            decision = policy.decide(exit_, evidence, state)
            state, score = decision.state, float(decision.score[0])
            label = int(decision.answer["prediction"][0])
            if watched is not None and exit_ == watched.first:
                first_score = score
            late = reply.failed == LATE
            if not isinstance(policy.answer, OwnAnswer):
                confidence = float(decision.answer.get("max_probability", [0.0])[0])
            if decision.leave[0] or late:
                break
            ((exit_, _),) = policy.following(exit_, state)
        giver = "" if label == NO_ANSWER else givers.get(label, "")
        own = replies[giver] if giver else Reply(None, confidence=0.0)
        return LiveAnswer(
            id_,
            None if label == NO_ANSWER else self._text(label, own),
            asked_model,
            cost,
            bound,
            failed,
            own.confidence if confidence is None else confidence,
            late,
            replies,
            giver,
            exit_,
            *(() if watched is None else (score, first_score, float(state.tie[0]))),
        )

    def _text(self, label: int, reply: Reply) -> str | None:
        """Return the class of this number, or the answer of the reply that gave it."""
        return self.classes[label] if self.classes and 0 <= label < len(self.classes) else reply.answer

    def _code(self, answer: str, exit_: int) -> int:
        """Return the number of an answer: of its class, or one that no other answer has."""
        return NO_ANSWER + 1 + exit_ if self._codes is None else self._codes.get(answer, NO_ANSWER)

    def _evidence(self, reply: Reply, code: int, *, tells: bool) -> dict[str, Any]:
        """Return what a trace of this reply would hold, for one input. `tells`: whether the model tells features."""
        silent = code == NO_ANSWER
        confidence = np.array([-np.inf if silent else reply.confidence])
        evidence: dict[str, Any] = {
            "confidence": confidence,
            "score": confidence,
            "prediction": np.array([code]),
        }
        if tells:
            # Of features that did not come nothing is like what was learned from.
            evidence[FEATURES] = np.array([reply.features or (np.nan,)], dtype=np.float32)
        if self.classes is None or not (silent or reply.probabilities or 0 <= reply.confidence <= 1):
            return evidence
        heard = replace(reply, answer=None) if silent else reply
        shares = PartialEvidence(shares_of(heard, self.classes)[None])
        return {**shares, LOG_PROBABILITY: shares[LOG_PROBABILITY].astype(np.float32), **evidence}


def short_of_money(why: str) -> bool:
    """Return whether this is why a model gave no answer: the ledger did not let it be asked."""
    return why.startswith(NOT_ASKED)


def _cheaper(policy: Policy, exit_: int) -> int:
    """Return the next cheaper exit that a router could have taken in place of this one; -1 without one."""
    if not is_tree(cascade := policy.cascade):
        return -1
    of = before(cascade, exit_)
    return max((k for k in range(exit_) if k > of and before(cascade, k) == of), default=-1)


def run_in_own_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread of its own: in a notebook this one has an event loop already.

    If this thread is interrupted meanwhile, the coroutine is cancelled.
    """
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def coroutine() -> T:
        running.set_result((asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())))
        return await work

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(asyncio.run, coroutine())
        try:
            return done.result()
        except BaseException:
            if not done.done():
                loop, task = running.result()
                loop.call_soon_threadsafe(task.cancel)
            raise
