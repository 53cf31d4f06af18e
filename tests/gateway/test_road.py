"""The whole road: shadow, certify, live, and back to the reference when the certificate ends."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exeunt.cli.app import run as exeunt
from exeunt.gateway.gateway import in_another_process
from exeunt.gateway.mock_provider import MockProvider, chance

from .running_gateway import PRICES, Running, eventually, right_answer, running

N = 400
PROMISE = {"promise": "{max_loss: 10%}", "period": "1 s", "unit_idle": "0.2 s", "min_periods": "2"}


def sure_answer(model: str, text: str) -> str:
    """Small is right where it is sure: its log-probability is -chance(...), see `MockProvider`."""
    right = model == "large" or chance(model, text, "sure") < 0.6
    return right_answer(text) if right else "wrong"


def ask_all(run: Running, name: str, numbers: range) -> list[str]:
    """Ask, eight at a time, and return who answered."""

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: run.ask(f"{name} {number}"), numbers)
        return [one.headers["x-exeunt-model"] for one in answers]


def ask_until_the_reference_answers(run: Running, name: str) -> None:
    for start in range(0, 3 * N, 20):
        ask_all(run, name, range(start, start + 20))
        if run.gateway.live.active.name == "reference":
            return
    raise AssertionError("there was no alarm")


def test_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provider = MockProvider(sure_answer, PRICES)
    with running(tmp_path, provider, **PROMISE) as run:
        gateway, folder = run.gateway, str(run.gateway.folder)
        ask_all(run, "question", range(N))
        eventually(lambda: bool(gateway.status and gateway.status.certified), tries=3000)
        assert gateway.live.active.name == "reference"  # who owns it decides
        assert exeunt(["gateway", "certify", folder]) == 0
        said = capsys.readouterr().out
        assert "Guarantee: with probability 95% over all looks and questions together" in said
        assert "per request is at most 10 points below that of large" in said
        assert (gateway.folder / "report.html").stat().st_size > 10_000
        name = next(reversed(gateway.status.certified))
        assert run.take(policy="p999").status_code == 400
        assert run.take(policy=name).json() == {"policy": name}
        assert run.owner.post("/admin/rollback").json() == {"policy": "reference"}
        assert "no certified policy costs at most 1%" in run.take(budget="1%").text
        assert run.take(budget="95%").status_code == 200
        assert run.take(policy=name).json()["policy"] == name
        assert set(ask_all(run, "live question", range(60))) == {"small", "large"}
        eventually(lambda: gateway.traffic.bill.now.loss.n == 60)
        state = run.state()
        saved, compared, lost = (state["bill"][what] for what in ("saved", "compared", "lost"))
        assert saved[0] + compared > 0 > saved[0]  # all are audited, which costs more than is saved
        assert lost[0] < 0.35  # of 60 audits; at most .1 is certified
        # What is not estimated is what the provider's books say.
        assert gateway.money.total.spent == pytest.approx(provider.spent, abs=1e-8)
        watched = {"audits"} if gateway.live.active.policy.watched is None else {"audits", "exits"}
        counts = {kind: points[-1][0] for kind, points in state["evidence"].items()}
        assert counts == dict.fromkeys(watched, 60)

        # The small model becomes worse where it is sure.
        provider.answer = lambda model, text: right_answer(text) if model == "large" else "wrong"
        ask_until_the_reference_answers(run, "later question")
        eventually(lambda: gateway.status is not None)
        state = run.state()
        assert state["alarms"][0]["policy"] == name
        assert "asked because of an alarm" in " ".join(state["standing"])
        assert run.owner.post("/admin/rollback").json() == {"policy": name}
        ask_until_the_reference_answers(run, "still later question")  # it is watched again
        assert len(gateway.live.alarms) == 2


def test_what_takes_long_runs_in_another_process() -> None:
    assert asyncio.run(in_another_process(divmod, 7, 2)) == (3, 1)
