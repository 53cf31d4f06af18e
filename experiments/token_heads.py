"""Heads on tokens compared: what they pool, layer norm, a hidden layer, and how their weights are found.

    python experiments/token_heads.py --model hf:FOLDER

A frozen sentence encoder on BANKING77. The features of every layer are computed once and kept under runs/; every
variant learns from all training texts and is measured on all test texts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from attention_head import AttentionHead, Tokens
from common import arguments
from report import heading, write_text_over_reading
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from exeunt._files import read_json, write_json
from exeunt.data import open_source
from exeunt.torch.exits.attach import attach
from exeunt.torch.exits.heads import TOKENS, Head, HeadOptions
from exeunt.torch.loaders import make_loader
from exeunt.torch.models.by_name import build_model
from exeunt.torch.models.inputs import cut_long_texts, example_inputs, text_preparation
from exeunt.torch.training.convex import chosen_penalty, solve
from exeunt.torch.training.feature_cache import build_cache
from exeunt.torch.training.recipe import rate_factor

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from exeunt.torch.training.feature_cache import FeatureCache

EPOCHS, BATCH = 20, 256
LAYERS = (0, 2, 4, 6)
"""Whose features are compared: 0 are the embeddings, 6 is the last of MiniLM."""


class Variant(NamedTuple):
    """A head, and how it learns: "lbfgs", "scikit-learn", or by gradients with a peak rate.

    `attends`: the mean that it reads is weighted by attention.
    """

    label: str
    options: dict[str, Any]
    optimiser: str = "lbfgs"
    rate: float = 0.0
    attends: bool = False


VARIANTS = {
    "mean": Variant("**baseline**: mean of the tokens, layer norm, linear", {"head": "mean", "hidden": 0}),
    "mean-plain": Variant("without layer norm", {"head": "mean", "hidden": 0, "input_norm": "none"}),
    "sklearn": Variant(
        "scikit-learn on the standardised mean, C = 0.05",
        {"head": "mean", "hidden": 0, "input_norm": "none"},
        "scikit-learn",
    ),
    "token": Variant("the first token", {"head": "token", "hidden": 0}),
    "both": Variant("first token and mean", {"head": "both", "hidden": 0}),
    "mean-sgd": Variant("baseline by SGD", {"head": "mean", "hidden": 0}, "sgd", 0.1),
    "mean-adamw": Variant("baseline by AdamW", {"head": "mean", "hidden": 0}, "adamw", 2e-3),
    "hidden": Variant("hidden layer of 128, batch norm", {"head": "mean", "hidden": 128}, "adamw", 2e-3),
    "hidden-layer": Variant(
        "hidden layer of 128, layer norm", {"head": "mean", "hidden": 128, "norm": "layer"}, "adamw", 2e-3
    ),
    "hidden-sgd": Variant(
        "hidden layer of 128, batch norm, by SGD", {"head": "mean", "hidden": 128}, "sgd", 0.1
    ),
    "hidden-256": Variant("hidden layer of 256, batch norm", {"head": "mean", "hidden": 256}, "adamw", 2e-3),
    "hidden-512": Variant("hidden layer of 512, batch norm", {"head": "mean", "hidden": 512}, "adamw", 2e-3),
    "hidden-both": Variant(
        "first token and mean, hidden layer of 256, batch norm",
        {"head": "both", "hidden": 256},
        "adamw",
        2e-3,
    ),
    "statistics": Variant(
        "mean and standard deviation of the tokens, layer norm, linear", {"head": "statistics", "hidden": 0}
    ),
    "statistics-256": Variant(
        "mean and standard deviation, hidden layer of 256, batch norm: **the default**",
        {"head": "statistics", "hidden": 256},
        "adamw",
        2e-3,
    ),
    "attention": Variant(
        "attention pooling, hidden layer of 256, batch norm",
        {"head": "mean", "hidden": 256},
        "adamw",
        2e-3,
        attends=True,
    ),
}


class Features(NamedTuple):
    """What is known of some texts: the first token and the mean of every layer, and all tokens of some layers."""

    pooled: FeatureCache
    tokens: dict[int, Tokens]


def features(spec: str, data: str, folder: Path) -> dict[str, Features]:
    """Return what is known of the training and of the test texts."""
    source, tokenizer = open_source(data), text_preparation(spec)
    encoder = build_model(spec, n_classes=source.n_classes, trained=True)
    cut_long_texts(tokenizer, encoder)
    example = example_inputs(source.dataset("train"), tokenizer)
    names = [name for name, module in encoder.named_modules() if name.count(".") == 2 and "layer." in name]
    prefix = getattr(encoder, "base_model_prefix", "encoder")
    places = [f"{prefix}.embeddings", *(f"{prefix}.{name}" for name in names[:-1])]
    network = attach(
        encoder, example, places, head="both", hidden=0, n_classes=source.n_classes, verbose=False
    )
    found = {}
    for part in ("train", "test"):
        loader = make_loader(source.dataset(part), tokenizer, batch_size=128, by_length=True)
        cache = build_cache(network, loader, folder / part, device=torch.device("cpu"), show=True)
        tokens = Tokens.of(encoder.eval(), source.dataset(part), tokenizer, LAYERS, folder / part)
        found[part] = Features(cache, tokens)
    return found


def pooled(cache: FeatureCache, layer: int, kind: str) -> Tensor:
    """Return what a head of this kind reads of a layer, (n, width)."""
    both = cache.part(layer)
    width = both.shape[1] // 2
    return {"token": both[:, :width], "mean": both[:, width:], "both": both}[kind]


def untrained(
    variant: Variant, known: dict[str, Features], layer: int
) -> tuple[Head | AttentionHead, list[tuple[Any, Tensor]]]:
    """Return a head, and what it reads of the training and of the test texts, with their classes."""
    torch.manual_seed(0)
    options, pools = HeadOptions(**variant.options), [known[part].pooled for part in ("train", "test")]
    width, n_classes = pools[0].part(layer).shape[1] // 2, int(pools[0].label.max()) + 1
    tokens = [(part.tokens[layer], torch.from_numpy(part.tokens[layer].label)) for part in known.values()]
    if variant.attends:
        return AttentionHead(width, n_classes, options), tokens
    head = Head((1, width), n_classes, TOKENS, options)
    if options.head == "statistics":
        return head, [(part.reduced(head, BATCH), label) for part, label in tokens]
    return head, [(pooled(pool, layer, options.head), torch.from_numpy(pool.label)) for pool in pools]


def measure(variant: Variant, known: dict[str, Features], layer: int) -> dict[str, float]:
    """Train one head on one layer; return its accuracy and cross-entropy on the test texts, and processor seconds."""
    began = time.process_time()
    head, ((inputs, label), (asked, truth)) = untrained(variant, known, layer)
    if variant.optimiser == "lbfgs":
        solved(head.eval(), inputs, label)
    elif variant.optimiser == "scikit-learn":
        by_scikit_learn(head, inputs, label)
    else:
        descended(head, inputs, label, variant)
    with torch.no_grad():
        logits = head.eval().classify(asked[:])
    return {
        "accuracy": float((logits.argmax(1) == truth).float().mean()),
        "entropy": float(functional.cross_entropy(logits, truth)),
        "processor_s": time.process_time() - began,
    }


def solved(head: Head, inputs: Tensor, label: Tensor) -> None:
    """Solve a head as `exeunt train` does: the penalty is chosen on a fifth of the training texts."""
    with torch.no_grad():
        read = head.before_last(inputs)
    order = np.random.default_rng(0).permutation(len(label))
    n_held_out = len(label) // 5
    penalty, _ = chosen_penalty(read, label, order[n_held_out:], order[:n_held_out], head.n_classes)
    weight, bias = solve(read, label, head.n_classes, penalty)
    with torch.no_grad():
        head.last.weight.copy_(weight)
        head.last.bias.copy_(bias)


def by_scikit_learn(head: Head, inputs: Tensor, label: Tensor) -> None:
    """Give a linear head the weights of scikit-learn's logistic regression on standardised features."""
    mean, scale = inputs.mean(0), inputs.std(0, unbiased=False).clamp_min(1e-6)
    model = LogisticRegression(C=0.05, max_iter=1000).fit(((inputs - mean) / scale).numpy(), label.numpy())
    weight = torch.from_numpy(model.coef_).float() / scale
    with torch.no_grad():
        head.last.weight.copy_(weight)
        head.last.bias.copy_(torch.from_numpy(model.intercept_).float() - weight @ mean)


def descended(head: Head | AttentionHead, inputs: Any, label: Tensor, variant: Variant) -> None:
    """Train a head by gradients, one cycle of rates."""
    matrices = [p for p in head.parameters() if p.ndim > 1]
    rest = [p for p in head.parameters() if p.ndim <= 1]
    decay = 5e-4 if variant.optimiser == "sgd" else 0.01
    groups = [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    descent: torch.optim.Optimizer = (
        torch.optim.SGD(groups, lr=variant.rate, momentum=0.9, nesterov=True)
        if variant.optimiser == "sgd"
        else torch.optim.AdamW(groups, lr=variant.rate)
    )
    n_batches = len(label) // BATCH
    for epoch in range(EPOCHS):
        order = torch.randperm(len(label))
        for number in range(n_batches):
            rows = order[number * BATCH : (number + 1) * BATCH]
            for group in descent.param_groups:
                group["lr"] = variant.rate * rate_factor((epoch + number / n_batches) / EPOCHS, "one_cycle")
            descent.zero_grad()
            functional.cross_entropy(head.classify(inputs[rows]), label[rows]).backward()
            descent.step()


def table(found: dict[str, list[dict[str, float]]], value: str, form: str) -> list[str]:
    """Return one number of every variant, a column per layer."""
    lines = heading(("head", *(f"layer {i}" if i else "embeddings" for i in LAYERS), "mean"))
    for name, layers in found.items():
        values = [layer[value] for layer in layers]
        cells = " | ".join(format(number, form) for number in [*values, float(np.mean(values))])
        lines.append(f"| {VARIANTS[name].label} | {cells} |")
    return lines


def page(found: dict[str, list[dict[str, float]]], n_train: int, n_test: int) -> str:
    accuracy, entropy, seconds = (
        "\n".join(table(found, value, form))
        for value, form in (("accuracy", ".4f"), ("entropy", ".3f"), ("processor_s", ".1f"))
    )
    return f"""# Heads on tokens

Made by `python experiments/token_heads.py`; numbers in [token-heads.json](token-heads.json).

BANKING77 with a frozen MiniLM of 6 layers (all-MiniLM-L6-v2), a head after the embeddings and after layers 2, 4 and 6.
Every head learns from all {n_train:,} training texts and is measured on all {n_test:,} test texts; a difference between
two heads on one layer below some 0.6 points may be luck. Linear heads are solved (L-BFGS, the penalty chosen on a fifth
of the training texts). The others descend for {EPOCHS} epochs of one-cycle AdamW at 0.002 (SGD: 0.1) in batches of
{BATCH}.

## Accuracy

{accuracy}

## Cross-entropy in nats

{entropy}

## Processor seconds to train a head

{seconds}
"""


def main() -> None:
    parser = arguments(__doc__, data="text/banking77", run="token-heads", out="token-heads.md", splits=1)
    parser.add_argument("--model", required=True, help="hf:FOLDER of a text encoder")
    given = parser.parse_args()
    known = features(given.model, given.data, given.run)
    kept = given.run / "measured.json"
    found: dict[str, list[dict[str, float]]] = read_json(kept) if kept.is_file() else {}
    for name, variant in VARIANTS.items():
        layers = found.setdefault(name, [])
        for layer in LAYERS[len(layers) :]:
            layers.append(measure(variant, known, layer))
            print(name, layer, layers[-1], flush=True)
            write_json(kept, found)
    found = {name: found[name] for name in VARIANTS}
    write_json(given.out.with_suffix(".json"), found)
    sizes = (len(known[part].pooled) for part in ("train", "test"))
    write_text_over_reading(given.out, page(found, *sizes))


if __name__ == "__main__":
    main()
