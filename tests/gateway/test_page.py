"""The page of a gateway in a headless Chromium: of one that runs, and of states that are made up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("starlette")

from chromium import browser, set_screen, shown
from exeunt.cli.app import run as exeunt
from exeunt.errors import InputError
from exeunt.gateway import app
from exeunt.gateway.certification_status import CertificationStatus, Certified
from exeunt.gateway.page_state import PageState

from .made_state import FORECAST, GUARANTEES, LIVE, LOSING, SHADOW, made_policy
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
    tmp_path: Path,
    browser: Any,
    opened: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(app, "_EVENTS_S", 0.05)
    spend = "{total: '2 usd', key: '1 usd/day'}"
    with running(tmp_path, spend=spend, run_length="100", units="request", period="0.4 s") as run:
        set_screen(browser, width=1400, scheme="light")
        browser.get(run.url)
        enter(browser, run.client)  # a client does not see what others do
        needs = "This needs the key of who administers the gateway."
        shown(browser, "problem", f"element.innerText === '{needs}'")
        enter(browser, "ex-mistyped")
        shown(browser, "problem", f"element.innerText === 'This key is not known. {needs}'")
        assert browser.find_element("id", "key").get_property("value") == ""
        opened(run)
        for i in range(3):
            run.ask(f"easy {i}")
        assert shown(browser, "lead", "element.innerText.includes('3 requests')").startswith("large answers")
        assert "100% of the requests are compared now: small and large all answer them." in shown(
            browser, "drawn"
        )
        assert shown(browser, "compared", "element.innerText.includes('3')").split() == ["compared", "3"]
        assert shown(browser, "uncovered") == "Every request counts."
        assert "Nothing is saved while large answers everything:" in shown(browser, "saved-about")
        assert "no policy has answered, and 0.00" in shown(browser, "in-all")
        assert "There is no other policy yet" in shown(browser, "no-policies")
        assert "Nothing is promised" in shown(browser, "standing")
        assert "alice" in shown(browser, "clients")
        assert "left of 1 usd/day" in shown(browser, "clients")
        assert "left of 2 usd" in shown(browser, "limits")

        run.gateway.policies.add(made_policy())
        certified = Certified("p1", ["Guarantee: at most 20 points below large."], None, {"max_loss": 0.2})
        monkeypatch.setattr(run.gateway, "status", CertificationStatus({}, [], {"p1": certified}))
        shown(browser, "controls", "!element.hidden && element.innerText.includes('policy p1')")
        browser.find_element("id", "choose").click()
        assert shown(browser, "sure-what") == "Let policy p1 answer from now on?"
        assert shown(browser, "sure-about") == "Guarantee: at most 20 points below large."
        browser.find_element("id", "sure-no").click()
        assert run.gateway.live.active.name == "reference"
        browser.find_element("id", "choose").click()
        browser.find_element("id", "sure-yes").click()
        assert shown(browser, "title", "element.innerText.includes('p1')") == "Policy p1 answers"
        assert run.gateway.live.active.name == "p1"
        for i in range(12):
            run.ask(f"easy question {i}")
        run.ask("easy 1", tools=[TOOL])
        eventually(lambda: run.gateway.traffic.bill.now.loss.n == 13)
        # Each answer is audited, which costs as much as the reference alone.
        assert "usd lost" in shown(browser, "saved", "element.innerText.includes('usd')")
        shown(browser, "quality-about", "element.innerText.includes('from 13 audited requests.')")
        assert "Within chance: no more is lost than the certified limit of 20.0" in shown(browser, "chance")
        reasons = shown(browser, "escalated", "element.children.length === 2")
        assert "The score of a model did not suffice" in reasons
        assert "does not take the request" in reasons
        shown(browser, "evidence", "element.innerText.includes('13 audits')")
        with run.http(run.admin) as http:
            told = http.get("/admin/state").json()
            metrics = http.get("/metrics").text
        assert 'escalated_total{policy="reference",reason="request"} 1.0' in metrics
        assert kinds(told) == kinds(LIVE)
        assert_saved_everywhere(run, told, metrics, capsys)

        run.provider.answer = lambda model, text: right_answer(text) if model == "large" else "wrong"
        for i in range(400):
            if run.ask(f"later question {i}").headers["x-exeunt-policy"] == "reference":
                break
        told_so = "element.innerText.startsWith('Policy p1 is no longer certified: large has answered since')"
        shown(browser, "fallen", told_so)
        assert re.search("(Loss|Drift): since about", shown(browser, "alarms"))
        assert "Evidence for policy p1" in shown(browser, "evidence-about")
        curves = [*run.gateway.live.fallen.curves.values()]
        assert {points[0] for points in curves} == {(0, 0.0)}
        assert any(points[-1][1] >= 1 > points[-2][1] for points in curves)
        shown(browser, "choice", "element.innerText.includes('policy p1 (not certified now)')")

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


def kinds(
    state: Any, of: tuple[str, ...] = ("", "bill", "in_all", "drawing", "money", "shadow")
) -> dict[str, set[str]]:
    """The names of what a state has, and of its parts."""
    return {name: set(state[name] if name else state) for name in of}


def assert_saved_everywhere(
    run: Running, state: Any, metrics: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that page, metrics, report and command tell the same of what was saved."""
    (saved,) = re.findall(r"^exeunt_gateway_saved_usd (\S+)", metrics, re.MULTILINE)
    assert float(saved) == pytest.approx(state["in_all"]["saved"][0], rel=1e-9)
    capsys.readouterr()
    assert exeunt(["gateway", "certify", str(run.gateway.folder)]) == 0
    assert state["in_all"]["told"] in capsys.readouterr().out
    run.gateway.find_status()
    assert state["in_all"]["told"] in (run.gateway.folder / "report.html").read_text()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_everything_is_said_of_a_policy_that_answers(
    made_up: Any, browser: Any, opened: Any, width: int, scheme: str
) -> None:
    opened(made_up(), width=width, scheme=scheme)
    lead = shown(browser, "lead")
    assert lead.startswith("Of 18,240 requests since 15 Jan 2027")
    assert lead.endswith("the policy was asked for 87.2%, and large, the reference, answered 28.3%.")
    assert shown(browser, "rows") == (
        "It answers the first 5 requests of a conversation; large answers later ones."
    )
    assert shown(browser, "certificate").split("\n") == GUARANTEES
    assert shown(browser, "standing").split("\n") == [
        "To be certified, with probability 95%: at most 5.0 points lost per request.",
        "p1 and p2 are certified now.",
        FORECAST,
    ]
    assert shown(browser, "saved").split() == ["52.40", "usd", "saved", "54.6%", "of", "large\u2019s", "cost"]
    assert shown(browser, "saved-about") == (
        "95% interval: 49.80 usd to 55.10 usd saved. This is net: since the policy answers, its requests have cost "
        "41.37 usd; comparisons, audits and judges have cost 2.21 usd."
    )
    assert shown(browser, "in-all") == LIVE["in_all"]["told"]
    assert " ".join(shown(browser, "quality").split()) == "2.1 points below large, per request"
    assert shown(browser, "quality-about") == (
        "95% interval over all requests: 0.4 points above to 4.7 points below, from 402 audited conversations. Where "
        "the policy answered: 2.4 points below (0.5 points above to 5.3 points below)."
    )
    assert (
        shown(browser, "chance") == "Within chance: no more is lost than the certified limit of 4.0 points."
    )
    assert shown(browser, "loss").split("\n") == [
        "certified limit: 4.0 points", "measured: 2.1 points", "as the reference",
    ]  # fmt: skip
    zero, limit, low, mean, high = places_of_loss(browser)
    assert low < zero < mean < limit < high
    assert (mean - zero) / (limit - zero) == pytest.approx(2.13 / 4, abs=0.02)
    read = "return [...document.querySelectorAll('#answered li > span:first-child')].map((e) => e.innerText)"
    assert browser.execute_script(read) == ["small", "large", "medium"]
    widths = "return [...document.querySelectorAll('#answered .track div')].map((e) => e.style.width)"
    assert float(browser.execute_script(widths)[0].removesuffix("%")) == pytest.approx(61.5, abs=0.1)
    assert "27.2% of the requests" in shown(browser, "escalated-about")
    for part in ("under 0.1% (2)", "A later request of its conversation, or in none\n11.1% (2,028)"):
        assert part in shown(browser, "escalated")
    assert "52.90 usd spent, no limit" in shown(browser, "limits")
    assert "8.48 usd left of 20 usd/day" in shown(browser, "limits")
    problems = "return [...document.querySelectorAll('.note.problem')].map((e) => e.innerText)"
    (problem,) = browser.execute_script(problems)
    assert problem.replace("\u00a0", " ") == "0.01 usd left of 5 usd, 4.99 usd spent"
    assert "no money" in shown(browser, "compared")
    share, allowed, chosen, still_open = shown(browser, "drawn").split("\n")
    assert share == "3.1% of the conversations are compared now: small, medium and large all answer them."
    assert allowed == "The file allows 5%; each period has a share for which money lasts."
    assert chosen.startswith("Of 1,204 conversations since 16 Jan 2027")
    assert chosen.endswith("39 were chosen by lot, and 1 of these left out because money was not free.")
    assert still_open == "38 conversations are open."
    assert shown(browser, "uncovered").split("\n") == [
        "310 requests came from clients who are not compared: large answers them, and no other number counts them.",
        "6.6% of the requests came when their conversation was over, or were in none: large answers them.",
        "2.1% of the requests hold an answer that was not given here, so that their conversation is a guess.",
        "Under 0.1% of the requests were retries, which count once in tests.",
    ]
    assert "alarm" in shown(browser, "evidence")
    assert "8,120 conversations, 402 audits" in shown(browser, "evidence")
    options = "return [...document.querySelectorAll('#choice option')].map((e) => [e.text, e.disabled])"
    assert browser.execute_script(options) == [
        ["reference", False], ["policy p1", False], ["policy p3 (cannot answer)", True],
    ]  # fmt: skip
    assert shown(browser, "answering") == "All may be asked."
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert complaints(browser) == []


def places_of_loss(browser: Any) -> list[float]:
    """Where zero, the limit, the low end, the mean and the high end of the measured loss lie in the picture (px)."""
    return browser.execute_script(
        """
        const box = (kind) => document.querySelector(`#loss div.${kind}`).getBoundingClientRect();
        const mean = box("mean"), interval = box("interval");
        return [box("zero").left, box("limit").left, interval.left, mean.left + mean.width / 2, interval.right];
        """
    )


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
def test_everything_is_said_in_the_shadow(
    made_up: Any, browser: Any, opened: Any, width: int, scheme: str
) -> None:
    opened(made_up(**SHADOW), width=width, scheme=scheme)
    assert shown(browser, "lead").endswith(
        "To compare them, some conversations are also sent to small and medium."
    )
    assert shown(browser, "saved-about") == (
        "Nothing is saved while large answers everything: comparisons, audits and judges have cost 1.20 usd since then."
    )
    assert shown(browser, "in-all") == SHADOW["in_all"]["told"]
    assert shown(browser, "quality-about") == "large is what quality is measured against."
    assert not browser.find_element("id", "loss").is_displayed()
    assert "Nothing is certified now.\nThe first proposal is made once" in shown(browser, "standing")
    assert "10% of the conversations are compared now" in shown(browser, "drawn")
    assert "The file allows" not in shown(browser, "drawn")
    assert shown(browser, "uncovered") == "Every request counts."
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert complaints(browser) == []


def test_what_was_spent_above_a_limit_is_said_in_words(made_up: Any, browser: Any, opened: Any) -> None:
    day = {"limit": "20 usd/day", "most": 20.0, "spent": 10_001.0, "left": 0.0, "overdrawn": 9981.0}
    opened(made_up(money={**LIVE["money"], "day": day}))
    assert "nothing left of 20 usd/day, 9,981.00 usd above it" in shown(browser, "limits")


def test_few_audits_give_no_interval(made_up: Any, browser: Any, opened: Any) -> None:
    few = {**LIVE["bill"], "audits": 4, "saved": None, "lost": None, "lost_answered": None}
    opened(made_up(bill=few, unit="user"))
    assert shown(browser, "saved", "true") == "\u2013"
    for part in ("saved-about", "quality-about"):
        assert "Too few audited users yet for an interval: 4 of at least 10." in shown(browser, part)
    assert not browser.find_element("id", "loss").is_displayed()
    assert "named no user, or came when their user's time was over" in shown(browser, "uncovered")


def test_where_audits_tell_too_little_there_is_no_interval(made_up: Any, browser: Any, opened: Any) -> None:
    opened(
        made_up(
            bill={**LIVE["bill"], "audits": 40, "saved": None, "lost": None, "lost_answered": None},
            unit="user",
        )
    )
    for part in ("saved-about", "quality-about"):
        assert "Too little of what the audited users asked tells this yet." in shown(browser, part)


def test_a_policy_that_costs_more_and_loses_more(made_up: Any, browser: Any, opened: Any) -> None:
    opened(made_up(**LOSING))
    assert " ".join(shown(browser, "saved").split()) == "1.50 usd lost 3.1% of large\u2019s cost"
    assert "95% interval: 2.25 usd lost to 1.00 usd saved." in shown(browser, "saved-about")
    assert shown(browser, "chance") == (
        "Not within chance: the whole interval lies above the certified limit of 4.0 points."
    )
    _, limit, low, *_ = places_of_loss(browser)
    assert limit < low
    assert "comparisons have no grade" in shown(browser, "alarms")
    browser.execute_script("document.getElementById('choice').value = 'p1'")
    browser.find_element("id", "choose").click()
    assert shown(browser, "sure-about") == "Guarantee: 5 points."


def test_a_loss_above_the_limit_within_chance_and_one_below_nothing(
    made_up: Any, browser: Any, opened: Any
) -> None:
    opened(
        made_up(
            bill={**LIVE["bill"], "lost": [0.062, 0.031, 0.093], "opted_out": 1},
            shadow={**LIVE["shadow"], "opted_out": "policy"},
        )
    )
    assert shown(browser, "chance") == (
        "Within chance: the interval reaches down to the certified limit of 4.0 points."
    )
    assert "1 request came from clients who are not compared: the policy answers them, nobody knows" in shown(
        browser, "uncovered"
    )
    leave(browser)
    opened(
        made_up(
            bill={**LIVE["bill"], "lost": [-0.02, -0.03, -0.01], "saved": [3.0, 3.0, 3.0], "estimated": 0}
        )
    )
    assert "2.0 points above large" in " ".join(shown(browser, "quality").split())
    assert "1.0 point to 3.0 points above" in shown(browser, "quality-about")
    assert "measured: 2.0 points above" in shown(browser, "loss")
    assert "Nothing of this is estimated." in shown(browser, "saved-about")


def test_an_alarm_is_told(made_up: Any, browser: Any, opened: Any) -> None:
    alarms = [
        {"time": 1.79e9, "policy": "p1", "alarm": "Drift: <b>since</b> input 5.", "ends": True},
        {"time": 1.795e9, "policy": "p1", "alarm": "14 of the latest 50 comparisons have no grade"},
        {"time": 1.8e9, "policy": "p2", "alarm": "Loss: since audit 312.", "ends": True},
    ]
    opened(
        made_up(
            policy="reference",
            certificate=None,
            limit=None,
            policies={name: {"certificate": None, "unfit": ""} for name in ("p1", "p2")},
            fallen_from="p2",
            alarms=alarms,
            resting=[
                {
                    "name": "mock",
                    "why": "connection failed (ConnectError)",
                    "for_s": 11.2,
                    "models": ["small", "medium"],
                },
                {"name": "large", "why": "status 500", "for_s": 0.0, "models": ["large"]},
            ],
            stopped=["large"],
            disputed={"large": {"bills": 2, "claimed": 8_000.5, "maximum": 0.25}},
        )
    )
    told = shown(browser, "fallen", "!element.hidden")
    assert told.startswith("Policy p2 is no longer certified: large has answered since 15 Jan 2027")
    first, second, third = re.split(r".*policy p1\n", shown(browser, "alarms"))
    assert "Loss: since audit 312." in first  # the latest first
    assert "have no grade" in second
    assert "Drift: <b>since</b> input 5." in third
    assert "Evidence for policy p2 that requests or answers have changed" in shown(browser, "evidence-about")
    browser.find_element("id", "choose").click()
    assert shown(browser, "sure-about").startswith(
        "Nothing is certified of it now. Its certificate ended at the alarm of 21 Sept 2026"
    )
    assert shown(browser, "resting") == (
        "mock rests after failures (connection failed (ConnectError)): small and medium are asked again in 12 s.\n"
        "large rests after failures (status 500): large is being tried now."
    )
    disputed, stopped = shown(browser, "stopped").split("\n")
    assert re.match(r"large has billed .*8,000.50.* for 2 requests that can cost .*0.25.* at most", disputed)
    assert "exeunt gateway money FILE --book large" in disputed
    assert stopped.startswith("large is stopped: it billed more than it may cost.")


def test_names_are_text_and_fit_on_a_phone(made_up: Any, browser: Any, opened: Any) -> None:
    one = {"limit": MARKUP, "most": 5.0, "spent": 3.0, "left": 2.0}
    names = [MARKUP, *(f"{LONG}-{i}" for i in range(22))]
    opened(
        made_up(
            policy=MARKUP,
            reference=LONG,
            certificate=[MARKUP],
            standing=[MARKUP],
            fallen_from=MARKUP,
            policies={name: {"certificate": [name], "unfit": ""} for name in (MARKUP, LONG)},
            shadow={**LIVE["shadow"], "models": [MARKUP, LONG]},
            bill={**LIVE["bill"], "answered": {MARKUP: 18_000, LONG: 240}},
            in_all={**LIVE["in_all"], "told": MARKUP},
            compared={"compared": 1, MARKUP: 2},
            money={**LIVE["money"], "clients": dict.fromkeys(names, one)},
            alarms=[{"time": 1.8e9, "policy": MARKUP, "alarm": MARKUP}],
            resting=[{"name": MARKUP, "why": MARKUP, "for_s": 1.0, "models": [LONG, MARKUP]}],
        ),
        width=360,
    )
    assert MARKUP in shown(browser, "clients")
    assert shown(browser, "more-clients") == "And 3 clients who spent less: see /admin/state."
    parts = (
        "title",
        "certificate",
        "standing",
        "answered",
        "compared",
        "alarms",
        "resting",
        "drawn",
        "fallen",
        "in-all",
    )
    for part in parts:
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
        for path in ("/", "/page/page.js", "/page/web/live.js", "/page/gateway.css"):
            assert http.get(path).status_code == 200
        assert http.get("/page/../app.py").status_code == 401
        assert http.get("/page/web/%2e%2e/server.py").status_code == 404
        assert http.get("/events").status_code == 401
