"""Other people's tables become traces, or are refused with what to mend."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt.score.confidence import NO_ANSWER
from exeunt.trace.parquet import is_trace_file
from exeunt.trace.table_columns import exit_columns, matching_columns, read_table

COLUMNS = {"confidence": ["c0", "c1"], "prediction": ["p0", "p1"], "label": "y"}


def table(**changes):
    columns = {
        "p0": ["cat", "dog", "cat"], "p1": ["dog", "dog", "emu"], "y": ["dog", "dog", "cat"],
        "c0": [0.5, 0.9, 0.1], "c1": [1, 2, 3], "name": ["a", "b", "a"],
    }  # fmt: skip
    return pa.table({**columns, **changes})


def read(data, **options):
    return ex.ExitTrace.from_table(data, **{**COLUMNS, "cost": [1, 3], **options})


def test_names_of_classes_share_one_code_table():
    trace = read(table())
    assert trace.prediction.tolist() == [[0, 1], [1, 1], [0, 2]]
    assert trace.label.tolist() == [1, 1, 0]
    assert trace.scores["confidence"].tolist() == [[0.5, 1], [0.9, 2], [0.1, 3]]
    assert trace.default_score == "confidence"
    assert trace.correct.tolist() == [[False, True], [True, True], [True, False]]


def test_numbers_of_classes_stay_what_they_are():
    numbers = table(p0=[7, 3, 3], p1=pa.array([3, 3, 9], pa.uint8()), y=[7, 3, 9])
    trace = read(numbers)
    assert trace.prediction.tolist() == [[7, 3], [3, 3], [3, 9]]
    assert trace.label.tolist() == [7, 3, 9]


def test_the_same_class_in_another_type_is_the_same():
    encoded = pa.array(["3", "5", "3"]).dictionary_encode()
    for said, label in (
        ([3.0, 5.0, 3.0], ["3", "5", "4"]),
        (encoded, [3, 5, 4]),
        (["3", "5", "3"], [3, 5, 4]),
    ):
        trace = read(table(p0=said, p1=said, y=label))
        assert trace.correct.tolist() == [[True, True], [True, True], [False, False]]


def test_a_column_is_read_alike_whether_or_not_one_of_its_cells_is_text(tmp_path):
    for one, other in (("1.0", "0.0"), ("01", "00"), ("True", "False")):
        for odd in (one, "unknown"):  # which makes a text of all that column of a CSV file
            rows = f"p0,c0,p1,c1,y\n{odd},.1,{one},.2,{one}\n{one},.3,{other},.4,{one}\n{other},.5,{one},.6,{other}\n"
            (tmp_path / "a.csv").write_text(rows)
            right = read(tmp_path / "a.csv").correct
            assert right[:, 0].tolist() == [odd == one, True, True]
            assert right[:, 1].tolist() == [True, False, False]
    as_text = table(p0=["01", "02", "1"], p1=["01", "01", "01"], y=["01", "02", "01"])
    assert read(as_text).correct[:, 0].tolist() == [True, True, False]  # as written, where all of it is text


def test_classes_have_the_numbers_that_the_caller_gives_them():
    names = ["emu", "cat", "dog"]
    trace = read(table(), classes=names)
    assert trace.label.tolist() == [2, 2, 1]
    assert trace.prediction.tolist() == [[1, 2], [2, 2], [1, 0]]
    # Other labels, or none, change no number; what is no class comes after all.
    other = table(y=["dog", "dog", "dog"], p0=["dog", "axe", "yak"])
    assert read(other, classes=names).prediction[:, 0].tolist() == [2, 3, 4]
    assert read(other, classes=names).label.tolist() == [2, 2, 2]
    assert read(table(), classes=names, label=None).prediction.tolist() == trace.prediction.tolist()
    numbers = table(p0=[7, 3, 3], p1=[3, 3, 9], y=["7", "3", "9"])
    assert read(numbers, classes=np.array([9, 7, 3])).prediction.tolist() == [[1, 2], [2, 2], [2, 0]]


def test_negative_numbers_and_booleans_are_classes_too():
    yes = [True, False, True]
    assert read(table(p0=[-1, 1, 1], p1=[1, 1, 1], y=[-1, -1, 1])).correct[:, 0].tolist() == yes
    assert read(table(p0=yes, p1=yes, y=[True, True, True])).correct[:, 0].tolist() == yes


def test_prices_per_call_add_up():
    assert read(table(), cost=[1, 3], cost_is="per-call", unit="usd").cost == ex.CostModel([1, 4], unit="usd")
    assert read(table(), cost=[3, 1], cost_is="per-call").cost.cumulative.tolist() == [3, 4]
    assert read(table(), unit="usd").cost == ex.CostModel([1, 3], unit="usd")
    assert read(table(), cost=(model := ex.CostModel([2, 5], unit="J"))).cost is model
    assert read(table(), label=None).label is None


def test_copies_of_an_input_share_a_key():
    trace = read(table(), id="name")
    assert trace.id[0] == trace.id[2] != trace.id[1]
    assert read(table(name=[5, 6, 7]), id="name").id.tolist() == [5, 6, 7]
    assert len(set(read(table()).id.tolist())) == 3


def test_files_give_what_the_table_gives(tmp_path):
    pyarrow.csv.write_csv(table(), tmp_path / "a.csv")
    pq.write_table(table(), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        trace = read(tmp_path / name, id="name")
        np.testing.assert_array_equal(trace.prediction, read(table()).prediction)
        np.testing.assert_array_equal(trace.id, read(table(), id="name").id)
    assert not is_trace_file(tmp_path / "a.parquet")
    trace.save(tmp_path / "trace.parquet")
    assert is_trace_file(tmp_path / "trace.parquet")
    assert not is_trace_file(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"confidence": ["c0"]}, "one confidence and one prediction column per exit, got 1 and 2"),
        ({"confidence": [], "prediction": []}, "got 0 and 0"),
        ({"confidence": ["c0", "c9"]}, "no column c9; it has p0, p1, y, c0, c1, name"),
        ({"confidence": ["c0", "c0"]}, "'c0' is named twice"),
        ({"confidence": ["c0", "name"]}, "'name' must hold numbers, got 'a' in row 0"),
        ({"cost": [1, 2, 3]}, "one cost per exit, got 3 for 2"),
        ({"cost": [1, 0], "cost_is": "per-call"}, "above 0 and finite, got 0 at exit 1"),
        ({"cost": [3, 1]}, "strictly increasing, got 1 at exit 1 after 3: .* 'per-call'"),
        ({"cost_is": "each"}, "'cumulative' or 'per-call'"),
        ({"cost": ["a", "b"]}, "cost must be numbers"),
        ({"classes": ["dog", "emu"]}, r"'y' has the label 'cat' in row 2 .* none of classes: dog, emu"),
        ({"label": None, "classes": ["dog", "dog"]}, "classes must each be named once, got dog, dog"),
    ],
)
def test_columns_and_costs_that_make_no_sense_are_refused(options, shown):
    with pytest.raises(ex.InputError, match=shown):
        read(table(), **options)


def test_a_column_by_a_name_that_there_is_not_is_no_column_that_is_left_out():
    with pytest.raises(TypeError, match=r"there is no 'group': a table has .*groups"):
        read(table(), group="name")


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"c0": [0.5, np.nan, 0.1]}, "'c0' must be finite, got nan in row 1"),
        ({"c0": [0.5, None, None]}, "'c0' has 2 empty cells, the first in row 1"),
        ({"y": ["cat", None, "dog"]}, "'y' has 1 empty cell in row 1"),
        ({"y": ["cat", "", "dog"]}, "'y' has 1 empty cell in row 1"),
        ({"c0": ["0.5", "1e-3", "high"]}, "must hold numbers, got 'high' in row 2"),
        ({"p0": [1.0, 0.5, 2.0]}, "'p0' must hold classes, as names or whole numbers, got 0.5 in row 1"),
        ({"y": [0, 1, 0]}, "no prediction equals its label in any .* 'p1' is 'dog', 'y' is 0.: write"),
        ({"y": ["dog ", "dog ", "cat "]}, "'p0' has the class 'cat', which 'y' writes 'cat '"),
        ({"p0": [[1], [2], [3]]}, "'p0' must hold classes"),
        ({"c0": [[1], [2], [3]]}, "'c0' must hold numbers"),
        ({"p0": ["cat", "Dog", "cat"]}, "column 'p0' has the class 'Dog', which 'y' writes 'dog'"),
        ({"c0": ["0.1", "12%", "0.3"]}, "must hold numbers, got '12%' in row 1"),
        ({"c0": [".1", "1,234", ".2"]}, r"'1,234' in row 1.*: if the comma is .*, add --decimal ,"),
    ],
)
def test_cells_that_make_no_sense_are_refused_by_their_row(changes, shown):
    with pytest.raises(ex.InputError, match=shown):
        read(table(**changes))


def test_tables_that_are_none_are_refused():
    double = table().append_column("c0", pa.array([1.0, 2.0, 3.0]))
    for wrong, told in ((double, "2 columns named 'c0'"), (table().slice(0, 0), "no rows")):
        with pytest.raises(ex.InputError, match=told):
            read(wrong)


@pytest.mark.parametrize(
    ("name", "content", "options", "told"),
    [
        ("absent.csv", None, {}, "there is no file"),
        ("a.xls", "x", {}, r"a table is a \.csv, \.tsv, \.txt or \.parquet file, got"),
        ("a.parquet", "x", {}, "not a readable table"),
        ("a.csv", "", {}, "not a readable table"),
        ("a.csv", "a|b;c\n1|2;3\n", {}, r"separated by ';' or '\|': separate them .* --delimiter"),
        ("a.csv", "a;b\n1;2\n", {"delimiter": ";;"}, "are one ASCII character each, got ';;' and None"),
        ("a.csv", "a;b\n1;2\n", {"decimal": "points"}, "are one ASCII character each, got None and 'points'"),
        ("a.csv", "a;b\n1;2\n", {"encoding": "klingon"}, "not a readable table: unknown encoding: klingon"),
    ],
)
def test_files_that_are_no_table_or_may_be_two_are_refused(tmp_path, name, content, options, told):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ex.InputError, match=told):
        read_table(tmp_path / name, **options)


def test_text_in_another_encoding_is_told_with_the_option(tmp_path):
    file = tmp_path / "A.CSV"
    file.write_bytes("y,c0,c1,p0,p1\nAffe,.1,.2,Bär,Affe\nBär,.1,.2,Bär,Affe\n".encode("cp1252"))
    told = r"'p0' must hold classes.* got binary: save the file as UTF-8.*add --encoding, such as cp1252"
    with pytest.raises(ex.InputError, match=told):
        read(file)
    assert read_table(file, encoding="cp1252")["y"].to_pylist() == ["Affe", "Bär"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("mark", "suffix", "point"),
    [(",", "csv", "."), (";", "csv", "."), (";", "csv", ","), ("\t", "tsv", ","), ("|", "txt", ".")],
)
def test_delimiters_points_and_encodings_are_told_by_the_first_lines(tmp_path, encoding, mark, suffix, point):
    first = ["dög", 0.934, 12.5, "cat", "dög; or not"]
    rows = [["y", "c0", "c1", "p0", "p1"], first, ["cat", -1.25, 3.0, "cat", "cat"]]

    def written(cell):
        return str(cell).replace(".", point) if isinstance(cell, float) else f'"{cell}"'

    file = tmp_path / f"a.{suffix}"
    file.write_bytes("\r\n".join(mark.join(map(written, row)) for row in rows).encode(encoding))
    assert read_table(file).to_pydict() == {name: list(cells) for name, *cells in zip(*rows, strict=True)}


@pytest.mark.parametrize(
    ("text", "option", "expected"),
    [
        ("a;b\n1,234;x\n", {}, "1,234"),  # 1.234 or 1234
        ("a;b\n1,234;x\n", {"decimal": ","}, 1.234),
        ("a;b\n1,234;x\n0,5;y\n", {}, 1.234),
        ("a;b\n0,5;1.25\n", {}, "0,5"),  # both points
        ("a|b;c\n1|2;3\n", {"delimiter": "|"}, 1),
        ("a;b,c\n1;2,3\n4;5\n", {}, 1),  # a comma in some of the rows
        ("a\n1\n", {}, 1),
    ],
)
def test_what_the_first_lines_do_not_tell_is_an_option(tmp_path, text, option, expected):
    file = tmp_path / "a.csv"
    file.write_text(text)
    assert read_table(file, **option)["a"][0].as_py() == expected


def test_a_row_that_the_look_ahead_cuts_off_does_not_count(tmp_path):
    rows = [f'"{"x" * 900}; {i}",{i}' for i in range(200)]
    for name, text in (("a.csv", "\n".join(["text;id,n", *rows])), ("a.TSV", "a,b\tn\n1,2\t3\n")):
        (tmp_path / name).write_text(text)
        assert read_table(tmp_path / name).column_names[-1] == "n"


def test_a_damaged_page_of_a_table_with_checksums_is_told(tmp_path):
    file = tmp_path / "a.parquet"
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    pq.write_table(pa.table({"name": ["cat 10", "cat 57", "cat 99"]}), file, **options)
    file.write_bytes(file.read_bytes().replace(b"cat 57", b"cat 75"))
    with pytest.raises(ex.InputError, match=r"a\.parquet is not a readable table: .*[Cc][Rr][Cc]"):
        read_table(file)


def test_percentages_are_numbers():
    found = read(table(c0=["12%", " 99.5 % ", "7,25%"], c1=["0%", "100%", "-5%"]))
    np.testing.assert_allclose(found.scores["confidence"], [[0.12, 0], [0.995, 1], [0.0725, -0.05]])


def test_two_classes_that_look_alike_are_not_refused():
    letters = {"y": ["a", "A", "b"], "p0": ["A", "a", "b"], "p1": ["a", "A", "c"]}
    assert read(table(**letters)).correct.tolist() == [[False, True], [False, True], [True, False]]


def test_columns_are_a_list_or_a_numbered_pattern():
    there = ["pred_10", "pred_2", "conf_2", "pred_x", "label"]
    assert matching_columns("pred_{}", there) == ["pred_2", "pred_10"]
    assert matching_columns("label, conf_2", there) == ["label", "conf_2"]
    for pattern, given, told in (
        ("p_{}", ["p_1", "p_01", "p_2"], r"two columns p_\{\} have the same number: p_1, p_01"),
        ("conf_*", there, r"no column conf_\*.*; it has .* \(a pattern has \{\} in place"),
        ("p{}", there, r"no column p\{\} with a number for \{\}; it has pred_10"),
    ):
        with pytest.raises(ex.InputError, match=told):
            matching_columns(pattern, given)


def test_patterns_must_number_the_exits_alike():
    there = ["c_1", "c_2", "p_0", "p_1"]
    told = r"c_\{\} are numbered 1, 2 and the columns p_\{\} are numbered 0, 1"
    with pytest.raises(ex.InputError, match=told):
        exit_columns(["c_{}", "p_{}"], there)
    assert exit_columns(["c_{}", ["p_0", "p_1"]], there) == [["c_1", "c_2"], ["p_0", "p_1"]]
    assert exit_columns(["c_1,c_2", "p_{}"], there) == [["c_1", "c_2"], ["p_0", "p_1"]]


GRADED = {"confidence": "c{}", "loss": "l{}", "cost": [1, 3]}


def graded_table(**changes):
    return table(l0=[0.5, 1.0, 0.0], l1=[0.25, 0, 1], **changes)


def test_columns_of_losses_take_the_place_of_labels(tmp_path):
    read_as = {"prediction": "p{}", **GRADED}
    trace = ex.ExitTrace.from_table(graded_table(), **read_as)
    assert trace.grades.loss.tolist() == [[0.5, 0.25], [1, 0], [0, 1]]
    assert trace.prediction.tolist() == [[2, 0], [0, 0], [2, 1]]
    assert trace.scores["confidence"].tolist() == [[0.5, 1], [0.9, 2], [0.1, 3]]
    for name, write in (("t.csv", pyarrow.csv.write_csv), ("t.parquet", pq.write_table)):
        write(graded_table(), tmp_path / name)
        back = ex.ExitTrace.from_table(tmp_path / name, **read_as)
        assert back.grades.loss.tolist() == trace.grades.loss.tolist()
    iou = ex.ExitTrace.from_table(graded_table(), **GRADED, better="higher", measure="IoU")
    assert iou.quality.tolist() == trace.grades.loss.tolist()
    assert iou.measure == "IoU"
    assert len(np.unique(iou.prediction[0])) == 2
    alone = ex.ExitTrace.from_table(graded_table(), loss=["l1", "l0"], cost=[1, 3])
    assert alone.grades.loss[:, 0].tolist() == [0.25, 0, 1]
    percent = pa.table({"l0": ["50 %", "100%", "0%"]})
    assert ex.ExitTrace.from_table(percent, loss=["l0"], cost=[1]).grades.loss[0].tolist() == [0.5]


@pytest.mark.parametrize(
    ("changes", "options", "shown"),
    [
        ({}, {"label": "y"}, "name columns of losses or of labels, not both"),
        ({}, {"loss": None}, "name the columns of confidences and predictions, or those of losses"),
        ({}, {"loss": "l0"}, "give one confidence and one loss column per exit, got 2 and 1: c0, c1; l0"),
        ({"l0": [0.5, 2, 0]}, {}, "losses must lie in .*, got 2 in row 1 of column 'l0' .*: divide by the highest"),
        ({"l1": [0.5, 0.1, -3]}, {"better": "higher"}, "qualities must lie in .* got -3 in row 2 of column 'l1'"),
        ({"l1": [0.5, None, 0]}, {}, "'l1' has 1 empty cell in row 1 .* no answer was given .*--empty-is-no-answer"),
        ({"l1": [0.5, np.nan, 0]}, {}, "'l1' must be finite, got nan in row 1"),
        ({"l1": pa.nulls(3)}, {"empty_is_no_answer": True}, "'l1' is empty in all rows: leave out this exit"),
    ],
)  # fmt: skip
def test_losses_that_make_no_sense_are_refused_by_their_place(changes, options, shown):
    columns = {**dict(zip(graded_table().column_names, graded_table().columns, strict=True)), **changes}
    with pytest.raises(ex.InputError, match=shown):
        ex.ExitTrace.from_table(pa.table(columns), **{**GRADED, **options})


def test_an_empty_cell_may_be_no_answer(tmp_path):
    """Of labelled and of graded tables, where the user says so; what is empty in CSV is so in Parquet."""
    rows = "p0,c0,p1,c1,y,l0,l1\ndog,.1,,.2,dog,0,\n,,dog,.4,dog,,1\ncat,.5,cat,.6,cat,.5,.5\n"
    (tmp_path / "a.csv").write_text(rows)
    labelled = {"confidence": "c{}", "prediction": "p{}", "label": "y", "cost": [1, 3]}
    with pytest.raises(ex.InputError, match="'c0' has 1 empty cell in row 1"):
        ex.ExitTrace.from_table(tmp_path / "a.csv", **labelled)
    trace = ex.ExitTrace.from_table(tmp_path / "a.csv", **labelled, empty_is_no_answer=True)
    assert trace.correct.tolist() == [[True, False], [False, True], [True, True]]
    assert trace.scores["confidence"].tolist() == [[0.1, -np.inf], [-np.inf, 0.4], [0.5, 0.6]]
    assert (trace.prediction == NO_ANSWER).tolist() == [[False, True], [True, False], [False, False]]
    graded = ex.ExitTrace.from_table(tmp_path / "a.csv", **GRADED, empty_is_no_answer=True)
    assert graded.grades.loss.tolist() == [[0, 1], [1, 1], [0.5, 0.5]]
    pq.write_table(read_table(tmp_path / "a.csv"), tmp_path / "a.parquet")
    again = ex.ExitTrace.from_table(tmp_path / "a.parquet", **GRADED, empty_is_no_answer=True)
    assert again.grades.loss.tolist() == graded.grades.loss.tolist()
    columns = {"loss": "l{}", "confidence": "c{}", "price": {"0": 1, "1": 2}}
    models = ex.CascadeTrace.from_table(tmp_path / "a.csv", **columns, empty_is_no_answer=True)
    assert models["1"].grades.loss.tolist() == [[1], [1], [0.5]]
    assert models["1"].cost.full == 2
    assert models.measure == "quality"
