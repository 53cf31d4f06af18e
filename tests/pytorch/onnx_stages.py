"""Running the stages of an exported network one after the other, with fewer rows in each."""

from __future__ import annotations

import numpy as np


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
