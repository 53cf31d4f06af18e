"""`exeunt serve` as a process: it starts, answers, follows signals, and says what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from .command import called, environment
from .conftest import WORDS

for package in ("sklearn", "skops", "fastapi", "uvicorn", "httpx"):
    pytest.importorskip(package)

TEXTS = {"texts": [f"{word} please" for word in WORDS]}


@pytest.fixture(scope="module")
def folder(tfidf, tmp_path_factory):
    return shutil.copytree(tfidf[0], tmp_path_factory.mktemp("serving"), dirs_exist_ok=True)


def started(folder, *options, workers, **more):
    """A process that serves, or tries to."""
    served = [sys.executable, "-m", "exeunt", "serve", "run", "--port", "0", "--workers", str(workers)]
    environ = environment(folder)
    return subprocess.Popen(
        [*served, *options], cwd=folder, stderr=subprocess.PIPE, text=True, env=environ, **more
    )


def until(condition, seconds=60):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def serving(folder, *options, workers):
    """A process that serves, its address, and the lines of its log so far."""
    with started(folder, *options, workers=workers) as process:
        lines, there = [], threading.Event()

        def read():
            for line in process.stderr:
                lines.append(json.loads(line))
                started = [one for one in lines if one["what"] == "Application startup complete."]
                if len(started) == workers and any("Uvicorn running" in one["what"] for one in lines):
                    there.set()
            there.set()

        reading = threading.Thread(target=read)
        reading.start()
        try:
            assert there.wait(120)
            said = next(line["what"] for line in lines if "Uvicorn running" in line["what"])
            yield process, re.search(r"http://\S+", said)[0], lines
        finally:
            process.kill()
            process.wait()
            reading.join()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_it_answers_until_it_is_told_to_end(folder, workers):
    import httpx

    with serving(folder, "--log-requests", workers=workers) as (process, url, lines):
        found = httpx.post(f"{url}/predict", json=TEXTS, timeout=60).json()["answers"]
        assert [answer["class_name"] for answer in found] == list(WORDS)
        with httpx.stream("GET", f"{url}/events", timeout=60) as events:
            next(events.iter_lines())  # a stream that has no end of its own
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, -signal.SIGTERM)
    asked = next(line for line in lines if line.get("path") == "/predict")
    assert (asked["status"], asked["method"], asked["what"]) == (200, "POST", "request")
    assert "balance" not in json.dumps(lines)


@pytest.mark.slow
def test_what_workers_count_is_added_up_and_outlives_them(folder, tmp_path, monkeypatch):
    import httpx

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    count = 'exeunt_requests_total{path="/predict",status="200"}'

    def metrics():  # of whichever worker takes the connection
        said = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        return dict(line.rsplit(" ", 1) for line in said if not line.startswith("#"))

    def told():
        said = [metrics() for _ in range(10)]
        return {(one[count], one["exeunt_rows_waiting"], one["exeunt_budget"]) for one in said}

    def settled():  # how many rows wait in the other one it tells once a second
        found = set()

        def is_settled():
            found.clear()
            found.update(told())
            return len(found) == 1 and {waiting for _, waiting, _ in found} == {"0.0"}

        until(is_settled, 10)
        return found

    def counting():
        return {int(path.stem.rpartition("_")[2]) for path in tmp_path.glob("exeunt-*/counter_*.db")}

    with serving(folder, workers=2) as (process, url, lines):
        assert httpx.get(f"{url}/budget", timeout=60).json()["workers"] == 2
        for _ in range(30):  # a connection each, which either of them takes
            httpx.post(f"{url}/predict", json=TEXTS, timeout=60).raise_for_status()
        ((asked, _, budget),) = before = settled()
        assert asked == "30.0"
        assert float(budget) > 0
        killed = min(counting())
        os.kill(killed, signal.SIGKILL)
        until(lambda: not list(tmp_path.glob(f"exeunt-*/gauge_live*_{killed}.db")))
        assert settled() == before
        httpx.post(f"{url}/predict", json=TEXTS, timeout=60).raise_for_status()
        assert settled() == {("31.0", "0.0", budget)}
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert list(tmp_path.glob("exeunt-*")) == []
    assert any("died" in line["what"] for line in lines)


@pytest.mark.slow
def test_a_worker_that_cannot_start_leaves_the_others_in_service_and_a_killed_server_no_folder(
    folder, tmp_path, monkeypatch
):
    import httpx

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    policy, away = folder / "run" / "policy.json", tmp_path / "policy.json"

    def answering(url):
        ready = httpx.get(f"{url}/v2/health/ready", timeout=60).raise_for_status().json()
        return ready["workers"]["answering"]

    with serving(folder, workers=2) as (process, url, lines):
        begun = [re.search(r"server process \[(\d+)\]", line["what"]) for line in lines]
        policy.rename(away)
        try:
            os.kill(int(next(found for found in begun if found)[1]), signal.SIGKILL)
            until(
                lambda: any(line.get("next_start_s", 0.0) >= 2.0 for line in lines), 120
            )  # it was tried twice
            assert process.poll() is None
            assert answering(url) == 1
            assert "exeunt_workers 1.0" in httpx.get(f"{url}/metrics", timeout=60).text
            assert httpx.post(f"{url}/predict", json=TEXTS, timeout=60).status_code == 200
        finally:
            away.rename(policy)
        until(lambda: answering(url) == 2, 120)
        (left,) = tmp_path.glob("exeunt-*")
    with serving(folder, workers=2):
        assert not left.exists()


@pytest.mark.slow
def test_workers_end_with_what_looks_after_them(folder):
    def is_free(port):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    with serving(folder, workers=2) as (process, url, _):
        process.kill()  # the address is free only once no worker has it
        until(lambda: is_free(int(url.rpartition(":")[2])))


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 1.0, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_hear_signals_while_they_start(folder, number, after_s):
    """As by Ctrl-C, all of them at once, or by the one that looks after them."""
    with started(folder, workers=2, start_new_session=True) as process:
        for line in process.stderr:
            if "Started parent" in line:
                break
        time.sleep(after_s)
        begun = time.monotonic()
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        process.stderr.read()
        process.wait(30)
    assert time.monotonic() - begun < 15
    until(lambda: not _is_left(process.pid), 30)  # what cleans up behind workers ends last


def _is_left(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_an_address_is_held_from_the_start(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    servers = [started(folder, "--port", port, workers=workers) for workers in (2, 2, 1)]
    until(lambda: sum(one.poll() is None for one in servers) <= 1)
    time.sleep(2)
    (left,) = (one for one in servers if one.poll() is None)
    left.terminate()
    for one in servers:
        said = one.communicate(timeout=60)[1]
        if one is not left:
            assert "in use" in said
            assert one.returncode != 0


def test_what_is_wrong_is_one_line(folder, tmp_path):
    (tmp_path / "keys").write_text("# none\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, told in (
            (tmp_path, "run folder"),
            ("--budget 1%", "the smallest budget"),
            ("--budget 1% --workers 2", "the smallest budget"),
            ("--tier gold", "--tier must be a name and a budget"),
            ("--tier gold=50% --tier gold=60%", "--tier gold is given twice, with 50% and 60%"),
            ("--tier bulk=1%", "--tier bulk=1%: the smallest budget of this set is"),
            (f"--api-key-file {tmp_path / 'none'}", "cannot read the API keys"),
            (f"--api-key-file {tmp_path / 'keys'}", "holds no API key"),
            ("--when-full wait", "--when-full must be refuse or degrade"),
            ("--slo-ms 50 --min-accuracy x", "--min-accuracy must be a share"),
            ("--slo-ms -5", "--slo-ms must be above 0 and finite, got -5"),
            ("--min-accuracy 50%", "--min-accuracy says how --slo-ms is to be kept: give --slo-ms, too"),
            ("--slo-quantile 50%", "--slo-quantile says how --slo-ms is to be kept: give --slo-ms, too"),
            ("--workers 99999", "--workers must be 1 to"),
            ("--threads 99999", "--threads must be 1 to"),
            ("--name a/b", "the name of the model is a part of addresses and has no /, got 'a/b'"),
            ("--max-pixels 0", "--max-pixels must be above 0 and finite, got 0"),
            (f"--live-file {tmp_path}", "--live-file must be a file"),
            ("--host 0.0.0.0", "--host 0.0.0.0 opens the server to every network"),
            ("--host 0.0.0.0 --allowed-host a:80", "--allowed-host must be a name"),
            (
                f"--port {port}",
                f"port {port} at 127.0.0.1 is in use: end what listens there, or choose another",
            ),
        ):
            run = "" if options == tmp_path else folder / "run"
            done = called(f"serve {run} {options}")
            assert done.status == 2, options
            assert told in done.err
