"""A head that chooses which tokens count: attention pooling by a learned query, then what other heads have.

It reads every token, which the feature cache does not keep, so it is no head of the library: `token_heads.py` compares
it with those that are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from exeunt.torch.exits.heads import TOKENS, Head, HeadOptions
from exeunt.torch.loaders import make_loader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exeunt.data.dataset import Dataset


@dataclass
class Tokens:
    """Features of all tokens of n texts at one layer, `flat` (tokens, d); those of text i begin at `starts[i]`.

    `label` (n,): classes of the texts.
    """

    flat: np.ndarray
    starts: np.ndarray
    label: np.ndarray

    def __getitem__(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the tokens (b, t, d) of some texts, padded, and which of them there are, (b, t)."""
        places = np.arange(len(self.label))[rows]
        pieces = [torch.from_numpy(self.flat[self.starts[i] : self.starts[i + 1]]).float() for i in places]
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in pieces], True)
        return nn.utils.rnn.pad_sequence(pieces, True), mask

    def reduced(self, head: Head, batch: int) -> Tensor:
        """Return what a head pools from the tokens of each text, (n, width)."""
        return torch.cat([head.reduce(*self[i : i + batch]) for i in range(0, len(self.label), batch)])

    @classmethod
    def of(
        cls, encoder: nn.Module, data: Dataset, tokenizer: Any, layers: Sequence[int], folder: Path
    ) -> dict[int, Tokens]:
        """Return the tokens that an encoder gives at each of these layers, kept in half precision in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {layer: folder / f"tokens-{layer}.npy" for layer in layers}
        if not (folder / "starts.npy").is_file():
            lengths: list[int] = []
            found: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
            with torch.no_grad():
                for inputs, *_ in make_loader(data, tokenizer, batch_size=64):
                    states = encoder(**inputs, output_hidden_states=True).hidden_states
                    mask = inputs["attention_mask"].bool()
                    lengths += mask.sum(1).tolist()
                    for layer in layers:
                        found[layer].append(states[layer][mask].half().numpy())
            for layer, file in files.items():
                np.save(file, np.concatenate(found[layer]))
            np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(lengths)]))
        starts = np.load(folder / "starts.npy")
        return {layer: cls(np.load(file), starts, data.labels) for layer, file in files.items()}


class AttentionHead(nn.Module):
    """A head on the tokens' mean, weighted by the softmax of each token's product with a query; at first the mean."""

    def __init__(self, width: int, n_classes: int, options: HeadOptions) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.query.weight)
        self.head = Head((1, width), n_classes, TOKENS, options)

    def classify(self, read: tuple[Tensor, Tensor]) -> Tensor:
        """Return logits (n, k) from tokens (n, t, d) and which of them there are (n, t)."""
        tokens, there = read
        attention = self.query(tokens)[..., 0].masked_fill(~there, -torch.inf).softmax(1)
        return self.head.classify(torch.einsum("nt,ntd->nd", attention, tokens))
