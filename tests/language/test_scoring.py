"""Scoring of choices: log-likelihoods against the library's, and questions that leave early."""

import numpy as np
import pytest
import torch

import exeunt as ex
from exeunt.engine.inputs import raw_rows
from exeunt.errors import InputError
from exeunt.torch.language.scoring import ChoiceExecutor


@pytest.fixture(scope="module")
def questions():
    rng = np.random.default_rng(3)

    def words(n):
        return " ".join(f"w{i}" for i in rng.integers(3, 20, n))

    return [(words(rng.integers(1, 7)), words(2), words(1), words(rng.integers(1, 4))) for _ in range(90)]


@torch.inference_mode()
def likelihoods(model, exit_, prompt, choices):
    """Log-likelihoods of the choices by an exit, one text at a time, from the library's hidden states."""
    network, tokenizer, found = model.network, model.prompts.tokenizer, []
    for choice in choices:
        start, follows = (tokenizer(text)["input_ids"] for text in (prompt, choice))
        made = network.backbone(torch.tensor([start + follows]), output_hidden_states=True)
        logits = made.logits[0]
        if exit_ < network.n_exits - 1:
            layer = network.decoder.layers.index(network.exit_names[exit_]) + 1
            head = network.token_heads[exit_]
            logits = network.backbone.lm_head(network.backbone.model.norm(head(made.hidden_states[layer][0])))
        log_p = logits.log_softmax(-1)
        found.append(sum(float(log_p[len(start) - 1 + i, token]) for i, token in enumerate(follows)))
    return np.array(found)


def test_every_exit_scores_by_log_likelihood(model, questions):
    trace = model.score(questions[:12])
    for i, (prompt, *choices) in enumerate(questions[:12]):
        for exit_ in range(3):
            scores = likelihoods(model, exit_, prompt, choices)
            expected = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
            assert np.allclose(trace.log_probability[i, exit_], expected, atol=1e-4)
            assert trace.prediction[i, exit_] == scores.argmax()


def test_questions_leave_where_the_policy_says_and_get_its_answers(model, questions):
    trace = model.score(questions).with_reference()
    fit, calibrate, _ = trace.split(fit=0.3, calibrate=0.5, test=0.2)
    policy = ex.eero(fit, calibrate, budget="80%", delta=None)
    answers = model.choose(questions, policy)
    assert answers.valid.all()
    assert answers.label.tolist() == policy.answers(trace).tolist()
    assert answers.exit.tolist() == policy.route(trace).tolist()
    assert len(set(answers.exit.tolist())) > 1
    assert 1 - trace.risk[0] > 0.6  # agreement with the full network, without labels


def test_costs_are_those_of_all_texts_of_a_question(model, questions):
    trace, macs = model.score(questions[:20]), model.network.macs
    n_tokens = n_choice = 0
    for prompt, *choices in questions[:20]:
        n_choice += sum(len(choice.split()) for choice in choices)
        n_tokens += sum(len(prompt.split()) + len(choice.split()) for choice in choices)
    heads = np.array([1, 2, 3]) * macs.vocabulary + np.array([1, 2, 2]) * macs.adapter
    expected = np.cumsum(macs.layers) * n_tokens / 20 + heads * n_choice / 20
    assert trace.cost.cumulative == pytest.approx(expected)


def test_what_does_not_depend_on_the_batch(model, questions):
    together, alone = (model.score(questions[:10], batch_size=size) for size in (10, 1))
    assert np.allclose(together.log_probability, alone.log_probability, atol=1e-4)
    assert together.id.tolist() == alone.id.tolist()


def test_the_executor_drops_and_joins_questions(model, questions):
    executor = ChoiceExecutor(model.network, model.prompts, 3)
    state, valid = executor.start(raw_rows(questions[:4]))
    assert valid.all()
    (whole,), after = executor.run(0, state, [0])
    joined = executor.gather([(after, np.array([1, 3])), (after, slice(0, 1)), (after, None)])
    (late,), _ = executor.run(1, joined, [1])
    (every,), _ = executor.run(1, after, [1])
    assert np.allclose(late, every[[1, 3, 0, 0, 1, 2, 3]], atol=1e-4)
    kept, order = executor.compact(after, np.array([0, 2]))
    assert order.tolist() == [0, 2]
    assert np.allclose(executor.run(1, kept, [1])[0][0], every[[0, 2]], atol=1e-4)
    assert whole.shape == (4, 3)


def test_bad_questions_are_named(model):
    for questions, message in (
        ([], "no questions to score"),
        ([("w3", "w4")], "needs 2 choices or more, got 1"),
        ([("w3", "w4", "w5"), ("w3", "w4")], r"a prompt and 2 choices, a tuple of texts, got \('w3', 'w4'\)"),
        ([("w3", "w4", "")], "the choice '' of 'w3' has no tokens"),
        ([("", "w4", "w5")], "prompt 0 has no tokens"),
        ([("w3 " * 62, "w4", "w5 w6 w7")], "prompt and its choice have 65 tokens, and the decoder takes 64"),
    ):
        with pytest.raises(InputError, match=message):
            model.score(questions)
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        model.score([("w3", "w4", "w5")], batch_size=0)
