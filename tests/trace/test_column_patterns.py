"""Which columns belong to which exit."""

from __future__ import annotations

import pytest

import exeunt as ex
from exeunt.trace.column_patterns import exit_columns, matching_columns


def test_columns_are_a_list_or_a_numbered_pattern():
    there = ["pred_10", "pred_2", "conf_2", "pred_x", "label"]
    assert matching_columns("pred_{}", there) == ["pred_2", "pred_10"]
    with pytest.raises(ex.InputError, match=r"two columns p_\{\} have the same number: p_1, p_01"):
        matching_columns("p_{}", ["p_1", "p_01", "p_2"])
    assert matching_columns("label, conf_2", there) == ["label", "conf_2"]
    with pytest.raises(ex.InputError, match=r"no column conf_\*; it has .* \(a pattern has \{\} in place"):
        matching_columns("conf_*", there)
    with pytest.raises(ex.InputError, match=r"no column p\{\} with a number for \{\}; it has pred_10"):
        matching_columns("p{}", there)


def test_patterns_must_number_the_exits_alike():
    there = ["c_1", "c_2", "p_0", "p_1"]
    with pytest.raises(
        ex.InputError, match=r"c_\{\} are numbered 1, 2 and the columns p_\{\} are numbered 0, 1"
    ):
        exit_columns("c_{}", "p_{}", there)
    assert exit_columns("c_{}", ["p_0", "p_1"], there) == (["c_1", "c_2"], ["p_0", "p_1"])
    assert exit_columns("c_1,c_2", "p_{}", there) == (["c_1", "c_2"], ["p_0", "p_1"])
