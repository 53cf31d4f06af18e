"""A BERT with early exits whose heads read the mask, and texts for it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import transformers

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.torch import attach, record

N, LONGEST = 60, 16
PADDING = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}


def batch(rows, length):
    """Texts of word numbers, padded to one length."""
    ids = np.array([np.pad(row, (0, length - len(row))) for row in rows])
    mask = np.array([np.arange(length) < len(row) for row in rows]).astype(np.int64)
    return dict(zip(PADDING, map(torch.from_numpy, (ids, mask, np.zeros_like(ids))), strict=True))


@cache
def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(4, 50, length) for length in rng.integers(1, LONGEST + 1, N)]


def some(n, length=9):
    """The first so many texts, cut or padded to this length."""
    return batch([row[:length] for row in texts()[:n]], length)


@cache
def network():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=50,
        num_labels=3, max_position_embeddings=LONGEST,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    return attach(model, some(2, LONGEST), 1, head="statistics", verbose=False).eval()


@cache
def policy():
    labels = torch.arange(N) % 3
    one_by_one = [(batch([row], len(row)), labels[i : i + 1]) for i, row in enumerate(texts())]
    fit, held_out, _ = record(network(), one_by_one).split(fit=0.3, calibrate=0.3, test=0.4)
    return ex.eero(fit, held_out, budget="70%", delta=None)


def check_batching(executor):
    """Check that batching changes no answer."""
    together = Engine(executor, policy()).answer(batch(texts(), LONGEST))
    assert len(set(together.exit.tolist())) > 1
    sure = 0
    for i, row in enumerate(texts()):
        alone = Engine(executor, policy()).answer(batch([row], len(row)))
        assert alone.confidence[0] == pytest.approx(together.confidence[i], abs=1e-4) or alone.borderline[0]
        if not (alone.borderline[0] or together.borderline[i]):
            assert (alone.label[0], alone.exit[0]) == (together.label[i], together.exit[i])
            sure += 1
    assert sure > 0.5 * N
