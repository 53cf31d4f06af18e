"""How many cores and how much memory a process may use, on file systems as the kernel shows them."""

from __future__ import annotations

import os

import pytest

from exeunt._support import limits


@pytest.fixture
def cores_with(tmp_path, monkeypatch):
    """Return the number of cores on a machine of 8, with these files below /sys/fs/cgroup and lines in /proc."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "_OWN", tmp_path / "own")

    def count(own, **files):
        if own is not None:
            (tmp_path / "own").write_text(own)
        for name, text in files.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return limits.usable_cores()

    return count


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1),
                         ("6400000 100000", 8), ("50000 50000\n", 1), ("nonsense", 8), ("", 8)]
)  # fmt: skip
def test_the_limit_of_a_container(cores_with, limit, cores):
    assert cores_with("0::/\n", **{"cpu.max": limit}) == cores


def test_the_limit_of_any_group_around_counts_and_no_path_of_the_host_is_looked_for_outside(cores_with):
    files = {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "400000 100000"}
    assert cores_with("0::/a/b\n", **files) == 3
    assert cores_with("0::/docker/0123\n", **{"cpu.max": "300000 100000"}) == 3
    assert cores_with("0::/../../x\n", **{"cpu.max": "200000 100000"}) == 2


def test_groups_of_version_1(cores_with):
    files = {"cpu/job/cpu.cfs_quota_us": "250000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}
    own = "5:memory:/other\n4:cpu,cpuacct:/job\n1:name=systemd:/x\n"
    assert cores_with(own, **files) == 3
    assert cores_with(own, **{**files, "cpu/job/cpu.cfs_quota_us": "-1\n"}) == 8


def test_without_groups_the_affinity_counts(cores_with, monkeypatch):
    assert cores_with(None) == 8
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores_with(None) == 1


def test_pytorch_keeps_within_the_limit(monkeypatch):
    torch = pytest.importorskip("torch")
    from exeunt.torch import devices

    threads = [torch.get_num_threads()]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for cores, set_to, expected in ((2, 4, 2), (2, 1, 1), (8, 4, 4)):
        threads.append(set_to)
        monkeypatch.setattr(devices, "usable_cores", lambda cores=cores: cores)
        devices.limit_threads()
        assert threads[-1] == expected


@pytest.mark.parametrize(("limit", "usable"), [("max", 8 << 30), (1 << 30, 1 << 30), (1 << 50, 8 << 30)])
def test_the_memory_of_a_container(cores_with, monkeypatch, limit, usable):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2 << 20, "SC_PAGE_SIZE": 4096}.__getitem__)
    cores_with("0::/a\n", **{"a/memory.max": f"{limit}\n"})
    assert limits.usable_memory() == usable


def test_memory_in_groups_of_version_1_and_where_nothing_is_known(cores_with, monkeypatch):
    cores_with("5:memory:/job\n", **{"memory/job/memory.limit_in_bytes": "4096\n"})
    assert limits.usable_memory() == 4096
    monkeypatch.setattr(os, "sysconf_names", {})
    cores_with("5:memory:/other\n")
    assert limits.usable_memory() >= 1 << 60
