"""Generation with exits against oracles that run the full network on the whole text for every token."""

import numpy as np
import pytest
import torch

from exeunt.errors import InputError
from exeunt.score.tie_breaking import tie_breaks
from exeunt.torch.language import generation
from exeunt.torch.language.drafts import Drafts, looked_up
from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.generation import SCORE, continuations, token_keys
from exeunt.torch.language.summary import summarise
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


@pytest.fixture(scope="module")
def says(network):
    """What every exit says after a text, by the full network on the whole of it: (text) -> tokens (m,)."""
    layers, known = [network.decoder.layers.index(name) + 1 for name in network.exit_names], {}

    @torch.inference_mode()
    def said(text):
        if (text := tuple(text)) not in known:
            made = network.backbone(torch.tensor([text]), output_hidden_states=True)
            early = [int(network.says(e, made.hidden_states[layers[e]][:, -1])[0]) for e in range(M - 1)]
            known[text] = [*early, int(made.logits[0, -1].argmax())]
        return known[text]

    return said


def followed(text, most):
    """Prompt lookup by a walk back through the text."""
    for size in (3, 2):
        for start in range(len(text) - size - 1, -1, -1):
            if text[start : start + size] == text[len(text) - size :]:
                return text[start + size : start + size + most]
    return []


def drafting_oracle(says, prompt, key, rule, most, drafts, ends=()):
    """Exact generation a token at a time: tokens, exits, and how many were drafted and accepted."""
    text, exits, drafted, accepted = list(prompt), [], 0, 0

    def ended(answer):
        return len(answer) == most or (answer and answer[-1] in ends)

    while not ended(text[len(prompt) :]):
        block, by, whole = [], [], False
        while not ended(text[len(prompt) :] + block) and not whole:
            answer = text[len(prompt) :] + block
            room = min(drafts.lookup, most - len(answer) - 1)
            follow = followed(text + block, room) if room > 0 else []
            exit_ = M - 1
            if rule is not None and len(block) < drafts.length and not follow:
                keys = token_keys(np.array([key], np.uint64), np.array([len(answer)]))
                exit_ = int(np.searchsorted(rule.edges, rule.init(1, id=keys).tie[0], side="right"))
            block, by = block + follow, by + [M - 1] * len(follow)
            if whole := exit_ == M - 1:
                break
            block.append(says(text + block)[exit_])
            by.append(exit_)
        drafted += len(block)
        for token, exit_ in zip([*block, None], [*by, M - 1], strict=True):
            if token is None and not whole:
                break
            right = says(text)[M - 1]
            accepted += token == right
            text.append(right)
            exits.append(exit_ if token == right else M - 1)
            if token != right or ended(text[len(prompt) :]):
                break
    return text[len(prompt) :], exits, drafted, accepted


RULES = {
    "none": None,
    "some": _Fixed((0.4, 0.3, 0.3)),
    "most": _Fixed((0.8, 0.2, 0.0)),
    "first": _Fixed((1.0, 0.0, 0.0)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("drafts", [Drafts(1), Drafts(3), Drafts(20), Drafts(2, 3), Drafts(20, 8)], ids=str)
def test_exact_answers_are_the_full_networks_whatever_drafts(network, prompts, says, rule, drafts):
    repeating = [prompt + prompt for prompt in prompts]
    own = [drafting_oracle(says, prompt, 0, None, 14, Drafts())[0] for prompt in repeating]
    found = made(network, repeating, RULES[rule], exact=drafts, compare=False, batch_size=4)
    for i, prompt in enumerate(repeating):
        expected = drafting_oracle(says, prompt, KEYS[i], RULES[rule], 14, drafts)
        assert found[i].tokens == own[i] == expected[0]
        assert (found[i].exits, found[i].drafted) == expected[1:3]
        assert found[i].accepted <= found[i].drafted
        assert not found[i].full


def test_drafts_that_are_accepted_are_counted(network, prompts, says):
    """With at most one draft at a time, those that are accepted are the tokens that an exit has said."""
    for i, one in made(network, prompts, RULES["most"], exact=Drafts(1), compare=False).items():
        early = sum(exit_ < M - 1 for exit_ in one.exits)
        assert (one.accepted, one.drafted) == (
            early,
            drafting_oracle(says, prompts[i], KEYS[i], RULES["most"], 14, Drafts(1))[2],
        )
    found = made(network, prompts, RULES["most"], exact=Drafts(6), compare=False).values()
    assert 0 < sum(one.accepted for one in found) < sum(one.drafted for one in found)


@pytest.mark.parametrize("drafts", [Drafts(3), Drafts(20, 5)], ids=str)
def test_an_end_that_was_drafted_is_checked(network, prompts, says, drafts):
    """Every token is an end for some answer: said early, looked up, wrong, and behind a wrong one."""
    plain = [drafting_oracle(says, prompt, 0, None, 14, Drafts())[0] for prompt in prompts]
    early = made(network, prompts, RULES["first"], compare=False)
    ends = {tokens[4] for tokens in plain} | {early[0].tokens[1]}
    for rule in RULES.values():
        found = made(network, prompts, rule, exact=drafts, compare=False, ends=sorted(ends))
        for i, tokens in enumerate(plain):
            stop = next((t + 1 for t, token in enumerate(tokens) if token in ends), len(tokens))
            assert found[i].tokens == tokens[:stop]
            assert len(found[i].exits) == stop


def test_an_end_among_tokens_that_were_looked_up_ends_the_answer(network, prompts, says, monkeypatch):
    """The lookup is replaced by one that knows the answer: all of it is accepted, also what is behind the end."""
    prompt = prompts[0]
    own = drafting_oracle(says, prompt, 0, None, 14, Drafts())[0]
    monkeypatch.setattr(generation, "looked_up", lambda text, most: own[len(text) - len(prompt) :][:most])
    options = {"exact": Drafts(lookup=8), "compare": False}
    assert made(network, [prompt], None, **options)[0].accepted == 12
    for end in own:
        assert made(network, [prompt], None, ends=[end], **options)[0].tokens == own[: own.index(end) + 1]


def test_a_policy_that_needs_no_full_network_is_checked_by_it(network, prompts, says):
    rule = _Fixed((1.0, 0.0, 0.0))
    rule.needs = np.array([True, False, False])
    found = made(network, prompts, rule, exact=Drafts(2), compare=False)
    for i, prompt in enumerate(prompts):
        assert found[i].tokens == drafting_oracle(says, prompt, 0, None, 14, Drafts())[0]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_short_exact_answers(network, prompts, says, most):
    for i, one in made(
        network, prompts, RULES["first"], exact=Drafts(2, 4), compare=False, most_tokens=most
    ).items():
        assert one.tokens == drafting_oracle(says, prompts[i], 0, None, most, Drafts())[0]


def test_multiply_adds_of_exact_answers_are_those_that_were_run(network, prompts):
    """Layers, vocabulary layer and heads are counted by hooks; what was taken back was paid, too."""
    ran = {"layers": 0, "vocabulary": 0, "adapter": 0, "sure": 0}

    def count(name):
        def hook(_, given):
            ran[name] += given[0].shape[:-1].numel()

        return hook

    modules = [("layers", layer) for layer in network.backbone.model.layers]
    modules += [("vocabulary", network.backbone.lm_head)]
    modules += [pair for head in network.token_heads for pair in (("adapter", head.up), ("sure", head.sure))]
    hooks = [module.register_forward_pre_hook(count(name)) for name, module in modules]
    options = {"most_tokens": 14, "exact": Drafts(3, 2)}
    try:
        one = dict(continuations(network, prompts[:1], KEYS[:1], RULES["some"], **options))[0]
    finally:
        for hook in hooks:
            hook.remove()
    macs = network.macs
    spent = ran["layers"] * macs.layers.sum() / 4 + ran["vocabulary"] * macs.vocabulary
    spent += ran["adapter"] * macs.adapter + ran["sure"] * macs.confidence
    assert one.drafted > one.accepted
    assert one.macs + one.prompt_macs == pytest.approx(spent, rel=1e-4)
    assert one.prompt_macs == pytest.approx(len(prompts[0]) * macs.layers.sum())


def test_looked_up_is_what_followed_the_last_tokens_before():
    assert looked_up([1, 2, 3, 4, 5, 1, 2, 3], 2) == [4, 5]
    assert looked_up([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 1) == [8]  # where they came last
    assert looked_up([7, 2, 3, 9, 9, 2, 3], 5) == [9, 9, 2, 3]  # two alike; no more than there is
    assert looked_up([5, 5, 5], 4) == [5]
    assert looked_up([1, 2, 3], 4) == looked_up([1], 4) == looked_up([], 4) == []
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = rng.integers(0, 3, rng.integers(1, 30)).tolist()
        assert looked_up(text, 4) == followed(text, 4)


def test_exact_answers_refuse_what_makes_no_sense(network, prompts):
    with pytest.raises(InputError, match=r"full network's own: leave out compare"):
        made(network, prompts, None, exact=Drafts())
    with pytest.raises(InputError, match="length of drafts must be at least 1, got 0"):
        Drafts(0)
    with pytest.raises(InputError, match="lookup of drafts must be at least 0, got -1"):
        Drafts(lookup=-1)
