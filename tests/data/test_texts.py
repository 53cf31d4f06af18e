"""Texts as people have them: every form, named columns, pairs, and rows that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from damaged_files import DEEP
from exeunt.data import Dataset, open_inputs, open_source
from exeunt.errors import ArtefactError, InputError, UnreadableText

ROWS = [("a 1", "x", "no"), ("b, 2", "y", "yes"), ("c", "z", "no")]
NAMES = ("premise", "hypothesis", "gold")


def write(path: Path, rows: list, names: tuple[str, ...] = NAMES) -> Path:
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(names), *(mark.join(f'"{cell}"' for cell in row) for row in rows)]
        path.write_text("\n".join(lines))
    return path


def contents(data: Dataset) -> list:
    """What each row holds, or why it cannot be read."""

    def content(i: int) -> object:
        try:
            return data.content(i)
        except UnreadableText as error:
            return error.name, error.reason

    return [content(i) for i in range(len(data))]


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl", "json"])
def test_columns_are_named_and_two_make_pairs(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"train.{ending}", ROWS)
    one = open_source(path, text=["hypothesis"], label="gold").train
    assert contents(one) == ["x", "y", "z"]
    assert one.labels.tolist() == [0, 1, 0]
    assert one.class_names == ("no", "yes")
    pairs = open_source(tmp_path, text=["premise", "hypothesis"], label="gold").train
    assert contents(pairs) == [row[:2] for row in ROWS]
    assert (pairs.per_input, one.per_input) == (2, 1)
    assert len(set(pairs.content_keys().tolist()) | set(one.content_keys().tolist())) == 6


def test_the_key_of_a_pair_tells_where_one_text_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [("a b", "c", "0"), ("a", "b c", "0")])
    assert len(set(open_inputs(path, text=NAMES[:2]).content_keys().tolist())) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": ["body"]}, "no column 'body'; its columns are premise, hypothesis, gold"),
        ({"text": NAMES}, "one column, or two for pairs of texts, got 3"),
        ({"text": ["premise"], "label": "premise"}, "cannot hold both the texts and their classes"),
        ({"text": ["premise"], "label": "class"}, "no column 'class'"),
        ({}, r"--text-column"),
    ],
)
def test_columns_that_are_not_there_are_told(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        open_source(write(tmp_path / "a.csv", ROWS), **options)


def test_a_column_of_numbers_is_no_column_of_texts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="'n' holds int64, not texts"):
        open_inputs(tmp_path / "a.parquet", text=["n"])


def test_a_file_of_lines_is_a_text_each(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_bytes("\ufeffgood film\n\nbad\r\nend".encode())
    assert contents(open_inputs(path)) == ["good film", "", "bad", "end"]
    assert open_inputs(path).name(2) == "new.txt#2"
    path.write_bytes(b"one\n")
    assert contents(open_inputs(path)) == ["one"]
    path.write_bytes(b"")
    assert len(open_inputs(path)) == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_of_spreadsheets_are_read_as_they_are(tmp_path: Path, encoding: str) -> None:
    content = 'label;text\r\n1;"a film, and; a good one"\r\n0;bäd\r\n'
    (tmp_path / "a.csv").write_bytes(content.encode(encoding))
    data = open_source(tmp_path / "a.csv").train
    assert contents(data) == ["a film, and; a good one", "bäd"]
    assert data.labels.tolist() == [1, 0]
    (tmp_path / "a.txt").write_bytes("bäd\r\ngood".encode(encoding))
    assert contents(open_inputs(tmp_path / "a.txt")) == ["bäd", "good"]


def test_a_table_in_utf_16_that_is_cut_off_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text;label\r\ngood;1\r\n".encode("utf-16")[:-1])
    with pytest.raises(ArtefactError, match=r"cannot read .*a\.csv: .* truncated data"):
        open_source(tmp_path / "a.csv")


def test_rows_that_are_no_texts_do_not_spoil_the_others(tmp_path: Path) -> None:
    empty, encoding = "it is empty", "it is not UTF-8"
    (tmp_path / "a.txt").write_bytes(b"good\ncaf\xe9\nbad")
    assert contents(open_inputs(tmp_path / "a.txt")) == ["good", ("a.txt#1", encoding), "bad"]
    (tmp_path / "a.csv").write_bytes(b"text,label\ngood,1\ncaf\xe9,\n,0\n")
    assert contents(open_inputs(tmp_path / "a.csv")) == ["good", ("a.csv#1", encoding), ("a.csv#2", empty)]
    pq.write_table(pa.table({"text": ["good", None, ""]}), tmp_path / "a.parquet")
    assert contents(open_inputs(tmp_path / "a.parquet")) == ["good", ("a.parquet#1", empty), ""]
    lines = [b'{"text": "good"}', b'{"text": 7}', b'{"body": ""}', b'{"text', b"", b"3", b'{"text": "\xff"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines, b'{"text": "half \\ud800", "label": [1]}', DEEP]))
    not_json, no_object = "its line is not JSON", "its line is not a JSON object"
    reasons = ["it is no text but int", empty, not_json, no_object, encoding, encoding, not_json]
    told = [(f"a.jsonl#{i}", reason) for i, reason in enumerate(reasons, start=1)]
    assert contents(open_inputs(tmp_path / "a.jsonl")) == ["good", *told]
    data = open_inputs(tmp_path / "a.jsonl")
    assert len(set(data.stored_keys().tolist())) >= 5  # predictions know them apart, to resume
    with pytest.raises(UnreadableText, match=r"a\.jsonl#1"):
        data.content_keys()  # which splitting training data needs


@pytest.mark.parametrize(
    ("second", "names"),
    [
        ("label,text\n2,c\n", ["1", None, "2"]),  # another order
        ("text,label\n", ["1", None]),
        ("text,label\nc,\n", ["1", None, None]),
        ("text,label,stars\nc,2,4.5\n", ["1", None, "2"]),
        ("text,label\nc,oos\n", ["1", None, "oos"]),
    ],
)
def test_shards_are_one_table_whatever_types_each_seems_to_have(tmp_path: Path, second, names) -> None:
    (tmp_path / "test-0.csv").write_text("text,label,stars\na,1,5\nb,,4\n")
    (tmp_path / "test-1.csv").write_text(second)
    data = open_inputs(tmp_path)
    assert (data.true_names, contents(data)) == (names, ["a", "b", "c"][: len(names)])


def test_a_shard_of_texts_without_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "test-0.csv").write_text("text,label\na,1\n")
    (tmp_path / "test-1.csv").write_text("text\nb\n")
    with pytest.raises(InputError, match=r"test-1\.csv has no column 'label', and .*test-0\.csv has one"):
        open_inputs(tmp_path)


def test_rows_of_shards_are_named_by_their_file(tmp_path: Path) -> None:
    for part, ending in (("test", "csv"), ("train", "jsonl")):
        for shard in range(2):
            write(tmp_path / f"{part}-{shard}.{ending}", ROWS[: shard + 1])
    source = open_source(tmp_path, text=["premise"], label="gold")
    for data, part, ending in ((source.test, "test", "csv"), (source.train, "train", "jsonl")):
        found = [data.name(i) for i in range(3)]
        assert found == [f"{part}-{shard}.{ending}#{row}" for shard, row in ((0, 0), (1, 0), (1, 1))]
    assert contents(source.test) == contents(source.train) == ["a 1", "a 1", "b, 2"]


@pytest.mark.parametrize(
    ("ending", "text", "said"),
    [
        ("csv", "text,label\na,x\nb\n", r"Row #3: Expected 2 columns, got 1"),
        ("json", "[1, 2", "one JSON object per line"),
    ],
)
def test_a_damaged_table_is_refused_with_the_place(tmp_path: Path, ending: str, text: str, said: str) -> None:
    (tmp_path / f"a.{ending}").write_text(text)
    with pytest.raises(ArtefactError, match=said):
        open_inputs(tmp_path / f"a.{ending}")


def test_missing_labels_are_refused_with_the_first_row(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl", "parquet"):
        rows = [("a", "1"), ("b", "" if ending == "csv" else None), ("c", "0")]
        path = write(tmp_path / f"a.{ending}", rows, ("text", "label"))
        with pytest.raises(InputError, match=rf"1 of 3 cells of 'label'.*the first in a\.{ending}#1"):
            open_source(path)
        inputs = open_inputs(path)
        assert contents(inputs) == ["a", "b", "c"]
        assert (inputs.labels.tolist(), inputs.class_names) == ([1, -1, 0], ("0", "1"))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_labels_that_are_numbers_in_one_part_and_a_name_in_the_other_are_shown(tmp_path, ending):
    write(tmp_path / f"train.{ending}", [("a", 0), ("b", 1)], ("text", "label"))
    write(tmp_path / f"test.{ending}", [("c", "1"), ("d", "oos")], ("text", "label"))
    with pytest.raises(InputError, match=rf"texts in the other, such as 'oos' in test\.{ending}#1"):
        open_source(tmp_path)


def test_inputs_that_are_no_table_may_lack_the_columns_of_the_training(tmp_path):
    lines = tmp_path / "new.txt"
    lines.write_text("a\n\nb\n")
    named = {"label": "topic", "text": ("body",)}
    assert contents(open_inputs(lines, **named, of_training=True)) == ["a", "", "b"]
    with pytest.raises(InputError, match="is no table and has no column 'body'"):
        open_inputs(lines, **named)
