"""What asks the network answers within seconds, or is not asked again."""

from __future__ import annotations

import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exeunt._support.hub import check_download, hub_access, is_reachable
from exeunt.data import open_source
from exeunt.data.tokens import load_tokenizer
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
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def silent():
    """A server that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def nobody():
    """The address of no server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return address(server)


def address(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_answers_is_reachable_whatever_it_says(server, nobody):
    assert is_reachable(server)
    assert not is_reachable(nobody)


def test_a_server_that_does_not_answer_is_given_up_soon(silent, monkeypatch):
    monkeypatch.setattr("exeunt._support.hub._WAIT_S", 0.2)
    started = time.monotonic()
    assert not is_reachable(address(silent))
    assert time.monotonic() - started < 2


@pytest.fixture
def constants(monkeypatch):
    found = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(found, "HF_HUB_OFFLINE", False)
    return found


def failing(name: str, error: Exception) -> str:
    """Return what is said where a library raises an error as it opens `name`."""
    with pytest.raises(InputError) as raised, hub_access(name, "cannot open it"):
        raise error
    return str(raised.value)


def test_an_unreachable_hub_is_not_asked_again_and_again(constants, nobody, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    with hub_access("someone/something", "cannot open it"):
        assert constants.HF_HUB_OFFLINE  # what is kept here is used
    assert not constants.HF_HUB_OFFLINE
    assert failing("a/b", ConnectionError()) == (
        "127.0.0.1 does not answer, and this machine keeps no copy of 'a/b': connect it, or name a local folder or file"
    )
    assert failing("a/b", KeyError("x")) == "cannot open it: KeyError: 'x'"


def test_of_a_model_without_a_copy_nothing_is_imported(constants, nobody, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    missing = "127.0.0.1 does not answer, and this machine keeps no copy of 'a/b': connect it, or name a local folder"
    with pytest.raises(InputError, match=missing), hub_access("a/b", "cannot open it", model=True):
        pytest.fail("the block has begun")
    (tmp_path / "models--a--b").mkdir()
    with hub_access("a/b", "cannot open it", model=True):
        assert constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_used_as_it_is(constants, server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server)
    with hub_access("a/b", "cannot open it"):
        assert not constants.HF_HUB_OFFLINE
    assert failing("a/b", OSError("no such model\nmore lines")) == "cannot open it: OSError: no such model"
    assert failing("a/b", InputError("as it is")) == "as it is"


def test_a_folder_needs_no_hub(constants, nobody, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    for name in (str(tmp_path), "./not/there"):
        with hub_access(name, "cannot open it"):
            assert not constants.HF_HUB_OFFLINE
        assert failing(name, OSError("damaged")) == "cannot open it: OSError: damaged"


def test_offline_by_choice_says_so(constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert failing("a/b", OSError()).startswith("HF_HUB_OFFLINE is set, and this machine keeps no copy")


def build_model(*arguments, **options):
    pytest.importorskip("torch")
    from exeunt.torch import build_model

    build_model(*arguments, **options)


OPENED = {
    "datasets": lambda: open_source("hf:nobody/nothing"),
    "tokenizers": lambda: load_tokenizer("nobody/nothing"),
    "transformers": lambda: build_model("hf:nobody/nothing"),
    "timm": lambda: build_model("timm:test_resnet", weights="pretrained"),
}


@pytest.mark.parametrize("package", OPENED)
def test_a_hub_that_does_not_answer_is_called_once_whatever_comes_from_it(
    constants, silent, monkeypatch, package
):
    pytest.importorskip(package)
    monkeypatch.setattr(constants, "ENDPOINT", address(silent))
    monkeypatch.setattr("exeunt._support.hub._WAIT_S", 0.1)
    with pytest.raises(InputError, match="does not answer, and this machine keeps no copy"):
        OPENED[package]()
    assert _calls(silent) == 1


def _calls(server: socket.socket) -> int:
    """Return how often a server has been called since the last time."""
    n = 0
    while select.select([server], [], [], 0)[0]:
        server.accept()[0].close()
        n += 1
    return n


def test_a_file_that_is_kept_need_not_be_downloaded(nobody, tmp_path):
    (tmp_path / "kept.pth").touch()
    check_download(nobody, tmp_path / "kept.pth", "the weights")
    told = "does not answer, and this machine keeps no copy of the weights: connect"
    with pytest.raises(InputError, match=told):
        check_download(nobody, tmp_path / "absent.pth", "the weights")
