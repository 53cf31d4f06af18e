"""Policies whose models are others by now, and files that cannot be written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exeunt.cli.app import run as exeunt
from exeunt.errors import ArtefactError, FileError
from exeunt.gateway.config import read_config
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.page_state import PageState
from exeunt.gateway.saved_policies import GatewayPolicies

from .running_gateway import eventually, running, written
from .test_saved_policies import policy


def test_a_gateway_starts_with_the_reference_where_the_models_of_its_policy_have_changed(
    tmp_path: Path,
) -> None:
    file = written(tmp_path)
    gateway = Gateway(read_config(file))
    gateway.policies.add(policy())
    gateway.live.activate("p1")
    asyncio.run(gateway.close())
    file.write_text(file.read_text().replace("max_tokens: 100", "max_tokens: 200"))
    for _ in range(2):
        gateway = Gateway(read_config(file))
        assert gateway.live.active.name == "reference"
        assert [one["policy"] for one in gateway.live.alarms] == ["p1"]
        assert "have changed" in gateway.live.alarms[0]["alarm"]
        asyncio.run(gateway.close())


def test_a_policy_of_before_there_were_units_must_be_certified_again(tmp_path: Path) -> None:
    config = read_config(written(tmp_path))
    former = Gateway(config)
    former.policies.add(replace(policy(), notes={}))
    former.policies.activate("p1", 0.0)
    asyncio.run(former.close())
    gateway = Gateway(config)
    state = PageState(gateway).read()
    assert (state["policy"], gateway.live.active.name) == ("reference", "reference")
    for told in (state["policies"]["p1"]["unfit"], state["alarms"][0]["alarm"]):
        assert "must be certified again" in told
    with pytest.raises(ArtefactError, match="must be certified again"):
        gateway.live.activate("p1")
    asyncio.run(gateway.close())


def test_policies_of_other_models_are_told_of_to_who_administers_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gateway, "certified", ["p1", "p2"])
    with running(tmp_path) as run:
        old = GatewayPolicies(run.gateway.folder, replace(run.gateway.models, identity={}))
        assert old.add(policy()) == "p1"
        assert run.gateway.policies.add(policy()) == "p2"
        for name in ("p1", "p9"):
            refused = run.ask("x", model=f"auto:{name}")
            assert refused.status_code == 404
            assert str(tmp_path) not in refused.text
        assert run.ask("x", model="auto:p2").headers["x-exeunt-policy"] == "p2"
        refused = run.take(policy="p1")
        assert (refused.status_code, "have changed" in refused.text) == (400, True)
        assert run.take(budget="100%").json() == {"policy": "p2"}
        for i in range(3):
            run.owner.get(f"/admin/made-up-{i}x")
            run.owner.get(f"/admin/madeup{i}")
        assert "madeup" not in run.metrics()  # nobody fills the memory with counts


@pytest.mark.parametrize("by_command", [False, True])
def test_a_policy_with_features_of_a_forgotten_client_answers_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by_command: bool
) -> None:
    monkeypatch.setattr("exeunt.gateway.gateway._SAVE_S", 0.0)
    monkeypatch.setattr("exeunt.gateway.gateway._STEP_S", 0.01)
    with running(tmp_path) as run:
        for name, client in (("p1", "bob"), ("p2", "alice")):
            run.gateway.policies.add(policy())
            (run.gateway.folder / "policies" / f"{name}.clients").write_text(f'["{client}"]')
            run.gateway.live.activate(name)

        def forget(client: str) -> str:
            if not by_command:
                return run.owner.delete(f"/admin/clients/{client}").text
            exeunt(["gateway", "forget", str(tmp_path / "gateway.yaml"), client])
            return capsys.readouterr().out

        assert run.state()["policies"]["p1"]["unfit"] == ""
        told = "p1 held features of its requests" if by_command else '{"removed":0}'
        assert told in forget("bob")
        eventually(lambda: run.ask("x", model="auto:p1").status_code == 404)
        assert run.ask("x").headers["x-exeunt-policy"] == "p2"
        forget("alice")
        eventually(lambda: run.gateway.live.active.name == "reference")
        state = run.state()
        why = "p2 held features of requests of a client that was forgotten"
        assert why in state["alarms"][-1]["alarm"]
        assert "was forgotten" in state["policies"]["p1"]["unfit"]
        assert "no certified policy costs at most" in run.take(budget="100%").text


def refuse(*_: Any, **__: Any) -> None:
    raise FileError("the disk is full")


def test_the_reference_answers_after_an_alarm_that_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as run:
        run.gateway.policies.add(policy())
        run.gateway.live.activate("p1")
        monkeypatch.setattr("exeunt.gateway.live_policy.write_json", refuse)
        alarm: Any = type("Alarm", (), {"sentences": "it is worse"})
        run.gateway.live.fall_back(alarm)
        assert run.ask("x").headers["x-exeunt-policy"] == "reference"
        assert run.state()["fallen_from"] == "p1"


def test_records_that_cannot_be_tidied_now_are_tidied_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(read_config(written(tmp_path)))
    tries: list[float] = []

    def expire(before: float) -> None:
        tries.append(before)
        refuse()

    monkeypatch.setattr(gateway.records, "expire", expire)
    monkeypatch.setattr("exeunt.gateway.gateway._STEP_S", 0.01)
    monkeypatch.setattr("exeunt.gateway.gateway._TIDY_S", 0.0)

    async def some_time() -> None:
        tidying = asyncio.ensure_future(gateway.tidy())
        for _ in range(1000):
            await asyncio.sleep(0.005)
            if len(tries) > 1:
                break
        assert not tidying.done()
        tidying.cancel()
        await gateway.close()

    asyncio.run(some_time())
    assert len(tries) > 1
