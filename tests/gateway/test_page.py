"""The page of a gateway in a headless Chromium: of one that runs, and of states that are made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from chromium import browser, set_screen, shown
from exeunt.errors import InputError
from exeunt.gateway import app
from exeunt.gateway.page_state import PageState

from .made_state import LIVE, made_policy
from .running_gateway import Running, right_answer, running
from .test_gateway import eventually

WebDriverWait = pytest.importorskip(
    "selenium.webdriver.support.wait", reason="selenium is not installed"
).WebDriverWait

__all__ = ["browser"]

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
MARKUP = "<img src=x onerror=document.title='hacked'>"
LONG = "a-provider/a-model-whose-name-is-far-longer-than-a-phone-is-wide-and-has-no-end"


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Open the page of a gateway with the key of who administers it, at a width (px) in a colour scheme."""

    def page(run: Running, *, width: int = 1400, scheme: str = "light") -> None:
        set_screen(browser, width=width, scheme=scheme)
        browser.get(run.url)
        enter(browser, run.admin)
        shown(browser, "state", "element.innerText === 'live'")

    yield page
    leave(browser)


def leave(browser: Any) -> None:
    """Leave the page before the gateway goes, which would wait for its connection."""
    browser.execute_script("window.stop()")
    browser.get("about:blank")
    browser.get_log("browser")


def enter(browser: Any, key: str) -> None:
    shown(browser, "key-form", "!element.hidden")
    browser.find_element("id", "key").send_keys(f"{key}\n")


def complaints(browser: Any) -> list[str]:
    """What the browser complains about, beside the answers without a key."""
    return [one["message"] for one in browser.get_log("browser") if "status of 40" not in one["message"]]


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run a gateway that says that it is in a state."""
    with running(tmp_path) as run:

        def say(**changes: Any) -> Running:
            monkeypatch.setattr(PageState, "read", lambda _: {**LIVE, **changes})
            return run

        yield say


def test_from_the_shadow_to_a_policy_and_back(
    tmp_path: Path, browser: Any, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_EVENTS_S", 0.05)
    with running(tmp_path, spend="{total: '2 usd', key: '1 usd/day'}", run_length="100") as run:
        set_screen(browser, width=1400, scheme="light")
        browser.get(run.url)
        enter(browser, run.client)  # a client does not see what others do
        needs = "This needs the key of who administers the gateway."
        shown(browser, "problem", f"element.innerText === '{needs}'")
        opened(run)
        for i in range(3):
            run.ask(f"easy {i}")
        assert shown(browser, "lead", "element.innerText.includes('3 requests')").startswith("large answers")
        assert shown(browser, "records", "element.innerText.includes('3')").split() == [
            "shadow", "3", "live", "0", "audits", "0",
        ]  # fmt: skip
        assert "Nothing is saved while large answers everything." in shown(browser, "saved-about")
        assert "There is no other policy yet" in shown(browser, "no-policies")
        assert "alice" in shown(browser, "clients")
        assert "left of 1 usd/day" in shown(browser, "clients")
        assert "left of 2 usd" in shown(browser, "limits")

        run.gateway.policies.add(made_policy())
        shown(browser, "controls", "!element.hidden")
        browser.find_element("id", "choose").click()
        assert shown(browser, "sure-what") == "Let policy p1 answer from now on?"
        assert "at most 20 points below that of large" in shown(browser, "sure-about")
        browser.find_element("id", "sure-no").click()
        assert run.gateway.live.active.name == "reference"
        browser.find_element("id", "choose").click()
        browser.find_element("id", "sure-yes").click()
        assert shown(browser, "title", "element.innerText.includes('p1')") == "Policy p1 answers"
        assert run.gateway.live.active.name == "p1"
        for i in range(12):
            run.ask(f"easy question {i}")
        run.ask("easy 1", tools=[TOOL])
        eventually(lambda: run.gateway.live.tally.to_dict()["audits"] == 12)
        assert "less than large alone" in shown(browser, "saved", "element.innerText.includes('usd')")
        shown(browser, "quality-about", "element.innerText.includes('from 12 audits.')")
        reasons = shown(browser, "escalated", "element.children.length === 2")
        assert "The score of a model did not suffice" in reasons
        assert "does not take the request" in reasons
        shown(browser, "evidence", "element.innerText.includes('12 audits')")
        with run.http(run.admin) as http:
            told = http.get("/admin/state").json()
            assert b'escalated_total{policy="p1",reason="request"} 1.0' in http.get("/metrics").content
        assert kinds(told) == kinds(LIVE)

        run.provider.answer = lambda model, text: right_answer(text) if model == "large" else "wrong"
        for i in range(200):
            if run.ask(f"later question {i}").headers["x-exeunt-policy"] == "reference":
                break
        told_so = "element.innerText.startsWith('Policy p1 is no longer certified: large has answered since')"
        shown(browser, "fallen", told_so)
        assert "Loss: since about" in shown(browser, "alarms")
        assert "certificate of policy p1 has ended" in shown(browser, "evidence-about")
        points = run.gateway.live.fallen.curves["audits"]
        assert points[0] == (0, 0.0)
        assert points[-1][1] >= 1 > points[-2][1]

        for now in ("Policy p1 answers", "The reference answers"):
            browser.find_element("id", "roll-back").click()
            browser.find_element("id", "sure-yes").click()
            shown(browser, "title", f"element.innerText === '{now}'")
        assert run.gateway.live.active.name == "reference"
        assert not browser.find_element("id", "fallen").is_displayed()
        browser.find_element("id", "roll-back").click()
        browser.find_element("id", "sure-yes").click()
        assert "there is nothing to roll back" in shown(browser, "problem", "!element.hidden")
        from_outside = (
            "return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith(origin)).length"
        )
        assert browser.execute_script(from_outside) == 0
        assert complaints(browser) == []
        leave(browser)


def kinds(state: Any, of: tuple[str, ...] = ("", "tally", "money", "shadow")) -> dict[str, set[str]]:
    """The names of what a state has, and of its parts."""
    return {name: set(state[name] if name else state) for name in of}


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_everything_is_said_of_a_policy_that_answers(
    made_up: Any, browser: Any, opened: Any, width: int, scheme: str
) -> None:
    opened(made_up(), width=width, scheme=scheme)
    assert "18,240 requests since 15 Jan 2027" in shown(browser, "lead")
    assert "15.4% of them with large, the reference." in shown(browser, "lead")
    assert shown(browser, "certificate") == "Guarantee: 5 points."
    assert shown(browser, "saved").split("\n")[0].startswith("52.40 usd")
    assert "95% interval: 49.80 usd to 55.10 usd (54.6% to 57.1%)" in shown(browser, "saved-about")
    assert "below large" in shown(browser, "quality")
    assert (
        shown(browser, "quality-about")
        == "95% interval: 0.4 points above to 4.7 points below, from 902 audits."
    )
    read = "return [...document.querySelectorAll('#answered li > span:first-child')].map((e) => e.innerText)"
    assert browser.execute_script(read) == ["small", "large", "medium"]
    widths = "return [...document.querySelectorAll('#answered .track div')].map((e) => e.style.width)"
    assert float(browser.execute_script(widths)[0].removesuffix("%")) == pytest.approx(71.9, abs=0.1)
    assert "27.8% of the answers" in shown(browser, "escalated-about")
    assert "under 0.1% (2)" in shown(browser, "escalated")
    assert "52.90 usd spent, no limit" in shown(browser, "limits")
    assert "8.48 usd left of 20 usd/day" in shown(browser, "limits")
    problems = "return [...document.querySelectorAll('.note.problem')].map((e) => e.innerText)"
    (problem,) = browser.execute_script(problems)
    assert problem.replace("\u00a0", " ") == "0.01 usd left of 5 usd, 4.99 usd spent"
    assert "no money" in shown(browser, "compared")
    assert "alarm" in shown(browser, "evidence")
    assert "18,240 requests, 902 audits" in shown(browser, "evidence")
    options = "return [...document.querySelectorAll('#choice option')].map((e) => [e.value, e.disabled])"
    assert browser.execute_script(options) == [["reference", False], ["p1", False], ["p3", True]]
    assert shown(browser, "answering") == "All may be asked."
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert complaints(browser) == []


def test_few_audits_give_no_interval(made_up: Any, browser: Any, opened: Any) -> None:
    opened(made_up(tally={**LIVE["tally"], "audits": 4, "saved": None, "lost": None}))
    assert shown(browser, "saved", "true") == "\u2013"
    for part in ("saved-about", "quality-about"):
        assert "Too few audits yet for an interval: 4 of at least 10." in shown(browser, part)


def test_a_policy_that_costs_more_and_answers_better(made_up: Any, browser: Any, opened: Any) -> None:
    opened(made_up(tally={**LIVE["tally"], "saved": [-1.5, -2.0, -1.0], "lost": [-0.02, -0.03, -0.01]}))
    assert "\u22121.50 usd 3.8% more than large alone" in " ".join(shown(browser, "saved").split())
    assert "2.0 points above large" in shown(browser, "quality")
    assert "1.0 point to 3.0 points above" in shown(browser, "quality-about")


def test_an_alarm_is_told(made_up: Any, browser: Any, opened: Any) -> None:
    alarms = [
        {"time": 1.79e9, "policy": "p1", "alarm": "Drift: <b>since</b> input 5."},
        {"time": 1.8e9, "policy": "p2", "alarm": "Loss: since audit 312."},
    ]
    opened(
        made_up(
            policy="reference",
            certificate=None,
            fallen_from="p2",
            alarms=alarms,
            resting=[{"provider": "mock", "for_s": 11.2, "models": ["small", "medium"]}],
            stopped=["large"],
        )
    )
    told = shown(browser, "fallen", "!element.hidden")
    assert told.startswith("Policy p2 is no longer certified: large has answered since 15 Jan 2027")
    first, second = shown(browser, "alarms").split("policy p1")
    assert "Loss: since audit 312." in first  # the latest first
    assert "Drift: <b>since</b> input 5." in second
    assert "certificate of policy p2 has ended" in shown(browser, "evidence-about")
    browser.find_element("id", "choose").click()
    assert "9 points. This no longer held at the alarm of 21 Sept 2026" in shown(browser, "sure-about")
    assert shown(browser, "resting") == (
        "mock rests after failures: small and medium are asked again in 12 s."
    )
    assert shown(browser, "stopped").startswith("large is stopped: it billed more than it may cost.")


def test_names_are_text_and_fit_on_a_phone(made_up: Any, browser: Any, opened: Any) -> None:
    one = {"limit": MARKUP, "most": 5.0, "spent": 3.0, "left": 2.0}
    names = [MARKUP, *(f"{LONG}-{i}" for i in range(22))]
    opened(
        made_up(
            policy=MARKUP,
            reference=LONG,
            certificate=MARKUP,
            fallen_from=MARKUP,
            policies={name: {"certificate": name, "unfit": ""} for name in (MARKUP, LONG)},
            shadow={**LIVE["shadow"], "models": [MARKUP, LONG]},
            tally={**LIVE["tally"], "answered": {MARKUP: 18_000, LONG: 240}},
            compared={"compared": 1, MARKUP: 2},
            money={**LIVE["money"], "clients": dict.fromkeys(names, one)},
            alarms=[{"time": 1.8e9, "policy": MARKUP, "alarm": MARKUP}],
            resting=[{"provider": MARKUP, "for_s": 1.0, "models": [LONG, MARKUP]}],
        ),
        width=360,
    )
    assert MARKUP in shown(browser, "clients")
    assert shown(browser, "more-clients") == "And 3 clients who spent less: see /admin/state."
    for part in ("title", "certificate", "answered", "compared", "alarms", "resting", "shadow", "fallen"):
        assert MARKUP in shown(browser, part), part
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.title != "hacked"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert complaints(browser) == []


def test_what_is_refused_is_said(
    made_up: Any, browser: Any, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_up()

    def refuse(name: str) -> None:
        raise InputError(f"{name} is <b>not</b> for these models")

    monkeypatch.setattr(run.gateway.live, "activate", refuse)
    opened(run)
    browser.find_element("id", "choose").click()
    assert shown(browser, "sure-what") == "Let the reference, large, answer from now on?"
    browser.find_element("id", "sure-yes").click()
    assert shown(browser, "problem", "!element.hidden") == "reference is <b>not</b> for these models"


def test_the_page_itself_needs_no_key_and_tells_nothing(run: Running) -> None:
    with run.http("none") as http:
        for path in ("/", "/page/page.js", "/page/server/live.js", "/page/gateway.css"):
            assert http.get(path).status_code == 200
        assert http.get("/page/../app.py").status_code == 401
        assert http.get("/page/server/%2e%2e/app.py").status_code == 404
        assert http.get("/events").status_code == 401
