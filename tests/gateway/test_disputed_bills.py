"""A bill that no request can have: it uses up nobody's money, and somebody decides whether it counts."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from exeunt.cli.app import run as exeunt
from exeunt.errors import FileError, InputError, OverBudget
from exeunt.gateway.audit_log import append_line
from exeunt.gateway.config import Spend
from exeunt.gateway.ledgers import Money, decide_disputes
from exeunt.gateway.mock_provider import MockProvider
from exeunt.ledger import Ledger, Reservation
from exeunt.web.answers import missing_money

from .running_gateway import PRICES, Running, answer, error_of, running


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
        assert float(first.headers["x-exeunt-cost"]) == pytest.approx(money.total.spent)
        assert money.total.spent < 0.01
        assert run.ask("x").json()["model"] == "small"  # others are asked as before
        assert run.state()["stopped"] == ["large"]
        assert "large: stopped, since it billed more" in error_of(run.ask("x", model="large"))
        assert money.left > 19.9
        told = run.state()["disputed"]["large"]
        (shown,) = re.findall(r"^exeunt_gateway_disputed_usd (\S+)", run.metrics(), re.M)
        assert told["bills"] == 1
        assert told["claimed"] > 1_000 > 0.01 > told["maximum"]
        assert float(shown) == pytest.approx(told["claimed"] - told["maximum"])

        capsys.readouterr()
        exeunt(["gateway", "money", file])
        table = capsys.readouterr().out
        assert re.search(r"^each day +20 usd/day +[\d.]+ usd +20\.00 usd +[\d-]+ 00:00 UTC$", table, re.M), (
            table
        )
        assert re.search(r"^client alice +no limit +[\d.]+ usd *$", table, re.M), table
        assert "large has billed " in table
        assert f"exeunt gateway money {file} --book large` (the bill was right)" in table

        log = run.gateway.folder / "disputes.jsonl"
        log.mkdir()
        with pytest.raises(FileError, match=r"^cannot write .*disputes\.jsonl, so nothing was done: "):
            exeunt(["gateway", "money", file, "--book", "large", "--reason", "no"])
        assert money.disputed
        log.rmdir()
        exeunt(["gateway", "money", file, "--drop", "large", "--reason", "a fault of the provider"])
        told = capsys.readouterr().out
        assert told.startswith("1 bill of large: ")
        assert told.endswith("It is asked again after POST /admin/models/large/resume.\n")
        assert money.disputed == {}
        assert money.left > 19.9
        assert run.ask("x").json()["model"] == "small"
        assert run.owner.post("/admin/models/large/resume").json() == {"resumed": "large"}
        assert run.ask("x").json()["model"] == "large"
        capsys.readouterr()
        exeunt(["gateway", "money", file, "--resume", "large"])
        assert capsys.readouterr().out == "large is asked again\n"
        assert run.gateway.money.total.stopped == ()
        with pytest.raises(InputError, match="'large' is not stopped: it is asked as before"):
            exeunt(["gateway", "money", file, "--resume", "large"])

        exeunt(["gateway", "money", file, "--book", "large", "--reason", "its price was wrong"])
        assert money.total.spent > 1_000  # somebody has said so
        assert capsys.readouterr().out.endswith("count. It is asked as before.\n")
        assert_overdrawn(run)
        exeunt(["gateway", "money", file])
        assert re.search(
            r"^each day .* nothing, [\d,.]+ usd above it +[\d-]+ 00:00 UTC$", capsys.readouterr().out, re.M
        )
        decided = [json.loads(line) for line in log.read_text().splitlines()]
        dropped, booked = ((one["decision"], one["reason"]) for one in decided)
        assert dropped == ("dropped", "a fault of the provider")
        assert booked == ("booked", "its price was wrong")


def test_a_bill_that_comes_after_the_log_was_written_stays_disputed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    money = Money(tmp_path / "money.db", Spend(total="20 usd"), None)

    def bill(claimed: float) -> None:
        held = money.total.reserve(0.1, model="large")
        assert held.dispatch()
        held.settle(claimed)
        money.total.resume("large")

    def log_and_bill(file: Path, line: Mapping[str, Any]) -> None:
        append(file, line)
        bill(7.0)

    append = append_line
    monkeypatch.setattr("exeunt.gateway.ledgers.append_line", log_and_bill)
    bill(5.0)
    decide_disputes(tmp_path, "large", book=True, reason="it was right", now=0.0)
    (line,) = map(json.loads, (tmp_path / "disputes.jsonl").read_text().splitlines())
    assert (line["bills"], line["claimed"], money.total.spent) == (1, 5.0, 5.1)
    assert [one.claimed for one in money.total.disputed] == [7.0]
    money.close()


def test_a_model_that_is_stopped_while_money_is_held_for_it_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another request's bill comes between the two steps of paying."""
    reserve, stopped = Ledger.reserve, list[bool]()

    def and_stop(self: Ledger, amount: float, **options: Any) -> Reservation:
        held = reserve(self, amount, **options)
        if options.get("model") == "large" and not stopped:
            stopped.append(True)
            other = reserve(self, 0.001, model="large")
            assert other.dispatch()
            other.settle(3)
        return held

    with running(tmp_path, MockProvider(answer, PRICES), shadow="", fallback="[small]") as run:
        monkeypatch.setattr(Ledger, "reserve", and_stop)
        assert run.ask("x").json()["model"] == "small"
        assert run.gateway.money.total.reserved == 0
        assert stopped


def assert_overdrawn(run: Running) -> None:
    """Nothing is left of the day, which no number below 0 says; the next one begins anew."""
    above = run.gateway.money.total.spent - 20
    told, counts = run.state()["money"]["day"], run.metrics()
    assert (told["left"], told["overdrawn"]) == (0, pytest.approx(above))
    assert "exeunt_gateway_left_usd 0.0" in counts
    (shown,) = re.findall(r"^exeunt_gateway_overdrawn_usd (\S+)", counts, re.M)
    assert float(shown) == pytest.approx(above)
    refused = run.ask("x")
    assert refused.status_code == 429
    after = int(refused.headers["retry-after"])
    assert after == pytest.approx(told["ends"] - time.time(), abs=30)
    assert after <= 86_400
    assert f"0 usd of what may be spent is left: try again in {after} s" in error_of(refused)


@pytest.mark.parametrize("wait_s", [None, 1e11])
def test_money_that_nobody_can_wait_for_is_asked_for(wait_s: float | None) -> None:
    error = OverBudget("", asked=1.0, left=0.0, wait_s=wait_s)
    told = "this may cost 1 usd, and 0 usd of what may be spent is left: ask who runs this gateway for more"
    assert missing_money(error, program="gateway", unit="usd") == (402, told, {})


def test_the_log_and_the_counts_say_which_model_is_stopped_and_how_it_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        running(tmp_path, Wrong(answer, PRICES), shadow="", fallback="[small]") as run,
    ):
        for _ in range(2):
            run.ask("x")
        (why,) = [one.fields["why"] for one in caplog.records if one.getMessage() == "a model gave no answer"]
        then = "correct its price, then POST /admin/models/large/resume"
        assert why == f"stopped, since it billed more than it may cost: {then}"
        assert f"is stopped: {then}" in caplog.text
        assert "resume(" not in caplog.text
        assert 'exeunt_gateway_stopped{name="large"} 1.0' in run.metrics()
        run.owner.post("/admin/models/large/resume")
        assert "exeunt_gateway_stopped{" not in run.metrics()


def test_what_the_command_refuses(tmp_path: Path) -> None:
    with running(tmp_path, shadow=""):
        for options, why in (
            (["--drop", "large"], "say why with --reason"),
            (["--drop", "large", "--reason", " "], "say why with --reason"),
            (["--reason", "x"], "give --book MODEL or --drop MODEL"),
            (["--drop", "large", "--book", "large", "--reason", "x"], "give --book MODEL or --drop MODEL"),
            (["--drop", "small", "--reason", "x"], "no bill of 'small' is disputed"),
        ):
            with pytest.raises(InputError, match=why):
                exeunt(["gateway", "money", str(tmp_path / "gateway.yaml"), *options])
