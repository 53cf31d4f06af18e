"""What a profile expects of drafts, against what really happens; and what is chosen."""

import json
from dataclasses import replace

import numpy as np
import pytest

from exeunt.errors import InputError
from exeunt.torch.language import LanguageModel
from exeunt.torch.language.draft_plan import DecodingTimes, DraftPlan, RecordedAnswer, draft_plan, profiled
from exeunt.torch.language.drafts import Drafts
from exeunt.torch.language.generation import continuations
from exeunt.torch.language.recording import token_trace

BLOCKS = np.array([1, 2, 4])


def in_multiply_adds(network):
    """Times that are multiply-adds, so that what is expected can be counted."""
    macs = network.macs
    return DecodingTimes(
        BLOCKS,
        BLOCKS[:, None] * macs.layers,
        BLOCKS * macs.vocabulary,
        macs.adapter + macs.vocabulary,
        macs.confidence,
    )


@pytest.fixture(scope="module")
def answered(model):
    """Prompts, the full network's answers, what exits say of them, and where a policy would leave."""
    texts = ["w3 w4 w5 w3 w4", "w9 w9 w9", "w7", "w5 w6 w7 w8 w9 w5 w6", "w4 w3 w4 w3"]
    prompts = model.prompts.of(texts)
    own = dict(continuations(model.network, prompts.tokens, prompts.keys, None, most_tokens=10))
    trace = token_trace(model.network, prompts, [own[i].tokens for i in range(5)])
    records = [
        RecordedAnswer(prompts.tokens[i], own[i].tokens, trace.prediction[10 * i : 10 * i + 10])
        for i in range(5)
    ]
    return prompts, records, trace


@pytest.mark.parametrize("drafts", [Drafts(), Drafts(lookup=1), Drafts(lookup=5)], ids=str)
def test_lookup_costs_and_drafts_what_the_profile_says(model, answered, drafts):
    prompts, records, _ = answered
    options = {"most_tokens": 10, "exact": drafts, "batch_size": 1}
    found = dict(continuations(model.network, prompts.tokens, prompts.keys, None, **options))
    times = in_multiply_adds(model.network)
    for i, record in enumerate(records):
        macs, drafted, accepted = record.drafted(times, drafts, None)
        read = model.network.macs.layers.sum()  # the prompt's last token says the first
        assert (drafted, accepted) == (found[i].drafted, found[i].accepted)
        assert macs == pytest.approx(found[i].macs + read)


def test_exits_that_draft_a_token_at_a_time_cost_what_the_profile_says(run, model, answered):
    from exeunt.torch.language.calibration import Candidates

    prompts, records, trace = answered
    candidates = Candidates.made(run.recorded("fit"))
    times, used = in_multiply_adds(model.network), set()
    for policy in (candidates.policies[len(candidates.policies) // 2], candidates.policies[-1]):
        if not policy.needs.all():
            continue
        exits = policy.route(evidence(trace))
        found = continuations(
            model.network, prompts.tokens, prompts.keys, policy, most_tokens=10, exact=Drafts(1), batch_size=1
        )
        for i, one in found:
            at = exits[10 * i : 10 * i + 10].tolist()
            macs, drafted, accepted = records[i].drafted(times, Drafts(1), at)
            assert (drafted, accepted) == (one.drafted, one.accepted)
            assert macs == pytest.approx(one.macs + model.network.macs.layers.sum())
            used |= {(drafted > accepted), accepted > 0}
    assert used == {True, False}


def evidence(trace):
    from exeunt.torch.language.generation import SCORE
    from exeunt.trace import ExitTrace

    return ExitTrace.from_losses(
        trace.scores[SCORE],
        np.zeros((trace.n, trace.n_exits)),
        cost=trace.cost,
        measure="agreement",
        id=trace.id,
        name=SCORE,
    )


def test_a_block_by_hand():
    """Three parts; tokens 0 and 1 leave at exit 0 and token 2 at exit 1; of them token 1 is wrong."""
    layers = np.array([[1.0, 10.0, 100.0], [1.5, 15.0, 150.0], [2.0, 20.0, 200.0]])
    times = DecodingTimes(BLOCKS, layers, np.array([1000.0, 1100.0, 1300.0]), 5.0, 0.25)
    said = np.array([[7, 7, 7], [0, 8, 8], [0, 9, 9], [0, 0, 4]])
    record = RecordedAnswer([1], [7, 8, 9, 4], said)
    exits = [0, 0, 1, 2]
    seconds, drafted, accepted = record.drafted(times, Drafts(3), exits)
    first = 2 * (1 + 0.25 + 5) + (1 + (15 + 20) / 2 + 2 * 0.25 + 5)  # the third brings 3 tokens to part 1
    check = (1 + 10 + 200) + 1300
    # Then tokens 2 and 3 are left: the first leaves at exit 1 and is right, the second goes all the way.
    again = (1 + 10 + 2 * 0.25 + 5) + (1 + 10 + 150) + 1100 + 2 * 0.25
    assert (seconds, drafted, accepted) == (pytest.approx(first + check + again), 4, 2)


def test_times_between_blocks_and_beyond():
    times = DecodingTimes(BLOCKS, np.array([[1.0], [1.5], [2.5]]), np.array([3.0, 4.0, 6.0]), 0.0, 0.0)
    layers, vocabulary = times.of_blocks(8)
    assert layers[:, 0].tolist() == [0, 1, 1.5, 2, 2.5, 3.125, 3.75, 4.375, 5]
    assert vocabulary[[0, 1, 3, 8]].tolist() == [0, 3, 5, 12]


def test_times_are_measured(model):
    times = DecodingTimes.measured(model.network, 2)
    assert times.layers.shape == (5, 3)
    assert (times.layers > 0).all()
    assert (times.vocabulary > 0).all()
    assert times.head > 0 < times.confidence


RECORD = RecordedAnswer([1, 2, 3], [4, 1, 2, 3, 4, 1, 2, 3, 4], np.full((9, 2), 5))
"""Whose exits are always wrong, and in which the lookup finds more and more."""
FLAT = DecodingTimes(np.array([1, 8]), np.ones((2, 2)), np.ones(2), 0.1, 0.1)


def plan(timed, times=FLAT, leaving=()):
    return draft_plan(profiled(times, [RECORD], leaving), timed)


def test_drafts_are_taken_where_they_are_quicker_as_timed():
    asked = []

    def timed(drafts, policy):
        asked.append(drafts)
        return 1.0 if drafts is None else 0.9

    found = plan(timed)
    assert found.drafts.lookup > 0
    assert (found.policy, found.share) == (None, pytest.approx(0.9))
    assert found.seconds["lookup"] < found.seconds["plain"]
    assert asked == [None, found.drafts] * 2
    assert "exact answers, drafted by lookup: " in str(found)
    assert "90% as timed" in str(found)
    assert DraftPlan.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_decoding_is_plain_where_timing_shows_no_gain():
    found = plan(lambda drafts, _: 1.0 if drafts is None else 0.98)
    assert (found.drafts, found.policy, found.share) == (None, None, pytest.approx(0.98))
    assert "by plain decoding: the best drafts (lookup) would take" in str(found)
    assert "98% as timed" in str(found)


def test_decoding_is_plain_without_a_trial_where_the_profile_shows_no_gain():
    """Where a block of k tokens takes k times as long, checking nothing but right drafts takes no less."""

    def timed(*_):
        raise AssertionError

    steps = np.array([1.0, 8.0])
    found = plan(timed, replace(FLAT, layers=np.stack([steps, steps], 1), vocabulary=steps))
    assert (found.drafts, found.share) == (None, None)
    assert "as timed" not in str(found)


def test_exits_are_taken_where_they_draft_right(model, run):
    from exeunt.torch.language.calibration import Candidates

    policy = Candidates.made(run.recorded("fit")).policies[-1]
    right = replace(RECORD, exit_tokens=np.repeat(np.array(RECORD.tokens)[:, None], 2, 1))
    times = replace(FLAT, layers=np.array([[0.1, 10.0], [0.1, 10.0]]))
    expected = profiled(times, [right], [(policy, [[0] * 9])])
    assert [*expected] == ["plain", "lookup", "exits", "exits and lookup"]
    found = draft_plan(expected, lambda drafts, _: 1.0 if drafts is None else 0.5)
    assert found.policy == policy
    assert found.drafts.length == 8
    assert found.accepted == 1.0
    wrong = plan(lambda drafts, _: 1.0 if drafts is None else 0.5, leaving=[(policy, [[0] * 9])])
    assert wrong.policy is None


def test_a_language_model_keeps_its_plan(model, monkeypatch):
    first = model.draft_plan(batch_size=4)
    files = sorted((model.run.path / "training").glob("drafts-*.json"))
    assert len(files) == 1
    monkeypatch.setattr(DecodingTimes, "measured", None)  # it is not made again
    again = LanguageModel.open(model.run.path)
    assert again.draft_plan(batch_size=4).to_dict() == first.to_dict()
    monkeypatch.undo()
    files[0].write_text("{")
    assert set(model.draft_plan(batch_size=4).seconds) == {"plain", "lookup", "exits", "exits and lookup"}


@pytest.mark.parametrize("exact", [True, Drafts(3), Drafts(2, 4)], ids=str)
def test_exact_answers_are_the_full_networks(run, model, exact):
    from exeunt.torch.language.calibration import Candidates

    policy = Candidates.made(run.recorded("fit")).policies[-1]
    prompts = ["w3 w4 w3 w4", "w9", "w5 w6 w7"]
    options = {} if exact is True else {"policy": policy}
    found = model.generate(prompts, exact=exact, batch_size=2, **options)
    own = model.generate(prompts, full=True)
    assert [one.text for one in found] == [one.text for one in own]
    assert [one.cost for one in found] == [model.network.cost.full] * 3
    looked_up = model.generate(prompts, full=True, exact=Drafts(lookup=3))
    assert [one.continuation.tokens for one in looked_up] == [one.continuation.tokens for one in own]
    if exact is not True:
        assert sum(one.continuation.drafted for one in found) > 0


@pytest.mark.parametrize("options", [{"full": True}, {"budget": "90%"}])
def test_exact_answers_need_no_policy(model, options):
    with pytest.raises(
        InputError, match="exact=True drafts by draft_plan: leave out budget, policy and full"
    ):
        model.generate(["w3"], exact=True, **options)
