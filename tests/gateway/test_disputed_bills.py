"""A bill that no request can have: it uses up nobody's money, and somebody decides whether it counts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("starlette")

from starlette.requests import Request
from starlette.responses import Response

from exeunt.cli.app import run as exeunt
from exeunt.errors import InputError
from exeunt.gateway.mock_provider import MockProvider

from .running_gateway import PRICES, answer, running


class Wrong(MockProvider):
    """Bills a million times too much for the large model."""

    async def _completions(self, request: Request) -> Response:
        body = json.loads(await request.body())
        told = await super()._completions(request)
        if body["model"] != "large":
            return told
        completion = json.loads(bytes(told.body))
        completion["usage"] = {
            "prompt_tokens": 5,
            "completion_tokens": 999_999_999,
            "total_tokens": 1_000_000_004,
        }
        return Response(json.dumps(completion), media_type="application/json")


def test_it_counts_at_the_most_stops_its_model_and_is_disputed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provider, file = Wrong(answer, PRICES), str(tmp_path / "gateway.yaml")
    with running(tmp_path, provider, shadow="", spend="{day: '20 usd'}", fallback="[small]") as run:
        money = run.gateway.money
        first = run.ask("x")
        assert (first.status_code, first.json()["model"]) == (200, "large")  # its answer is there
        assert float(first.headers["x-exeunt-cost"]) == pytest.approx(money.whole.spent)
        assert money.whole.spent < 0.01
        assert run.ask("x").json()["model"] == "small"  # others are asked as before
        assert money.left > 19.9
        with run.http(run.admin) as http:
            told = http.get("/admin/state").json()["disputed"]["large"]
            (shown,) = re.findall(r"^exeunt_gateway_disputed_usd (\S+)", http.get("/metrics").text, re.M)
        assert told["bills"] == 1
        assert told["claimed"] > 1_000 > 0.01 > told["maximum"]
        assert float(shown) == pytest.approx(told["claimed"] - told["maximum"])

        exeunt(["gateway", file, "--drop", "large", "--reason", "a fault of the provider"])
        assert capsys.readouterr().out.startswith("1 bill of large: ")
        assert money.disputed == {}
        assert money.left > 19.9
        assert run.ask("x").json()["model"] == "small"
        with run.http(run.admin) as http:
            assert http.post("/admin/models/large/resume").json() == {"resumed": "large"}
        assert run.ask("x").json()["model"] == "large"

        exeunt(["gateway", file, "--book", "large", "--reason", "its price was wrong"])
        assert money.whole.spent > 1_000  # somebody has said so
        decided = [
            json.loads(line) for line in (run.gateway.folder / "disputes.jsonl").read_text().splitlines()
        ]
        assert [(one["decision"], one["reason"]) for one in decided] == [
            ("dropped", "a fault of the provider"),
            ("booked", "its price was wrong"),
        ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--drop", "large"], "say why with --reason"),
        (["--reason", "x"], "give --book MODEL or --drop MODEL"),
        (["--drop", "large", "--reason", " "], "say why with --reason"),
        (["--drop", "large", "--book", "large", "--reason", "x"], "give --book MODEL or --drop MODEL"),
        (["--drop", "small", "--reason", "x"], "no bill of 'small' is disputed"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, options: list[str], why: str) -> None:
    with running(tmp_path, shadow=""), pytest.raises(InputError, match=why):
        exeunt(["gateway", str(tmp_path / "gateway.yaml"), *options])
