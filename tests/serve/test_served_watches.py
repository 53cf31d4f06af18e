"""A server watches its answers: in the order of requests, by policy, without rows that a deadline ended."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from made_server import in_base64, made_images, made_run, running, until

pytest.importorskip("fastapi")

import exeunt as ex
from exeunt.engine.answers import Answers
from exeunt.serve.watching import ServedWatches


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    run = made_run(tmp_path_factory.mktemp("watched") / "pixels")
    return {f"{policy.budget:g}": policy for policy in run.policies}


@pytest.fixture
def first(policies):
    """A policy and its name."""
    return next(iter(policies.items()))


def update(watch, found):
    watch.update(found.exit, found.score, found.first_score)


def answers(policy, seed, n=100, **ended):
    """Answers under a policy to inputs like its calibration inputs."""
    rng = np.random.default_rng(seed)
    shares = policy.counts / policy.counts.sum()
    exits = rng.choice(len(shares), n, p=shares)
    zero, decided = np.zeros(n), np.ones(n, bool)
    scores = {"score": rng.random(n), "first_score": rng.random(n)}
    return Answers(zero, zero, exits, zero, decided, zero, **scores, **ended)


def ticket(policy, seed, name, **ended):
    """What a request has of the engine: exits are numbered as the engine does."""
    found = answers(policy, seed, **ended)
    found.exit[:] = 10 * (found.exit + 1)
    return [(np.arange(found.n), SimpleNamespace(answers=found, policies=[name] * found.n))]


def served(policies, **options):
    exits = {name: [10, 20, 30] for name in policies}
    return ServedWatches(policies, exits, **{"several": False, **options})


def test_requests_are_watched_in_the_order_in_which_they_began(policies, first):
    name, policy = first
    watches = served(policies)
    parts = [ticket(policy, seed, name) for seed in range(3)]
    requests = [watches.begin() for _ in parts]
    alone = ex.Watch(policy, of_several=True)
    for number in (2, 1):
        watches.end(requests[number], parts[number])
        assert watches.follow() == {}
        assert watches.evidence == 0
    watches.end(requests[0], parts[0])
    watches.follow()
    for seed in range(3):
        update(alone, answers(policy, seed))
    assert watches.evidence == pytest.approx(np.log1p(alone.evidence) / np.log1p(2e5))
    assert watches._watches[name].n == 300


def test_what_fails_is_no_obstacle_and_seconds_in_which_rows_ended_early_are_left_out(policies, first):
    name, policy = first
    watches = served(policies, several=True)
    failed, early, other = (watches.begin() for _ in range(3))
    watches.end(failed, None)
    expired = np.arange(100) == 3
    watches.end(early, ticket(policy, 0, name, expired=expired))
    watches.end(other, ticket(policy, 1, name))
    assert watches.follow() == {}
    assert watches._watches[name].n == 0
    later = watches.begin()
    watches.end(later, ticket(policy, 2, name))
    watches.follow()
    assert watches._watches[name].n == 100


def test_a_renewed_watch_is_told_of_the_requests_that_begin_from_then_on(policies):
    (name, policy), (other, second), *_ = policies.items()
    watches = served(policies)
    before, beside, under_way = (watches.begin() for _ in range(3))
    watches.end(before, ticket(policy, 0, name))
    watches.renew(name, policy)  # before anything was followed
    after = watches.begin()
    watches.end(after, ticket(policy, 1, name))
    watches.end(beside, ticket(second, 2, other))
    watches.end(under_way, ticket(policy, 3, name))
    watches.follow()
    assert [watches._watches[each].n for each in (name, other)] == [100, 100]
    alone = ex.Watch(policy, of_several=True)
    update(alone, answers(policy, 1))
    assert watches._watches[name].evidence == pytest.approx(alone.evidence)


def test_policies_of_groups_are_not_watched(first):
    name, policy = first
    groups = ex.Policy.from_dict(policy.to_dict() | {"n_groups": 9})
    assert served({name: groups})._watches == {}
    assert served({name: groups}).evidence == 0


def test_a_server_logs_drift_counts_it_and_shows_it(tmp_path, capfd):
    run = made_run(tmp_path / "pixels")
    with running(run) as server:
        assert "exeunt_drift 0.0" in server.client.get("/metrics").text
        black = in_base64(np.zeros((1, *made_images(1).shape[1:]), dtype=np.uint8))
        for _ in range(4):
            assert [one["error"] for one in server.answers(black * 100)] == [None] * 100
        until(lambda: "exeunt_drift 1.0" in server.client.get("/metrics").text)
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "drifted" in line]
        assert [line["what"] for line in lines] == ["inputs have drifted"]
        assert lines[0]["since"] < 50
        assert "They repeat more than in calibration" in lines[0]["about"]
        event = server.event()
        assert event["drift_evidence"] > 1
        ((policy, text),) = event["drift"].items()
        assert policy == event["policy"]
        assert text.startswith("Drift: since about input")
