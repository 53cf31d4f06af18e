"""Jobs for a cluster that are refused, before it starts or by its machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

import exeunt as ex
from cli.command import called
from exeunt.data import open_inputs, open_lines
from exeunt.jobs.cluster import jobs, worker
from exeunt.jobs.cluster.jobs import RayWorkers, connected
from exeunt.jobs.cluster.worker import opened_job, packed_job
from exeunt.jobs.predict import predict_folder, predict_job
from exeunt.jobs.record import record_inputs


def test_a_cluster_that_is_not_there_is_told(monkeypatch):
    import ray

    def fails(**_):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    there, here = (
        r"no Ray cluster at 'a:1': .*nobody there; start one with",
        r"Ray does not start on this machine",
    )
    for given, said in ((["a:1"], there), ([], here)):
        with pytest.raises(ex.InputError, match=said), connected(*given):
            pass


def test_what_is_wrong_is_refused_before_ray_starts(run, pictures, tmp_path, monkeypatch):
    def starts(*_):
        raise AssertionError("Ray has started")

    monkeypatch.setattr(jobs, "connected", starts)
    inputs, out = open_inputs(pictures), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    texts = open_lines(b"a text\n", "text")
    for work in (predict_folder, record_inputs):
        for given, options, told in [
            (inputs, {}, r"holds other files, such as mine\.txt"),
            (inputs, {"executor": "sklearn"}, "cannot be run by 'sklearn'"),
            (inputs, {"executor": "tpu"}, "there is no executor 'tpu'"),
            (inputs, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
            (texts, {}, "takes inputs of kind 'image', got 'text'"),
        ]:
            with pytest.raises(ex.InputError, match=told):
                work(run, given, str(out), do_blocks=RayWorkers(), **options)


def test_machines_with_other_code_or_another_run_refuse_the_job(
    cluster, run, pictures, tmp_path, monkeypatch
):
    job = predict_job(run)
    assert opened_job(packed_job(job)).run.digest == run.digest
    nowhere = replace(run, path=tmp_path / "nowhere")
    another = replace(run, manifest={**run.manifest, "sha256": "another"})
    for other, said in ((nowhere, r"has no run at .*nowhere: put the run"), (another, "has another run at")):
        with pytest.raises(ex.InputError, match=said):
            opened_job(packed_job(replace(job, run=other)))
    monkeypatch.setattr(worker, "code_digest", lambda: "another")
    inputs, options = open_inputs(pictures), {"do_blocks": RayWorkers(), "say": lambda _: None}
    with pytest.raises(ex.InputError, match=r"the machine .* of the cluster has another version of exeunt"):
        predict_folder(run, inputs, str(tmp_path / "out"), **options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "spark"], "--engine must be one of local, ray, got 'spark'"),
        (["--engine", "ray"], "--engine ray writes a folder: name one with --out"),
        (["--address", "auto"], "--address is of a cluster: add --engine ray, or leave it out"),
        (["--block-size", "3"], "--block-size is of a cluster"),
        (["--out", "s3://bucket/x"], "one process writes a file, not s3://bucket/x: add --engine ray"),
        (["--engine", "ray", "--out", "x", "--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_wrong_calls_are_told(run, pictures, arguments, said):
    done = called("predict", run.path, "--data", pictures, *arguments)
    assert done.status == 2
    assert said in done.err
