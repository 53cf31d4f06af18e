"""The run folder of a language model: what its traces hold, resuming, and bad input."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

import exeunt as ex
from exeunt.errors import ArtefactError, ExeuntError, InputError
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import part_data
from exeunt.torch.language import LanguageModel
from exeunt.torch.language import training as language_training
from exeunt.torch.language.generation import SCORE, token_keys
from exeunt.torch.language.training import LanguageJob, train_language_model
from made_runs import made_run
from tiny_decoders import END, N_TOKENS, decoder, saved, tokenizer


def train(job, out, **options):
    return train_language_model(job, out, command="", say=lambda _: None, progress=False, **options)


@torch.inference_mode()
def test_traces_hold_what_exits_say_after_the_same_tokens(run):
    """Against the full network, on the whole text, for every token."""
    model = LanguageModel.open(run.path)
    network, data, trace = model.network, part_data(run, "test"), run.recorded("test")
    own = network.backbone
    layers = [network.decoder.layers.index(name) + 1 for name in network.exit_names]
    row = 0
    for i in range(len(data)):
        text = model.prompts.of([data.content(i)])
        tokens = list(text.tokens[0])
        for place in range(int((trace.groups.index == i).sum())):
            made = own(torch.tensor([tokens]), output_hidden_states=True)
            said = int(made.logits[0, -1].argmax())
            states = [made.hidden_states[layer][:, -1] for layer in layers]
            assert trace.prediction[row].tolist() == [
                *(int(network.says(exit_, state)[0]) for exit_, state in enumerate(states)), said
            ]  # fmt: skip
            sure = [float(head.confidence(x)) for head, x in zip(network.token_heads, states, strict=True)]
            assert trace.scores[SCORE][row, :2] == pytest.approx(sure, abs=1e-4)
            assert trace.id[row] == token_keys(text.keys, np.array([place]))[0]
            assert trace.label[row] == said
            tokens.append(said)
            row += 1
    assert row == trace.n
    assert trace.groups.n == len(data)
    assert trace.reference == "the full network"


def test_heads_learn_and_confidences_tell_who_agrees(run):
    trace, lens = run.recorded("test"), LanguageModel.open(run.path).network
    right = trace.prediction == trace.prediction[:, -1:]
    with torch.no_grad():
        for head in lens.heads:
            head.down.weight.zero_()
            head.down.bias.zero_()
    model = LanguageModel(run, lens, LanguageModel.open(run.path).prompts)
    bare = language_training.token_trace(
        lens, *_prompts_and_continuations(model, run), show=False
    )  # the logit lens
    assert right[:, 0].mean() > (bare.prediction[:, 0] == bare.prediction[:, -1]).mean() + 0.02
    for exit_ in range(2):
        sure = trace.scores[SCORE][:, exit_]
        assert sure[right[:, exit_]].mean() > sure[~right[:, exit_]].mean() + 0.1


def _prompts_and_continuations(model, run):
    data = part_data(run, "test")
    prompts = model.prompts.of([data.content(i) for i in range(len(data))])
    lines = (run.path / "training" / "test.jsonl").read_text().splitlines()[1:]
    return prompts, [tokens for _, tokens in sorted(map(json.loads, lines))]


def test_a_run_is_opened_and_verified_as_any_other(run):
    assert RunFolder.open(run.path).digest == run.digest
    run.files.check_all()
    assert run.cost.n_exits == 3
    assert [part.groups.n for part in map(run.recorded, ("fit", "calibrate", "test"))] == [60, 80, 80]


def test_the_same_weights_come_back(run):
    once, again = LanguageModel.open(run.path), LanguageModel.open(run.path)
    assert [one.continuation for one in once.generate(["w3 w4"], full=True)] == [
        one.continuation for one in again.generate(["w3 w4"], full=True)
    ]


class StoppedError(Exception):
    pass


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
    learn = language_training.learn_confidences
    monkeypatch.setattr(
        language_training, "learn_confidences", lambda *_, **__: (_ for _ in ()).throw(StoppedError)
    )
    with pytest.raises(StoppedError):
        train(asked, tmp_path / "lm")
    monkeypatch.setattr(language_training, "learn_confidences", learn)
    again = train(asked, tmp_path / "lm")
    assert asked_for == [180]
    for part in ("fit", "calibrate", "test"):
        one, two = run.recorded(part), again.recorded(part)
        assert np.array_equal(one.prediction, two.prediction)
        assert np.allclose(one.scores[SCORE], two.scores[SCORE])
    assert train(asked, tmp_path / "lm").digest == again.digest  # finished: opened as it is
    with pytest.raises(InputError, match="run with other options"):
        train(replace(asked, most_tokens=9), tmp_path / "lm")


def test_jobs_that_no_decoder_can_do_are_refused_at_once(asked, tmp_path):
    for changes, message in (
        ({"recipe": {"mode": "joint"}}, "learn in mode 'frozen' alone"),
        ({"head": {"grid": 2}}, "leave out grid"),
        ({"model": "torchvision:resnet18"}, "a decoder is a Hugging Face model"),
        ({"model": "hf:tests"}, "there is no Hugging Face model 'tests' here"),
        ({"most_tokens": 0}, "most_tokens must be at least 1, got 0"),
        ({"data": "sklearn:digits"}, "must hold one text for each prompt, got images"),
        (
            {"exits": ("model.layers.9",)},
            r"no place for an exit named 'model\.layers\.9'; the places are: model\.lay",
        ),
        ({"head": {"hidden": 900}}, "leaving there saves nothing: take fewer hidden units, or earlier exits"),
        ({"most_tokens": 60}, r"has \d tokens, and the decoder takes 64, of which 60 are kept"),
    ):
        with pytest.raises(ExeuntError, match=message):
            train(replace(asked, **changes), tmp_path / "lm")
        assert not (tmp_path / "lm" / "training").exists()


def test_a_tokeniser_with_more_tokens_than_the_model_is_refused(tmp_path):
    model, data = saved(tmp_path)
    tokenizer(N_TOKENS + 5).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=f"numbers {N_TOKENS + 5} tokens, and the model knows {N_TOKENS}"):
        train(LanguageJob(model=model, data=data), tmp_path / "lm")


def test_a_tokeniser_without_a_padding_token_will_do(tmp_path):
    """Those of Llama and GPT-2 have none."""
    model, data = saved(tmp_path, alike=True)
    bare = tokenizer()
    bare.pad_token = None
    bare.save_pretrained(tmp_path / "model")
    run = train(
        LanguageJob(model=model, data=data, exits=1, most_tokens=2, recipe={"epochs": 1}), tmp_path / "lm"
    )
    assert LanguageModel.open(run.path).prompts.of(["w3 w4"]).tokens == [[3, 4]]


def test_a_damaged_run_is_not_taken_for_finished(asked, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "lm")
    (tmp_path / "lm" / "decoder.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtefactError, match="the weights of decoder and heads"):
        train(asked, tmp_path / "lm")


def test_a_token_that_the_decoder_does_not_know_is_named(run):
    model = LanguageModel.open(run.path)
    other = tokenizer(N_TOKENS + 5)
    prompts = replace(model.prompts, tokenizer=other)
    with pytest.raises(
        InputError, match=f"a prompt has the token {N_TOKENS + 1}, and the decoder knows {N_TOKENS}"
    ):
        LanguageModel(run, model.network, prompts).generate([f"w3 w{N_TOKENS + 1}"], full=True)


def test_an_encoder_is_refused(tmp_path):
    import transformers

    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes, intermediate_size=32)).save_pretrained(
        tmp_path
    )
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "prompts.txt").write_text("w3 w4\n" * 40)
    with pytest.raises(InputError, match="no decoder"):
        train(LanguageJob(model=f"hf:{tmp_path}", data=str(tmp_path / "prompts.txt")), tmp_path / "lm")


def test_prompts_that_do_not_fit_are_named(run):
    model = LanguageModel.open(run.path)
    with pytest.raises(InputError, match=r"prompt 1 has no tokens: leave it out"):
        model.generate(["w3", ""], full=True)
    with pytest.raises(
        InputError, match=r"prompt 0 has 70 tokens, and the decoder takes 64, of which 10 are kept"
    ):
        model.generate(["w3 " * 70], full=True)
    with pytest.raises(InputError, match=r"prompt 1 \(and 2 more prompts\) has 70 tokens"):
        model.generate(["w3", *["w3 " * 70] * 3], full=True)
    with pytest.raises(InputError, match=r"takes 64 tokens, and answers of 64 leave none for the prompt"):
        model.generate(["w3"], full=True, most_tokens=64)
    with pytest.raises(InputError, match="has no policy yet"):
        model.generate(["w3"])
    with pytest.raises(InputError, match="prompts must be a list of texts, got one text: 'w3'"):
        model.generate("w3", full=True)
    with pytest.raises(InputError, match="prompt 1 must be a text, got 3"):
        model.generate(["w3", 3], full=True)
    with pytest.raises(InputError, match="policy must be one that `calibrate` returned, got 'auto'"):
        model.generate(["w3"], policy="auto")


def test_a_chat_template_must_be_there(asked, tmp_path):
    with pytest.raises(InputError, match="the tokeniser has no chat template: leave out --chat"):
        train(replace(asked, chat=True), tmp_path / "lm")


def test_other_runs_hold_no_decoder(tmp_path):
    with pytest.raises(InputError, match="and this takes a run that holds the weights of decoder and heads"):
        LanguageModel.open(made_run(tmp_path / "other").path)


def test_a_chat_template_is_used_where_there_is_one(tmp_path):
    model, data = saved(tmp_path, alike=True)
    chat = tokenizer()
    chat.chat_template = (
        "{% for m in messages %}w7 {{ m.content }}{% endfor %}{% if add_generation_prompt %} w9{% endif %}"
    )
    chat.save_pretrained(tmp_path / "model")
    run = train(
        LanguageJob(model=model, data=data, exits=1, most_tokens=2, recipe={"epochs": 1}), tmp_path / "lm"
    )
    opened = LanguageModel.open(run.path)
    assert opened.prompts.of(["w3 w4"]).tokens == [[7, 3, 4, 9]]


def test_every_token_that_ends_a_text_ends_an_answer(run):
    model = LanguageModel.open(run.path)
    assert model.prompts.ends == (END,)
    several = decoder(alike=True)
    several.generation_config.eos_token_id, several.config.eos_token_id = [7, 5], 9
    assert language_training._ends(several, tokenizer()) == (END, 5, 7, 9)
    tokens = model.generate(["w3 w4"], full=True)[0].continuation.tokens
    ended = LanguageModel(run, model.network, replace(model.prompts, ends=(tokens[2],)))
    assert (
        ended.generate(["w3 w4"], full=True)[0].continuation.tokens == tokens[: tokens.index(tokens[2]) + 1]
    )


def test_an_end_that_a_tokeniser_adds_does_not_come_before_the_answer(run):
    model = LanguageModel.open(run.path)
    ending = tokenizer()
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", END)]
    )
    way = replace(model.prompts, tokenizer=ending)
    assert ending("w3 w4")["input_ids"] == [3, 4, END]
    assert way.of(["w3 w4"]).tokens == [[3, 4]]
    with pytest.raises(InputError, match="prompt 0 has no tokens"):
        way.of([""])


def test_all_of_a_confidence_learns(run):
    network = LanguageModel.open(run.path).network
    head = network.token_heads[0].train()
    hidden = torch.randn(64, 32)
    head.confidence(hidden).sum().backward()
    rows = {
        name: (weight.grad.reshape(len(weight), -1) != 0).any(1)
        for name, weight in head.sure.named_parameters()
    }
    assert len(rows) == 4
    assert all(bool(moved.all()) for moved in rows.values())
    head.eval()
    normed = torch.nn.functional.layer_norm(hidden, (32,))
    assert torch.equal(head.confidence(hidden), head.sure(normed)[:, 0])


def test_other_weights_in_the_same_folder_make_other_continuations(tmp_path, monkeypatch):
    model, data = saved(tmp_path, alike=True)
    job = LanguageJob(model=model, data=data, exits=1, most_tokens=3, recipe={"epochs": 1})
    monkeypatch.setattr(
        language_training, "learn_confidences", lambda *_, **__: (_ for _ in ()).throw(StoppedError)
    )
    with pytest.raises(StoppedError):
        train(job, tmp_path / "lm")
    before = (tmp_path / "lm" / "training" / "test.jsonl").read_text()
    decoder(alike=True, seed=1).save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    (tmp_path / "lm" / "training" / "checkpoint.pt").unlink()
    train(job, tmp_path / "lm")
    assert (tmp_path / "lm" / "training" / "test.jsonl").read_text().splitlines()[1:] != before.splitlines()[
        1:
    ]


def test_what_is_damaged_in_a_file_of_answers_is_made_again(run, tmp_path):
    model, file = LanguageModel.open(run.path), tmp_path / "answers"
    prompts = ["w3 w4", "w5 w6", "w7 w8"]
    first = model.generate(prompts, full=True, keep=file)
    lines = file.read_bytes().split(b"\n")
    lines[1], lines[2] = lines[1][:7], b"\xff\x00"
    file.write_bytes(b"\n".join(lines))
    assert model.generate(prompts, full=True, keep=file) == first
    assert model.generate(prompts, full=True, keep=file, batch_size=1) == first
    lines = file.read_text(errors="replace").splitlines()
    assert len(lines) == 4 + 2  # what is damaged stays, and is not read


def test_a_policy_of_another_network_is_refused(run):
    model, zeros = LanguageModel.open(run.path), np.zeros((40, 5))
    options = {"cost": ex.CostModel([1, 2, 3, 4, 5.0]), "label": zeros[:, 0].astype(int)}
    trace = ex.ExitTrace.from_scores(zeros, zeros.astype(int), **options)
    other = ex.eero(trace.take(slice(20)), trace.take(slice(20, 40)), budget=3.0, delta=None)
    with pytest.raises(ExeuntError, match="calibrated for another network"):
        model.generate(["w3"], policy=other)
    with pytest.raises(InputError, match="give one of budget, policy and full"):
        model.generate(["w3"], full=True, budget="80%")
