"""Small decoders with random weights, a tokeniser of numbered words, and prompts."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

N_TOKENS, END = 61, 2
_SIZES = {
    "vocab_size": N_TOKENS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 1,
    "bos_token_id": 1, "eos_token_id": END,
}  # fmt: skip
_GPT2 = {
    "vocab_size": N_TOKENS, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
    "eos_token_id": END,
}  # fmt: skip


def _without(*names, **more):
    return {name: size for name, size in _SIZES.items() if name not in names} | more


FAMILIES = {
    "Llama": _SIZES,
    "GPT2": _GPT2,
    "Gemma2": _without(head_dim=8, query_pre_attn_scalar=8),
    "Qwen2": _SIZES,
    "Qwen3": _without(head_dim=8),
    "Mistral": _SIZES,
    "Gemma": _without(head_dim=8),
    "Gemma3Text": _without(head_dim=8, query_pre_attn_scalar=8),
    "Phi": _without(num_key_value_heads=4),
    "Phi3": _SIZES,
    "GPTNeoX": _without("num_key_value_heads"),
    "Falcon": _without("intermediate_size", "num_key_value_heads"),
    "Granite": _without(logits_scaling=4.0),
    "Mixtral": _without(num_local_experts=2),
}


def decoder(family="Llama", seed=0, *, alike=False):
    """A decoder in eval mode. `alike`: its later layers change little, so that early exits often say the same."""
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
            if alike and any(f"layers.{i}." in name for i in (2, 3)) and weight.ndim > 1:
                weight *= 0.4
    return model


def tokenizer(n_tokens=N_TOKENS):
    words = {"<unk>": 0, "<pad>": 1, "<end>": END, **{f"w{i}": i for i in range(3, n_tokens)}}
    bare = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<end>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bare, **special)


def texts(n, seed=0):
    """Texts of 2 to 6 words, some of which come often."""
    rng = np.random.default_rng(seed)
    drawn = [rng.zipf(1.5, rng.integers(2, 7)) for _ in range(n)]
    return [" ".join(f"w{3 + min(word, N_TOKENS - 4)}" for word in words) for words in drawn]


def saved(folder, **options):
    """Write a decoder and its tokeniser, and 400 prompts; return their names."""
    decoder(**options).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    (folder / "prompts.txt").write_text("\n".join(texts(400)) + "\n")
    return f"hf:{folder / 'model'}", str(folder / "prompts.txt")
