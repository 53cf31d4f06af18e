"""Numbers in prose are those of the results page that they come from.

A page says where its numbers come from in a comment:

    <!-- numbers: results/cascade-on-the-clock.md "Batch 256"
    94.1% 21% = cascade, 20%
    -->

The numbers before `=` must stand in the prose, and in the row or line of that page's section that is named behind it,
to as many digits as they have. A row is named by its first cell, another line by any part of it. Prose that says "loses
0.9 points" has the number -0.9 of the results without its sign.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("[!_]*/*.md"))]
COMMENT = re.compile(r'<!-- numbers: (\S+\.md)(?: "(.+?)")?\n(.+?)-->', re.S)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?%?")


def value(number):
    """Return a written number, and half a unit of its last digit."""
    plain = number.rstrip("%").replace(",", "")
    percent = 100 if number.endswith("%") else 1
    digits = len(plain.partition(".")[2])
    return float(plain) / percent, 0.5 * 10.0**-digits / percent


def cells(line):
    return [cell.strip(" *`") for cell in line.strip("|").split("|")]


def numbers_of(page, section, key):
    """Return the numbers in the lines of a page that are named by `key`."""
    text = page.read_text(encoding="utf-8")
    if section:
        assert f"\n## {section}\n" in text, f"{page} has no section {section!r}"
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]

    def named(line):
        return cells(line)[0] == key if line.startswith("|") else key in line and "<!--" not in line

    lines = [line for line in text.splitlines() if named(line)]
    assert lines, f"{page} has no line {key!r}"
    return [value(number)[0] for line in lines for number in NUMBER.findall(line.replace(key, "", 1))]


def wrong_numbers(page, docs=DOCS):
    """Return what a page says that is not in its prose, or not in the results that it names."""
    text = page.read_text(encoding="utf-8")
    prose = set(NUMBER.findall(re.sub(r"<!--.*?-->", "", text, flags=re.S)))
    wrong = []
    for source, section, body in COMMENT.findall(text):
        for line in body.strip().splitlines():
            numbers, _, key = line.partition(" = ")
            known = numbers_of(docs / source, section, key)
            for number in numbers.split():
                amount, half = value(number)
                if number not in prose:
                    wrong.append(f"{number} is not in the prose of {page.name}")
                elif not any(abs(amount - one) <= half * (1 + 1e-9) for one in [*known, *map(abs, known)]):
                    wrong.append(f"{number} is not in {source}, {key!r}: {known}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_numbers_in_prose_are_measured(page):
    assert not wrong_numbers(page)


def test_a_stale_number_is_found(tmp_path):
    (tmp_path / "results.md").write_text(
        "# Title\n\n## Batch 64\n\n| way | accuracy |\n| --- | --- |\n| `one` | 0.9362 |\n| one two | 0.5 |\n"
        "\n## Other\n\n| one | 0.1 |\n",
        encoding="utf-8",
    )
    page = tmp_path / "page.md"

    def wrong(said, number):
        page.write_text(f'It is {said}.\n<!-- numbers: results.md "Batch 64"\n{number} = one\n-->\n', "utf-8")
        return wrong_numbers(page, tmp_path)

    for said, n_wrong in (("93.6%", 0), ("0.936", 0), ("94%", 0), ("93.7%", 1), ("50%", 1), ("10%", 1)):
        assert len(wrong(said, said)) == n_wrong
    assert wrong("high", "93.6%") == ["93.6% is not in the prose of page.md"]
