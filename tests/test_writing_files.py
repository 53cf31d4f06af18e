"""Files are written whole, under names that nobody else chooses."""

from __future__ import annotations

import os

import pytest

import exeunt as ex
from exeunt._files import atomic_path, temporary_name


def test_writers_with_one_process_number_do_not_share_a_file(tmp_path, monkeypatch):
    """Two containers that write to one volume may both be process 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    target = tmp_path / "policy.json"
    with atomic_path(target) as first:
        first.write_text("first")
        with atomic_path(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
        assert first.read_text() == "first"
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]
    names = {temporary_name(target, "new") for _ in range(100)}
    assert len(names) == 100
    assert {name.parent for name in names} == {tmp_path}


def test_a_file_stays_as_it_was_where_writing_fails(tmp_path):
    target = tmp_path / "policy.json"
    target.write_text("before")

    def write():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
    with (
        pytest.raises(ex.InputError, match="does not exist, create it first"),
        atomic_path(tmp_path / "a" / "b"),
    ):
        pass
