"""Blocks of inputs: what they count adds up, and it does not matter in which order their batches arrive."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunt.data import open_inputs
from exeunt.errors import UnreadableImage
from exeunt.jobs.batches import PreparedBatch
from exeunt.jobs.blocks import Block, BlockEnd, blocks_of
from exeunt.jobs.predict import PredictJob, predict_job
from exeunt.jobs.record import RecordJob
from exeunt.jobs.summary import JobProgress, Tally, Truth, planned_cost

tallies = st.builds(
    Tally,
    n=st.integers(0, 9),
    n_unanswered=st.integers(0, 9),
    cost=st.integers(0, 9).map(float),
    first_error=st.none() | st.tuples(st.integers(0, 9), st.text(max_size=3)),
    unknown=st.lists(st.sampled_from("abcdefgh"), max_size=6, unique=True).map(sorted).map(tuple),
    comparable=st.booleans(),
)


@given(st.lists(tallies, max_size=6), st.randoms(use_true_random=False))
def test_tallies_add_up_in_any_order_and_survive_json(found, rng):
    total = sum(found, Tally())
    mixed = [Tally.from_dict(json.loads(json.dumps(asdict(one)))) for one in found]
    rng.shuffle(mixed)
    assert sum(mixed, Tally()) == total
    assert total.n == sum(one.n for one in found)
    assert total.first_error == min((one.first_error for one in found if one.first_error), default=None)
    assert set(total.unknown) <= {name for one in found for name in one.unknown}
    assert bool(total.unknown) == any(one.unknown for one in found)


def test_blocks_hold_every_input_once():
    for n, size in [(0, 4), (1, 4), (4, 4), (5, 4), (8, 1)]:
        covered = [i for block in blocks_of(n, size) for i in range(block.start, block.start + block.n)]
        assert covered == list(range(n))


@pytest.fixture
def job(exported) -> PredictJob:
    return predict_job(exported, top=2, probabilities=True, batch_size=16)


def read(job, inputs, block):
    """What a block holds, as it arrives."""
    rows = np.arange(block.start, block.start + block.n)
    return [(block, item) for item in job.read(inputs.take(rows))]


@pytest.mark.parametrize("ordered", [True, False])
def test_mixed_arrival_changes_no_answer(job, ordered):
    inputs = open_inputs("sklearn:digits").take(np.arange(150))
    blocks = list(blocks_of(150, 40))
    arriving = {block: read(job, inputs, block) for block in blocks}
    straight = [item for items in arriving.values() for item in items]
    expected = {one.block: one for one in job.answer(job.open(), iter(straight))}
    assert list(expected) == blocks

    mixed, left = [], {block: iter(items) for block, items in arriving.items()}
    rng = random.Random(0)
    while left:
        block = rng.choice(list(left))
        item = next(left[block], None)
        if item is None:
            del left[block]
        else:
            mixed.append(item)
    began = list(dict.fromkeys(block for block, _ in mixed))
    assert began != blocks
    found = list(job.answer(job.open(), iter(mixed), ordered=ordered))
    assert {one.block for one in found} == set(blocks)
    if ordered:
        assert [one.block for one in found] == began
    for one in found:
        same = expected[one.block]
        for name in ("name", "label", "exit", "cost", "error", "top_1"):
            assert one.results[name] == same.results[name]
        np.testing.assert_allclose(one.results["probability_3"], same.results["probability_3"], atol=1e-6)
        assert one.tally == replace(same.tally, cost=one.tally.cost)
        assert one.tally.n_right > 0


def test_rows_wait_for_those_of_the_next_block(job):
    """Blocks of 16 answered together make fewer calls of late exits than one by one."""
    inputs = open_inputs("sklearn:digits").take(np.arange(128))

    def calls(groups) -> int:
        shared, made = job.open(), []
        run = shared.executor.run
        shared.executor.run = lambda segment, *rest: (made.append(segment), run(segment, *rest))[1]
        for blocks in groups:
            arriving = (item for block in blocks for item in read(job, inputs, block))
            assert len(list(job.answer(shared, arriving))) == len(blocks)
        return sum(segment > 0 for segment in made)

    blocks = list(blocks_of(128, 16))
    assert calls([blocks]) <= 0.6 * calls([[block] for block in blocks])


def test_a_block_without_readable_inputs_is_done(job):
    nothing = np.zeros(0, dtype=np.int64)
    bad = [(i, UnreadableImage(f"{i}.png", "it is bad")) for i in range(3)]
    batch = PreparedBatch(None, nothing.astype(np.uint64), nothing, nothing.astype(bool), bad)
    block = Block(7, 3)
    arriving = [(block, batch), (block, BlockEnd(["0.png", "1.png", "2.png"], Truth(None)))]
    (answered,) = job.answer(job.open(), iter(arriving))
    assert (answered.tally.n, answered.tally.n_unanswered) == (3, 3)
    assert answered.tally.first_error == (7, "cannot read the image 0.png: it is bad")
    with pytest.raises(UnreadableImage, match=r"0\.png"):
        list(replace(job, strict=True).answer(job.open(), iter(arriving)))


def test_a_batch_that_is_lost_or_comes_twice_is_noticed(job):
    inputs = open_inputs("sklearn:digits").take(np.arange(40))
    items = read(job, inputs, Block(0, 40))
    recording = RecordJob(run=job.run, probabilities=False, executor=job.executor)
    for arriving, n, more in (
        (items[1:], 24, 0),
        (items[:1] + items, 40, 16),
        (items[:1] * 2 + items[2:], 24, 16),  # one lost, the other twice: the number is right
    ):
        for one in (job, recording):
            told = f"of 40 inputs from 0 on, {n} arrived, and {more} again"
            with pytest.raises(ConnectionError, match=told):
                list(one.answer(one.open(), iter(arriving)))


def test_progress_tells_planned_and_used_budget(exported, monkeypatch):
    monkeypatch.setattr("exeunt.jobs.summary._EVERY_S", 0.0)
    said, policy = [], exported.policy
    half = 0.5 * policy.budget
    with JobProgress(policy, 1000, Tally(n=100, cost=100 * half), block_size=50, say=said.append) as progress:
        progress.add(Tally(n=200, cost=200 * half))
        progress.add(Tally(n=700, n_unanswered=100, cost=600 * policy.budget))
    distribution = policy.distribution
    assert said[0] == planned_cost(policy, 1000)
    assert policy.cost.show(distribution.mean * 1000) in said[0]
    assert f"95% at most {policy.cost.show(distribution.batch_quantile(0.95, 1000))} each" in said[0]
    assert said[1] == "100 of 1,000 inputs were done before"
    assert said[-2].startswith("300 of 1,000 inputs, 50.0% of the budget so far, ")
    assert said[-2].endswith(" left")
    assert said[-1] == "1,000 of 1,000 inputs, 83.3% of the budget so far"
    assert progress.tally == Tally(n=1000, n_unanswered=100, cost=300 * half + 600 * policy.budget)
    said.clear()
    with JobProgress(policy, 50, Tally(), block_size=50, say=said.append) as progress:
        progress.add(Tally(n=50))
    assert said == []
    assert progress.tally.n == 50
    marginal = replace(policy, distribution=None, calibration="marginal")
    assert "no exact distribution" in planned_cost(marginal, 3)
