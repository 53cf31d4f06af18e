"""The budget, events, metrics and loading again, on one server and on several of one run."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from made_server import POLL_S, in_base64, made_images, made_run, running, until

import exeunt as ex
from exeunt.runs.folder import RunFolder
from exeunt.serve.live_budget import LiveBudgetFile

IMAGES = in_base64(made_images(8))
ANSWERABLE = {"images": IMAGES}


def policy_of(server):
    (policy,) = {answer["policy"] for answer in server.answers(IMAGES)}
    return policy


def engines():
    return sum(thread.name == "exeunt-engine" for thread in threading.enumerate())


def put(server, budget):
    found = server.client.put("/budget", json={"budget": budget})
    assert found.status_code == 200, found.text
    return found.json()


def test_the_budget_is_changed_while_it_runs(own):
    about = own.client.get("/budget").json()
    assert (about["policy"], about["unit"], about["full_cost"]) == ("80%", "MACs", 3.5)
    assert about["budget"] == pytest.approx(2.8)
    assert [one["name"] for one in about["policies"]] == ["45%", "60%", "80%"]
    costs = [one["expected_cost"] for one in about["policies"]]
    assert costs == sorted(costs)
    fit = own.run.trace("fit")
    for one, policy in zip(about["policies"], own.run.policy_set, strict=True):
        assert one["accuracy"] == ex.evaluate(policy, fit).accuracy
    assert policy_of(own) == "80%"
    found = put(own, "70%")
    assert (found["policy"], found["budget"]) == ("60%", pytest.approx(2.45))
    assert policy_of(own) == "60%"
    assert put(own, 1.575)["policy"] == "45%"
    assert json.loads((own.run.path / "serving.json").read_text())["budget"] == 1.575


def test_a_budget_is_not_put_back_by_who_looks_at_the_file_before_it_is_written(own, monkeypatch):
    assert put(own, "60%")["policy"] == "60%"
    write = LiveBudgetFile.set_budget

    def slow(self, budget):
        os.utime(self.path)
        time.sleep(2 * POLL_S)  # it is looked at meanwhile
        write(self, budget)

    monkeypatch.setattr(LiveBudgetFile, "set_budget", slow)
    assert put(own, "45%")["policy"] == "45%"
    assert policy_of(own) == "45%"


JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ('{"budget": "1%"}', JSON, "smallest budget"),
        ('{"budget": "x"}', JSON, "not understood"),
        ('{"budget": true}', JSON, "valid number"),
        ('{"budget": null}', JSON, "valid"),
        ('{"bugdet": 1}', JSON, "bugdet is unknown, choose of budget"),
        ('{"budget": ', JSON, "the body: Invalid JSON"),
        ('{"budget": "45%"}', "text/plain", "content-type: application/json"),
        ("[1]", JSON, "JSON object"),
    ],
)
def test_a_budget_that_cannot_be(client, body, kind, message):
    before = client.get("/budget").json()
    found = client.put("/budget", content=body, headers={"content-type": kind})
    assert (found.status_code, message in found.json()["error"]) == (422, True), found.text
    assert client.get("/budget").json() == before


def test_a_budget_that_cannot_be_kept_is_not_set(own, monkeypatch):
    monkeypatch.setattr("exeunt.serve.live_budget.write_json", refuse)
    found = own.client.put("/budget", json={"budget": "45%"})
    assert (found.status_code, found.json()["error"]) == (500, "the disk is full")
    assert own.policy() == "80%"


def refuse(*_):
    raise ex.errors.FileError("the disk is full")


def test_a_run_is_loaded_again_without_a_gap(own, tmp_path):
    first = own.client.post("/predict", json=ANSWERABLE).json()
    other = made_run(tmp_path / "other", budgets=("50%",))
    shutil.copy(other.path / "policies.json", own.run.path / "policies.json")
    with running(RunFolder.open(own.run.path)) as follower:
        shutil.copy(made_run(tmp_path / "third", budgets=("55%",)).path / "policies.json", own.run.path)
        assert policy_of(follower) == "50%"
        assert own.client.post("/predict", json=ANSWERABLE).json() == first  # until it is asked to
        assert own.client.post("/reload").status_code == 200
        assert policy_of(own) == "55%"
        until(lambda: policy_of(follower) == "55%")


def test_requests_under_way_are_answered_while_the_run_is_replaced(own):
    wanted = own.client.post("/predict", json=ANSWERABLE).json()
    own.executor.pause_s, before = 0.002, engines()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(own.client.post, "/predict", json=ANSWERABLE) for _ in range(80)]
        for _ in range(3):
            assert own.client.post("/reload").status_code == 200
        assert [one.result().json() for one in asked] == [wanted] * 80
    until(lambda: engines() <= before)  # those of the runs before have ended


def test_what_cannot_be_loaded_leaves_the_run_before_in_service(own):
    (own.run.path / "policies.json").write_text("{}")
    found = own.client.post("/reload")
    assert (found.status_code, "policies.json" in found.json()["error"]) == (500, True)
    assert policy_of(own) == "80%"


@pytest.mark.parametrize("budgets", [("36%",), ("36%", "90%")])
def test_a_run_that_the_controller_cannot_serve_leaves_no_engine_behind(tmp_path, budgets):
    """Its policies are too inaccurate, or too expensive; its engine would keep the network."""
    bad, run = made_run(tmp_path / "bad", budgets=budgets), made_run(tmp_path / "pixels", budgets=("80%",))
    with running(run, slo_s=1.0, budget="80%", min_accuracy=0.95) as started:
        before = engines()
        shutil.copy(bad.path / "policies.json", run.path)
        found = started.client.post("/reload")
        assert found.status_code == 422
        assert re.search("least budget|no policy", found.json()["error"])
        until(lambda: engines() == before)
        assert started.client.post("/predict", json=ANSWERABLE).status_code == 200


def test_an_engine_that_broke_says_that_the_server_should_be_started_anew(own, monkeypatch):
    def status(name):
        return own.client.get(f"/v2/health/{name}").status_code

    assert (status("live"), status("ready")) == (200, 200)
    monkeypatch.setattr(own.executor, "run", breaks)
    found = own.client.post("/predict", json=ANSWERABLE)
    assert (found.status_code, "has stopped" in found.json()["error"]) == (503, True)
    until(lambda: status("live") == 503)
    assert status("ready") == 503
    assert own.client.post("/predict", json=ANSWERABLE).status_code == 503


def test_a_server_that_is_about_to_end_is_not_ready(own):
    own.layer("state").state.service.drain()  # as on a signal
    live, ready = (own.client.get(f"/v2/health/{name}").status_code for name in ("live", "ready"))
    assert (live, ready) == (200, 503)
    assert own.client.post("/predict", json=ANSWERABLE).status_code == 200  # who sends one all the same


def test_a_server_that_takes_one_row_at_a_time(run):
    with running(run, max_rows=1) as started:
        for n, status in ((1, 200), (2, 422)):
            sent = {"images": in_base64(made_images(n))}
            assert started.client.post("/predict", json=sent).status_code == status


ENDING = """
import sys
from pathlib import Path
import made_server
from exeunt.serve import loaded_run, server
from exeunt.serve.settings import Settings
executor = made_server.PixelExecutor()
loaded_run.open_shared = made_server.shared_of(executor)
opened = loaded_run.load_run(Settings(run=Path(sys.argv[1])))
run = executor.run
def breaks(segment, state, wanted):
    if len(state) > 4:
        raise BaseException("what no engine expects")
    return run(segment, state, wanted)
executor.run, server.load_run = breaks, lambda settings: opened
server.serve(Settings(run=Path(sys.argv[1]), port=int(sys.argv[2])))
"""


def test_a_server_ends_with_its_engine(run):
    """As an error, so that its supervisor starts another. Open requests get their error first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [Path(__file__).parent, Path(__file__).parents[1], os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", ENDING, str(run.path), str(port)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: _live(url) or process.poll() is not None, seconds=60)
            assert httpx.post(f"{url}/predict", json=ANSWERABLE, timeout=20).status_code == 503
            message = process.communicate(timeout=20)[1]
        finally:
            process.kill()  # else a failure waits for it without end
    assert process.returncode == 1
    assert "what no engine expects" in message
    assert all(json.loads(line) for line in message.splitlines())


def _live(url):
    try:
        return httpx.get(f"{url}/v2/health/live").status_code == 200
    except httpx.TransportError:
        return False


def breaks(*_):
    raise BaseException("what no engine expects")


def test_events_show_the_last_seconds(client, server):
    for _ in range(3):
        client.post("/predict", json=ANSWERABLE | {"budget": "45%"})
    with client.stream("GET", "/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
    found = server.event()
    assert found["rows_per_s"] == pytest.approx(8 * found["requests_per_s"], rel=1e-6)
    assert found["requests_per_s"] > 0
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p95"] <= found["latency_ms"]["p99"]
    assert sum(found["exits_now"]) == pytest.approx(1)
    assert sum(found["exits_plan"]) == pytest.approx(1)
    assert len(found["exits_now"]) == len(found["exits_plan"]) == len(found["exit_names"]) == 3
    assert 1.0 <= found["mean_cost"] <= 3.5
    about = client.get("/budget").json()
    accuracy = {one["name"]: one["accuracy"] for one in about["policies"]}
    assert found["estimated_accuracy"] == pytest.approx(accuracy["45%"])
    assert found["accuracy_without_load"] == pytest.approx(accuracy["45%"])  # it is what they asked for
    assert (found["policy"], found["policy_without_load"], found["workers"]) == ("80%", "80%", 1)
    assert found["budget"] == found["budget_active"] == about["budget"] == about["budget_active"]


def test_metrics_count(own):
    for sent in (ANSWERABLE | {"budget": "45%"}, {"images": ["!"]}, {}):
        own.client.post("/predict", json=sent)
    assert own.event()["requests_per_s"] > 0.1  # it was divided by the time since the machine had started
    own.client.get("/nowhere")
    message = own.client.get("/metrics").text
    # With a controller less may be active.
    assert "# HELP exeunt_budget The largest mean cost per row" in message
    lines = dict(line.rsplit(" ", 1) for line in message.splitlines() if not line.startswith("#"))
    for path, status, count in (("/predict", 200, "2.0"), ("/predict", 422, "1.0"), ("other", 404, "1.0")):
        assert lines[f'exeunt_requests_total{{path="{path}",status="{status}"}}'] == count
    rows = [float(lines[name]) for name in lines if name.startswith('exeunt_rows_total{exit="')]
    assert sum(rows) == 8
    assert lines['exeunt_problems_total{problem="errors"}'] == "1.0"
    assert lines["exeunt_rows_waiting"] == "0.0"
    assert float(lines["exeunt_cost_total"]) >= 8
    assert float(lines["exeunt_budget"]) == pytest.approx(2.8)


def test_the_page_comes_with_its_parts(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for part in re.findall(r'(?:href|src)="(page/[^"]+)"', page.text):
        assert client.get(f"/{part}").status_code == 200
    assert client.get("/page/..%2fapp.py").status_code == 404
    assert client.get("/page/nothing.js").status_code == 404


def test_the_interface_is_described(client):
    described = client.get("/openapi.json").json()
    paths = described["paths"]
    assert {"/predict", "/budget", "/metrics", "/v2/models/{model}/infer"} <= set(paths)
    assert client.get("/docs").status_code == 200
    found = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(described))
    assert found
    for place in found:
        part = described
        for name in place.split("/"):
            part = part[name]
    (infer,) = paths["/v2/models/{model}/infer"]["post"]["requestBody"]["content"].values()
    assert set(infer["schema"]["properties"]["inputs"]["items"]["required"]) == {"name", "shape", "datatype"}


def test_an_address_or_a_method_that_is_not_there(client):
    for path, status, message in (("/nothing", 404, "/openapi.json"), ("/predict", 405, "does not take GET")):
        found = client.get(path)
        assert (found.status_code, message in found.json()["error"]) == (status, True)
    assert client.get("/redoc").status_code == 404


def test_under_load_the_budget_is_lowered(tmp_path):
    run = made_run(tmp_path / "pixels", budgets=("40%", "80%"))
    with running(run, slo_s=0.05) as started, ThreadPoolExecutor(16) as pool:
        about = started.client.get("/budget").json()
        assert (about["policy"], about["slo_ms"], about["slo_quantile"]) == ("80%", 50, 0.99)
        started.executor.pause_s, lowered = 0.02, threading.Event()

        def ask():
            found = []
            while not lowered.is_set():
                found.append(started.client.post("/predict", json=ANSWERABLE))
                if "40%" in found[-1].text:
                    lowered.set()
            return {one.status_code for one in found}

        statuses = [pool.submit(ask) for _ in range(16)]
        assert lowered.wait(60)
        assert {200} <= set().union(*(one.result() for one in statuses)) <= {200, 503}
        assert started.client.get("/budget").json()["budget"] == pytest.approx(0.8 * 3.5)
        found = put(started, "50%")
        assert (found["policy"], found["budget"]) == ("40%", pytest.approx(1.75))
