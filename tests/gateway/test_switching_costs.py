"""Changing the model within a conversation: what that costs in tests, and a gateway that does not do it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exeunt.errors import InputError
from exeunt.gateway.config import read_config
from exeunt.gateway.evidence import OVER_CAP, evidence_of
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.mock_provider import MockProvider
from exeunt.gateway.proposals import _policies, _rule
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.stream.records import COMPARED, Record, Said
from exeunt.stream.units import Place, Unit

from .made_records import CAP, WITHOUT_FEATURES, units
from .made_state import made_policy
from .running_gateway import PRICES, Running, answer, eventually, running, written
from .test_evidence import THREE, THREE_STEPS, TWO_STEPS, counted, drawn_units, is_known, outcome


@st.composite
def cached_units(draw: Any) -> list[tuple[Unit, list[Record]]]:
    """Return drawn units whose answers would cost more without a cache."""
    amounts = st.sampled_from([0.0, 3e-6, 5e-5])
    return [
        (unit, [
            replace(record, said={name: replace(each, cached=draw(amounts)) for name, each in record.said.items()})
            for record in inside
        ])
        for unit, inside in draw(drawn_units())
    ]  # fmt: skip


def is_outside(record: Record, policy: Any) -> bool:
    return OVER_CAP in record.refused or any(model in record.refused for model in policy.models)


def asked_by(record: Record | None, policy: Any) -> list[str]:
    """Return the models that a policy asks for a request, in their order."""
    if record is not None and is_outside(record, policy):
        return ["large"]
    asked: list[str] = []
    for model in policy.models if is_known(record, THREE) else ():
        asked.append(model)
        if record and not record.said[model].failed and (record.said[model].score or 0.0) > 0.5:
            break
    return asked


def stays(record: Record | None, name: str) -> tuple[float, float, list[str]]:
    """Return what a later request loses and costs, and who is asked, where its unit stays with a model."""
    reference = None if record is None else record.said.get("large")
    of_reference = CAP if reference is None else reference.cost
    if name == "large":
        return 0.0, of_reference, ["large"]
    if not name or record is None or not is_known(record, THREE):
        return 1.0, CAP, []
    said = record.said[name]
    if said.failed:
        return 0.0, said.cost + of_reference, [name, "large"]
    best = 1.0 if reference is None or reference.grade is None else reference.grade
    return best - (said.grade or 0.0), said.cost, [name]


def by_hand(
    unit: Unit, inside: Sequence[Record], policy: Any, sticky: bool
) -> list[tuple[float, float, bool]]:
    """Return what each row of a unit loses and costs, and whether it is answered early, row after row."""
    outcomes, before, last, first = [], list[str](), -1, "large"
    for row in range(unit.rows):
        record = counted(inside, row)
        if record is not None and OVER_CAP in record.refused and not record.answered:
            continue
        lost, cost, early = outcome(record, policy, THREE)
        asked = asked_by(record, policy)
        if row == 0:
            told = (
                []
                if record is None
                else [name for name in asked if name in record.said and not record.said[name].failed]
            )
            first = told[-1] if told else "large" if asked else ""
        elif sticky and not (record is not None and is_outside(record, policy)):
            lost, cost, asked = stays(record, first)
            early = "large" not in asked
        for name in asked if row and record is not None else ():
            if name in record.said and not (name in before and last == row - 1):
                cost += record.said[name].cached
        outcomes.append((lost, cost, early))
        before, last = asked, row
    return outcomes


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("policy", [TWO_STEPS, THREE_STEPS])
@settings(max_examples=30, deadline=None)
@given(made=cached_units())
def test_a_model_that_was_not_asked_for_the_row_before_costs_what_it_does_without_a_cache(
    policy: Any, sticky: bool, made: list[tuple[Unit, list[Record]]]
) -> None:
    evidence = evidence_of(made, THREE, CAP, 20, sticky=sticky)
    lost, cost, early = evidence.outcomes(policy)
    rows = [row for unit, inside in made for row in by_hand(unit, inside, policy, sticky)]
    found = zip(lost.tolist(), cost.tolist(), strict=True)
    assert [*found] == [pytest.approx(row[:2], abs=1e-9) for row in rows]
    assert early.tolist() == [row[2] for row in rows]
    if sticky and (trace := evidence.for_learning()) is not None:
        assert trace.n <= sum(1 for row in evidence.row.tolist() if row == 0)


class Down(MockProvider):
    """A provider whose models are down where that is said."""

    down: tuple[str, ...] = ()

    async def _completions(self, request: Request) -> Response:
        if json.loads(await request.body())["model"] in self.down:
            return JSONResponse({}, 503)
        return await super()._completions(request)


def turn(run: Running, conversation: int, k: int) -> str:
    """Ask the k-th request of a conversation, and return the model that answers."""
    answered = run.ask(f"question {k} of {conversation}", metadata={"conversation": str(conversation)})
    assert answered.headers.get("x-exeunt-policy") == "p1", answered.text
    return str(answered.headers["x-exeunt-model"])


@pytest.mark.parametrize("sticky", [True, False])
def test_a_unit_stays_with_the_model_that_answered_its_first_request(tmp_path: Path, sticky: bool) -> None:
    provider = Down(answer, PRICES)
    with running(tmp_path, provider, sticky=str(sticky).lower(), fallback="[small]") as run:
        run.gateway.policies.add(made_policy())
        run.take(policy="p1")
        first = [turn(run, i, 0) for i in range(12)]
        assert {*first} == {"small", "large"}
        stays = [turn(run, i, k) == first[i] for k in (1, 2) for i in range(12)]
        assert all(stays) is sticky
        if not sticky:
            return
        eventually(lambda: run.gateway.records.count() == 36)
        again = Gateway(run.gateway.config)  # as after a restart
        known = [again.traffic.choices[number].result() for number in sorted(again.traffic.choices)]
        asyncio.run(again.close())
        assert known == first
        of_small = first.index("small")
        provider.down = ("small",)
        assert turn(run, of_small, 3) == "large"
        provider.down = ()
        assert turn(run, of_small, 4) == "small"
        provider.down = ("small",)
        assert turn(run, 99, 0) == "large"  # its first request decides, whoever answers it
        provider.down = ()
        assert [turn(run, 99, k) for k in range(1, 6)] == ["large"] * 5


def test_where_nobody_answers_the_first_request_its_retry_decides(tmp_path: Path) -> None:
    provider = Down(answer, PRICES)
    with running(tmp_path, provider, sticky="true") as run:
        run.gateway.policies.add(made_policy())
        run.take(policy="p1")
        provider.down = ("small", "large")
        begun = [run.ask(f"question 0 of {i}", metadata={"conversation": str(i)}).status_code for i in (4, 5)]
        assert begun == [502, 502]
        provider.down = ()
        assert turn(run, 4, 0) == "small"
        assert [turn(run, 4, k) for k in range(1, 8)] == ["small"] * 7
        assert [turn(run, 5, k) for k in range(1, 8)] == ["large"] * 7  # its first request was never answered
        place, active = Place(Unit(1, "alice", 0.0, 0.0), row=1, is_open=True), run.gateway.live.active
        assert active.policy is not None
        for models, stays in ((active.policy.models, "small"), (("large",), "large")):
            run.gateway.traffic.choices[1] = choice = Future[str]()
            choice.set_result("small")
            other = replace(active, policy=SimpleNamespace(models=models))
            assert asyncio.run(run.gateway._stays_with(place, other)) == stays


def test_a_unit_that_the_policy_did_not_begin_goes_to_the_reference(tmp_path: Path) -> None:
    with running(tmp_path, sticky="true") as run:
        run.ask("question", metadata={"conversation": "early"})
        run.gateway.policies.add(made_policy())
        run.take(policy="p1")
        later = [run.ask(f"easy {k}", metadata={"conversation": "early"}) for k in range(6)]
    assert {one.headers["x-exeunt-model"] for one in later} == {"large"}


def test_requests_that_are_units_cannot_stay(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="sticky is about later requests of a unit, and units: request has none"
    ):
        read_config(written(tmp_path, sticky="true", units="request"))


def test_staying_asks_a_new_question(tmp_path: Path) -> None:
    more = {"promise": "{max_loss: 5%}"}
    bodies = []
    for sticky in ("false", "true"):
        gateway = Gateway(read_config(written(tmp_path, sticky=sticky, **more)))
        question = gateway.certifier.question
        assert question is not None
        bodies.append((question.number, question.body.get("sticky")))
        asyncio.run(gateway.close())
    assert bodies == [(1, None), (2, True)]


def test_policies_learn_at_what_changes_of_the_model_are_expected_to_cost() -> None:
    made = [
        (unit, [
            replace(record, said={name: replace(each, cached=1.2 * each.cost) for name, each in record.said.items()})
            for record in inside
        ])
        for unit, inside in units(300, seed=3, rows=6)
    ]  # fmt: skip
    evidence = evidence_of(made, WITHOUT_FEATURES, CAP, 20)
    trace = evidence.for_learning()
    assert trace is not None
    budget = 0.4 * trace["large"].cost.full
    seen = _rule("eero", trace, "large", 0)(budget=budget)
    asks = (seen.route(trace) == 1).tolist()  # large; small is always asked
    rows = [(unit.number, record) for unit, inside in made for record in inside]
    changes = [not asks[k - 1] for k, (_, record) in enumerate(rows) if record.row and asks[k]]
    rate = sum(changes) / len(changes)
    dearer = evidence.for_learning(seen)
    assert dearer is not None
    assert 0.2 < rate < 0.9
    for name, share in (("small", 0.0), ("large", rate)):
        by_hand = [record.said[name].cost * (1 + (1.2 * share if record.row else 0.0)) for _, record in rows]
        assert dearer[name].cost.of_inputs(dearer.n)[:, 0] == pytest.approx(by_hand)
    ((_, policy),) = _policies("eero", evidence, [budget], 0)
    paid, before = (evidence.outcomes(each)[1].mean() for each in (policy, seen))
    assert abs(paid - budget) < 0.5 * abs(before - budget)
    firsts = replace(evidence, sticky=True).for_learning()
    assert firsts is not None
    assert firsts.n == 300
    for same in (replace(evidence, sticky=True), evidence_of(units(3, rows=2), WITHOUT_FEATURES, CAP, 20)):
        assert not same.switches_cost


def compared(row: int, refused: tuple[str, ...] = (), **failed: bool) -> Record:
    """Return a compared request whose models cost 1, and 10 more without a cache. `failed`: which gave no answer."""
    said = {
        name: Said(1.0, 0.9 if name == "large" else 0.1, 1.0, "timeout" if failed.get(name) else "", 10.0)
        for name in ("small", "medium", "large")
    }
    return Record(1, 1.0, "shop", f"{row:x}", said, unit=1, row=row, refused=refused, compared=COMPARED)


@pytest.mark.parametrize(
    ("failed", "stays"),
    [({}, "medium"), ({"medium": True}, "small"), ({"small": True, "medium": True}, "large")],
)
def test_a_unit_stays_with_the_model_whose_answer_was_given(failed: dict[str, bool], stays: str) -> None:
    ends_at_medium = replace(
        THREE_STEPS, limits=Thresholds.of([(0.5, -np.inf), (-np.inf, -np.inf), (-np.inf, -np.inf)])
    )
    unit = Unit(1, "shop", 0.0, 1.0, rows=2, drawn=True, probability=1.0)
    evidence = evidence_of([(unit, [compared(0, **failed), compared(1)])], THREE, CAP, 20, sticky=True)
    assert evidence.answering(ends_at_medium)[1] == stays


def test_the_request_before_is_one_of_the_same_unit() -> None:
    first = Unit(1, "shop", 0.0, 1.0, rows=1, drawn=True, probability=1.0)
    nobody_answers = compared(0, refused=(OVER_CAP,))
    made = [(first, [compared(0)]), (replace(first, number=2, rows=2), [nobody_answers, compared(1)])]
    evidence = evidence_of(made, THREE, CAP, 20)
    assert evidence.row.tolist() == [0, 1]
    assert evidence.outcomes(TWO_STEPS)[1].tolist() == pytest.approx([2, 22])


def test_a_model_from_which_nothing_is_taken_has_no_cache_to_miss() -> None:
    small_unasked = replace(
        THREE_STEPS, limits=Thresholds.of([(NEVER, NEVER), (0.5, -np.inf), (-np.inf, -np.inf)])
    )
    unit = Unit(1, "shop", 0.0, 1.0, rows=2, drawn=True, probability=1.0)
    made = [(unit, [compared(0, refused=("medium",)), compared(1)])]
    _, cost, _ = evidence_of(made, THREE, CAP, 20).outcomes(small_unasked)
    assert cost.tolist() == pytest.approx([1, 3 + 10])  # large, then all three, of which medium had no cache


def test_where_the_model_of_a_unit_fails_the_reference_answers_without_its_cache() -> None:
    rows = [compared(0), compared(1, small=True), compared(2)]
    sure = [replace(row, said={**row.said, "small": replace(row.said["small"], score=0.9)}) for row in rows]
    worse = [replace(row, said={**row.said, "small": replace(row.said["small"], grade=0.25)}) for row in sure]
    unit = Unit(1, "shop", 0.0, 1.0, rows=3, drawn=True, probability=1.0)
    lost, cost, _ = evidence_of([(unit, worse)], THREE, CAP, 20, sticky=True).outcomes(TWO_STEPS)
    assert lost.tolist() == pytest.approx([0.75, 0.0, 0.75])
    assert cost.tolist() == pytest.approx([1, 1 + 1 + 10, 1])
