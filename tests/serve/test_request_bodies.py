"""Bodies of JSON: what is small on the wire stays small in memory, and what fits is what `json` makes of it."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("msgspec")

from exeunt.errors import InputError
from exeunt.serve import request_bodies as bodies
from exeunt.serve.request_bodies import NULL, check_strings, decoded, fields, is_null, numbers, rest, strings

MB = 1 << 20
leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text()
values = st.recursive(leaves, st.lists, max_leaves=8)


def raw(value):
    return fields(json.dumps({"a": value}))["a"]


def peak(call):
    """Return how many bytes a call takes at most beside what was there, and what it raises."""
    tracemalloc.start()
    try:
        call()
        error = None
    except InputError as found:
        error = str(found)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most, error


@pytest.mark.parametrize("name", ["images", "nobody"])
@pytest.mark.parametrize("element", ["[]", "{}", '""', '"ab" ', "1", "12345678901", "null", '"\\\\"', "[[]]"])
def test_a_bomb_takes_a_few_times_its_size(name, element):
    """`json` makes up to forty times as much of it."""
    body = (f'{{"{name}":[' + f"{element}," * (4 * MB // (len(element) + 1)) + f"{element}]}}").encode()

    def read():
        check_strings(body, 65_536)
        given = fields(body)
        list_ = given.pop("images", given.pop("texts", NULL))
        rest(given)
        strings(list_, name="images")

    most, error = peak(read)
    assert most < 3 * len(body)
    assert (error is None) == (element == "null" and name != "nobody")


@pytest.mark.parametrize("bomb", ["[" * MB + "]" * MB, '{"a":' * MB + "1" + "}" * MB, '"a":1,' * MB])
def test_what_is_nested_or_has_many_names(bomb):
    body = f'{{"texts": {bomb}}}'.encode()
    most, error = peak(lambda: (check_strings(body, 65_536), strings(fields(body)["texts"])))
    assert most < 2 * len(body)
    assert error is not None


@settings(max_examples=40)
@given(st.lists(st.none() | st.text()))
def test_strings_are_what_json_makes_of_them(texts):
    given_ = [text if text is None or _is_text(text) else None for text in texts]
    assert strings(raw(texts)) == given_
    pairs = strings(raw([["a", text] if text is not None else None for text in texts]), 2)
    assert pairs == [None if text is None else ("a", text) for text in given_]


def _is_text(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@given(st.lists(values, max_size=20), st.none() | st.integers(1, 3))
def test_what_is_something_else_is_none_of_its_place(elements, width):
    found = strings(raw(elements), width)
    assert len(found) == len(elements)
    for element, one in zip(elements, found, strict=True):
        fits = isinstance(element, str) if width is None else _is_row(element, width)
        assert one == ((element if width is None else tuple(element)) if fits else None)


def _is_row(element, width):
    return isinstance(element, list) and len(element) == width and all(isinstance(e, str) for e in element)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 255), st.booleans())
def test_numbers_are_what_json_makes_of_them(height, width, least, flat):
    array = (np.arange(height * width).reshape(height, width) + least) % 256
    given_ = raw(array.ravel().tolist() if flat else array.tolist())
    assert numbers(given_, height * width, int) == array.ravel().tolist()
    np.testing.assert_array_equal(bodies.tensor_from_json(given_, array.shape, "UINT8"), array)
    halves = raw((array / 2).tolist())
    np.testing.assert_array_equal(bodies.tensor_from_json(halves, array.shape, "FP32"), array / 2)
    for count in (height * width - 1, height * width + 1):
        with pytest.raises(InputError, match=f"{count} numbers are wanted, got {height * width}"):
            numbers(given_, count, int)


@pytest.mark.parametrize("data", ["[1,,2]", '["1","2"]', "[1,2.5]", "[1,null]", "[,]", "1e999,1", "null"])
def test_what_is_no_list_of_whole_numbers(data):
    with pytest.raises(InputError):
        numbers(msgspec_raw(data), 2, int)


def msgspec_raw(text):
    import msgspec

    return msgspec.Raw(text.encode())


def test_pairs_come_nested_or_in_one_list():
    """Also where texts begin with brackets."""
    pairs = [["[a", "b]"], ["[[c", "d"]]
    wanted = np.array(pairs, dtype=object)
    for data in (pairs, ["[a", "b]", "[[c", "d"]):
        np.testing.assert_array_equal(bodies.tensor_from_json(raw(data), (2, 2), "BYTES"), wanted)
    for data in ([["[a"], ["b"]], ["[a", "b"]):
        assert bodies.tensor_from_json(raw(data), (2, 1), "BYTES").tolist() == [["[a"], ["b"]]
    found = bodies.tensor_from_json(raw([["a", "b"], ["c", 3]]), (2, 2), "BYTES")
    assert found.tolist() == [["a", "b"], [None, None]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strings(raw("a"), name="images"), "images: Expected `array`, got `str`"),
        (lambda: fields(b"[1]"), "the body: Expected `object`, got `array`"),
        (lambda: decoded(b"[1x]", list[int]), r"the body: .*byte 2"),
        (lambda: rest({"a": raw("x" * 100_000)}), "100,000 bytes, got 100,0"),
        (lambda: check_strings(json.dumps(["a"] * 1011).encode(), 10), "more than 10 strings: send fewer"),
        (lambda: bodies.tensor_from_json(raw(["a", "b", "c"]), (2, 2), "BYTES"), "not make a tensor BYTES"),
    ],
)
def test_messages_say_where(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_few_strings_and_what_is_null():
    check_strings(json.dumps(['"a" \\'] * 1010).encode(), 10)
    assert [is_null(one) for one in (NULL, raw(None), raw("null"), raw([None]))] == [True, True, False, False]


def test_a_list_of_something_else_is_read_one_by_one_up_to_a_number(monkeypatch):
    monkeypatch.setattr(bodies, "_MANY", 3)
    assert strings(raw(["a", 1, "b"])) == ["a", None, "b"]
    with pytest.raises(InputError, match="Expected `str"):
        strings(raw(["a", 1, "b", "c"]))


@pytest.mark.parametrize("text", ["YWJj", "YW\nJj\r\n", "data:image/png;base64,YWJj", "", "!", "YWJ", None])
def test_base64(text):
    """Also as a data URL, and in lines, as `base64` writes it."""
    wanted = None if text in ("!", "YWJ", None) else b"abc" * bool(text)
    assert bodies.from_base64(text) == wanted
