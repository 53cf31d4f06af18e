"""Which requests the policy answers, which the reference, and which of them are compared and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exeunt.stream.records import COMPARED, Record

from .made_state import made_policy
from .running_gateway import TOOL, Running, eventually, models, running

SHADOW = "models: [small], share: 1, audit: 1, spend: '100 usd'"


def recorded(run: Running, n: int) -> list[Record]:
    """Return the records of n requests, which are kept after their answers."""
    eventually(lambda: run.gateway.records.count() == n)
    return run.gateway.records.read()


def test_what_is_above_the_cap_or_not_for_the_reference_is_answered_without_a_policy_and_not_compared(
    tmp_path: Path,
) -> None:
    both = models(small="1, logprobs: true, tools: true", large="10")
    shadow = f"{{{SHADOW}, cap: '0.01 usd'}}"
    with running(tmp_path, shadow=shadow, models=both, fallback="[small]") as run:
        run.gateway.policies.add(made_policy())
        run.take(policy="p1")
        told = [run.ask("easy 0"), run.ask("easy 0" + " x" * 1000), run.ask("easy 0", tools=[TOOL])]
        records = recorded(run, 3)
    answered = [(one.headers["x-exeunt-policy"], one.headers["x-exeunt-model"]) for one in told]
    assert answered == [("p1", "small"), ("reference", "large"), ("reference", "small")]
    assert [record.compared for record in records] == [COMPARED, "no model takes it", "no model takes it"]
    assert [{*record.said} for record in records] == [{"small", "large"}, {"large"}, {"small"}]


@pytest.mark.parametrize("opted_out", ["reference", "policy"])
def test_a_client_who_is_not_compared_asks_the_reference_unless_the_file_says_else(
    tmp_path: Path, opted_out: str
) -> None:
    with running(tmp_path, shadow=f"{{{SHADOW}, opted_out: {opted_out}}}") as run:
        run.client = run.gateway.keys.add("clinic", shadow=False)
        run.gateway.policies.add(made_policy())
        in_shadow = run.ask("easy 0")
        run.take(policy="p1")
        live = run.ask("easy 0")
        records = recorded(run, 2)
        eventually(lambda: not run.gateway._tasks)
        sent = [received["body"]["model"] for received in run.provider.received]
    assert [one.headers["x-exeunt-policy"] for one in (in_shadow, live)] == [
        "reference",
        {"reference": "reference", "policy": "p1"}[opted_out],
    ]
    assert sent == ["large", {"reference": "large", "policy": "small"}[opted_out]]
    assert [(record.unit, record.compared) for record in records] == [(0, ""), (0, "")]


def test_requests_that_name_a_model_or_a_policy_are_recorded_and_billed_and_count_nowhere(
    run: Running,
) -> None:
    run.gateway.policies.add(made_policy())
    for model in ("small", "large", "auto:p1"):
        assert run.ask("easy 0", model=model).status_code == 200
    records = recorded(run, 3)
    money, traffic = run.gateway.money, run.gateway.traffic
    assert min(record.cost for record in records) > 0
    assert sum(record.cost for record in records) == pytest.approx(run.provider.spent, abs=1e-8)
    assert money.of(run.gateway.keys.named("alice")).spent == pytest.approx(run.provider.spent, abs=1e-8)
    assert [(record.unit, record.is_open, record.compared) for record in records] == [(0, False, "")] * 3
    assert (traffic.bill.now.requests, traffic.bill.now.cost, len(traffic.units.open)) == (0, 0.0, 0)
    assert run.gateway.records.units() == []


def test_a_policy_answers_as_many_requests_of_a_unit_as_it_was_certified_for(run: Running) -> None:
    made = made_policy()
    about = {**made.notes["gateway"], "rows": 2}
    run.gateway.policies.add(replace(made, notes={**made.notes, "gateway": about}))
    run.take(policy="p1")
    told = [
        run.ask(f"easy {i}", metadata={"conversation": name}).headers["x-exeunt-policy"]
        for name in ("a", "b")
        for i in range(4)
    ]
    assert told == ["p1", "p1", "reference", "reference"] * 2
