"""`tests/promises.md` names, for each promise of a how-to, the tests that fail if it is false."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = re.findall(
    r"^### \[[^]]*\]\((howto/\S+\.md)\)$(.*?)(?=^##+ |\Z)",
    (ROOT / "tests/promises.md").read_text(),
    re.M | re.S,
)


def rows(table: str) -> list[tuple[str, str]]:
    """Return the excerpts of a table, and the tests beside them."""
    return re.findall(r'^\| "(.*)" \| (.*) \|$', table, re.M)


def test_the_pages_that_promise_most_are_there() -> None:
    counted = {page: len(rows(table)) for page, table in PAGES}
    assert counted["howto/gateway.md"] >= 20
    assert counted["howto/ledger.md"] >= 10
    assert counted["howto/serve.md"] >= 20


@pytest.mark.parametrize(("page", "table"), PAGES, ids=[page for page, _ in PAGES])
def test_each_promise_stands_on_its_page_and_names_tests_that_there_are(page: str, table: str) -> None:
    text = " ".join((ROOT / "docs" / page).read_text().split())
    lines = [line for line in table.splitlines() if line.startswith('| "')]
    assert len(lines) == len(rows(table)) > 0
    for promise, tests in rows(table):
        assert " ".join(promise.replace(r"\|", "|").split()) in text, promise
        named = re.findall(r"`(tests/\S+\.py)::(\w+)`", tests)
        assert named, promise
        for file, name in named:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
