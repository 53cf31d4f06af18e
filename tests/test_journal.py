"""Results that are kept line by line: interrupted, damaged, of another job, or in memory alone."""

from __future__ import annotations

import stat

from exeunt._support.journal import Journal


def test_it_goes_on_after_lines_that_are_half_written_or_damaged(tmp_path):
    path = tmp_path / "answers.jsonl"
    first = Journal(path, "job", mode=0o600)
    assert not path.exists()
    first.add(3, {"answer": "yes"})
    first.add(4, [1, None])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("ab") as file:
        file.write(b'[5, "dam\xff\n"ab"\n{"a": 1, "b": 2}\n[6, "ha')
    second = Journal(path, "job")
    assert second.found == {3: {"answer": "yes"}, 4: [1, None]}
    second.add(3, "changed")
    second.add(7, "more")
    assert Journal(path, "job").found == {3: "changed", 4: [1, None], 7: "more"} == second.found


def test_another_job_is_told_and_only_removed_if_asked(tmp_path):
    path = tmp_path / "answers.jsonl"
    Journal(path, "job").add(0, "yes")
    other = Journal(path, "other")
    assert (other.of_another_job, other.found) == (True, {})
    assert Journal(path, "job").found == {0: "yes"}
    other.remove()
    assert not other.of_another_job
    other.add(1, "no")
    assert Journal(path, "other").found == {1: "no"}
    path.write_text("")
    assert not Journal(path, "job").of_another_job


def test_without_a_file_it_is_in_memory():
    journal = Journal(None, "job")
    journal.add(0, "yes")
    journal.remove()
    journal.add(1, "no")
    assert journal.found == {1: "no"}
