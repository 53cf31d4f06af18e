from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import array_source, noise
from scipy.stats import hypergeom

from exeunt.data import SplitPlan, plan_split
from exeunt.data.splits import PARTS
from exeunt.errors import InputError

TRAIN, TEST = noise(100), noise(40, seed=1)


def contents(source, plan, part) -> list[bytes]:
    data = plan.select(source, part)
    return [data.content(i).tobytes() for i in range(len(data))]


def sizes(plan) -> list[int]:
    return [plan.size(p) for p in PARTS]


def datasets(plan) -> list[str]:
    return [plan.parts[p].dataset for p in PARTS]


def test_pretrained_fit_and_calibrate_come_out_of_test() -> None:
    source = array_source(TRAIN, TEST)
    plan = plan_split(source, pretrained=True)
    assert sizes(plan) == [100, 12, 8, 20]
    assert datasets(plan) == ["train", "test", "test", "test"]
    joined = np.concatenate([plan.indices(p) for p in PARTS[1:]])
    assert sorted(joined.tolist()) == list(range(40))
    only_test = plan_split(array_source(None, TEST), pretrained=True)
    assert sizes(only_test) == [0, 12, 8, 20]


def test_without_test_data_some_is_held_out() -> None:
    plan = plan_split(array_source(TRAIN, None), fit=10, calibrate=10)
    assert sizes(plan) == [60, 10, 10, 20]
    assert plan_split(array_source(TRAIN, None), fit=1, calibrate=1, test=3).size("test") == 3


def test_defaults_are_a_few_percent_but_enough() -> None:
    for n, expected in ((100, [15, 15]), (2000, [300, 300]), (20000, [800, 500])):
        digits = np.arange(n)[:, None] // np.array([1, 256, 65536]) % 256
        plan = plan_split(array_source(digits.astype(np.uint8).reshape(n, 1, 1, 3), TEST))
        assert [plan.size(p) for p in ("fit", "calibrate")] == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=8, max_size=40),
    st.lists(st.integers(0, 14), min_size=6, max_size=20),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
)
def test_no_row_is_ever_in_two_parts_and_no_test_input_is_trained_on(
    train, test, pretrained, seed, with_test
) -> None:
    pictures = noise(15)
    source = array_source(pictures[train], pictures[test] if with_test or pretrained else None)
    options = {"fit": 2, "calibrate": 2} if pretrained or not with_test else {"fit": 1, "calibrate": 1}
    plan = plan_split(source, seed=seed, pretrained=pretrained, **options)
    rows = [(plan.parts[p].dataset, row) for p in PARTS for row in plan.indices(p).tolist()]
    assert len({*rows}) == len(rows)
    n_all = len(source.train) + (0 if source.test is None else len(source.test))
    assert len(rows) + plan.dropped == n_all
    for part in ("fit", "calibrate"):
        assert plan.size(part) == options[part]
    if source.test is not None:  # whole: from scratch, fit and calibrate are of the training data
        held = {pictures[kind].tobytes() for kind in test}
        assert not held & set(contents(source, plan, "train"))
        in_train = {row for name, row in rows if name == "train"}
        assert all(pictures[train[row]].tobytes() in held for row in {*range(len(train))} - in_train)
    else:
        assert plan.dropped == 0


def test_copies_are_drawn_like_other_rows() -> None:
    """Of a picture that is a fifth of the data, each part has about a fifth: never all copies, nor none."""
    pictures = np.concatenate([TRAIN[:1].repeat(20, axis=0), TRAIN[20:]])
    source = array_source(pictures, None)
    plans = [plan_split(source, fit=25, calibrate=25, test=25, seed=seed) for seed in range(200)]
    assert all(sizes(plan) == [25, 25, 25, 25] for plan in plans)
    found = np.array([[np.count_nonzero(plan.indices(p) < 20) for p in PARTS] for plan in plans])
    chance = hypergeom(100, 20, 25)
    assert (found.sum(axis=1) == 20).all()
    assert found.max() < 20
    np.testing.assert_allclose(found.mean(axis=0), chance.mean(), atol=5 * chance.std() / 200**0.5)
    np.testing.assert_allclose(found.std(axis=0), chance.std(), rtol=0.25)


def test_the_seed_decides_and_every_input_can_be_drawn() -> None:
    source = array_source(TRAIN, TEST)
    plans = [plan_split(source, fit=10, calibrate=10, seed=s) for s in range(200)]
    assert plans[3] == plan_split(source, fit=10, calibrate=10, seed=3)
    drawn = np.bincount(np.concatenate([p.indices("fit") for p in plans]), minlength=100)
    # Each count is binomial(200, 0.1): 20 +- 4.2; six deviations at most.
    assert drawn.min() > 0
    assert drawn.max() < 46


def test_a_large_part_is_stored_as_what_it_leaves_out() -> None:
    big = noise(2000, side=2)
    plan = plan_split(array_source(big, TEST), fit=3, calibrate=2)
    assert sum(len(rows.listed) for rows in plan.parts.values()) == 10


def test_a_plan_for_other_data_is_refused() -> None:
    plan = plan_split(array_source(TRAIN, TEST))
    changed = TRAIN.copy()
    changed[0, 0, 0, 0] ^= 1
    with pytest.raises(InputError, match="the data has changed"):
        plan.select(array_source(changed, TEST), "train")
    with pytest.raises(InputError, match="parts are train, fit, calibrate, test"):
        plan.indices("validation")


def test_large_data_are_matched_as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_split(array_source(TRAIN, TEST)).matched_by == "content"
    monkeypatch.setattr("exeunt.data.dataset.SMALL_BYTES", 1)
    assert plan_split(array_source(TRAIN, TEST)).matched_by == "stored"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fit": 90, "calibrate": 10}, "fit 90, calibrate 10, but there are only 100"),
        ({"fit": -1}, "fit must be"),
        ({"fit": 1.0}, "fit must be"),
        ({"calibrate": True}, "calibrate must be"),
        ({"calibrate": float("nan")}, "calibrate must be"),
        ({"test": 5}, "test data of its own"),
    ],
)
def test_what_cannot_be_had_is_said(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan_split(array_source(TRAIN, TEST), **options)


def test_missing_files_are_said() -> None:
    for source, options, said in (
        (array_source(TRAIN, None), {"pretrained": True}, "no test data"),
        (array_source(None, TEST), {}, "no 'train' data, only test"),
        (array_source(TRAIN[:0], TEST[:0]), {"fit": 0, "calibrate": 0}, "into parts: the data are empty"),
    ):
        with pytest.raises(InputError, match=said):
            plan_split(source, **options)


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_sources(n: int) -> None:
    source = array_source(TRAIN[:n], TEST[:n])
    plan = plan_split(source, fit=0, calibrate=0)
    assert sizes(plan) == [n, 0, 0, n]
    assert len(plan.select(source, "fit")) == 0
    if n == 2:
        assert plan_split(source, fit=1, calibrate=0).size("train") == 1


def test_describe_names_sizes_and_files() -> None:
    plan = plan_split(array_source(TRAIN, TEST), fit=7, calibrate=3)
    lines = [line.split() for line in plan.describe().splitlines()[1:]]
    assert lines[0][:3] == ["train", "90", "train"]
    assert lines[3][:3] == ["test", "40", "test"]
    told = (
        "1,234 training inputs dropped: identical to test inputs. Guarantees are about inputs like those of the "
        "train data"
    )
    assert replace(plan, dropped=1234).describe().endswith(told)


def beside(validation: int, *, asked_for: bool = False, test: np.ndarray | None = TEST):
    """Data with so many validation images beside 100 to train on."""
    more = array_source(noise(validation, seed=2), None).train
    return replace(array_source(TRAIN, test), validation=more, asked_for=asked_for)


@pytest.mark.parametrize("pretrained", [False, True])
def test_policies_are_fitted_and_calibrated_on_validation_data(pretrained: bool) -> None:
    source = beside(50)
    plan = plan_split(source, pretrained=pretrained, seed=3)
    assert sizes(plan) == [100, 30, 20, 40]
    assert datasets(plan) == ["train", "validation", "validation", "test"]
    drawn = np.concatenate([plan.indices("fit"), plan.indices("calibrate")])
    assert sorted(drawn.tolist()) == list(range(50))
    expected = [source.validation.content(i).tobytes() for i in plan.indices("fit")]
    assert contents(source, plan, "fit") == expected
    assert "validation (50)" in plan.describe()
    assert "left alone" not in plan.describe()
    assert SplitPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    other = plan_split(source, pretrained=pretrained, seed=4)
    assert other.indices("fit").tolist() != plan.indices("fit").tolist()
    with pytest.raises(InputError, match="the data has changed"):
        plan.select(replace(source, validation=source.test), "test")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fit": 10}, [10, 40]), ({"calibrate": 10}, [40, 10]), ({"fit": 10, "calibrate": 5}, [10, 5]),
        ({"fit": 0.5, "calibrate": 0.2}, [25, 10]), ({"fit": 30, "calibrate": 20}, [30, 20]),
    ],
)  # fmt: skip
def test_counts_and_shares_are_of_the_validation_data(options, expected) -> None:
    plan = plan_split(beside(50), **options)
    assert [plan.size(p) for p in ("fit", "calibrate")] == expected
    rest = 50 - sum(expected)
    told = f"{rest} validation inputs left alone: more than --fit and --calibrate ask for"
    assert plan.left_alone == (told if rest else "")


def test_too_few_validation_inputs_are_left_alone_and_named() -> None:
    few, without = beside(20), array_source(TRAIN, TEST)
    plan = plan_split(few)
    assert plan.parts == plan_split(without).parts
    assert plan.fingerprint == without.fingerprint  # as the runs that were made before have it
    assert plan.describe().endswith("20 validation inputs left alone: to fit and calibrate on them takes 30")
    assert len(plan.select(few, "fit")) == 15
    asked = plan_split(beside(50), fit=40, calibrate=30)
    assert asked.left_alone == "50 validation inputs left alone: to fit and calibrate on them takes 70"
    assert asked.parts["fit"].dataset == "train"


def test_calibration_data_that_were_asked_for_are_used_however_few() -> None:
    plan = plan_split(beside(10, asked_for=True))
    assert sizes(plan) == [100, 6, 4, 40]
    with pytest.raises(InputError, match="asked for fit 9, calibrate 9, but there are only 10 inputs"):
        plan_split(beside(10, asked_for=True), fit=9, calibrate=9)


def test_the_test_part_beside_calibration_data_may_come_out_of_train() -> None:
    plan = plan_split(beside(50, asked_for=True, test=None), test=25)
    assert sizes(plan) == [75, 30, 20, 25]
    assert datasets(plan) == ["train", "validation", "validation", "train"]


def test_training_inputs_identical_to_validation_inputs_are_dropped() -> None:
    train = TRAIN.copy()
    train[3], train[50] = TEST[7], noise(50, seed=2)[9]
    plan = plan_split(replace(beside(50), train=array_source(train, None).train))
    assert plan.dropped == 2
    assert not np.isin([3, 50], plan.indices("train")).any()
