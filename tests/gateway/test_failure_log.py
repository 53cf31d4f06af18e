"""The log says why models gave no answer, not with every request, and not where money was short."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("starlette")

from exeunt.gateway.answering import Answered
from exeunt.gateway.failure_log import FailureLog
from exeunt.live.live_model import NOT_ASKED, Reply


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
    told = [(one.fields["model"], one.fields["why"]) for one in caplog.records]
    assert told == [("large", "status 401 (invalid_api_key)"), ("own", "ValueError")] * 2
