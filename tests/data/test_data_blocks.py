"""Blocks of data that can be sent elsewhere, and data in an object store: both hold what the whole holds here."""

from __future__ import annotations

import errno
import os
import pickle
from contextlib import suppress
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import exeunt as ex
from damaged_files import within
from exeunt._support import paths
from exeunt._support.paths import RemotePath, open_arrow, place, write_bytes
from exeunt.data import columns, open_inputs, open_lines, open_source
from exeunt.errors import UnreadableImage
from object_store import google_store, object_store, put_folder

N = 12


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """One folder or file for each way in which inputs are stored, all with N inputs."""
    root = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    cells = []
    for i in range(N):
        folder = root / "images" / "abc"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
        cells.append({"bytes": (folder / f"{i:02d}.png").read_bytes(), "path": None})
    labels = [i % 4 for i in range(N)]
    table = pa.table({"image": pa.array(cells), "label": labels})
    (root / "shards").mkdir()
    pq.write_table(table.slice(0, 5), root / "shards" / "test-0.parquet", row_group_size=2)
    pq.write_table(table.slice(5), root / "shards" / "test-1.parquet", row_group_size=3)
    texts = [f"text {i}" if i % 5 else None for i in range(N)]
    table = pa.table({"text": texts, "label": [k - 1 for k in labels]})
    pq.write_table(table, root / "t.parquet", row_group_size=3)
    (root / "t.csv").write_text("text,label\n" + "".join(f"t{i},{'xy'[i % 2]}\n" for i in range(N)))
    (root / "t.jsonl").write_text("".join(f'{{"text": "j{i}", "label": {i % 3}}}\n' for i in range(N)))
    (root / "t.txt").write_text("".join(f"line {i}\n" for i in range(N)))
    return root


NAMES = ["images", "shards", "t.parquet", "t.csv", "t.jsonl", "t.txt"]


@pytest.fixture(scope="module", params=[object_store, google_store])
def store(request, kinds):
    with pytest.MonkeyPatch.context() as patch, request.param(patch) as bucket:
        yield put_folder(kinds, f"{bucket}/deep/down")


def said(data) -> list:
    """What the inputs are: name, class and content of each."""
    classes = data.true_names or [None] * len(data)

    def content(i):
        try:
            found = data.content(i)
        except ex.InputError as error:
            return str(error)
        return found if isinstance(found, str) else found.tobytes()

    return [(data.name(i), classes[i], content(i)) for i in range(len(data))]


@pytest.mark.parametrize("name", [*NAMES, "sklearn:digits"])
def test_blocks_make_the_whole_and_can_be_sent(kinds, name):
    data = open_inputs(name if ":" in name else kinds / name)
    data = data if len(data) == N else data.take(np.arange(3, 3 + 2 * N, 2))
    whole = said(data)
    assert len({name for name, _, _ in whole}) == N
    for size in (1, 5, 7, N, N + 3):
        blocks = [data.block(start, min(size, N - start)) for start in range(0, N, size)]
        sent = [pickle.loads(pickle.dumps(block)) for block in blocks]
        assert [row for block in sent for row in said(block)] == whole
    assert said(data.block(4, 0)) == []
    shuffled = data.take([9, 2, 2, 7])
    assert said(shuffled.block(1, 3)) == said(shuffled)[1:]
    assert said(data.block(5, 6).block(2, 3)) == whole[7:10]


def test_a_block_is_found_from_any_folder(kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(kinds)
    listed = open_lines(b"images/a/00.png\n./images/b/01.png\n", "image")
    for data in [*map(open_inputs, NAMES), listed]:
        sent, expected = pickle.dumps(data.block(0, 2)), said(data)[:2]
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            assert said(pickle.loads(sent)) == expected
    assert [name for name, _, _ in said(listed)] == ["images/a/00.png", "images/b/01.png"]


def test_a_block_holds_nothing_of_the_others(kinds):
    for name, mine, other in (("images", b"00.png", b"02.png"), ("shards", b"test-0.p", b"test-1.p")):
        sent = pickle.dumps(open_inputs(kinds / name).block(0, 2))
        assert mine in sent
        assert other not in sent
    digits = open_inputs("sklearn:digits")
    assert len(pickle.dumps(digits.block(0, 2))) < 0.05 * len(pickle.dumps(digits))


def test_row_groups_are_read_once_for_all_blocks_that_were_sent(kinds, monkeypatch):
    columns._kept_of_sent.cache_clear()
    read, real = [], pq.ParquetFile.read_row_group

    def counted(file, group, *more, **options):
        read.append(group)
        return real(file, group, *more, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    data = open_inputs(kinds / "t.parquet")
    for start in range(0, N - 1, 2):
        said(pickle.loads(pickle.dumps(data.block(start, 2))))
    assert sorted(read) == [0, 0, 1, 1, 2, 2, 3, 3]  # of the texts and of the labels
    columns._kept_of_sent.cache_clear()


def test_an_object_store_holds_the_same(kinds, store):
    for name in NAMES:
        here, there = open_inputs(kinds / name), open_inputs(f"{store}/{name}")
        assert said(there) == said(here)
        assert said(pickle.loads(pickle.dumps(there.block(3, 6)))) == said(here)[3:9]


@pytest.mark.parametrize("name", ["images", "shards"])
def test_training_data_in_a_store_are_the_same(kinds, store, name):
    if name == "shards":
        train = kinds / "shards" / "train.parquet"
        train.write_bytes((kinds / "shards" / "test-0.parquet").read_bytes())
        write_bytes(place(f"{store}/shards/train.parquet"), train.read_bytes())
    here, there = open_source(kinds / name), open_source(f"{store}/{name}")
    assert (here.class_names, list(here.datasets)) == (there.class_names, list(there.datasets))
    for part, data in here.datasets.items():
        assert said(there.dataset(part)) == said(data)
        assert there.dataset(part).labels.tolist() == data.labels.tolist()


def test_images_in_a_store_are_listed_and_not_asked_for_one_by_one(store, monkeypatch):
    asked, info = [], RemotePath._info
    monkeypatch.setattr(RemotePath, "_info", lambda path: (asked.append(path), info(path))[1])
    data = open_inputs(f"{store}/images")
    sizes = [place(f"{store}/images/{data.name(i)}").stat().st_size for i in range(N)]
    assert [path.suffix for path in asked].count(".png") == N
    del asked[:]
    stamps = list(open_inputs(f"{store}/images").stored.stamps())
    assert not [path for path in asked if path.suffix == ".png"]
    assert [stamp[1] for stamp in stamps] == sizes
    assert all(isinstance(stamp[2], int) for stamp in stamps)
    assert list(data.stored.stamps()) == stamps
    assert list(pickle.loads(pickle.dumps(data.block(0, N))).stored.stamps()) == stamps


def test_an_object_that_is_gone_is_an_unreadable_image(kinds, store):
    write_bytes(place(f"{store}/gone/a.png"), b"x")
    data = open_inputs(f"{store}/gone")
    place(f"{store}/gone/a.png").unlink()
    with pytest.raises(UnreadableImage, match=r"a\.png: there is no such file"):
        data.content(0)


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_store_that_does_not_answer_is_no_damage(kinds, store, monkeypatch, where):
    data = open_inputs(kinds / "t.parquet" if where == "here" else f"{store}/t.parquet")
    error = OSError(errno.ESTALE, "stale handle") if where == "here" else OSError("timed out")
    opened, failures = open_arrow, [error] * 5

    def fails(path):
        if failures:
            raise failures.pop()
        return opened(path)

    monkeypatch.setattr(paths, "_PAUSES_S", (0, 0))
    monkeypatch.setattr(columns, "open_arrow", fails)
    told = r"cannot read .*t\.parquet: OSError: .*(timed out|stale handle)"
    with pytest.raises(ex.errors.FileError, match=told):  # an OSError, which a cluster tries again
        data.content(1)
    assert len(failures) == 2
    assert data.content(1)
    assert not failures


def test_an_unreachable_store_of_google_is_an_error_within_a_minute():
    """PyArrow's own limit is a quarter of an hour."""
    for query, seconds in (("", 60), ("?retry_limit_seconds=5", 5), ("?scheme=https", 60)):
        _, (settings,) = place(f"gs://anonymous@bucket/file{query}").system.__reduce__()
        assert settings["retry_time_limit"].total_seconds() == seconds


def test_folders_in_a_store_have_any_name(store):
    for name in ("two words", "été", "100%25"):
        write_bytes(file := place(f"{store}/{name}/a b.txt"), b"x")
        assert [str(path) for path in place(f"{store}/{name}").iterdir()] == [str(file)]
        assert file.parent.name == name.replace("%25", "%")


def test_paths_in_a_store(store):
    file = place(f"{store}/t.txt")
    assert isinstance(file, RemotePath)
    assert str(file) == f"{store}/t.txt".replace("anonymous@", "")
    assert (file.is_file(), file.is_dir()) == (True, False)
    assert (file.parent.is_dir(), (file.parent / "none").is_file()) == (True, False)
    assert (file.name, file.suffix) == ("t.txt", ".txt")
    assert str(file.relative_to(file.parent.parent)) == "down/t.txt"
    assert sorted(path.name for path in file.parent.glob("t.*")) == ["t.csv", "t.jsonl", "t.parquet", "t.txt"]
    assert {"shards", "t.csv"} <= {path.name for path in file.parent.iterdir()}
    assert file.stat().st_size == len(file.read_bytes())
    other = place(f"{store}/new/x.bin")
    for content in (b"one", b"two, and longer"):
        write_bytes(other, content)
        assert other.read_bytes() == content
    other.unlink()
    other.unlink(missing_ok=True)
    for read in (other.read_bytes, other.stat):
        with pytest.raises(FileNotFoundError):
            read()
    with pytest.raises(ex.InputError, match="there is no data named"):
        open_inputs(f"{store}/nothing.parquet")


def test_other_addresses(tmp_path):
    assert place(f"file://{tmp_path}/x y") == tmp_path / "x y"
    assert place(tmp_path) == tmp_path
    memory = place("memory://box/x")
    write_bytes(memory, b"kept")
    assert memory.read_bytes() == b"kept"
    told = r"cannot open zz://x: .*name a path, s3://, gs:// or what fsspec opens"
    with pytest.raises(ex.InputError, match=told):
        place("zz://x")


def test_a_pipe_among_inputs_is_told_and_not_waited_for(tmp_path):
    for name in ("test-0.csv", "test-0.parquet", "test-0.jsonl", "cat.png"):
        os.mkfifo(tmp_path / name)
        read = partial(open_inputs, tmp_path)
        if name == "cat.png":
            read = partial(open_lines(bytes(tmp_path / name), "image").content, 0)
        with within(20), pytest.raises((OSError, UnreadableImage), match=name):
            read()
        (tmp_path / name).unlink()


def test_a_damaged_page_of_a_table_with_checksums_is_told(tmp_path):
    file = texts_in(tmp_path, 100, write_page_checksum=True)
    content = file.read_bytes()
    assert content.count(b"text 57") == 1
    file.write_bytes(content.replace(b"text 57", b"text 75"))
    with pytest.raises(ex.errors.ArtefactError, match=r"texts\.parquet is damaged.*[Cc][Rr][Cc]"):
        open_inputs(file).content(3)


def texts_in(folder, n, **options):
    file, texts = folder / "texts.parquet", [f"text {i:02d}" for i in range(n)]
    options |= {"compression": "none", "use_dictionary": False}
    pq.write_table(pa.table({"text": texts}), file, **options)
    return file


@pytest.mark.parametrize(("n", "reason"), [(16, "has 8 rows, not 16"), (-8, "has -8 rows")])
def test_a_table_whose_end_tells_another_number_of_rows_is_damaged(tmp_path, n, reason):
    file = texts_in(tmp_path, 8)
    whole, written = file.read_bytes(), bytes([2 * abs(n) - (n < 0)])  # as Thrift writes whole numbers
    for at in [i for i, byte in enumerate(whole) if byte == 16]:
        file.write_bytes(whole[:at] + written + whole[at + 1 :])
        with suppress(OSError, pa.ArrowException):
            if pq.read_metadata(file).row_group(0).num_rows == n:
                break
    with pytest.raises(ex.errors.ArtefactError, match=reason):
        open_inputs(file).content(0)


def test_a_damaged_page_header_is_told_in_one_line(tmp_path):
    """Arrow says two."""
    file = texts_in(tmp_path, 9)
    start, content = pq.read_metadata(file).row_group(0).column(0).data_page_offset, file.read_bytes()
    file.write_bytes(content[:start] + b"\xff" * 16 + content[start + 16 :])
    with pytest.raises(ex.errors.ArtefactError, match=r"texts\.parquet is damaged: [^\n]*thrift[^\n]*$"):
        open_inputs(file).content(0)


def test_a_table_that_is_replaced_by_one_of_the_same_size_and_time_is_told_by_its_footer(tmp_path):
    """Also where it is read, by a process that the block was sent to."""
    file = texts_in(tmp_path, 12, row_group_size=4)
    seen = file.stat()
    data = open_inputs(file)
    assert data.content(0) == "text 00"
    sent = pickle.dumps(data.block(4, 8))
    table = pq.read_table(file)
    options = {"row_group_size": 4, "compression": "none", "use_dictionary": False}
    pq.write_table(table.take([*range(5, 12), *range(5)]), file, **options)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert file.stat().st_size == seen.st_size
    data.check_unchanged()
    for read in (partial(data.content, 4), partial(pickle.loads(sent).content, 7)):
        with pytest.raises(ex.InputError, match=r"texts\.parquet was changed or replaced while it was read"):
            read()
    assert data.content(1) == "text 01"  # of the row group that was read before
    file.unlink()
    with pytest.raises(ex.InputError, match=r"texts\.parquet was changed"):
        data.check_unchanged()


def test_images_in_a_store_that_are_replaced_are_told_from_a_new_list(store):
    folder = place(f"{store}/changing")
    for name in ("a.png", "b.png"):
        write_bytes(folder / name, b"first")
    data = open_inputs(f"{store}/changing")
    assert len(data.stored.found) == 2
    data.check_unchanged()
    write_bytes(folder / "b.png", b"another")
    with pytest.raises(ex.InputError, match=r"changing/b\.png was changed"):
        data.check_unchanged()
    for name in ("a.png", "b.png"):
        (folder / name).unlink()
    with pytest.raises(ex.InputError, match=r"changing/a\.png was changed"):
        data.check_unchanged()
