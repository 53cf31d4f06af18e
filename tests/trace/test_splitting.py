"""Folds and parts: every input once, copies together."""

import numpy as np
import pytest

from exeunt.errors import InputError
from exeunt.trace.splitting import folds_of, part_rows


@pytest.mark.parametrize("n", [7, 8, 100])
def test_folds_part_the_inputs_and_keep_copies_together(n):
    keys = np.repeat(np.arange(n, dtype=np.uint64), 2)
    folds = folds_of(keys, 3, 0)
    assert sorted(np.concatenate([rows for _, rows in folds])) == list(range(2 * n))
    for rest, rows in folds:
        assert sorted([*rest, *rows]) == list(range(2 * n))
        assert not np.isin(keys[rows], keys[rest]).any()
        assert len(rows) // 2 in (n // 3, n // 3 + 1)


def test_parts_have_their_shares_and_keep_copies_together():
    keys = np.repeat(np.arange(100, dtype=np.uint64), 2)
    parts = part_rows(keys, {"a": 0.3, "b": 0.5}, seed=1)
    assert [len(rows) for rows in parts] == [60, 100]
    assert not np.isin(keys[parts[0]], keys[parts[1]]).any()


def test_too_few_inputs_for_the_folds_are_refused():
    with pytest.raises(InputError, match="at least 2 folds and as many inputs, got 3 folds for 2"):
        folds_of(np.array([1, 1, 2], dtype=np.uint64), 3, 0)
    with pytest.raises(InputError, match="got 1 folds"):
        folds_of(np.arange(5, dtype=np.uint64), 1, 0)
