"""JSON and YAML that others write: what is read, and what is refused before it does harm."""

from __future__ import annotations

import json
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeunt._support.outside_json import check_outside, nfkc, outside_json
from exeunt._support.yaml_text import read_yaml
from exeunt.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(max_size=3), one, max_size=4), max_leaves=20,
)  # fmt: skip


@settings(max_examples=12)
@given(value=JSON)
def test_json_is_read_as_python_reads_it(value):
    for text in (json.dumps(value), json.dumps(value).encode()):
        assert outside_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("NaN", "NaN, which is no number"), ("[Infinity]", "Infinity, which is no"), ('{"a": -Infinity}', "-Infinity"),
        ("1e400", "1e400"), ("-1e999", "-1e999"), ("9" * 401, "99999999999999999999, which"), (f"[{2**63}]", "64 bits"),
        (f"[{-(2**63) - 1}]", "64 bits"), ("[" * 101 + "]" * 101, "more than 100 levels"),
        ('{"a":' * 60_000 + "1" + "}" * 60_000, "more than 100 levels"), ("[" * 600_000, "500,000 opening brackets"),
        ("{", "Expecting"), ("", "Expecting"), (b"\xff", "decode"),
    ],
)  # fmt: skip
def test_what_would_do_harm_is_no_json(text, why):
    with pytest.raises(ValueError, match=why):
        outside_json(text)


def test_what_is_just_within_bounds_is_read():
    assert outside_json("[" * 100 + "]" * 100)
    assert outside_json(f"[{2**63 - 1}, {-(2**63)}, 1e308, -0.0, 1E-400]")[0] == 2**63 - 1
    assert outside_json('"\\ud83d"') == "\ud83d"  # a provider may cut a character in two
    for value in (None, 5, True, "x", [], {}):
        check_outside(value)


PARTS = "a\u0301\u0323 \u1112\u1161\u11ab \uff8a\uff9e \u09c7\u09be ﬁ é 한 \u00b4 x"
"""Characters of several code points, such as a letter with marks, a syllable, and a vowel sign in two parts."""


@settings(max_examples=30)
@given(text=st.lists(st.sampled_from([*PARTS.split(" "), " "]), max_size=30).map("".join))
def test_texts_are_normalised_in_pieces_as_at_once(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exeunt._support.outside_json._PIECE", 4)
        assert nfkc(text) == unicodedata.normalize("NFKC", text)


def test_marks_without_end_are_normalised_in_time():
    began = time.monotonic()
    text = "a" + "\u0301\u0323" * 200_000  # minutes, if all are normalised at once
    assert nfkc(text).startswith("\u1ea1\u0323")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a [*a]", "an alias stands within what it repeats"),
        ("a0: &a0 [x]\n" + "".join(f"a{k}: &a{k} [{f'*a{k - 1}, ' * 10}]\n" for k in range(1, 9)), "100,000"),
        ("a: 1\nb: [.nan]", r"in line 2 it holds \.nan, which is no number"),
        ("a: -.inf", r"-\.inf, which is no number"),
        ("a: 1.0e+400", "no number"), (".inf", "no number"), ("{.nan: 1}", "no number"),
        ("!!pairs [a: .inf]", "no number"),
        ("a: 1\n? " + "9" * 30 + "\n: 1", "in line 2 it holds a whole number that 64 bits do not hold"),
        ("0x" + "f" * 20 + ": 1", "64 bits"), (f"{{a: {{{-(2**63) - 1}: 1}}}}", "64 bits"),
        (f"!!set {{{2**63}}}", "64 bits"),
        ("a: " + "9" * 400, "64 bits"), ("a: " + "9" * 5_000, "4300 digits"),
        ("a: 2024-13-45", "month"), ("a: " + "[" * 120 + "]" * 120, "more than 100 levels"),
        ("a: " + "[" * 800 + "]" * 800, "nested too deeply"),
    ],
)  # fmt: skip
def test_what_would_do_harm_is_no_yaml(tmp_path, text, why):
    with pytest.raises(InputError, match=why) as error:
        written(tmp_path, text)
    assert "\n" not in str(error.value)


def written(folder, text):
    """Write YAML into a file, and return what is read."""
    pytest.importorskip("yaml")
    (file := folder / "a.yaml").write_text(text)
    return read_yaml(file, extra="cli")


def test_numbers_just_within_bounds_texts_that_look_like_others_and_aliases_are_read(tmp_path):
    bounds = f"a: '.nan'\nb: nan\n{2**63 - 1}: {-(2**63)}\nc: 1.0e+308\n'{2**63}': 0x1f\n"
    found = {"a": ".nan", "b": "nan", 2**63 - 1: -(2**63), "c": 1e308, str(2**63): 31}
    assert written(tmp_path, bounds) == found
    assert written(tmp_path, "# nothing\n") is None
    aliases = {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}
    assert written(tmp_path, "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n") == aliases
