"""What people read in a terminal and in a notebook says what the objects hold."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import exeunt as ex
from exeunt._support.text import html_table, text_table
from exeunt.rules import baselines


class Balanced(HTMLParser):
    """Fails on tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    return " ".join(parser.text)


@pytest.fixture(scope="module")
def policy(parts):
    return ex.eero(parts[0], parts[1], budget="50%", delta=0.05)


def test_a_policy_reads_well(policy):
    words = "eero", "50.0% of the full cost", "MMACs", "800 inputs", "always", "Guarantee", "probability 95%"
    for text in (str(policy), read(policy._repr_html_())):
        for word in words:
            assert word in text
    lines = str(policy).splitlines()
    assert len(lines) == 1 + 2 + 4 + 1
    assert max(map(len, lines[:-1])) <= 140


def test_a_result_reads_well(policy, parts):
    result = ex.evaluate(policy, parts[2])
    for text in (str(result), read(result._repr_html_())):
        for word in (f"{result.accuracy:.2%}", f"{result.saved:.1%}", "2,000 inputs", "MMACs", "█"):
            assert word in text
    assert "unlabelled" in str(ex.evaluate(policy, replace(parts[2], label=None)))


def test_a_frontier_reads_well(make_trace):
    policies = {"eero": ex.eero, "geometric": baselines.msdnet}
    table = ex.frontier(policies, make_trace(300), ["50%", "75%"], splits=2)
    for text in (str(table), read(table._repr_html_())):
        for word in ("geometric", "oracle", "50%", "75%", f"{table.accuracy[1, 1].mean():.4f}"):
            assert word in text


def test_columns_line_up():
    lines = text_table(["a", "long header"], [["1", "2"], ["333", "4"]]).splitlines()
    assert lines == ["a    long header", "---  -----------", "1              2", "333            4"]


def test_names_cannot_inject_html():
    assert "<b>" not in html_table("<b>", ["<b>"], [["<b>"]])
    assert read(html_table("<b>", ["x"], [["y"]])).startswith("<b>")


def test_reprs_are_short_and_true(make_trace):
    assert repr(ex.CostModel([1.5, 2], unit="ms")) == "CostModel([1.5, 2], unit='ms', source='given')"
    parts, rates = (make_trace(50), make_trace(50, seed=1)), np.array([0, 0.5, 0, 0.5])
    assert "never" in str(ex.compose("x", lambda _: rates, *parts, budget="90%", calibration="marginal"))
