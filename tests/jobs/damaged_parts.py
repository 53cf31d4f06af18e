"""Jobs whose parts are damaged between two runs of the same command: what comes of it is right, or one clear error."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from contextlib import suppress

import pyarrow.parquet as pq
import pytest

from damaged_files import damage, within
from exeunt.errors import ExeuntError

HARMS = (
    "flip", "flip", "flip", "flip in the footer", "zeros", "truncate", "empty", "remove", "other part", "other job",
    "link", "pipe", "folder",
)  # fmt: skip
FOOTER = 4_000
"""Bytes at the end of a part, of which most are its footer."""


def same(found: list[dict], expected: list[dict]) -> None:
    """The same rows in the same order; their answers may differ where they are borderline."""
    assert [row["name"] for row in found] == [row["name"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        if not (one["borderline"] or other["borderline"]):
            assert one == other | {name: pytest.approx(other[name], abs=1e-5) for name in inexact(other)}


def inexact(row: dict) -> list[str]:
    return [name for name in ("confidence", "score", "first_score") if row[name] is not None]


def rows_of(folder) -> list[dict]:
    """Return the rows of the parts in a folder, read as anybody reads them."""
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def harm_one(part, lots, harm, others) -> None:
    """Damage a part. `others`: what stands in its place, by the kind of harm."""
    whole = part.read_bytes()
    end = len(whole) if harm == "flip" else min(len(whole), FOOTER)
    if harm in ("flip", "flip in the footer"):
        at = len(whole) - 1 - lots.randrange(end)
        part.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << lots.randrange(8))]) + whole[at + 1 :])
    elif harm == "zeros":
        at = lots.randrange(len(whole))
        part.write_bytes(whole[:at] + bytes(len(whole[at : at + 100])) + whole[at + 100 :])
    elif harm in others:
        part.write_bytes(others[harm])
    else:
        damage(part, harm)


def campaign(predict, other_job, folder, expected, rounds, seed) -> Counter[str]:
    """Damage up to three parts and run the same command again, so many times; return what became of it.

    `predict(folder)` fills a folder with parts, `other_job(folder)` with those of another job of the same inputs.
    """
    lots, found = random.Random(seed), Counter[str]()
    other_job(folder.with_name("other"))
    others = {file.name: file.read_bytes() for file in folder.with_name("other").glob("*.parquet")}
    predict(folder)
    same(rows_of(folder), expected)
    for _ in range(rounds):
        parts = sorted(folder.glob("*.parquet"))
        contents = {part: part.read_bytes() for part in parts}
        for part in lots.sample(parts, lots.randint(1, 3)):
            other = contents[lots.choice([one for one in parts if one != part])]
            given = {"other part": other, "other job": others[part.name]}
            harm_one(part, lots, harm := lots.choice(HARMS), given)
            found[harm] += 1
        if refused := said_against(lambda: predict(folder)):
            assert "\n" not in refused
            found["refused"] += 1
            for file in folder.glob("*.parquet"):
                if file.is_dir():
                    shutil.rmtree(file)
                elif not file.is_file():
                    file.unlink()
            predict(folder)
        same(rows_of(folder), expected)
        found["right"] += 1
    return found


def said_against(work) -> str:
    """Return what Exeunt says against work that cannot be done; "" if it is done."""
    try:
        with within(120):
            work()
    except ExeuntError as error:
        return str(error)
    return ""


def break_off(predict) -> None:
    """Let `predict(say)` run until it has said something about its progress, as if it were killed then."""

    class BrokenOff(BaseException):
        pass

    def say(text: str) -> None:
        if "budget so far" in text:
            raise BrokenOff

    with suppress(BrokenOff):
        predict(say)
