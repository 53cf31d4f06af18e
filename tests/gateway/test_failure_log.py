"""The log says why models gave no answer, not with every request, and not where money was short."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest

from exeunt.gateway.answering import Answered
from exeunt.gateway.failure_log import FailureLog
from exeunt.gateway.live_watch import GradingWatch
from exeunt.gateway.mock_provider import MockProvider
from exeunt.live.live_model import NOT_ASKED, Reply
from exeunt.stream.records import COMPARED, NOT_GRADED, NOT_PAID

from .running_gateway import eventually, models, running


def test_each_reason_of_a_model_is_logged_once_in_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    replies = {
        "large": Reply(None, failed="status 401 (invalid_api_key)"),
        "own": Reply(None, failed="ValueError: the text of a request"),
        "dear": Reply(None, failed=f"{NOT_ASKED}: an attempt may cost 1 usd", attempts=0),
        "small": Reply("yes"),
    }
    log = FailureLog()
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 1.0, 59.0, 61.0):
            log.answered(Answered(None, "", "reference", 0.0, replies), now)
    told = [(one.fields["model"], one.fields["why"], one.fields["times"]) for one in caplog.records]
    reasons = ("large", "status 401 (invalid_api_key)"), ("own", "ValueError")
    assert told == [(*one, times) for times in (1, 3) for one in reasons]


@pytest.mark.parametrize(
    "failed", ["status 400 (code_{})", "small failed {} times in a row and rests: status 500"]
)
def test_a_reason_whose_words_are_others_each_time_is_logged_once_in_a_minute(
    caplog: pytest.LogCaptureFixture, failed: str
) -> None:
    log = FailureLog()
    with caplog.at_level(logging.WARNING):
        for i in range(100):
            replies = {name: Reply(None, failed=failed.format(i)) for name in ("small", "large")}
            log.answered(Answered(None, "", "reference", 0.0, replies), i)
    told = [(one.fields["model"], one.fields["why"], one.fields["times"]) for one in caplog.records]
    words = [failed.partition(":")[0].format(i) for i in (0, 60)]
    assert told == [
        (name, why, times) for why, times in zip(words, (1, 60), strict=True) for name in ("small", "large")
    ]


def test_however_many_reasons_there_are_a_thousand_are_remembered() -> None:
    log = FailureLog()
    for i in range(5_000):
        for now in (0.0, 1.0):  # the second one is counted for later
            log.answered(Answered(None, "", "", 0.0, {"own": Reply(None, failed=f"it returned {i}")}), now)
        assert max(len(log._reasons._passed), len(log._reasons._times)) <= 1_000


def test_a_grader_that_fails_is_logged_once_in_a_minute_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> float:
        raise KeyError(f"no score in {given}")

    monkeypatch.setattr("exeunt.gateway.judge.grader_named", lambda _: broken)
    now = [time.time()]
    with caplog.at_level(logging.ERROR, "exeunt.gateway"), running(tmp_path) as run:
        monkeypatch.setattr(run.gateway, "clock", lambda: now[0])
        for i in range(5):
            run.ask(f"question {i}")
        eventually(lambda: run.n_compared == 5)
        now[0] += 61
        run.ask("question 5")
        eventually(lambda: run.n_compared == 6)
    told = [one.fields for one in caplog.records if one.getMessage() == "the grader failed"]
    assert [(one["error"], one["times"]) for one in told] == [("KeyError", 1), ("KeyError", 5)]
    line = broken.__code__.co_firstlineno + 1
    assert [one["at"].partition(", ")[0] for one in told] == [f"{__file__}:{line}"] * 2
    assert "question" not in str(told)  # what a request holds


@pytest.mark.parametrize("returns", ["lambda *given: str(given)", "lambda *given: float(str(given))"])
def test_what_a_grader_returns_or_raises_is_in_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, returns: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "leaking_grader", raising=False)
    (tmp_path / "leaking_grader.py").write_text(f"grade = {returns}\n")
    shadow = "{models: [small], share: 1, spend: '5 usd', grader: 'leaking_grader:grade'}"
    with caplog.at_level(logging.ERROR, "exeunt.gateway"), running(tmp_path, shadow=shadow) as run:
        run.ask("a secret of mine")
        eventually(lambda: run.n_compared == 1)
    (told,) = [one.fields for one in caplog.records if one.getMessage() == "the grader failed"]
    assert "secret" not in str(told)
    assert "got str" in told.get("why", "") or "leaking_grader.py:1" in told["at"]


def test_where_money_for_the_judge_is_short_no_grader_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit leaves room for a comparison, and for no verdict beside it."""
    three = models(small="1", large="1", expert="1000")
    shadow = "{models: [small], share: 1, spend: '0.01 usd', cap: '0.005 usd', grader: judge expert}"
    prices = {"small": (1.0, 1.0), "large": (1.0, 1.0), "expert": (1000.0, 1000.0)}
    provider = MockProvider(lambda model, text: f"{model} to {text}", prices)
    with (
        caplog.at_level(logging.ERROR, "exeunt.gateway"),
        running(tmp_path, provider, models=three, shadow=shadow) as run,
    ):
        run.ask("question")
        eventually(lambda: run.n_compared == 1)
        assert run.gateway.compared == {NOT_PAID: 1}
    (told,) = [one for one in caplog.records if one.fields.get("error")]
    assert told.getMessage() == "money for the judge is short"
    assert "the ledger 'all/day/shadow' has" in told.fields["why"]


def test_the_alarm_of_missing_grades_says_whether_money_is_why() -> None:
    def told(*became: str) -> str:
        watch = GradingWatch()
        return next(filter(None, map(watch.compared, became)), "")

    assert told(*[COMPARED] * 39, *[NOT_GRADED] * 11).count("the grader failed") == 1
    short = told(*[COMPARED] * 39, *[NOT_PAID] * 11)
    assert "money for the judge was short for 11 of them" in short
    assert "failed" not in short
    both = told(*[COMPARED] * 39, NOT_PAID, *[NOT_GRADED] * 10)
    assert "the grader failed (the log says why) and money for the judge was short for 1 of them" in both
    assert told(*[COMPARED] * 40, *[NOT_PAID] * 10) == ""
