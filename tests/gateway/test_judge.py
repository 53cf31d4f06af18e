"""A judge: what it is told, that its favourite position does not count, and what an answer can say to it."""

import asyncio
import json

import pytest

from exeunt.cli.app import run as exeunt
from exeunt.errors import InputError
from exeunt.gateway.breaker import Breaker
from exeunt.gateway.chat_model import ChatModel
from exeunt.gateway.folder import GatewayModels
from exeunt.gateway.judge import Judge, grader_of
from exeunt.gateway.labels import agreement
from exeunt.gateway.mock_provider import MockProvider, served
from exeunt.ledger import ledger_of

from .running_gateway import PRICES, eventually, models, running

REQUEST = {"messages": ({"role": "user", "content": "2 + 2?"},), "temperature": 1}


def says(text):
    return {"role": "assistant", "content": text}


def graded(verdict, answer, reference, ledger=None):
    """Return the grade by a judge whose verdict is a function of the two texts, and the provider."""

    def judged(_, told):
        shown = json.loads(told)
        return verdict(shown["A"]["content"], shown["B"]["content"])

    provider = MockProvider(judged, {"expert": (1.0, 1.0)})
    with served(provider.app) as url:
        model = ChatModel(
            "expert", name="expert", breaker=Breaker("expert"), provider=Breaker("mock"), base_url=f"{url}/v1",
            price={"input": 1, "output": 1}, max_tokens=10, retries=0,
        )  # fmt: skip

        async def grade():
            try:
                return await Judge(model, ledger)(REQUEST, says(answer), says(reference))
            finally:
                await model.close()

        return asyncio.run(grade()), provider


@pytest.mark.parametrize(
    ("verdict", "grade"),
    [
        (lambda a, _: "A" if a == "four" else "B", 1.0),
        (lambda a, _: "b." if a == "four" else " A\n", 0.0),
        (lambda *_: "TIE", 1.0),
        (lambda *_: "A", 0.5),
        (lambda *_: "**B**", 0.5),
    ],
)
def test_the_grade_is_the_mean_over_both_positions(verdict, grade):
    assert graded(verdict, "four", "5")[0] == grade


def test_the_same_answers_are_not_judged():
    grade, provider = graded(lambda *_: "A", "Four.", "four")
    assert grade == 1.0
    assert not provider.received


@pytest.mark.parametrize("said", ["", "AB", "I think A is better, because it says so."])
def test_what_is_no_verdict_is_no_grade(said):
    with pytest.raises(InputError, match="the judge expert gave no verdict"):
        graded(lambda *_: said, "four", "5")


def test_a_judge_is_paid_by_the_ledger():
    ledger = ledger_of("1 usd")
    _, provider = graded(lambda *_: "A", "four", "5", ledger)
    assert len(provider.received) == 2
    assert ledger.spent == pytest.approx(provider.spent)
    with pytest.raises(InputError, match="gave no verdict: not asked"):
        graded(lambda *_: "A", "four", "5", ledger_of("0.000001 usd"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("judge", r"the grader is 'judge MODEL', got 'judge': .*, such as expert"),
        ("judge large", r"got 'judge large': MODEL is a model that is not compared itself, .*"),
        ("judge sage", r"there is no model 'sage'; there are large, expert"),
    ],
)
def test_a_judge_is_a_model_that_it_does_not_grade(name, why):
    with pytest.raises(InputError, match=why):
        grader_of(name, {"large": None, "expert": None}, ("large",), None)


@pytest.mark.parametrize(("name", "measure"), [("expert", "the judge expert"), ("judge", "the judge")])
def test_grades_are_named_after_their_judge(name, measure):
    assert GatewayModels("large", {"large": 1.0}, grader=f"judge {name}").measure == f"grade by {measure}"


def test_a_gateway_with_a_judge_certifies_its_grades(tmp_path, capsys):
    said = {"expert": "TIE"}
    prices = {**PRICES, "expert": (1.0, 1.0)}
    provider = MockProvider(lambda model, text: said.get(model, f"{model} to {text}"), prices)
    three = models(small="1", large="10", expert="1")
    shadow = "{models: [small], share: 1, spend: '100 usd', grader: judge expert}"
    with running(tmp_path, provider, models=three, shadow=shadow, keep="{texts: true}") as run:
        for i in range(3):
            run.ask(f"question {i}")
        eventually(lambda: run.n_compared == 3)
        records = run.gateway.records.read()
        assert provider.calls["expert"] == 6
        exeunt(["gateway", "labels", str(tmp_path / "gateway.yaml"), "--count", "2"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        labels = {(line["request"], line["model"]): 0.0 for line in lines}
        assert len(labels) == 2
        told = agreement(labels, records, "large", run.gateway.models.measure)
        assert told.startswith("Of 2 labels the grade by the judge expert agrees with 0.0%")
    assert [record.said["small"].grade for record in records] == [1.0] * 3
