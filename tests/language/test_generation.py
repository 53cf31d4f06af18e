"""Generation with exits against oracles that run the full network on the whole text for every token."""

import numpy as np
import pytest
import torch

from exeunt.score.tie_breaking import tie_breaks
from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.generation import SCORE, continuations, token_keys
from exeunt.torch.language.model import summarise
from tiny_decoders import N_TOKENS, decoder

M = 3  # exits


@pytest.fixture(scope="module")
def network():
    made = DecoderWithExits(decoder(alike=True), 2, hidden=16, length=10).eval()
    with torch.no_grad():
        for head in made.token_heads:
            head.down.weight.normal_(0, 0.02)
    return made


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(4)
    return [rng.integers(3, N_TOKENS, n).tolist() for n in (5, 1, 9, 3, 3, 7)]


KEYS = np.arange(10, 16).astype(np.uint64)


class _Fixed:
    """Leaves by a hash of the token's key: a rule that any confidence could have made."""

    def __init__(self, shares):
        self.edges = np.cumsum(shares)
        self.needs = np.ones(M, dtype=bool)

    def init(self, n, *, id):  # noqa: A002
        return _State(tie_breaks(id, 0))

    def step(self, exit_, evidence, state):
        assert set(evidence) == {SCORE, "prediction"}
        assert evidence[SCORE].shape == state.tie.shape
        return state.tie < self.edges[exit_], state


class _State:
    def __init__(self, tie):
        self.tie = tie

    def take(self, rows):
        return _State(self.tie[rows])


@torch.inference_mode()
def oracle(network, prompt, key, rule, most, ends=()):
    """The same, the full network on the whole text for every token: tokens, exits, the full network's choices."""
    text, exits, full = list(prompt), [], []
    layers = [network.decoder.layers.index(name) + 1 for name in network.exit_names]
    while len(exits) < most:
        made = network.backbone(torch.tensor([text]), output_hidden_states=True)
        token = whole = int(made.logits[0, -1].argmax())
        exit_ = M - 1
        if rule is not None:
            keys = token_keys(np.array([key], np.uint64), np.array([len(exits)]))
            tie = rule.init(1, id=keys).tie[0]
            exit_ = int(np.searchsorted(rule.edges, tie, side="right"))
        if exit_ < M - 1:
            token = int(network.says(exit_, made.hidden_states[layers[exit_]][:, -1])[0])
        text.append(token)
        exits.append(exit_)
        full.append(whole)
        if token in ends:
            break
    return text[len(prompt) :], exits, full


def made(network, prompts, rule, *, most_tokens=14, compare=True, **options):
    options |= {"most_tokens": most_tokens, "compare": compare}
    return dict(continuations(network, prompts, KEYS, rule, **options))


def test_without_exits_it_is_the_librarys_greedy_search(network, prompts):
    found = made(network, prompts, None)
    greedy = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    for i, prompt in enumerate(prompts):
        own = network.backbone.generate(torch.tensor([prompt]), **greedy)
        assert found[i].tokens == own[0, len(prompt) :].tolist() == found[i].full
        assert not any(found[i].differs)
        assert set(found[i].exits) == {M - 1}


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_each_sequence_leaves_at_its_own_depths_and_deeper_tokens_see_what_they_would_see(
    network, prompts, batch_size
):
    rule = _Fixed((0.4, 0.3, 0.3))
    found = made(network, prompts, rule, batch_size=batch_size)
    for i, prompt in enumerate(prompts):
        tokens, exits, full = oracle(network, prompt, KEYS[i], rule, 14)
        assert (found[i].tokens, found[i].exits, found[i].full) == (tokens, exits, full)
    used = [exit_ for one in found.values() for exit_ in one.exits]
    assert set(used) == {0, 1, 2}
    assert any(any(one.differs) for one in found.values())


def test_an_end_ends_a_continuation(network, prompts):
    rule = _Fixed((0.4, 0.3, 0.3))
    ends = [made(network, prompts, rule)[0].tokens[3]]
    found = made(network, prompts, rule, ends=ends)
    for i, prompt in enumerate(prompts):
        assert found[i].tokens == oracle(network, prompt, KEYS[i], rule, 14, ends)[0]
        assert not set(found[i].tokens[:-1]) & set(ends)
    assert len(found[0].tokens) <= 4


def test_multiply_adds_are_those_of_the_tokens_that_each_layer_ran_on(network, prompts):
    """Tokens and layers are counted by hooks on the layers of the model itself."""
    rule = _Fixed((0.6, 0.3, 0.1))
    ran = np.zeros(4)

    def count(i):
        def hook(_, given):
            ran[i] += given[0].shape[0] * given[0].shape[1]

        return hook

    layers = network.backbone.model.layers
    hooks = [layer.register_forward_pre_hook(count(i)) for i, layer in enumerate(layers)]
    try:
        found = dict(continuations(network, prompts[:1], KEYS[:1], rule, most_tokens=14))[0]  # no padding
    finally:
        for hook in hooks:
            hook.remove()
    per_layer = network.macs.layers.sum() / 4
    early = [exit_ for exit_ in found.exits if exit_ < M - 1]
    asked = sum(min(exit_ + 1, M - 1) for exit_ in found.exits)
    heads = len(early) * network.macs.adapter + asked * network.macs.confidence + 14 * network.macs.vocabulary
    assert found.macs + found.prompt_macs == pytest.approx(ran.sum() * per_layer + heads, rel=1e-4)
    assert found.prompt_macs <= len(prompts[0]) * network.macs.layers.sum()
    whole = dict(continuations(network, prompts[:1], KEYS[:1], None, most_tokens=14))[0]
    assert whole.macs == pytest.approx(13 * network.macs.layers.sum() + 14 * network.macs.vocabulary)


def test_costs_of_exits_are_those_of_the_flop_counter(network):
    """Layers and vocabulary as counted on a text of 10 tokens; adapters and confidences by hand."""
    width, hidden, n_tokens = 32, 16, N_TOKENS
    attention = 2 * width * width + 2 * width * 16 + 2 * 10 * width  # q, o; k, v; scores and values
    layer = attention + 3 * width * 48
    own = [layer * i for i in range(1, 5)]
    stops = [network.decoder.layers.index(name) for name in network.exit_names]
    head = 2 * width * hidden + width * n_tokens
    sure = width * (width + 1)
    expected = [own[stop] + head + sure * (i + 1) for i, stop in enumerate(stops)]
    # Some versions of transformers also multiply to rotate positions: 4 multiply-adds here.
    expected.append(own[3] + width * n_tokens + 2 * sure)
    assert network.cost.cumulative.tolist() == pytest.approx(expected, abs=4)


def test_what_is_compared_costs_nothing_and_callers_keep_their_gradients(network, prompts):
    rule = _Fixed((0.6, 0.3, 0.1))
    bare = made(network, prompts, rule, compare=False)
    for i, one in made(network, prompts, rule, compare=True).items():
        assert (one.macs, one.prompt_macs, one.exits) == (bare[i].macs, bare[i].prompt_macs, bare[i].exits)
    shallow = made(network, prompts, _Fixed((1.0, 0.0, 0.0)), compare=True)
    assert all(one.prompt_macs < bare[i].prompt_macs for i, one in shallow.items())  # deeper layers never ran
    for _ in continuations(network, prompts, KEYS, rule, most_tokens=2):
        assert not torch.is_inference_mode_enabled()


def test_shares_of_what_was_spent(network, prompts):
    whole = summarise(network, [*made(network, prompts, None).values()])
    assert (whole["spent"], whole["prompt_spent"]) == (pytest.approx(1), pytest.approx(1))
    assert whole["shares"] == [0, 0, 1]
    assert (whole["tokens_differ"], whole["answers_differ"]) == (0, 0)
    found = made(network, prompts, _Fixed((0.6, 0.3, 0.1)))
    early = summarise(network, [*found.values()])
    assert early["tokens_differ"] == pytest.approx(np.mean([np.mean(one.differs) for one in found.values()]))
    assert early["spent"] < 1.1
    assert "tokens_differ" not in summarise(network, [*made(network, prompts, None, compare=False).values()])
