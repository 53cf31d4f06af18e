"""The whole road: shadow, certify, live, and back to the reference when the certificate ends."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("starlette")

from exeunt.cli.app import run as exeunt
from exeunt.gateway.mock_provider import MockProvider, chance

from .running_gateway import PRICES, right_answer, running
from .test_gateway import eventually

N = 300


def sure_answer(model: str, text: str) -> str:
    """Small is right where it is sure: its log-probability is -chance(...), see `MockProvider`."""
    right = model == "large" or chance(model, text, "sure") < 0.6
    return right_answer(text) if right else "wrong"


def test_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provider = MockProvider(sure_answer, PRICES)
    with running(tmp_path, provider) as run:
        for i in range(N):
            run.ask(f"question {i}")
        eventually(lambda: run.gateway.records.counts()["shadow"] == N)
        assert exeunt(["calibrate", str(run.gateway.folder), "--max-loss", "5%"]) == 0
        said = capsys.readouterr().out
        assert "Guarantee: with probability 95%" in said
        assert (run.gateway.folder / "report.html").stat().st_size > 10_000
        with run.http(run.admin) as http:
            assert http.put("/admin/policy", json={"policy": "p9"}).status_code == 400
            assert http.put("/admin/policy", json={"policy": "p1"}).json() == {"policy": "p1"}
            assert http.post("/admin/rollback").json() == {"policy": "reference"}
            assert "no policy costs at most 5%" in http.put("/admin/policy", json={"budget": "5%"}).text
            assert http.put("/admin/policy", json={"budget": "90%"}).json() == {"policy": "p1"}
        models = []
        for i in range(N, N + 100):
            answered = run.ask(f"question {i}")
            models.append(answered.headers["x-exeunt-model"])
            assert answered.headers["x-exeunt-policy"] == "p1"
        assert {"small", "large"} == set(models)
        eventually(lambda: run.gateway.records.counts()["audit"] == 100)
        with run.http(run.admin) as http:
            state = http.get("/admin/state").json()
        assert state["tally"]["saved"][0] > 0
        assert state["tally"]["lost"][0] < 0.2  # of 100 audits; at most .05 is certified
        assert run.gateway.live.active.name == "p1"
        # Records are divided at random. One division in some forty makes a router, whose exits are not watched.
        policy = run.gateway.live.active.policy
        assert policy is not None
        watched = {"audits"} if policy.watched is None else {"audits", "exits"}
        assert {name: points[-1][0] for name, points in state["evidence"].items()} == dict.fromkeys(
            watched, 100
        )

        # The small model becomes worse where it is sure.
        provider.answer = lambda model, text: right_answer(text) if model == "large" else "wrong"
        for i in range(N):
            if run.ask(f"later question {i}").headers["x-exeunt-policy"] == "reference":
                break
        assert run.gateway.live.active.name == "reference"
        with run.http(run.admin) as http:
            state = http.get("/admin/state").json()
            assert state["alarms"][0]["policy"] == "p1"
            assert http.post("/admin/rollback").json() == {"policy": "p1"}
        for i in range(2 * N):  # it is watched again
            if run.ask(f"still later question {i}").headers["x-exeunt-policy"] == "reference":
                break
        eventually(lambda: run.gateway.live.active.name == "reference")
        assert len(run.gateway.live.alarms) == 2
