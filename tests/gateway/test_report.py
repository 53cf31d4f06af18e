"""The report of what a gateway has certified, of made-up numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chromium import set_screen
from exeunt.gateway.certification_status import CertificationStatus, Certified
from exeunt.gateway.plan_measurement import Measured, Way
from exeunt.gateway.report import render, write_report
from exeunt.stream.ratios import Interval

from .made_state import FORECAST, GUARANTEES, LIVE

TOLD = LIVE["in_all"]["told"]
MARKUP = "<img src=x onerror=document.title='hacked'>"


def certified(name: str = "p2", cheap: str = "small") -> Certified:
    """A policy that is certified, beside models of which the cheapest has a name."""
    ways = (
        Way(f"this policy ({name})", 0.962, 0.00171), Way(f"{cheap} alone", 0.871, 0.0004),
        Way("medium alone", 0.928, 0.0012), Way("large alone", 0.981, 0.0041),
        Way("the same shares at random", 0.912, 0.00168), Way("the best pair mixed at random", 0.938, 0.00171),
    )  # fmt: skip
    numbers = Measured(
        units=412, requests=1387, saved=Interval(0.583, 0.549, 0.617), lost=Interval(0.019, 0.002, 0.036),
        lost_answered=Interval(0.0231, 0.003, 0.043), lost_per_unit=0.021, cost=0.00171, reference_cost=0.0041,
        may_answer=0.832, money=0.77, missing=6, shares={cheap: 0.613, "large": 0.284, "medium": 0.103}, ways=ways,
    )  # fmt: skip
    return Certified(name, GUARANTEES, numbers, {"max_loss": 0.04})


def alike() -> Certified:
    """A policy beside models that are all about as good and as cheap as it is."""
    one = certified("p7")
    assert one.measured is not None
    ways = tuple(way._replace(grade=0.9 + 0.001 * k, cost=0.0004) for k, way in enumerate(one.measured.ways))
    return replace(one, measured=replace(one.measured, ways=(*ways[:3], Way("large alone", 0.98, 0.0041))))


def test_it_is_written_where_more_than_the_time_has_changed(tmp_path: Path) -> None:
    file, found = tmp_path / "r.html", CertificationStatus({"p2": certified()}, [FORECAST])

    def written(now: float, bill: str = TOLD, status: CertificationStatus = found) -> bool:
        before = file.stat().st_ino if file.exists() else 0
        write_report(status, file, reference="large", bill=bill, now=now)
        return file.stat().st_ino != before

    assert written(1.8e9)
    assert not written(1.8e9 + 3600)
    assert "2027-01-15 08:00 UTC" in file.read_text()
    assert written(1.8e9 + 7200, bill="Since 18 Nov 2026, the first start, 32.00 usd were saved.")
    assert "2027-01-15 10:00 UTC" in file.read_text()
    assert written(1.8e9 + 7200, status=CertificationStatus({}, []))
    for damaged in (b"", b"\xff"):
        file.write_bytes(damaged)
        assert written(1.8e9 + 7200)


def test_it_says_what_is_certified_and_what_was_saved(tmp_path: Path) -> None:
    write_report(
        CertificationStatus({"p2": certified()}, [FORECAST]),
        tmp_path / "r.html",
        reference="large",
        bill=TOLD,
        now=1.8e9,
    )
    page = (tmp_path / "r.html").read_text()
    assert "<h1>p2 is certified</h1>" in page
    for text in (TOLD, FORECAST, *GUARANTEES, "58.3% of the reference&#x27;s cost is saved", "61.3%"):
        assert text in page
    assert "2027-01-15 08:00 UTC" in page
    assert page.count("<circle") == 6


def test_nothing_is_certified_yet_and_two_policies_are() -> None:
    page = render(CertificationStatus({}, [FORECAST]), reference="large", bill=TOLD, now=1.8e9)
    assert "<h1>Nothing is certified now</h1>" in page
    assert TOLD in page
    found = {name: certified(name) for name in ("p2", "p5")}
    page = render(CertificationStatus(found, []), reference="large", bill=TOLD, now=1.8e9)
    assert "<h1>p2 and p5 are certified</h1>" in page
    assert page.count("<section>") == 2
    of_none = Certified("p1", GUARANTEES, None, {})
    assert "<circle" not in render(
        CertificationStatus({"p1": of_none}, []), reference="large", bill=TOLD, now=1.8e9
    )


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_it_fits_on_a_phone_and_names_are_text(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    pytest.importorskip("selenium")
    set_screen(browser, width=width, scheme=scheme)
    long = "a-provider/a-model-whose-name-is-far-longer-than-a-phone-is-wide"
    found = {"p2": certified(), MARKUP: certified(MARKUP, long), "p7": alike()}
    write_report(
        CertificationStatus(found, [MARKUP]), tmp_path / "r.html", reference="large", bill=MARKUP, now=1.8e9
    )
    browser.get((tmp_path / "r.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    outside = """
        return [...document.querySelectorAll('svg text')].filter((text) => {
            const box = text.closest('svg').getBoundingClientRect(), own = text.getBoundingClientRect();
            return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
        }).map((text) => text.textContent)
    """
    assert browser.execute_script(outside) == []
    over_others = """
        return [...document.querySelectorAll('svg')].flatMap((svg) => {
            const boxes = [...svg.querySelectorAll('g text')].map((text) => text.getBoundingClientRect());
            const over = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 3 && b.top < a.bottom - 3;
            return boxes.filter((a, i) => boxes.some((b, k) => k > i && over(a, b)));
        }).length
    """
    assert browser.execute_script(over_others) == 0
    assert browser.get_log("browser") == []
