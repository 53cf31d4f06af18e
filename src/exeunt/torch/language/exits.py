"""A decoder with exits: after some layers a small head guesses the token that the full network would choose.

A head is an adapter of the hidden state, behind which the model's own norm and vocabulary layer follow, and a
confidence. The vocabulary layer costs as much as several layers. So the confidence reads the hidden state alone, and
only tokens that leave pay for adapter and vocabulary (Valade 2024; CALM, Schuster et al. 2022).
Axis letters: n tokens or sequences, t tokens, d hidden units, v tokens of the vocabulary, k of them among which heads
learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exeunt._support.arrays import Floats
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError
from exeunt.torch.devices import seeded
from exeunt.torch.exits.multiply_adds import count_source, cumulative_macs
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.exits.placement import ExitPoint, place_exits
from exeunt.torch.language.decoder import Decoder

_HIDDEN = 4 / 3
"""Units of an adapter, by default, per unit of the decoder: then it costs a quarter of a layer."""
_DROPOUT = 0.3
"""In a confidence, which learns from few tokens."""


class TokenCosts(NamedTuple):
    """Multiply-adds per token: of the layers from exit to exit (m,), the vocabulary layer, an adapter, a confidence."""

    layers: Floats
    vocabulary: float
    adapter: float
    confidence: float


class TokenHead(nn.Module):
    """The head of an exit of a decoder.

    `width`: hidden units d of the decoder. `hidden`: units of the adapter. At first the adapter changes nothing, and
    the head is a logit lens. The confidence has one hidden layer, as wide as the decoder: a
    tenth of a layer.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.sure = nn.Sequential(
            nn.Dropout(_DROPOUT),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(width, 1),
        )
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return a guess of the last layer's hidden state, (n, d)."""
        return cast("Tensor", hidden + self.down(functional.gelu(self.up(self.norm(hidden)))))

    def confidence(self, hidden: Tensor) -> Tensor:
        """Return the log-odds (n,) that the head says what the full network says, of hidden states (n, d)."""
        return cast("Tensor", self.sure(functional.layer_norm(hidden, hidden.shape[-1:]))[..., 0])


class DecoderWithExits(EarlyExitNetwork):
    """A decoder with m exits: m - 1 heads between its layers, and its own vocabulary layer as the last.

    `model`: of `AutoModelForCausalLM`; it is not changed. `exits`: how many heads, evenly by cost, or the names of the
    layers that carry them. `hidden`: units of an adapter, by default 4/3 of the decoder's. `length`: of the texts, in
    tokens, for which costs are counted: an exit's cost is that of a token, with the layers and confidences before it,
    its adapter and the vocabulary layer. `seed`: of the heads' initial weights.
    Raises InputError for a model that is no decoder of the usual shape, and for other names.
    """

    answers_with = "vocabulary layer"

    def __init__(
        self,
        model: Any,
        exits: int | Sequence[str] = 7,
        *,
        hidden: int | None = None,
        length: int = 64,
        seed: int = 0,
    ) -> None:
        decoder = Decoder(model)
        width: int = model.get_output_embeddings().weight.shape[1]
        hidden = round(_HIDDEN * width) if hidden is None else hidden
        tokens = torch.zeros(1, length, dtype=torch.long, device=model.device)
        costs = cumulative_macs(model, {"input_ids": tokens}, [*decoder.layers, decoder.vocabulary_layer])
        *of_layers, full = (costs / length).tolist()
        points = [
            ExitPoint(name, cost, (width,)) for name, cost in zip(decoder.layers, of_layers, strict=True)
        ]
        vocabulary = full - of_layers[-1]
        places, named = points[:-1], [] if isinstance(exits, int) else list(exits)
        if wrong := [name for name in named if name not in decoder.layers[:-1]]:
            raise InputError(
                f"there is no place for an exit named {wrong[0]!r}; the places are: {', '.join(decoder.layers[:-1])}"
            )
        chosen = (
            [point for point in places if point.name in named]
            if named
            else place_exits(places, cast("int", exits), full=of_layers[-1])
        )
        with seeded(seed, torch.device("cpu")):
            heads = [TokenHead(width, hidden) for _ in chosen]
        adapter, sure = 2.0 * width * hidden, width * (width + 1.0)
        after = np.array([point.cost for point in chosen]) + sure * np.arange(1, len(chosen) + 1)
        if adapter >= of_layers[-1] - chosen[-1].cost:
            raise InputError(
                f"an adapter of {hidden:,} hidden units costs more than all layers after {chosen[-1].name}, so that "
                "leaving there saves nothing: take fewer hidden units, or earlier exits"
            )
        super().__init__(
            model,
            [head.to(model.device) for head in heads],
            chosen,
            cost=CostModel(
                [*(after + adapter + vocabulary), full + sure * len(chosen)],
                source=count_source(length),
                heads=[sure] * len(chosen) + [0.0],
            ),
            backbone_macs=full,
            options=None,
            n_classes=model.get_output_embeddings().weight.shape[0],
        )
        self.decoder = decoder
        self.hidden = hidden
        self.length = length
        self.macs = TokenCosts(
            np.diff([0.0, *(p.cost for p in chosen), of_layers[-1]]), vocabulary, adapter, sure
        )
        self._learned = torch.arange(self.n_classes)

    @property
    def token_heads(self) -> list[TokenHead]:
        """The heads, one per exit except the last."""
        return [cast("TokenHead", head) for head in self.heads]

    def learn_among(self, tokens: Tensor) -> None:
        """Let heads learn to tell these k tokens apart, those of the training texts: most never occur."""
        self._learned, self.n_classes = tokens, len(tokens)

    def reduce(self, *_: Any, **kwargs: Any) -> tuple[list[Tensor], Tensor]:
        """Run the decoder on texts (n, t); return each exit's hidden states of their tokens, and the last, normed.

        Tokens are those of all texts in a row, without padding and without the first of each text, whose hidden state
        is far larger than others'.
        """
        counted = kwargs["attention_mask"].bool().clone()
        counted[:, 0] = False
        return self.states(counted, **kwargs)

    def states(self, counted: Tensor, **texts: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return what `reduce` does, of the tokens (n, t) that count."""
        reduced: list[Tensor] = []
        with self._hooked(lambda _, hidden: reduced.append(hidden[counted])):
            final = self.decoder.model.base_model(use_cache=False, **texts)[0][counted]
        return reduced, final

    def classify(self, reduced: Sequence[Tensor], final: Tensor) -> list[Tensor]:
        """Return the logits (n, k) of every exit, of the k tokens of `learn_among`."""
        vocabulary = self.decoder.model.get_output_embeddings()
        places = self._learned.to(final.device)
        bias = None if vocabulary.bias is None else vocabulary.bias[places]
        normed = [self.decoder.normed(head(x)) for head, x in zip(self.token_heads, reduced, strict=True)]
        return [functional.linear(x, vocabulary.weight[places], bias) for x in (*normed, final)]

    def logits(self, exit_: int, hidden: Tensor) -> Tensor:
        """Return the logits (n, v) of an exit, of the hidden states (n, d) after its layer."""
        guess = hidden if exit_ == self.n_exits - 1 else self.token_heads[exit_](hidden)
        return self.decoder.logits(self.decoder.normed(guess))

    def says(self, exit_: int, hidden: Tensor) -> Tensor:
        """Return the token (n,) that an exit says, of the hidden states (n, d) after its layer."""
        return self.logits(exit_, hidden).argmax(-1)

    def config(self) -> dict[str, Any]:
        """Return the keyword arguments with which this class rebuilds the network, JSON-able."""
        return {"exits": self.exit_names, "hidden": self.hidden, "length": self.length}

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the logits of every exit for the tokens of `reduce`."""
        return self.classify(*self.reduce(*args, **kwargs))
