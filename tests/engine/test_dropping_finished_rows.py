from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeunt.engine.dropping_finished_rows import compacted, moves


@settings(max_examples=40)
@given(st.integers(1, 40), st.data())
def test_the_rows_kept_come_to_the_front_and_few_are_moved(n, data):
    keep = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), dtype=np.int64)
    array = np.arange(3 * n).reshape(n, 3)
    before = array.copy()
    holes, movers, order = moves(keep)
    assert len(holes) == len(movers) <= min(len(keep), n - len(keep))
    assert sorted(order) == keep.tolist()
    found = compacted(array, keep)
    assert np.shares_memory(found, array) or not len(keep)
    assert (found == before[order]).all()
    moved = keep[keep >= len(keep)]
    assert (array[moved] == before[moved]).all()  # a second try would do the same


def test_rows_along_another_axis():
    array = np.arange(12).reshape(3, 4)
    before = array.copy()
    keep = np.array([1, 3])
    assert (before[:, moves(keep)[2]] == compacted(array.T, keep).T).all()


def test_tensors_in_any_layout():
    torch = pytest.importorskip("torch")
    from exeunt.torch.cutting.stage import compacted as compacted_tensor

    keep = np.array([0, 3, 4, 6])
    order = torch.from_numpy(moves(keep)[2])
    made = torch.randn(7, 3, 4, 5)
    for tensor, dim in (
        (made.clone(), 0),
        (made.clone().contiguous(memory_format=torch.channels_last), 0),
        (made.clone().transpose(0, 1), 1),
        (torch.randn(1, 3).expand(7, 3), 0),  # all rows in one place: must be copied
        (made.repeat(1, 2, 1, 1)[:, ::2], 0),
    ):
        expected = tensor.index_select(dim, order)
        assert torch.equal(compacted_tensor(tensor, keep, dim), expected)
