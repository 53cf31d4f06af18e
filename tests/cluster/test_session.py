"""Connecting to Ray: a cluster is started where none is named, and kept where there is one."""

from __future__ import annotations

import pytest

import exeunt as ex
from exeunt.cluster.session import connected


def test_what_is_connected_stays_connected(cluster):
    with connected("auto") as ray:
        assert ray is cluster
        assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
    assert cluster.is_initialized()


def test_workers_have_this_very_library(cluster):
    def where() -> str:
        import exeunt

        return exeunt.__file__

    assert cluster.get(cluster.remote(where).remote()) == ex.__file__


def test_a_cluster_that_is_not_there_is_told(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("nobody there")))
    with (
        pytest.raises(
            ex.InputError, match=r"no Ray cluster at 'somewhere:1': .*nobody there; start one with"
        ),
        connected("somewhere:1"),
    ):
        pass
