"""The run folder of a language model: what its traces hold, resuming, and bad input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

import exeunt as ex
from exeunt.errors import ArtefactError, ExeuntError, InputError
from exeunt.runs.run_inputs import part_data
from exeunt.torch.language import LanguageModel
from exeunt.torch.language import training as language_training
from exeunt.torch.language.generation import SCORE, token_keys
from exeunt.torch.language.training import LanguageJob, train_language_model
from made_runs import made_run
from tiny_decoders import END, N_TOKENS, decoder, saved, texts, tokenizer


def train(job, out, **options):
    return train_language_model(job, out, command="", say=lambda _: None, progress=False, **options)


@torch.inference_mode()
def test_traces_hold_what_exits_say_after_the_same_tokens(run):
    """Against the full network on the whole text, of which no token sees what comes later."""
    model = LanguageModel.open(run.path)
    network, data, trace = model.network, part_data(run, "test"), run.recorded("test")
    assert (trace.groups.n, trace.reference) == (len(data), "the full network")
    for i in range(len(data)):
        rows = trace.take(trace.groups.index == i)
        text = model.prompts.of([data.content(i)])
        whole = torch.tensor([[*text.tokens[0], *rows.label.tolist()]])
        made = network.backbone(whole, output_hidden_states=True)
        after = slice(len(text.tokens[0]) - 1, -1)
        said = made.logits[0, after].argmax(1).tolist()
        assert rows.label.tolist() == rows.prediction[:, 2].tolist() == said
        for exit_, (name, head) in enumerate(zip(network.exit_names, network.token_heads, strict=True)):
            state = made.hidden_states[network.decoder.layers.index(name) + 1][0, after]
            assert rows.prediction[:, exit_].tolist() == network.says(exit_, state).tolist()
            assert rows.scores[SCORE][:, exit_] == pytest.approx(head.confidence(state).numpy(), abs=1e-4)
        assert rows.id.tolist() == token_keys(text.keys, np.arange(rows.n)).tolist()


def test_heads_learn_and_confidences_tell_who_agrees(run):
    model, trace, data = LanguageModel.open(run.path), run.recorded("test"), part_data(run, "test")
    right = trace.prediction == trace.prediction[:, -1:]
    with torch.no_grad():
        for head in model.network.heads:
            head.down.weight.zero_()
            head.down.bias.zero_()
    lines = (run.path / "training" / "test.jsonl").read_text().splitlines()[1:]
    follows = [tokens for _, tokens in sorted(map(json.loads, lines))]
    prompts = model.prompts.of([data.content(i) for i in range(len(data))])
    lens = language_training.token_trace(model.network, prompts, follows, show=False)  # the logit lens
    assert right[:, 0].mean() > (lens.prediction[:, 0] == lens.prediction[:, -1]).mean() + 0.02
    for exit_ in range(2):
        sure = trace.scores[SCORE][:, exit_]
        assert sure[right[:, exit_]].mean() > sure[~right[:, exit_]].mean() + 0.1


class StoppedError(Exception):
    pass


def stop_before_confidences(job, out):
    def stops(*_, **__):
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_training, "learn_confidences", stops)
        with pytest.raises(StoppedError):
            train(job, out)


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(asked, run, tmp_path, monkeypatch):
    """Killed in the continuations, with a line cut in half, and once more while the heads learn."""
    made = language_training.continuations
    asked_for = []

    def dies(network, prompts, *arguments, **options):
        asked_for.append(len(prompts))
        for n, one in enumerate(made(network, prompts, *arguments, **options)):
            if n == 20:
                raise StoppedError
            yield one

    monkeypatch.setattr(language_training, "continuations", dies)
    with pytest.raises(StoppedError):
        train(asked, tmp_path / "lm")
    file = tmp_path / "lm" / "training" / "train.jsonl"
    file.write_text(file.read_text() + "[3, [1")
    monkeypatch.setattr(language_training, "continuations", made)
    stop_before_confidences(asked, tmp_path / "lm")
    again = train(asked, tmp_path / "lm")
    assert asked_for == [180]
    for part in ("fit", "calibrate", "test"):
        one, two = run.recorded(part), again.recorded(part)
        assert np.array_equal(one.prediction, two.prediction)
        assert np.allclose(one.scores[SCORE], two.scores[SCORE])
    assert train(asked, tmp_path / "lm").digest == again.digest  # finished: opened as it is
    with pytest.raises(InputError, match="run with other options"):
        train(replace(asked, most_tokens=9), tmp_path / "lm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"mode": "joint"}}, "learn in mode 'frozen' alone"),
        ({"head": {"grid": 2}}, "leave out grid"),
        ({"model": "torchvision:resnet18"}, "a decoder is a Hugging Face model"),
        ({"model": "hf:tests"}, "there is no Hugging Face model 'tests' here"),
        ({"most_tokens": 0}, "most_tokens must be at least 1, got 0"),
        ({"data": "sklearn:digits"}, "must hold one text for each prompt, got images"),
        ({"exits": ("model.layers.9",)}, r"no place for an exit named 'model\.layers\.9'; the places are:"),
        ({"head": {"hidden": 900}}, "leaving there saves nothing: take fewer hidden units, or earlier exits"),
        ({"most_tokens": 60}, r"has \d tokens, and the decoder takes 64, of which 60 are kept"),
        ({"chat": True}, "the tokeniser has no chat template: leave out --chat"),
    ],
)
def test_jobs_that_no_decoder_can_do_are_refused_at_once(asked, tmp_path, changes, message):
    with pytest.raises(ExeuntError, match=message):
        train(replace(asked, **changes), tmp_path / "lm")
    assert not (tmp_path / "lm" / "training").exists()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """What is asked for: one exit of a decoder that learns little from few prompts."""
    monkeypatch.setattr("exeunt.torch.language.recording._STEPS", 1)
    model, data = saved(tmp_path, alike=True)
    Path(data).write_text("\n".join(texts(60)))
    return LanguageJob(model=model, data=data, exits=1, most_tokens=3, recipe={"epochs": 1})


def test_a_tokeniser_with_more_tokens_than_the_model_is_refused(small, tmp_path):
    tokenizer(N_TOKENS + 5).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=f"numbers {N_TOKENS + 5} tokens, and the model knows {N_TOKENS}"):
        train(small, tmp_path / "lm")


def test_a_tokeniser_may_have_a_chat_template_and_no_padding_token(small, tmp_path):
    """Those of Llama and GPT-2 have none to pad with."""
    chat = tokenizer()
    chat.pad_token = None
    turns = "{% for m in messages %}w7 {{ m.content }}{% endfor %}"
    chat.chat_template = turns + "{% if add_generation_prompt %} w9{% endif %}"
    chat.save_pretrained(tmp_path / "model")
    model = LanguageModel.open(train(small, tmp_path / "lm").path)
    assert model.prompts.of(["w3 w4"]).tokens == [[7, 3, 4, 9]]
    assert len(model.generate(["w3", "w4 w5"], full=True)) == 2


def test_a_damaged_run_is_not_taken_for_finished(asked, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "lm")
    (tmp_path / "lm" / "decoder.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtefactError, match="the weights of decoder and heads"):
        train(asked, tmp_path / "lm")


def test_a_token_that_the_decoder_does_not_know_is_named(model):
    prompts = replace(model.prompts, tokenizer=tokenizer(N_TOKENS + 5))
    said = f"a prompt has the token {N_TOKENS + 1}, and the decoder knows {N_TOKENS}"
    with pytest.raises(InputError, match=said):
        replace(model, prompts=prompts).generate([f"w3 w{N_TOKENS + 1}"], full=True)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["w3", ""], {"full": True}, r"prompt 1 has no tokens: leave it out"),
        (["w3 " * 70], {"full": True}, "prompt 0 has 70 tokens, and the decoder takes 64, of which 10 are"),
        (["w3", *["w3 " * 70] * 3], {"full": True}, r"prompt 1 \(and 2 more prompts\) has 70 tokens"),
        (["w3"], {"full": True, "most_tokens": 64}, "64 tokens, and answers of 64 leave none for the prompt"),
        (["w3"], {}, "has no policy yet"),
        ("w3", {"full": True}, "prompts must be a list of texts, got one text: 'w3'"),
        (["w3", 3], {"full": True}, "prompt 1 must be a text, got 3"),
        (["w3"], {"policy": "auto"}, "policy must be one that `calibrate` returned, got 'auto'"),
        (["w3"], {"full": True, "budget": "80%"}, "give one of budget, policy and full"),
        (["w3"], {"full": True, "batch_size": 0}, "must be at least 1, got 0"),
        (["w3"], {"full": True, "most_tokens": 0}, "must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_generated_is_said(model, prompts, options, message):
    with pytest.raises(InputError, match=message):
        model.generate(prompts, **options)


def test_other_runs_hold_no_decoder(tmp_path):
    with pytest.raises(InputError, match="and this takes a run that holds the weights of decoder and heads"):
        LanguageModel.open(made_run(tmp_path / "other").path)


def test_every_token_that_ends_a_text_ends_an_answer(model):
    assert model.prompts.ends == (END,)
    several = decoder(alike=True)
    several.generation_config.eos_token_id, several.config.eos_token_id = [7, 5], 9
    assert language_training._ends(several, tokenizer()) == (END, 5, 7, 9)
    tokens = model.generate(["w3 w4"], full=True)[0].continuation.tokens
    ended = replace(model, prompts=replace(model.prompts, ends=(tokens[2],)))
    answer = ended.generate(["w3 w4"], full=True)[0].continuation
    assert answer.tokens == tokens[: tokens.index(tokens[2]) + 1]


def test_an_end_that_a_tokeniser_adds_does_not_come_before_the_answer(model):
    ending = tokenizer()
    ends = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", END)])
    ending.backend_tokenizer.post_processor = ends
    way = replace(model.prompts, tokenizer=ending)
    assert ending("w3 w4")["input_ids"] == [3, 4, END]
    assert way.of(["w3 w4"]).tokens == [[3, 4]]
    with pytest.raises(InputError, match="prompt 0 has no tokens"):
        way.of([""])


def test_all_of_a_confidence_learns(run):
    head = LanguageModel.open(run.path).network.token_heads[0].train()
    hidden = torch.randn(64, 32)
    head.confidence(hidden).sum().backward()
    moved = [(weight.grad.reshape(len(weight), -1) != 0).any(1) for weight in head.sure.parameters()]
    assert len(moved) == 4
    assert all(bool(rows.all()) for rows in moved)
    normed = torch.nn.functional.layer_norm(hidden, (32,))
    assert torch.equal(head.eval().confidence(hidden), head.sure(normed)[:, 0])


def test_other_weights_in_the_same_folder_make_other_continuations(small, tmp_path):
    file = tmp_path / "lm" / "training" / "test.jsonl"
    stop_before_confidences(small, tmp_path / "lm")
    before = file.read_text().splitlines()[1:]
    decoder(alike=True, seed=1).save_pretrained(tmp_path / "model")
    (tmp_path / "lm" / "training" / "checkpoint.pt").unlink()
    train(small, tmp_path / "lm")
    assert file.read_text().splitlines()[1:] != before


def test_what_is_damaged_in_a_file_of_answers_is_made_again(model, tmp_path):
    file, prompts = tmp_path / "answers", ["w3 w4", "w5 w6", "w7 w8"]
    first = model.generate(prompts, full=True, keep=file)
    lines = file.read_bytes().split(b"\n")
    lines[1], lines[2] = lines[1][:7], b"\xff\x00"
    file.write_bytes(b"\n".join(lines))
    assert model.generate(prompts, full=True, keep=file) == first
    assert model.generate(prompts, full=True, keep=file, batch_size=1) == first
    # What is damaged stays, and is not read.
    assert len(file.read_text(errors="replace").splitlines()) == 4 + 2


def test_a_policy_of_another_network_is_refused(model):
    zeros = np.zeros((40, 5))
    options = {"cost": ex.CostModel([1, 2, 3, 4, 5.0]), "label": zeros[:, 0].astype(int)}
    trace = ex.ExitTrace.from_scores(zeros, zeros.astype(int), **options)
    other = ex.eero(trace.take(slice(20)), trace.take(slice(20, 40)), budget=3.0, delta=None)
    with pytest.raises(ExeuntError, match="calibrated for another network"):
        model.generate(["w3"], policy=other)
