"""Running the stages of a network one after the other, with fewer rows in each."""

from __future__ import annotations

import numpy as np
import torch


def logits_with_drops(executor, inputs, rows):
    """Every exit's logits with the rows that got there; after each segment the first row is dropped."""
    state, valid = executor.start(inputs)
    assert valid.all()
    found = []
    for i, (first, last) in enumerate(executor.segments):
        logits, state = executor.run(i, state, range(first, last + 1))
        found += [(rows, values) for values in logits]
        if i < len(executor.segments) - 1:
            state, rows = executor.gather([(state, np.arange(1, len(rows)))]), rows[1:]
    return found


def check_logits(executor, network, inputs, *, rtol=1e-7, atol=1e-5):
    """Compare with the logits of a network in PyTorch on the same inputs, a tensor or several by name."""
    by_name = isinstance(inputs, dict)
    n = len(next(iter(inputs.values())) if by_name else inputs)
    with torch.no_grad():
        expected = network(**inputs) if by_name else network(inputs)
    found = logits_with_drops(executor, inputs if by_name else inputs.numpy(), np.arange(n))
    for logits, (rows, values) in zip(expected, found, strict=True):
        np.testing.assert_allclose(values, logits.numpy()[rows], rtol=rtol, atol=atol)
