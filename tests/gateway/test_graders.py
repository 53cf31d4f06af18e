"""Graders: what counts as the same answer, and what a grader of one's own may return."""

from types import SimpleNamespace

import numpy as np
import pytest

from exeunt.errors import InputError
from exeunt.gateway.graders import grader_named, normalised_match, similarity


def says(content, *calls):
    tools = [{"type": "function", "function": {"name": name, "arguments": text}} for name, text in calls]
    return {"role": "assistant", "content": content, **({"tool_calls": tools} if calls else {})}


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        (says("Paris"), says('  "PARIS".\n'), True),
        (says("the  answer\nis 4"), says("The answer is 4!"), True),
        (says("ﬁne"), says("fine"), True),
        (says("4.0"), says("4"), True),
        (says("1"), says("true"), False),
        (says('{"a": [1, 2]}'), says('```json\n{ "a" : [1.0, 2] }\n```'), True),
        (says('{"a": [1, 2]}'), says('{"a": [2, 1]}'), False),
        (says(None), says(""), True),
        (says(None), says("x"), False),
        (says("[" * 100_000), says("[" * 100_000), True),
        # Minutes, if all marks are normalised at once.
        (says("a" + "\u0301\u0323" * 100_000), says("b"), False),
        ({"content": "x", "tool_calls": 5}, says("x"), False),
        ({"content": "x", "tool_calls": ["f", None]}, {"content": "y", "tool_calls": ["f", None]}, True),
        (says([{"type": "text", "text": "Paris"}]), says("paris"), True),
        (says(None, ("a", '{"x": 1}'), ("b", "{}")), says("text", ("b", ""), ("a", '{"x":1.0}')), True),
        (says(None, ("a", "{}")), says(None, ("a", "{}"), ("a", "{}")), False),
        (says(None, ("a", '{"x": 1}')), says(None, ("b", '{"x": 1}')), False),
        (says(None, ("a", "{broken")), says(None, ("a", "{broken ")), True),
        (says("same", ("a", "{}")), says("same"), False),
    ],
)
def test_normalised_match(answer, reference, same):
    assert normalised_match({}, answer, reference) == same
    assert normalised_match({}, reference, answer) == same


def test_similarity_is_the_cosine_of_embeddings():
    vectors = {"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [-1.0, 0.0], "zero": [0.0, 0.0]}
    grade = similarity(lambda text: np.array(vectors[text]))
    found = [grade({}, says("a"), says(other)) for other in vectors]
    assert found == pytest.approx([1.0, 2**-0.5, 0.0, 0.0])
    assert grade({}, says("a"), says("")) == 0.0
    assert grade({}, says("a", ("f", "{}")), says("c", ("f", "{}"))) == 1.0
    strict = similarity(lambda text: np.array(vectors[text]), 0.8)
    assert [strict({}, says("a"), says(other)) for other in ("a", "b")] == [1.0, 0.0]


def test_graders_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_graders.py").write_text(
        "def length(request, answer, reference):\n"
        "    return len(answer['content']) / request['longest']\n"
        "def broken(*_):\n    return float('nan')\n"
        "def short(answer):\n    return 1\n"
        "async def late(request, answer, reference):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert grader_named("match") is normalised_match
    grade = grader_named("my_graders:length")
    assert grade({"longest": 4}, says("ab"), says("")) == 0.5
    wrong_number = r"grader my_graders:length must return a number from 0 to 1, got 2\.0"
    with pytest.raises(InputError, match=wrong_number):
        grade({"longest": 1}, says("ab"), says(""))
    with pytest.raises(InputError, match="must return a number from 0 to 1, got nan"):
        grader_named("my_graders:broken")({}, says(""), says(""))
    for wrong in ("", "judge", "match twice", "similarity", "similarity hf:x many"):
        with pytest.raises(InputError, match="a grader is match, similarity hf:FOLDER"):
            grader_named(wrong)
    wanted = r"`def {}\(request, answer, reference\)`, which returns a number from 0 to 1"
    beside = "for grade in no_such.py beside the YAML file write no_such:grade, got 'no_such.py:grade'"
    for name, why in (
        ("my_graders:missing", "has no missing: write " + wanted.format("missing")),
        ("my_graders:short", r"short\(answer\) cannot .*; write " + wanted.format("short")),
        (
            "no_graders:grade",
            f"no module no_graders: write {wanted.format('grade')}, into no_graders.py beside",
        ),
        ("json:no_such", "the module json, .*, has no no_such: write `def no_such"),
        ("no_such.py:grade", beside),
        ("sub/no_such:grade", "got 'sub/no_such"),
        ("no_such::grade", "a function is written module:name, got 'no_such::grade'"),
    ):
        with pytest.raises(InputError, match=f"the grader {name} cannot be opened: .*{why}"):
            grader_named(name)
    with pytest.raises(InputError, match="has a quote that is not closed"):
        grader_named('similarity "hf:x')
    with pytest.raises(InputError, match=f"is to be awaited: write {wanted.format('late')}, without async"):
        grader_named("my_graders:late")
    with pytest.raises(InputError, match="there is no folder /no/where"):
        grader_named("similarity hf:/no/where")
    with pytest.raises(InputError, match="threshold of a similarity is above 0 and at most 1, got 2"):
        grader_named("similarity hf:x 2")
    opened = []
    encoder = SimpleNamespace(open=lambda: opened.append(True))
    monkeypatch.setattr("exeunt.gateway.graders.TextEncoder", lambda source: encoder)
    monkeypatch.setattr("exeunt.gateway.graders.similarity", lambda *given: given)
    assert (grader_named("similarity hf:x 0.9"), opened) == ((encoder, 0.9), [True])
