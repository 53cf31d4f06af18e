"""Made-up workers that die, hang and fail: the result of every block comes out once."""

from __future__ import annotations

import itertools
import pickle
import random
import threading
from collections import Counter
from types import SimpleNamespace

import pytest

import exeunt as ex
from exeunt.jobs.blocks import Block, blocks_of
from exeunt.jobs.cluster import scheduler as schedulers
from exeunt.jobs.cluster.jobs import tell_lack
from exeunt.jobs.cluster.scheduler import WINDOW, BlockScheduler
from exeunt.jobs.cluster.worker import Worker


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        self.cause = cause


class MadeRay:
    """Stands in for Ray: each call to `wait` lets something happen, drawn at random."""

    runs = True  # whether workers need not wait for a machine
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, seed: int, *, dies: float = 0.0, hangs: float = 0.0, fails=None) -> None:
        self.rng, self.dies, self.hangs, self.fails = random.Random(seed), dies, hangs, fails or {}
        self.numbers, self.of = itertools.count(), {}
        self.dead, self.most, self.kept, self.killed = set(), 0, [], 0
        self.hung, self.poison, self.waits, self.clock = set(), {}, 0, 0.0

    def start(self):
        actor = SimpleNamespace(number=next(self.numbers))
        actor.__ray_ready__ = SimpleNamespace(remote=lambda: "ready")
        return actor

    def give(self, actor, block):
        ref = next(self.numbers)
        self.of[ref] = actor.number, block
        mine = [block.start for number, block in self.of.values() if number == actor.number]
        assert len(set(mine)) == len(mine), "a worker has a block twice"
        self.most = max(self.most, len(mine))
        if self.rng.random() < self.hangs or self.poison.get(block.start, 0) > 0:
            self.poison[block.start] = self.poison.get(block.start, 0) - 1
            self.hung.add(ref)
        return ref

    def wait(self, refs, *, num_returns=1, timeout):
        assert refs
        if refs == ["ready"]:
            return (refs if self.runs else []), None
        self.waits += 1
        assert self.waits < 10_000, "it waits for ever"
        if self.rng.random() < self.dies:
            self.dead.add(self.of[self.rng.choice(refs)][0])
        ready = [ref for ref in refs if self.of[ref][0] in self.dead]
        alive = [ref for ref in refs if ref not in self.hung and ref not in ready]
        self.clock += 0.1 if ready or alive else timeout
        return (ready or ([self.rng.choice(alive)] if alive else []))[:num_returns], None

    def get(self, ref):
        actor, block = self.of.pop(ref)
        if actor in self.dead:
            if self.rng.random() < 0.3:
                self.kept.append(block)  # the part was kept before the worker died
            raise RayError("the worker is dead")
        if block.start in self.fails:
            raise RayTaskError(self.fails.pop(block.start))
        self.kept.append(block)
        return block

    def kill(self, actor):
        self.killed += 1


def worked(ray: MadeRay, n: int, workers: int, size: int = 4, **options) -> list:
    scheduler = BlockScheduler(ray, workers, start=ray.start, give=ray.give, **options)
    found = list(scheduler.results(list(blocks_of(n, size))))
    scheduler.close()
    return found


@pytest.mark.parametrize("seed", range(40))
def test_every_block_is_answered_once_whoever_dies_or_hangs(seed, monkeypatch):
    monkeypatch.setattr(schedulers, "_LATE", 0.0)
    monkeypatch.setattr(schedulers, "_DEATHS", 10_000)
    rng = random.Random(seed)
    n, workers = rng.randrange(1, 300), rng.randrange(1, 6)
    hangs = 0.1 if workers > 1 else 0.0
    # At least one worker in so many must not hang for ever: deaths free those that do.
    ray = MadeRay(seed, dies=rng.choice([0.0, 0.1, 0.5]) or 0.05 * bool(hangs), hangs=hangs)
    found = worked(ray, n, workers)
    assert sorted(found) == list(blocks_of(n, 4))
    assert set(found) <= set(ray.kept)
    assert ray.most <= WINDOW


def test_no_worker_has_nothing_while_others_have_much():
    ray = MadeRay(0)
    scheduler = BlockScheduler(ray, 3, start=ray.start, give=ray.give)
    next(scheduler.results(list(blocks_of(24, 4))))
    blocks_each = Counter(actor for actor, _ in ray.of.values())
    assert sorted(blocks_each.values()) == [1, 2, 2]


@pytest.mark.parametrize(
    ("failure", "error", "said"),
    [
        (ex.InputError("of eight sizes"), ex.InputError, "of eight sizes"),
        (RayTaskError(ex.InputError("of a reader")), ex.InputError, "of a reader"),
        (ZeroDivisionError(), RayTaskError, None),
    ],
)
def test_what_a_worker_raises_on_purpose_is_raised(failure, error, said):
    with pytest.raises(error, match=said):
        worked(MadeRay(0, fails={8: failure}), 40, 2)


def test_a_store_that_does_not_answer_once_is_asked_again():
    assert len(worked(MadeRay(0, fails={8: OSError("timed out"), 16: RayError("lost")}), 40, 2)) == 10
    assert len(worked(MadeRay(0, fails={8: RayTaskError(OSError("timed out"))}), 40, 2)) == 10


@pytest.fixture
def timed(monkeypatch):
    """A function that makes a Ray whose clock is the scheduler's, and whose blocks hang so often."""

    def made(hangs) -> MadeRay:
        ray = MadeRay(0)
        ray.poison = dict(hangs)
        monkeypatch.setattr(schedulers, "time", SimpleNamespace(monotonic=lambda: ray.clock))
        return ray

    return made


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_block_that_hangs_is_given_to_fresh_workers_and_then_named(timed, workers):
    assert len(worked(timed({8: 3}), 40, workers)) == 10  # the fourth that is given it answers
    told = r"the 4 inputs from 8 on hang: 4 workers did not answer"
    with pytest.raises(ex.errors.ExeuntError, match=told):
        worked(timed({8: 1000}), 40, workers)


def test_a_worker_has_as_long_as_the_first_ones_took_with_their_networks(timed, monkeypatch):
    ray = timed({8: 1})
    wait = ray.wait

    def slow(refs, **options):
        ray.clock += 0.0 if ray.waits or refs == ["ready"] else 100.0
        return wait(refs, **options)

    monkeypatch.setattr(ray, "wait", slow)
    assert len(worked(ray, 40, 1)) == 10
    assert ray.clock > 400  # before the one that hangs is replaced


@pytest.mark.parametrize("repeat", [True, False])
def test_a_late_block_is_given_to_an_idle_worker_unless_it_is_paid_for(timed, repeat):
    """It then waits for an hour until the worker is said to hang."""
    ray = timed({8: 1})
    assert len(worked(ray, 40, 2, repeat=repeat)) == 10
    assert ray.killed == 2 + (not repeat)  # at the end, all
    assert (ray.clock > 3600) == (not repeat)


def test_workers_that_all_hang_while_much_is_left_are_replaced(timed):
    assert len(worked(timed(dict.fromkeys(range(8, 60, 4), 1)), 400, 2)) == 100


def test_workers_that_all_hang_with_their_first_blocks_are_replaced_within_hours(timed, monkeypatch):
    ray = timed(dict.fromkeys(range(0, 40, 4), 1))
    assert len(worked(ray, 40, 2)) == 10
    assert 3600 < ray.clock < 8 * 3600
    monkeypatch.setattr(schedulers, "_FIRST_S", 600.0)
    told = r"in 600 s each; if they only take as long, .*--block-size"
    with pytest.raises(ex.errors.ExeuntError, match=told):
        worked(timed(dict.fromkeys(range(0, 40, 4), 1000)), 40, 2)


def test_a_worker_that_waits_for_a_machine_does_not_hang(timed):
    ray = timed({8: 1})
    ray.runs = False
    with pytest.raises(AssertionError, match="it waits for ever"):
        worked(ray, 40, 1)
    assert not ray.killed


def test_a_machine_may_take_more_workers_along_than_end_a_job():
    ray = MadeRay(0)
    ray.dead = set(range(64))  # the first of each place
    assert len(worked(ray, 400, 64)) == 100


def test_workers_that_only_die_end_the_job():
    with pytest.raises(ex.errors.ExeuntError, match="workers died 20 times and answered nothing between"):
        worked(MadeRay(0, dies=1.0), 400, 2)


def test_a_worker_that_cannot_read_its_job_says_so():
    worker, heard = Worker(b"of another version", None, readers=2, threads=1), []

    def ask():
        try:
            worker.answer(Block(0, 4), None)
        except pickle.UnpicklingError as error:
            heard.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(5)
    assert heard


@pytest.mark.parametrize(
    ("workers", "cores", "gpus", "said"),
    [
        (2, 2, 0, []),
        (3, 2, 1, ["CPU: the cluster has 2 fewer than 3 workers take", "GPU: the cluster has 1 fewer"]),
        (1, 3, 0, ["no machine of the cluster has what a worker takes (CPU: 3): nothing is done until"]),
        (1, 1, 2, ["no machine of the cluster has what a worker takes (CPU: 1, GPU: 2)"]),
    ],
)
def test_what_a_cluster_lacks_is_told(workers, cores, gpus, said):
    told, alive = [], {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}}
    nodes = [alive, alive, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0, "GPU": 2.0}, nodes=lambda: nodes)
    tell_lack(ray, workers, {"CPU": cores, "GPU": gpus}, told.append)
    assert len(told) == len(said)
    assert all(one in line for one, line in zip(said, told, strict=True))
