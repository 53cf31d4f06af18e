"""Labels that people give to answers, and how often grades agree with them."""

import json
from dataclasses import replace

import pytest
from tests.gateway.made_records import records

from exeunt.errors import InputError
from exeunt.gateway.labels import agreement, read_labels, to_label
from exeunt.stream.records import Said


def graded(grades, **fields):
    """Return records in which small has these grades."""
    return [
        replace(one, said={**one.said, "small": Said(1e-6, None, grade)}, **fields)
        for one, grade in zip(records(len(grades)), grades, strict=True)
    ]


def labels_of(made, grades):
    return {(one.request, "small"): grade for one, grade in zip(made, grades, strict=True)}


def test_a_known_agreement_is_found_with_its_interval():
    made = graded([1.0] * 60 + [0.0] * 40)
    labels = labels_of(made, [1.0] * 45 + [0.0] * 15 + [0.0] * 35 + [1.0] * 5)
    told = agreement(labels, made, "large", "grade by the judge expert")
    # Wilson's interval of 80 in 100, and the t interval of 15 times 1, 5 times -1 and 80 times 0.
    assert told == (
        "Of 100 labels the grade by the judge expert agrees with 80.0% (95% interval 71.1% to 86.7%). It is 10.0 "
        "points higher on average (interval of the difference 1.3 to 18.7)."
    )
    reverse = agreement(labels_of(made, [1.0] * 100), made, "large", "grade")
    assert "agrees with 60.0%" in reverse
    assert "It is 40.0 points lower on average" in reverse
    undecided = graded([0.5] * 10)
    assert "agrees with 0.0%" in agreement(labels_of(undecided, [1.0] * 10), undecided, "large", "grade")


def test_answers_of_one_unit_count_together():
    wrong = [0.0] * 10 + [1.0] * 90
    alone = graded([1.0] * 100)
    linked = [replace(one, unit=row // 10) for row, one in enumerate(alone)]
    labels = labels_of(alone, wrong)
    assert "agrees with 90.0% (95% interval 82.6% to 94.5%)" in agreement(labels, alone, "large", "grade")
    assert "agrees with 90.0% (95% interval 67.4% to 100.0%)" in agreement(labels, linked, "large", "grade")


def test_labels_of_other_answers_are_left_out():
    made = graded([1.0] * 4)
    labels = {**labels_of(made, [1.0] * 4), ("f" * 32, "small"): 0.0, (made[0].request, "large"): 0.0}
    assert agreement(labels, made, "large", "grade").endswith(" 2 labels left out, of other records.")
    twice = [*made[:3], replace(made[3], request=made[2].request)]  # nobody knows which answer was labelled
    assert agreement(labels, twice, "large", "grade").startswith("Of 2 labels")
    with pytest.raises(InputError, match=r"of 6 labels 1 are of answers in the records .* label more"):
        agreement(labels, made[:1], "large", "grade")


def test_answers_to_label_are_drawn_of_those_that_differ():
    def told(number):
        answers = {name: {"content": f"{name} {number}\ud83d"} for name in ("small", "large")}
        if number < 5:
            answers["small"] = answers["large"]
        return json.dumps({"messages": [{"role": "user", "content": "é?"}], "answers": answers})

    made = [replace(one, text=told(row)) for row, one in enumerate(graded([1.0] * 30))]
    made[-1] = replace(made[-1], text=None)
    lines = [*to_label(made, "large", 10)]
    assert len(lines) == 10
    assert [*to_label(made, "large", 10)] == lines
    rows = [json.loads(line) for line in to_label(made, "large", 100)]
    assert {row["request"] for row in rows} == {one.request for one in made[5:29]}
    assert {(row["model"], row["grade"]) for row in rows} == {("small", None)}
    assert all(row["answer"]["content"].startswith("small") for row in rows)
    assert all(row["reference"]["content"].startswith("large") for row in rows)
    assert "é?" in lines[0]
    assert all(line.isprintable() for line in lines)
    with pytest.raises(InputError, match=r"`keep: \{texts: true\}` alone"):
        next(to_label(graded([1.0] * 3), "large", 1))


def test_what_is_no_label_is_named(tmp_path):
    file = tmp_path / "labels.jsonl"
    good = '{"request": "a", "model": "small", "grade": 1}'
    file.write_text(f"{good}\n\n" + good.replace('"a"', '"b\u2028"').replace("1", "null"))
    assert read_labels(file) == {("a", "small"): 1}
    for bad, why in (
        ("[1]", "line 2 of .* is no label"),
        ("{", "is no label"),
        ("[" * 100_000, "is no label"),
        (good.replace('"model"', '"m"'), "give JSON with request, model and grade"),
        (good.replace("1", "1.5"), "from 0 to 1, or null, got 1.5"),
        (good.replace("1", "NaN"), "from 0 to 1"),
        (good.replace("1", "true"), "from 0 to 1"),
        (good, "labels an answer again"),
    ):
        file.write_text(f"{good}\n{bad}\n")
        with pytest.raises(InputError, match=why):
            read_labels(file)
    file.write_bytes(b"\xff")
    with pytest.raises(InputError, match="it is not UTF-8 text"):
        read_labels(file)
    with pytest.raises(InputError, match=r"cannot read the labels in .*none"):
        read_labels(tmp_path / "none")
