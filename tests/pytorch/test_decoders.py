"""Decoders of the usual shapes as classifiers of texts: cut, exported, quantised; and their tokenisers."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest

pytest.importorskip("onnxscript")

import tokenizers
import torch
import transformers
from onnx_stages import check_logits
from test_cut import lively

from exeunt.data import open_lines
from exeunt.errors import InputError
from exeunt.onnx.executor import OnnxExecutor
from exeunt.onnx.quantisation import quantise_export
from exeunt.torch import attach
from exeunt.torch.executor import StagedExecutor
from exeunt.torch.models.by_name import build_model_and_report, rebuild_model, save_model_config
from exeunt.torch.models.preparation import example_inputs, fit_tokenizer, text_preparation
from exeunt.torch.to_onnx import export_network

LONGEST, N_WORDS = 32, 40
TOKENS = {"vocab_size": N_WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 32, "max_position_embeddings": LONGEST,
}  # fmt: skip
OF_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LONGEST}
# With a window of 4 tokens, some padding sees padding alone.
DECODERS = {
    "llama": ("LlamaConfig", SIZES),
    "gpt2": ("GPT2Config", OF_GPT2),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen3": ("Qwen3Config", {**SIZES, "head_dim": 8}),
    "mistral": ("MistralConfig", {**SIZES, "sliding_window": 4}),
    "gemma": ("GemmaConfig", {**SIZES, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**SIZES, "head_dim": 8, "sliding_window": 4}),
    "gemma3": ("Gemma3TextConfig", {**SIZES, "head_dim": 8, "sliding_window": 4}),
    "granite": ("GraniteConfig", SIZES),  # which transformers has no classifier for
    "cohere": ("CohereConfig", SIZES),
    "phi": ("PhiConfig", {**SIZES, "num_key_value_heads": 2}),
}
EVERY = ["llama", "gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in [*DECODERS][2:])]


def tokens(n, length=9):
    """Texts of several lengths, padded on the right."""
    rng = torch.Generator().manual_seed(n)
    lengths = torch.randint(2, length + 1, (n, 1), generator=rng)
    lengths[0] = length
    mask = (torch.arange(length) < lengths).long()
    return {"input_ids": torch.randint(3, N_WORDS, (n, length), generator=rng) * mask, "attention_mask": mask}


def config(name, **more):
    kind, sizes = DECODERS[name]
    return getattr(transformers, kind)(**{**TOKENS, **sizes, **more})


def model_of(name, **more):
    return SimpleNamespace(config=config(name, **more), named_modules=list)


@cache
def network(name):
    model = lively(transformers.AutoModel.from_config(config(name)))
    return attach(model, tokens(2), 1, n_classes=3, verbose=False).eval()


def check_answers(executor, name, *, atol):
    for length in (3, 9, 20):
        check_logits(executor, network(name), tokens(5, length), atol=atol)


@pytest.mark.parametrize("name", EVERY)
def test_a_decoder_is_cut_after_its_layers(name):
    made = network(name)
    assert not made.runs_whole
    assert made.exit_names[0].endswith(".0")
    # One layer of two, and one head of two; some versions of transformers also multiply to rotate positions.
    assert made.cost.cumulative[0] == pytest.approx(made.cost.full / 2, rel=5e-4)
    check_answers(StagedExecutor(made, tokens(2)), name, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_padding_changes_no_answer(name):
    inputs = tokens(4)
    with torch.no_grad():
        together = network(name)(**inputs)
        for i, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            alone = network(name)(**{key: rows[i : i + 1, :length] for key, rows in inputs.items()})
            for one, all_ in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], all_[i], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_in_onnx_answers_as_in_pytorch(name, tmp_path):
    padding = {"input_ids": 0, "attention_mask": 0}
    export_network(network(name), tokens(2), tmp_path, padding=padding, say=lambda _: None)
    check_answers(OnnxExecutor(tmp_path, threads=1), name, atol=1e-4)
    if name == "llama":
        (tmp_path / "int8").mkdir()
        quantise_export(tmp_path, tmp_path / "int8", [])
        check_answers(OnnxExecutor(tmp_path / "int8", threads=1), name, atol=0.1)


# -- folders of models -----------------------------------------------------------------------------------------------


def save_tokenizer(folder, *, n_words=N_WORDS, side="right", **special):
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[END]", *map(str, range(n_words - 3))])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=made, padding_side=side, unk_token="[UNK]", **special).save_pretrained(folder)


def test_texts_are_padded_on_the_right_with_any_token(tmp_path):
    config("gpt2", pad_token_id=None).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, side="left", eos_token="[END]")
    tokenizer = text_preparation(f"hf:{tmp_path}")
    model = model_of("gpt2", pad_token_id=None)
    fit_tokenizer(tokenizer, model)
    assert tokenizer(["1 2", "3"], padding="longest")["attention_mask"] == [[1, 1], [1, 0]]
    assert model.config.pad_token_id == tokenizer.pad_token_id == 2
    assert tokenizer.model_max_length == LONGEST
    save_tokenizer(tmp_path, pad_token="[PAD]", eos_token="[END]")
    assert text_preparation(f"hf:{tmp_path}").pad_token_id == 0
    save_tokenizer(tmp_path)
    assert text_preparation(f"hf:{tmp_path}").pad_token_id == 1


@pytest.mark.parametrize("more", [{"n_words": N_WORDS + 1}, {"pad_token": "[NEW]"}])
def test_a_tokeniser_with_more_tokens_than_the_model_is_refused(tmp_path, more):
    config("llama").save_pretrained(tmp_path)
    save_tokenizer(tmp_path, **{"pad_token": "[PAD]", **more})
    with pytest.raises(InputError, match="the tokeniser numbers 41 tokens, and the model knows 40"):
        fit_tokenizer(text_preparation(f"hf:{tmp_path}"), model_of("llama"))


def test_added_tokens_that_texts_do_not_use_may_lie_beyond_the_vocabulary(tmp_path):
    config("llama").save_pretrained(tmp_path)
    save_tokenizer(tmp_path, pad_token="[PAD]", additional_special_tokens=["[IMAGE]"])
    tokenizer = text_preparation(f"hf:{tmp_path}")
    assert len(tokenizer) == N_WORDS + 1
    fit_tokenizer(tokenizer, model_of("llama"))


@pytest.mark.parametrize(
    ("kind", "said"), [("ViT", r"takes images \(vit\), and"), ("Clap", "'clap' models classify")]
)
def test_what_is_neither_classifier_of_texts_nor_decoder_is_refused(tmp_path, kind, said):
    getattr(transformers, f"{kind}Config")().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=said):
        text_preparation(f"hf:{tmp_path}")


def test_an_encoder_decoder_needs_a_trained_classifier(tmp_path):
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": N_WORDS}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is an encoder-decoder \(t5\) without a trained classifier: give"):
        build_model_and_report(f"hf:{tmp_path}", n_classes=3)


@pytest.mark.parametrize("name", ["llama", "granite"])
def test_a_language_model_gives_its_layers_without_the_vocabulary_layer(tmp_path, name):
    made = transformers.AutoModelForCausalLM.from_config(config(name))
    made.save_pretrained(tmp_path)
    built = build_model_and_report(f"hf:{tmp_path}", n_classes=3, trained=True)
    torch.testing.assert_close(built.model.state_dict(), made.model.state_dict())
    save_model_config(f"hf:{tmp_path}", built.model, tmp_path / "run")
    again = rebuild_model("hf:", n_classes=3, folder=tmp_path / "run", new_classifier=True)
    assert {**again.state_dict()}.keys() == {**built.model.state_dict()}.keys()


def test_weights_that_a_decoder_lacks_are_named(tmp_path):
    made = transformers.AutoModelForCausalLM.from_config(config("granite"))
    kept = {name: value for name, value in made.state_dict().items() if "layers.0.mlp" not in name}
    made.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(InputError, match=r"a part \(layers.0.mlp.down_proj.weight"):
        build_model_and_report(f"hf:{tmp_path}", n_classes=3, trained=True)


def test_a_tokeniser_that_finds_no_tokens_is_refused(tmp_path):
    save_tokenizer(tmp_path, pad_token="[PAD]")
    config("llama").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the tokeniser finds no tokens in these texts"):
        example_inputs(open_lines(b"\n \n", "text"), text_preparation(f"hf:{tmp_path}"))
