"""The budget in the file that all servers of a run watch."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from made_server import POLL_S, made_images, made_run, running, until

import exeunt as ex
from damaged_files import within
from exeunt.errors import FileError
from exeunt.runs.folder import RunFolder
from exeunt.serve import events, server, service
from exeunt.serve.latency_controller import Controller
from exeunt.serve.live_budget import LiveBudget, LiveBudgetFile
from exeunt.serve.metrics import Counts
from exeunt.serve.settings import Settings
from exeunt.web import server as web_server


def live_file(server):
    return server.run.path / "serving.json"


def test_servers_of_one_run_follow_each_other(own):
    with running(own.run) as other:
        own.client.put("/budget", json={"budget": "45%"})
        until(lambda: other.policy() == "45%")
        live_file(own).write_text("{")  # nobody should, and nothing changes
        time.sleep(2 * POLL_S)
        assert other.policy() == "45%"
        live_file(own).unlink()
        until(lambda: other.policy() == "80%")


def test_a_new_run_and_a_budget_that_only_it_can_keep_come_together(own, tmp_path):
    shutil.copy(made_run(tmp_path / "other", budgets=("36%", "50%")).path / "policies.json", own.run.path)
    live_file(own).write_text('{"budget": "40%", "loads": 1}')
    until(lambda: own.policy() == "36%")


@pytest.mark.slow
def test_a_link_that_leads_to_run_after_run_is_followed_each_time(tmp_path):
    """Each of the runs has a file of its own, in which nobody has asked before."""
    link = tmp_path / "link"
    link.symlink_to(made_run(tmp_path / "first").path)
    with running(RunFolder.open(link)) as started, running(RunFolder.open(link)) as other:
        for budget in ("40%", "50%", "70%"):
            (tmp_path / "next").symlink_to(made_run(tmp_path / budget, budgets=(budget,)).path)
            (tmp_path / "next").replace(link)
            assert started.client.post("/reload").status_code == 200
            assert started.policy() == budget
            until(lambda: other.policy() == budget)  # noqa: B023


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_budget_stays_with_the_run_that_a_link_led_to_unless_its_file_lies_elsewhere(tmp_path, elsewhere):
    link, file = tmp_path / "link", tmp_path / "live.json"
    first, second = made_run(tmp_path / "first"), made_run(tmp_path / "second")
    link.symlink_to(first.path)
    with running(RunFolder.open(link), live_file=file if elsewhere else None) as started:
        started.client.put("/budget", json={"budget": "45%"})
        assert started.policy() == "45%"
        (tmp_path / "next").symlink_to(second.path)
        (tmp_path / "next").replace(link)
        assert started.client.post("/reload").status_code == 200
        assert started.policy() == ("45%" if elsewhere else "80%")
    kept = LiveBudgetFile(file if elsewhere else first.path / "serving.json").read()
    assert kept.budget == "45%"


def test_a_run_in_service_depends_on_no_file(tmp_path):
    """Where it is a link, that may lead elsewhere, or nowhere, before anybody asks for the new run."""
    link = tmp_path / "link"
    link.symlink_to(made_run(tmp_path / "first").path)
    with running(RunFolder.open(link), slo_s=0.05) as started:
        before = started.client.get("/budget").json()
        link.unlink()
        assert started.client.get("/budget").json() == before
        assert len(started.answers(made_images(4))) == 4
        assert started.event()["exit_names"] == before["exit_names"]


def test_servers_that_change_the_file_at_once_keep_what_the_others_wrote(tmp_path):
    """Each with a lock of its own: forty wishes to load again, and as many budgets."""
    file = tmp_path / "serving.json"

    def loads():
        return [LiveBudgetFile(file).request_reload() for _ in range(40)]

    def budgets():
        return [LiveBudgetFile(file).set_budget(f"{i + 1}%") for i in range(40)]

    with ThreadPoolExecutor(2) as pool:
        made, _ = [one.result() for one in [pool.submit(loads), pool.submit(budgets)]]
    found = LiveBudgetFile(file).read()
    assert (found.budget, found.loads) == ("40%", made[-1])
    assert made == sorted(set(made))


def test_a_lock_that_is_never_given_back_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("exeunt.serve.live_budget._PATIENCE_S", 0.1)
    live = LiveBudgetFile(tmp_path / "serving.json")
    with live._locked(), pytest.raises(FileError, match=r"another process has locked .*serving.json.lock"):
        LiveBudgetFile(live.path).set_budget("50%")
    live.set_budget("40%")
    assert live.read().budget == "40%"


@pytest.mark.parametrize(
    ("pipe", "change", "message"),
    [
        (None, LiveBudgetFile.request_reload, r"cannot write .*serving.json.lock"),
        (None, lambda live: live.set_budget("50%"), r"cannot write .*serving.json.lock"),
        ("serving.json", LiveBudgetFile.read, r"serving\.json: .* move it away"),
        ("serving.json.lock", lambda live: live.set_budget("40%"), r"serving\.json\.lock: .* move it away"),
    ],
)
def test_a_folder_that_is_gone_and_pipes_are_told_and_not_waited_for(tmp_path, pipe, change, message):
    live = LiveBudgetFile(tmp_path / ("" if pipe else "gone") / "serving.json")
    if pipe:
        os.mkfifo(tmp_path / pipe)
    with within(20), pytest.raises(FileError, match=message):
        change(live)


def test_a_damaged_file_is_replaced_by_whoever_changes_it(tmp_path):
    live = LiveBudgetFile(tmp_path / "serving.json")
    live.path.write_text('{"bud')
    live.set_budget("50%")
    assert live.read() == LiveBudget("50%", 0)
    live.path.write_text('{"bud')
    assert live.request_reload() == live.read().loads > 0


def test_a_run_that_is_loaded_again_under_load_begins_with_the_policy_that_sustains_it(tmp_path, monkeypatch):
    seen = []

    def observe(self, *_):
        if self not in seen:
            seen.append(self)
        if self is seen[0]:  # the others see nothing
            self.rate, self._at = 1e15, 0  # too much even where a row is timed at next to nothing
        return self.active

    monkeypatch.setattr(Controller, "observe", observe)
    run = made_run(tmp_path / "pixels", budgets=("40%", "80%"))
    with running(run, slo_s=0.05) as started:
        until(lambda: started.policy() == "40%")
        assert started.client.post("/reload").status_code == 200
        assert started.policy() == "40%"


def test_rows_of_a_run_before_with_more_exits_do_not_stop_the_page():
    served = SimpleNamespace(loaded=SimpleNamespace(exit_names=["first", "last exit"]))
    counts = Counts(exits=Counter({("50%", 0): 3, ("50%", 1): 1, ("60%", 2): 9}))
    assert events._exits_now(served, counts) == [0.75, 0.25]


def test_the_page_gets_events_and_the_load_is_followed_while_a_run_is_loaded(own, monkeypatch):
    opened, go = service.load_run, threading.Event()
    monkeypatch.setattr(service, "load_run", lambda settings: go.wait(20) and opened(settings))
    LiveBudgetFile(live_file(own)).request_reload()
    try:
        with own.client.stream("GET", "/events", timeout=5) as events:
            lines = (line for line in events.iter_lines() if line)
            for _ in range(4):  # as often as the file is looked at
                next(lines)
        assert not go.is_set()
    finally:
        go.set()


def test_the_budget_stays_where_a_run_is_loaded_again_and_the_file_is_damaged(own, monkeypatch):
    own.client.put("/budget", json={"budget": "60%"})
    reads = iter([LiveBudget("60%", 0)])  # when it is asked to load; then somebody damages the file

    def read(_):
        for found in reads:
            return found
        raise ex.ArtefactError("damaged")

    monkeypatch.setattr(LiveBudgetFile, "changed", lambda _: False)
    monkeypatch.setattr(LiveBudgetFile, "read", read)
    assert own.client.post("/reload").status_code == 200
    assert own.policy() == "60%"


def test_a_budget_in_the_file_that_cannot_be_kept_names_the_file(own, monkeypatch):
    printed = []
    monkeypatch.setattr(service._log, "error", lambda text, **_: printed.append(text))
    live_file(own).write_text('{"budget": "1%", "loads": 0}')
    until(lambda: "serving.json cannot be kept: the smallest budget" in "".join(printed))
    assert own.policy() == "80%"


def test_a_file_that_is_removed_is_no_wish_to_load_the_run_again(own, monkeypatch):
    assert own.client.post("/reload").status_code == 200
    own.client.put("/budget", json={"budget": "45%"})
    loaded = []
    monkeypatch.setattr(service, "load_run", lambda *_: loaded.append(1))
    live_file(own).unlink()
    until(lambda: own.policy() == "80%")
    assert loaded == []


def test_a_server_starts_whatever_budget_was_set_before(tmp_path):
    run = made_run(tmp_path / "pixels")
    for body in ('{"budget": "1%", "loads": 0}', '{"budget": []}', '{"budget": "60%"}', "no JSON"):
        (run.path / "serving.json").write_text(body)
        with running(run, budget="45%") as started:
            assert started.policy() == ("60%" if "60%" in body else "45%")


def test_a_budget_of_the_command_replaces_the_one_that_was_set_earlier(tmp_path, caplog, monkeypatch):
    run = made_run(tmp_path / "pixels")
    monkeypatch.setattr(server, "check_address", lambda *_: None)
    monkeypatch.setattr(server, "load_run", lambda _: SimpleNamespace(controller=lambda _: None))
    monkeypatch.setattr(server, "make_app", lambda *_, **__: None)

    def run_uvicorn(self, sockets):
        sockets[0].close()
        self.started = True

    monkeypatch.setattr(server.uvicorn.Server, "run", run_uvicorn)
    monkeypatch.setattr(web_server, "_LOGS", None)

    def started(**options):
        caplog.clear()
        server.serve(Settings(run=run.path, port=0, **options))
        return [record.fields for record in caplog.records if "replaces" in record.message]

    file = run.path / "serving.json"
    assert started(budget="60%") == []
    assert not file.exists()  # there was nothing to replace
    LiveBudgetFile(file).set_budget("45%")
    LiveBudgetFile(file).request_reload()
    loads = LiveBudgetFile(file).read().loads
    assert started() == []
    assert LiveBudgetFile(file).read() == LiveBudget("45%", loads)
    assert started(budget="60%") == [{"budget": "60%", "replaces": "45%", "file": str(file)}]
    assert LiveBudgetFile(file).read() == LiveBudget("60%", loads)
    assert started(budget="60%") == []
    file.write_text("{")
    assert started(budget="80%") == []  # the service says that it is damaged
