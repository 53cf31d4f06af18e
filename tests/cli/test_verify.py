"""`exeunt verify`: a line for each part of a run, and exit status 1 if one is damaged."""

from __future__ import annotations

import exeunt as ex
from made_runs import made_run

from .command import called


def verify(path):
    done = called("verify", path)
    return done.status, done.out.splitlines()


def test_a_line_for_each_part_and_a_status(tmp_path):
    run = made_run(tmp_path / "run")
    run.save_policy(ex.eero(run.trace("fit"), run.trace("calibrate"), budget="60%"))
    status, lines = verify(run.path)
    assert status == 0
    assert lines[0].split() == ["manifest", "ok", "format", "2,", "3", "exits"]
    assert lines[-1] == "9 of 9 parts are as they were written"
    assert len(lines) == 10
    (run.path / "traces" / "test.parquet").write_bytes(b"damaged")
    status, lines = verify(run.path)
    assert status == 1
    (found,) = (line for line in lines if "FAILED" in line)
    told = f"test trace       FAILED   {run.path / 'traces' / 'test.parquet'} (the recorded outputs"
    assert found.startswith(told)
    assert lines[-1] == "8 of 9 parts are as they were written"
