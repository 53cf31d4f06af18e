"""Decoders of transformers, run some layers at a time, give what they give as a whole."""

import numpy as np
import pytest
import torch
import transformers

from exeunt.errors import InputError
from exeunt.torch.language.decoder import Decoder, KeyValues, ragged
from tiny_decoders import FAMILIES, N_TOKENS, decoder

OFTEN = ("Llama", "GPT2", "Gemma2")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in OFTEN]


@pytest.mark.parametrize("family", [*OFTEN, *OTHERS])
@torch.inference_mode()
def test_blocks_of_different_length_and_depth_give_the_whole_models_logits(family):
    model = decoder(family)
    parts, rng = Decoder(model), np.random.default_rng(1)
    tokens = torch.from_numpy(rng.integers(3, N_TOKENS, (3, 12)))
    whole = model(tokens).logits
    kept = KeyValues(3, 12)
    hidden = [list[torch.Tensor]() for _ in range(3)]  # after two layers
    done = torch.zeros(3, dtype=torch.long)
    # Sequence by sequence, blocks of 1 to 5 tokens go through the first two layers.
    while len(rows := torch.from_numpy(np.flatnonzero(done.numpy() < 12))):
        rows = rows[torch.from_numpy(rng.random(len(rows)) < 0.7)]
        if not len(rows):
            continue
        sizes = [int(min(rng.integers(1, 6), 12 - done[i])) for i in rows]
        pieces = [tokens[i, done[i] : done[i] + n] for i, n in zip(rows, sizes, strict=True)]
        block, lengths = ragged([*map(parts.embed, pieces)])
        places = done[rows][:, None] + torch.arange(block.shape[1])
        made = parts.run(block, 0, 2, rows, places, kept)
        for i, one, n in zip(rows.tolist(), made, sizes, strict=True):
            hidden[i].append(one[:n])
        done[rows] += lengths
    # The other layers come later, in one block.
    block, _ = ragged([torch.cat(one) for one in hidden])
    made = parts.run(block, 2, 4, torch.arange(3), torch.arange(12).expand(3, -1), kept)
    found = parts.logits(parts.normed(made.flatten(0, 1))).reshape(whole.shape)
    assert torch.allclose(found, whole, atol=1e-4 * float(whole.abs().max()), rtol=1e-4)


def test_weights_stay_shared_and_the_model_unchanged():
    model = decoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = Decoder(model)
    assert [*model.state_dict()] == [*before]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.model.norm.weight *= 2.0
        hidden = torch.ones(1, 32)
        assert torch.equal(parts.normed(hidden), model.model.norm(hidden))


def test_the_context_is_the_shortest_limit():
    assert Decoder(decoder()).context == 64
    config = transformers.MistralConfig(**FAMILIES["Mistral"], sliding_window=16)
    assert Decoder(transformers.AutoModelForCausalLM.from_config(config).eval()).context == 16


@pytest.mark.filterwarnings("ignore")  # the library's, about a decoder made of an encoder
def test_others_than_decoders_are_refused_in_a_line():
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, intermediate_size=32))
    both = transformers.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    bloom = transformers.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=2)
    sees_later = r"is no decoder: tokens see later ones\. Give a causal language model"
    for model, message in (
        (encoder, sees_later),
        (transformers.T5ForConditionalGeneration(both), sees_later),
        (transformers.BloomForCausalLM(bloom), "'bloom' decoder cannot be run some layers at a time here"),
    ):
        with pytest.raises(InputError, match=message):
            Decoder(model.eval())
