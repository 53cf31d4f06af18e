"""Files are written whole, under names that nobody else chooses."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys

import pytest

import exeunt as ex
from damaged_files import within
from exeunt._support import files
from exeunt._support.files import atomic_folder, atomic_path, check_file, locked, open_regular, read_json
from exeunt._support.paths import open_arrow
from exeunt._support.sealed_json import read_sealed
from exeunt.errors import FileError


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
    names = {files.temporary_name(target, "new") for _ in range(100)}
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
    missing = pytest.raises(ex.InputError, match="does not exist, create it first")
    with missing, atomic_path(tmp_path / "a" / "b"):
        pass


def _files(folder):
    return {file.name: file.read_text() for file in folder.rglob("*") if file.is_file()}


def _write(target, text):
    with atomic_folder(target) as folder:
        (folder / "stage").write_text(text)


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_folder_stays_as_it_was_where_it_cannot_be_replaced(tmp_path, monkeypatch, allowed):
    """`allowed`: how many of the two renames work, of the old folder away and of the new one in."""
    target = tmp_path / "onnx"
    for text in ("before", "after"):
        _write(target, text)
        assert _files(tmp_path) == {"stage": text}
    rename, done = os.rename, []

    def limited(*arguments):
        done.append(arguments)
        if len(done) == allowed + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(*arguments)

    monkeypatch.setattr(os, "rename", limited)
    with pytest.raises(FileError, match=r"cannot write .*onnx: no space left"):
        _write(target, "third")
    assert _files(tmp_path) == {"stage": "after"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_takes_the_place_of_whatever_was_there(tmp_path):
    target = tmp_path / "onnx"
    for make in (
        lambda: target.write_text("file"),
        lambda: target.symlink_to("nowhere"),
        lambda: target.symlink_to(tmp_path.parent),
        target.mkdir,
    ):
        make()
        _write(target, "new")
        assert _files(target) == {"stage": "new"}
        assert list(tmp_path.iterdir()) == [target]
        shutil.rmtree(target)


def test_json_that_python_cannot_take_in_is_damaged_too(tmp_path):
    file = tmp_path / "a.json"
    for text in ("[" * 100_000, '{"n": ' + "1" * 5000 + "}", ""):
        file.write_text(text)
        with pytest.raises(ex.ArtefactError, match=r"a\.json is not complete JSON .*; do it again$"):
            read_json(file, remedy="do it again")


def test_files_are_told_apart_by_digest(tmp_path):
    file, loop = tmp_path / "a", tmp_path / "loop"
    file.write_bytes(b"content")
    digest = files.file_digest(file)
    check_file(file, digest, what="a thing", remedy="mend it")
    for content, problem in ((b"other", "damaged or was edited"), (b"", "is empty")):
        file.write_bytes(content)
        with pytest.raises(ex.ArtefactError, match=rf"\(a thing\) .*{problem}.*: mend it$"):
            check_file(file, digest, what="a thing", remedy="mend it")
    loop.symlink_to(loop)
    for place, error, told in (
        (loop, FileError, r"cannot read \S+loop \(a thing\): too many levels"),
        (tmp_path, ex.ArtefactError, "is a folder, not a file: mend it"),
        (file / "inside", ex.ArtefactError, "is missing, a file is in place of its folder: mend it"),
    ):
        with pytest.raises(error, match=told):
            check_file(place, "0", what="a thing", remedy="mend it")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    pipe, link, folder = tmp_path / "pipe", tmp_path / "link", tmp_path / "folder"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    folder.mkdir()
    no_file = r"device|directory"
    for place, opens in itertools.product((pipe, link, folder), (open_regular, open_arrow, read_json)):
        told = (FileError, "move it away") if opens is read_json else (OSError, no_file)
        with within(20), pytest.raises(told[0], match=told[1]):
            opens(place)
    with within(20), pytest.raises(OSError, match="device"):
        open_regular(pipe, "ab")
    with open_regular(tmp_path / "new", "ab") as file:
        file.write(b"1")
    with open_regular(tmp_path / "new") as file:
        assert file.read() == b"1"
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_that_is_nested_too_deeply_is_damaged(tmp_path):
    file = tmp_path / "policy.json"
    for depth in (900, 100_000):  # the first can be read, and is too deep to be written again for its digest
        nested = "[" * depth + "]" * depth
        file.write_text(f'{{"format": "f", "version": 1, "sha256": "", "x": {nested}}}')
        with pytest.raises(ex.errors.ArtefactError, match=r"policy\.json"):
            read_sealed(file, "x", len, kind="policy", format_="f", version=1, remedy="calibrate again")


def _running(code, place, says):
    """Start a process, and wait until it says that it is where it should be."""
    command = [sys.executable, "-c", code, str(place)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == f"{says}\n"
    return process


HOLDS = """
import sys
from pathlib import Path
from exeunt._support.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "stage").write_text("half")
    print("holds", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_is_replaced_by_one_process_at_a_time_and_killed_ones_leave_nothing(tmp_path):
    target = tmp_path / "onnx"
    _write(target, "first")
    process = _running(HOLDS, target, "holds")
    with pytest.raises(ex.InputError, match=r"another process is writing \S+onnx: wait until it is done"):
        _write(target, "at once")
    assert _files(target) == {"stage": "first"}
    process.kill()
    process.communicate()
    assert [file.suffix for file in sorted(tmp_path.iterdir())] == [".new", ".lock", ""]
    _write(target, "second")
    assert list(tmp_path.iterdir()) == [target]
    # A process that is killed between its two renames has moved the old folder away.
    target.rename(tmp_path / f".onnx.{'0f' * 16}.old")
    with pytest.raises(ex.InputError), atomic_folder(target):
        raise ex.InputError("it cannot be exported")
    assert _files(tmp_path) == {"stage": "second"}
    assert list(tmp_path.iterdir()) == [target]


FORKS = """
import os, sys, time
from pathlib import Path
from exeunt._support.files import locked
lock = Path(sys.argv[1])
with locked(lock, "run"):
    if os.fork() == 0:
        os.kill(os.getppid(), 9)
        print("lives", flush=True)
        sys.stdin.readline()
        os._exit(0)
    time.sleep(60)
"""


def test_a_child_that_outlives_its_parent_does_not_hold_its_lock(tmp_path):
    lock = tmp_path / ".lock"
    process = _running(FORKS, lock, "lives")
    assert process.wait() == -9
    with locked(lock, "run"):
        assert lock.exists()
    process.communicate("the child ends")


def test_a_folder_in_which_no_file_can_be_made_is_named(tmp_path, monkeypatch):
    """As /proc: nothing waits for a file there."""

    def missing(path, _):
        raise FileNotFoundError(path)

    monkeypatch.setattr(files, "open_regular", missing)
    with (
        pytest.raises(FileError, match="cannot write it: no file can be made in "),
        locked(tmp_path / "l", "it"),
    ):
        pytest.fail("locked")
