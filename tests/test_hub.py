"""What asks the network answers within seconds, or is not asked again."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exeunt._hub import check_download, hub_access, is_reachable
from exeunt.errors import InputError


class Refuses(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(403)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """The address of a server that answers, if only to refuse."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def silent():
    """The address of a server that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def nobody():
    """The address of no server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_a_server_that_answers_is_reachable_whatever_it_says(server, nobody):
    assert is_reachable(server)
    assert not is_reachable(nobody)


def test_a_server_that_does_not_answer_is_given_up_soon(silent, monkeypatch):
    monkeypatch.setattr("exeunt._hub._WAIT_S", 0.2)
    started = time.monotonic()
    assert not is_reachable(silent)
    assert time.monotonic() - started < 2


@pytest.fixture
def constants(monkeypatch):
    found = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(found, "HF_HUB_OFFLINE", False)
    return found


def test_an_unreachable_hub_is_not_asked_again_and_again(constants, nobody, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    with hub_access("someone/something"):
        assert constants.HF_HUB_OFFLINE  # what is kept here is used
    assert not constants.HF_HUB_OFFLINE
    with (
        pytest.raises(
            InputError, match=r"127\.0\.0\.1 does not answer, and this machine keeps no copy of 'a/b'"
        ),
        hub_access("a/b"),
    ):
        raise ConnectionError
    with pytest.raises(KeyError), hub_access("a/b"):
        raise KeyError


def test_a_hub_that_answers_is_used_as_it_is(constants, server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server)
    with hub_access("a/b"):
        assert not constants.HF_HUB_OFFLINE
    with pytest.raises(OSError, match="as the library says it"), hub_access("a/b"):
        raise OSError("as the library says it")


def test_a_folder_needs_no_hub(constants, nobody, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    for name in (str(tmp_path), "./not/there"):
        with hub_access(name):
            assert not constants.HF_HUB_OFFLINE


def test_offline_by_choice_says_so(constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set, and"), hub_access("a/b"):
        raise OSError


def test_a_file_that_is_kept_need_not_be_downloaded(nobody, tmp_path):
    check_download(nobody, _touched(tmp_path / "kept.pth"), "the weights")
    with pytest.raises(
        InputError, match="does not answer, and this machine keeps no copy of the weights: connect"
    ):
        check_download(nobody, tmp_path / "absent.pth", "the weights")


def _touched(path):
    path.touch()
    return path
