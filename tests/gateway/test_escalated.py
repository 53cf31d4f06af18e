"""Why further or other models were asked than the first one of a policy."""

from __future__ import annotations

import pytest

from exeunt.gateway.answering import Answered
from exeunt.gateway.chat_model import ChatReply
from exeunt.live.live_model import NOT_ASKED, Reply

GIVEN = ChatReply("yes", body={})
FAILED = Reply(None, failed="status 503: down")
POOR = Reply(None, failed=f"{NOT_ASKED}: 1 usd is left", attempts=0)
FEATURES = Reply(None, features=(1.0,))


@pytest.mark.parametrize(
    ("replies", "policy", "decided", "why"),
    [
        ({"small": GIVEN}, "p1", True, ""),
        ({"features": FEATURES, "small": GIVEN}, "p1", True, ""),
        ({"small": GIVEN, "large": GIVEN}, "p1", True, "score"),
        ({"features": FEATURES, "small": GIVEN, "large": GIVEN}, "p1", True, "score"),
        ({"small": FAILED, "large": GIVEN}, "p1", False, "failure"),
        ({"features": FAILED, "large": GIVEN}, "p1", False, "failure"),
        ({"large": POOR, "small": GIVEN}, "p1", False, "money"),
        ({"large": POOR, "middle": FAILED, "small": GIVEN}, "p1", False, "failure"),
        ({"large": GIVEN}, "reference", True, ""),
        ({"large": FAILED, "other": GIVEN}, "reference", False, "failure"),
        ({"large": GIVEN}, "", False, ""),
    ],
)
def test_reasons(replies: dict[str, Reply], policy: str, *, decided: bool, why: str) -> None:
    assert Answered(GIVEN, "", policy, 0.0, replies, decided).escalated == why
