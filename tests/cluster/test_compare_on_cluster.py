"""Splits that are measured on a cluster are those that are measured here."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from exeunt.cli.app import run as command
from exeunt.evaluation.cache import SplitCache
from exeunt.jobs.cluster import jobs

OPTIONS = {"budgets": "40%,70%", "policies": ["eero", "stopping"], "splits": 2, "delta": 0.2}


def kept(folder) -> dict:
    """What splits measured, by file, but for times."""
    records = {}
    for file in folder.glob("comparison/*/split-*.json"):
        record = json.loads(file.read_text())["record"]
        assert np.min(record.pop("seconds")) >= 0
        records[f"{file.parent.name}/{file.name}"] = record
    return records


@pytest.mark.slow
def test_it_is_the_same_to_the_last_bit(cluster, make_logit_trace, tmp_path):
    trace = make_logit_trace(300, 3)
    models = ex.CascadeTrace({"small": trace.exits(0, 1), "large": make_logit_trace(300, 3)})
    found = {"one": trace, "several": models}
    here = ex.compare(found, **OPTIONS, workers=0, cache=tmp_path / "here")
    done, options = [], OPTIONS | {"cache": tmp_path / "there", "progress": lambda *of: done.append(of)}
    with jobs.measuring_on_cluster() as measure:
        there = ex.compare(found, **options, measure=measure)
    assert done == [(n, 4) for n in range(5)]
    assert len(kept(tmp_path / "here")) == 4
    assert kept(tmp_path / "there") == kept(tmp_path / "here")
    for one, other in zip(here.traces, there.traces, strict=True):
        np.testing.assert_array_equal(one.accuracy, other.accuracy)


@pytest.mark.slow
def test_a_comparison_that_ends_early_takes_nothing_with_it_and_goes_on(cluster, make_logit_trace, tmp_path):
    """Splits that are being measured end on their own: Ray may abort the process where one is cancelled as it ends."""
    trace, settings = make_logit_trace(300, 3), {**OPTIONS, "splits": 8}

    class Ended(BaseException):
        pass

    for splits in (1, 3, 2, 1, 2):

        def end(done: int, _: int, at: int = splits) -> None:
            if done == at:
                raise Ended

        cache = tmp_path / str(len(list(tmp_path.iterdir())))
        with jobs.measuring_on_cluster() as measure, pytest.raises(Ended):
            ex.compare(trace, **settings, cache=cache, measure=measure, progress=end)
        assert len(kept(cache)) == splits
    with jobs.measuring_on_cluster() as measure:
        whole = ex.compare(trace, **settings, cache=cache, measure=measure)
    here = ex.compare(trace, **settings, workers=0)
    np.testing.assert_array_equal(whole.traces[0].accuracy, here.traces[0].accuracy)


@pytest.mark.slow
def test_what_a_machine_refuses_is_raised_here(cluster, make_logit_trace, tmp_path, monkeypatch):
    trace = make_logit_trace(300, 3)
    monkeypatch.setattr(jobs, "code_digest", lambda: "another")
    told = "another version of exeunt"
    with jobs.measuring_on_cluster() as measure, pytest.raises(ex.InputError, match=told):
        ex.compare(trace, **OPTIONS, measure=measure, cache=tmp_path)
    assert not kept(tmp_path)


def test_a_split_that_is_lost_for_good_is_told():
    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        pass

    def get(_):
        raise RayError("the node died\nand more")

    ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError), get=get)
    told = r"lost again and again: RayError: the node died; what was"
    with pytest.raises(ex.errors.ExeuntError, match=told):
        jobs._record(ray, None)


@pytest.mark.slow
def test_the_command_goes_on_with_what_is_kept(cluster, make_logit_trace, tmp_path, monkeypatch, capsys):
    trace, cache = tmp_path / "trace.parquet", tmp_path / "cache"
    make_logit_trace(300, 3).save(trace)
    options = f"--policies eero --budgets 50% --splits 2 --cache {cache}"
    arguments = ["compare", str(trace), *options.split()]
    assert command([*arguments, "--engine", "ray"]) == 0
    assert "eero" in capsys.readouterr().out
    monkeypatch.setattr(SplitCache, "measure", None)
    assert command([*arguments, "--workers", "0"]) == 0
    for wrong, told in {
        "--engine spark": "--engine must be one of local, ray",
        "--address auto": "--address is of a cluster",
        "--engine ray --workers 2": "leave out --workers",
    }.items():
        with pytest.raises(ex.InputError, match=told):
            command([*arguments, *wrong.split()])
