"""No mutated file hangs a command, runs code, or changes an answer without a word."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("transformers")
pytest.importorskip("skops")
pytest.importorskip("fastapi")

from . import mutated_files as mutated

PROGRAM = Path(mutated.__file__)


def test_every_mutation_is_another_content_and_none_outlives_its_block(tmp_path):
    file, rng = tmp_path / "trace.parquet", np.random.default_rng(0)
    pq.write_table(pa.table({"x": np.arange(100)}), file)
    content, before = file.read_bytes(), file.stat()
    for how in dict.fromkeys((*mutated.CONTENTS, *mutated.PLACES)):
        made = None
        if how in mutated.CONTENTS:
            made = mutated.content_of(how, content, rng, b"other", b"sibling", tmp_path / "marker")
            assert made != content
        with mutated.in_place_of(file, how, made):
            assert made is None or file.read_bytes() == made
            assert (how == "gone") != (file in tmp_path.iterdir())
        assert (file.read_bytes(), file.stat().st_mtime_ns) == (content, before.st_mtime_ns)
        assert list(tmp_path.iterdir()) == [file]


def test_mutated_values_whose_digests_fit_are_refused_in_a_line_or_read(tmp_path):
    case = mutated.Case("cascade", tmp_path / "case")
    counts, problems = mutated.sealed_campaign(case, 61, 1, but="second")  # a model is mutated as another is
    assert problems == []
    assert counts["verify", "refused"] > counts["mutations"] / 2


@pytest.mark.slow
def test_mutated_files_are_refused_or_change_nothing():
    """In a process of its own, whose end a hang in compiled code cannot prevent."""
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=3600)
    found = re.search(r"^([\d,]+) mutations, (\d+) problems$", done.stdout, re.MULTILINE)
    assert found is not None, done.stderr[-2000:]
    assert int(found[1].replace(",", "")) > 1000
    assert found[2] == "0", done.stdout[-5000:]
