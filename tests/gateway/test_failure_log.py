"""The log says why models gave no answer, not with every request, and not where money was short."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from exeunt.gateway.answering import Answered
from exeunt.gateway.failure_log import FailureLog
from exeunt.live.live_model import NOT_ASKED, Reply

from .running_gateway import running
from .test_gateway import eventually


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
        assert max(len(log._said), len(log._times)) <= 1_000


def test_a_grader_that_fails_is_logged_once_in_a_minute_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise KeyError("score")

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
    assert told == [{"error": "KeyError", "why": "KeyError: 'score'", "times": times} for times in (1, 5)]
