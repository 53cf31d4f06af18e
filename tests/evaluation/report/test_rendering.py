"""The page as text: the same every time, complete, and no name in it can become markup."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from made_report import made_report

import exeunt as ex
from exeunt.evaluation.report import render, write_report

HOSTILE = "</script><script>alert(1)</script><!-- & \" ' <!--data--> \u2028 <img src=x onerror=alert(1)>"


class Parsed(HTMLParser):
    """Elements, and the text of scripts and styles, of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags:
            self.texts.setdefault(self.tags[-1][0], []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_same_data_give_the_same_page():
    data = made_report()
    assert render(data) == render(copy.deepcopy(data))
    assert render(data) != render(made_report(policies=5))


def test_the_page_loads_nothing():
    page = render(made_report())
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\((?!#)|\bfetch\(|XMLHttpRequest|import\(", page)
    assert "default-src 'none'" in page
    assert "<!--" not in page.partition("-->")[0][: page.index("<style>")]


def test_the_policy_names_the_very_script_and_style():
    page = render(made_report())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    for name, text in (("script", re.findall(r"<script>(.*?)</script>", page, re.S)),
                       ("style", re.findall(r"<style>(.*?)</style>", page, re.S))):  # fmt: skip
        assert len(text) == 1
        digest = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_no_name_becomes_markup():
    clean, data = made_report(traces=2), made_report(traces=2)
    data |= {"command": HOSTILE, "summary": [HOSTILE, HOSTILE], "version": HOSTILE, "reference": HOSTILE}
    data["traces"][0]["name"] = data["traces"][0]["policies"][1]["name"] = HOSTILE
    page = render(data)
    tags = [Parsed(text).count(tag) for text in (render(clean), page) for tag in ("script", "img", "li")]
    assert tags[:3] == tags[3:]
    assert embedded(page)["traces"][0]["policies"][1]["name"] == HOSTILE
    assert "<!--data-->" not in page


def test_names_in_backticks_are_code_and_the_rest_is_text():
    page = render(made_report(summary=["`auto` < 2 & `a<b`", "then"]))
    assert '<p class="lead"><code>auto</code> &lt; 2 &amp; <code>a&lt;b</code></p>' in page
    assert '<ul class="summary"><li>then</li></ul>' in page
    assert '<p class="lead"></p>' in render(made_report(summary=[]))


def test_a_long_summary_is_folded_and_all_of_it_is_there():
    sentences = [f"Sentence {i}." for i in range(12)]
    shown, folded = render(made_report(summary=sentences)).partition("</header>")[0].split("<details")
    assert [text for text in sentences if text in shown] == sentences[:7]
    assert [text for text in sentences if text in folded] == sentences[7:]


def test_numbers_are_kept_to_seven_digits_and_missing_ones_as_null():
    data = made_report()
    data["traces"][0]["policies"][0]["points"][0] |= {"accuracy": 0.123456789, "gain": None}
    point = embedded(render(data))["traces"][0]["policies"][0]["points"][0]
    assert point["accuracy"] == 0.1234568
    assert point["gain"] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(value):
    data = made_report()
    data["traces"][0]["policies"][0]["points"][0]["accuracy"] = value
    with pytest.raises(ex.InputError, match="finite or None"):
        render(data)


def test_what_cannot_be_shown_is_refused():
    data = made_report()
    with pytest.raises(ex.InputError, match="missing: reference"):
        render({key: value for key, value in data.items() if key != "reference"})
    for traces in ([], [data["traces"][0] | {"budgets": []}], [data["traces"][0] | {"policies": []}]):
        with pytest.raises(ex.InputError, match="at least one"):
            render(data | {"traces": traces})


def test_a_failed_report_leaves_the_old_one(tmp_path):
    target = tmp_path / "report.html"
    write_report(made_report(), str(target))
    before = target.read_text(encoding="utf-8")
    assert before == render(made_report())
    with pytest.raises(ex.InputError):
        write_report(made_report() | {"traces": []}, target)
    assert target.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(ex.InputError, match="does not exist"):
        write_report(made_report(), tmp_path / "nowhere" / "report.html")
