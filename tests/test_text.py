"""What people read in a terminal and in a notebook says what the objects hold."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

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


def test_results_and_frontiers_read_well(parts, make_trace):
    result = ex.evaluate(ex.eero(*parts[:2], budget="50%"), parts[2])
    policies = {"eero": ex.eero, "geometric": baselines.msdnet}
    table = ex.frontier(policies, make_trace(300), ["50%", "75%"], splits=2)
    of_table = "geometric", "oracle", "50%", "75%", f"{table.accuracy[1, 1].mean():.4f}"
    of_result = f"{result.accuracy:.2%}", f"{result.saved:.1%}", "2,000 inputs", "MMACs", "█"
    for shown, words in ((result, of_result), (table, of_table)):
        for text in (str(shown), read(shown._repr_html_())):
            assert all(word in text for word in words)
    assert "unlabelled" in str(ex.evaluate(ex.eero(*parts[:2], budget="50%"), replace(parts[2], label=None)))


def test_columns_line_up():
    lines = text_table(["a", "long header"], [["1", "2"], ["333", "4"]]).splitlines()
    assert lines == ["a    long header", "---  -----------", "1              2", "333            4"]


def test_names_cannot_inject_html():
    assert "<b>" not in html_table("<b>", ["<b>"], [["<b>"]])
    assert read(html_table("<b>", ["x"], [["y"]])).startswith("<b>")
