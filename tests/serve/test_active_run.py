"""What the log says of the run in service: policies that follow the load, a target that is missed, and refusals."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from types import SimpleNamespace

import pytest
from made_server import PixelExecutor, shared_of

pytest.importorskip("fastapi")

from exeunt.serve import loaded_run
from exeunt.serve.active_run import ActiveRun
from exeunt.serve.metrics import Counts
from exeunt.serve.settings import Settings


class Made:
    """Stands in for a controller: `script` has for each second the policy that it settles on, the one that rows begin
    under, and whether it is out of options.
    """

    def __init__(self, script):
        self.script, self.rate, self.late_s, self.out_of_options = script, 70.4, 0.05, False
        self.settled = SimpleNamespace(name="80%")
        self.without_load = self.settled

    def observe(self, now, load):
        settled, begun, self.out_of_options = self.script[int(now)]
        self.settled = SimpleNamespace(name=settled)
        return SimpleNamespace(name=begun)


@pytest.fixture
def logged(run, monkeypatch, caplog):
    """Return what is logged by the second, as (second, what, fields), of a run whose seconds have these refusals."""
    monkeypatch.setattr(loaded_run, "open_shared", shared_of(PixelExecutor()))

    async def follow(controller, refused):
        settings = Settings(run=run.path, slo_s=None if controller is None else 0.05)
        active = ActiveRun(loaded_run.load_run(settings), settings)
        active.controller = controller
        for second, n in enumerate(refused):
            before = len(caplog.records)
            await active.follow_load(float(second), Counts(problems=Counter(refused=n)), 5)
            for record in caplog.records[before:]:
                record.second = second
        await active.close()

    def told(controller=None, refused=()):
        with caplog.at_level(logging.INFO, "exeunt.serve"):
            asyncio.run(follow(controller, refused))
        return [
            (record.second, record.getMessage(), record.fields)
            for record in caplog.records
            if hasattr(record, "second")
        ]

    return told


def test_changes_but_those_of_a_burst_are_logged_and_once_a_minute_that_the_target_cannot_be_kept(logged):
    script = [("80%", "80%", False), ("80%", "45%", False), ("45%", "45%", False)]
    script += [("45%", "45%", True)] * 70 + [("60%", "60%", False)] * 2
    load = {"rows_per_s": 70, "waiting": 5}
    assert logged(Made(script), refused=[0] * len(script)) == [
        (2, "active policy", {"policy": "45%", "before": "80%", **load}),
        (3, "the latency cannot be kept", load),
        (63, "the latency cannot be kept", load),
        (73, "active policy", {"policy": "60%", "before": "45%", **load}),
    ]


def test_every_ten_seconds_the_log_says_how_many_requests_were_refused(logged):
    told = logged(refused=[0, 3, *[2] * 11, *[0] * 20, 7])
    assert told == [
        (second, "requests are refused", {"requests": n})
        for second, n in ((1, 3), (11, 20), (21, 2), (33, 7))
    ]
