"""`exeunt record --engine ray`: the parts that one process writes."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt._support.paths import open_arrow, place
from exeunt.cli.app import run as command
from exeunt.jobs.cluster.jobs import RayWorkers
from exeunt.jobs.record import record_inputs
from exeunt.runs.run_inputs import part_data
from exeunt.trace import concatenate


@pytest.mark.slow
def test_parts_are_those_of_one_process_and_calibrate_from_a_store(cluster, bucket, run, tmp_path):
    inputs, out = part_data(run, "calibrate"), f"{bucket}/recorded"
    options = {"block_size": 64, "batch_size": 32, "say": lambda _: None}
    alone = record_inputs(run, inputs, str(tmp_path / "alone"), **options)
    assert record_inputs(run, inputs, out, do_blocks=RayWorkers(workers=2), **options) == alone
    files = sorted((tmp_path / "alone").glob("*.parquet"))
    assert len(files) == len(inputs) // 64 + 1
    for file in files:
        assert pq.read_table(open_arrow(place(out) / file.name)).equals(pq.read_table(file))
    assert json.loads((place(out) / "_manifest.json").read_bytes())["parts"] == [file.name for file in files]
    stored = ex.StoredTrace.open(out)
    assert concatenate(list(stored.chunks())).id.tolist() == run.trace("calibrate").id.tolist()
    assert command(["calibrate", str(run.path), "--budget", "60%", "--traces", out]) == 0
    assert run.policy.n_calibration == len(inputs)


def test_the_command_says_what_belongs_to_a_cluster(run, tmp_path):
    arguments = ["record", str(run.path), "--data", "sklearn:digits", "--out", str(tmp_path / "out")]
    with pytest.raises(ex.InputError, match="--gpus-per-worker is of a cluster"):
        command([*arguments, "--gpus-per-worker", "1"])
    with pytest.raises(ex.InputError, match="workers must be at least 1"):
        command([*arguments, "--engine", "ray", "--workers", "0"])
    assert not (tmp_path / "out").exists()
