"""The page of a gateway in a headless Chromium: of one that runs, and of states that are made up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium.webdriver.support.wait", reason="selenium is not installed")

from chromium import set_screen, shown
from exeunt.cli.app import run as exeunt
from exeunt.gateway import app
from exeunt.gateway.certification_status import CertificationStatus, Certified
from exeunt.gateway.page_state import PageState

from .made_state import FORECAST, GUARANTEES, LIVE, LOSING, SHADOW, made_policy
from .running_gateway import TOOL, Running, eventually, right_answer, running

MARKUP = "<img src=x onerror=document.title='hacked'>"
LONG = "a-provider/a-model-whose-name-is-far-longer-than-a-phone-is-wide-and-has-no-end"


class Page:
    """The page of a gateway in a browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, run: Running, *, width: int = 1400, scheme: str = "light") -> None:
        """Open it with the key of who administers it, at a width (px) in a colour scheme."""
        set_screen(self.browser, width=width, scheme=scheme)
        self.browser.get(run.url)
        self.enter(run.admin)
        self.shown("state", "element.innerText === 'live'")

    def leave(self) -> None:
        """Leave it before the gateway goes, which would wait for its connection."""
        self.browser.execute_script("window.stop()")
        self.browser.get("about:blank")
        self.browser.get_log("browser")

    def enter(self, key: str) -> None:
        self.shown("key-form", "!element.hidden")
        self.browser.find_element("id", "key").send_keys(f"{key}\n")

    def shown(self, part: str, *test: str) -> str:
        return shown(self.browser, part, *test)

    def has(self, **parts: str) -> None:
        """Check that parts say something."""
        for part, text in parts.items():
            assert text in self.shown(part.replace("_", "-")), part

    def says(self, **parts: str) -> None:
        """Check what parts say, in one line."""
        for part, text in parts.items():
            assert " ".join(self.shown(part.replace("_", "-")).split()) == text, part

    def lines(self, part: str, *expected: str) -> None:
        assert self.shown(part).split("\n") == [*expected]

    def click(self, *parts: str) -> None:
        for part in parts:
            self.browser.find_element("id", part).click()

    def displays(self, part: str) -> bool:
        return bool(self.browser.find_element("id", part).is_displayed())

    def find(self, what: str, of: str = "e.innerText") -> Any:
        """Return what is found by a selector, or of each of that."""
        return self.browser.execute_script(
            f"return [...document.querySelectorAll('{what}')].map((e) => {of})"
        )

    def check(self, width: int = 1400) -> None:
        """Check that it is no wider, and that the browser complains about nothing but answers without a key."""
        assert self.browser.execute_script("return document.documentElement.scrollWidth") <= width
        told = [one["message"] for one in self.browser.get_log("browser")]
        assert [one for one in told if "status of 40" not in one] == []

    def places_of_loss(self) -> list[float]:
        """Where zero, the limit, the low end, the mean and the high end of the measured loss lie (px)."""
        return self.browser.execute_script(
            """
            const box = (kind) => document.querySelector(`#loss div.${kind}`).getBoundingClientRect();
            const mean = box("mean"), interval = box("interval");
            return [box("zero").left, box("limit").left, interval.left, mean.left + mean.width / 2, interval.right];
            """
        )


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    one = Page(browser)
    yield one
    one.leave()


@pytest.fixture
def made_up(standing: Running, page: Page, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open the page of a gateway that says that it is in a state."""

    def opened(width: int = 1400, scheme: str = "light", **changes: Any) -> None:
        monkeypatch.setattr(PageState, "read", lambda _: {**LIVE, **changes})
        page.open(standing, width=width, scheme=scheme)

    return opened


def bill(**changes: Any) -> dict[str, Any]:
    return {**LIVE["bill"], **changes}


def test_from_the_shadow_to_a_policy_and_back(
    tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "_EVENTS_S", 0.05)
    spend = "{total: '2 usd', day: '2 usd', key: '1 usd/day'}"
    with running(tmp_path, spend=spend, run_length="100", units="request", period="0.4 s") as run:
        set_screen(page.browser, width=1400, scheme="light")
        page.browser.get(run.url)
        page.enter(run.client)  # a client does not see what others do
        needs = "This needs the key of who administers the gateway."
        page.shown("problem", f"element.innerText === '{needs}'")
        page.enter("ex-mistyped")
        page.shown("problem", f"element.innerText === 'This key is not known. {needs}'")
        assert page.browser.find_element("id", "key").get_property("value") == ""
        page.open(run)
        for i in range(3):
            run.ask(f"easy {i}")
        lead = page.shown("lead", "element.innerText.includes('3 requests')")
        assert lead.startswith("large answers")
        assert page.shown("compared", "element.innerText.includes('3')").split() == ["compared", "3"]
        page.says(uncovered="Every request counts.")
        page.has(
            drawn="100% of the requests are compared now: small and large all answer them.",
            saved_about="Nothing is saved while large answers everything:",
            in_all="no policy has answered, and 0.00",
            no_policies="There is no other policy yet",
            standing="Nothing is promised",
            limits="left of 2 usd",
            clients="alice",
        )
        page.has(clients="left of 1 usd/day")

        run.gateway.policies.add(made_policy())
        certified = Certified("p1", ["Guarantee: at most 20 points below large."], None, {"max_loss": 0.2})
        monkeypatch.setattr(run.gateway, "status", CertificationStatus({}, [], {"p1": certified}))
        page.shown("controls", "!element.hidden && element.innerText.includes('policy p1')")
        page.click("choose")
        page.says(sure_what="Let policy p1 answer from now on?")
        page.says(sure_about="Guarantee: at most 20 points below large.")
        page.click("sure-no")
        assert run.gateway.live.active.name == "reference"
        page.click("choose", "sure-yes")
        assert page.shown("title", "element.innerText.includes('p1')") == "Policy p1 answers"
        assert run.gateway.live.active.name == "p1"
        for i in range(12):
            run.ask(f"easy question {i}")
        run.ask("easy 1", tools=[TOOL])
        eventually(lambda: run.gateway.traffic.bill.now.loss.n == 13)
        # Each answer is audited, which costs as much as the reference alone.
        assert "usd lost" in page.shown("saved", "element.innerText.includes('usd')")
        page.shown("quality-about", "element.innerText.includes('from 13 audited requests.')")
        page.has(chance="Within chance: no more is lost than the certified limit of 20.0")
        reasons = page.shown("escalated", "element.children.length === 2")
        assert "The score of a model did not suffice" in reasons
        assert "does not take the request" in reasons
        page.shown("evidence", "element.innerText.includes('13 audits')")
        told, metrics = run.state(), run.metrics()
        assert 'escalated_total{policy="reference",reason="request"} 1.0' in metrics
        assert kinds(told) == kinds(LIVE)
        assert_saved_everywhere(run, told, metrics, capsys)

        run.provider.answer = lambda model, text: right_answer(text) if model == "large" else "wrong"
        for i in range(400):
            if run.ask(f"later question {i}").headers["x-exeunt-policy"] == "reference":
                break
        told_so = "element.innerText.startsWith('Policy p1 is no longer certified: large has answered since')"
        page.shown("fallen", told_so)
        assert re.search("(Loss|Drift): since about", page.shown("alarms"))
        page.has(evidence_about="Evidence for policy p1")
        curves = [*run.gateway.live.fallen.curves.values()]
        assert {points[0] for points in curves} == {(0, 0.0)}
        assert any(points[-1][1] >= 1 > points[-2][1] for points in curves)
        page.shown("choice", "element.innerText.includes('policy p1 (not certified now)')")

        for now in ("Policy p1 answers", "The reference answers"):
            page.click("roll-back", "sure-yes")
            page.shown("title", f"element.innerText === '{now}'")
        assert run.gateway.live.active.name == "reference"
        assert not page.displays("fallen")
        page.click("roll-back", "sure-yes")
        assert "there is nothing to roll back" in page.shown("problem", "!element.hidden")
        loaded = "performance.getEntriesByType('resource')"
        from_outside = f"return {loaded}.filter((e) => !e.name.startsWith(origin)).length"
        assert page.browser.execute_script(from_outside) == 0
        page.check()
        page.leave()


def kinds(state: Any) -> dict[str, set[str]]:
    """The names of what a state has, and of its parts."""
    parts = ("", "bill", "in_all", "drawing", "money", "shadow")
    return {name: set(state[name] if name else state) for name in parts}


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
    made_up: Any, page: Page, width: int, scheme: str
) -> None:
    made_up(width, scheme)
    lead = page.shown("lead")
    assert lead.startswith("Of 18,240 requests since 15 Jan 2027")
    assert lead.endswith("the policy was asked for 87.2%, and large, the reference, answered 28.3%.")
    page.lines("certificate", *GUARANTEES)
    promised = "To be certified, with probability 95%: at most 5.0 points lost per request."
    page.lines("standing", promised, "p1 and p2 are certified now.", FORECAST)
    page.says(
        rows="It answers the first 5 requests of a conversation; large answers later ones.",
        saved="52.40 usd saved 54.6% of large\u2019s cost",
        saved_about="95% interval: 49.80 usd to 55.10 usd saved. This is net: since the policy answers, its requests "
        "have cost 41.37 usd; comparisons, audits and judges have cost 2.21 usd.",
        in_all=LIVE["in_all"]["told"],
        feedback=LIVE["feedback"],
        quality="2.1 points below large, per request",
        quality_about="95% interval over all requests: 0.4 points above to 4.7 points below, from 402 audited "
        "conversations. Where the policy answered: 2.4 points below (0.5 points above to 5.3 points below).",
        chance="Within chance: no more is lost than the certified limit of 4.0 points.",
        answering="All may be asked.",
    )
    page.lines("loss", "certified limit: 4.0 points", "measured: 2.1 points", "as the reference")
    zero, limit, low, mean, high = page.places_of_loss()
    assert low < zero < mean < limit < high
    assert (mean - zero) / (limit - zero) == pytest.approx(2.13 / 4, abs=0.02)
    assert page.find("#answered li > span:first-child") == ["small", "large", "medium"]
    widths = page.find("#answered .track div", "e.style.width")
    assert float(widths[0].removesuffix("%")) == pytest.approx(61.5, abs=0.1)
    page.has(escalated="A later request of its conversation, or in none\n11.1% (2,028)")
    page.has(escalated="under 0.1% (2)", escalated_about="27.2% of the requests")
    page.has(limits="52.90 usd spent, no limit", compared="no money")
    page.has(limits="8.48 usd left of 20 usd/day until 3 Feb 2027")
    (problem,) = page.find(".note.problem")
    assert problem.replace("\u00a0", " ") == "0.01 usd left of 5 usd, 4.99 usd spent"
    share, allowed, chosen, still_open = page.shown("drawn").split("\n")
    assert share == "3.1% of the conversations are compared now: small, medium and large all answer them."
    assert allowed == "The file allows 5%; each period has a share for which money lasts."
    assert chosen.startswith("Of 1,204 conversations since 16 Jan 2027")
    assert chosen.endswith("39 were chosen by lot, and 1 of these left out because money was not free.")
    assert still_open == "38 conversations are open."
    page.lines(
        "uncovered",
        "310 requests came from clients who are not compared: large answers them, and no other number counts them.",
        "6.6% of the requests came when their conversation was over, or were in none: large answers them.",
        "2.1% of the requests hold an answer that was not given here, so that their conversation is a guess.",
        "Under 0.1% of the requests were retries, which count once in tests.",
    )
    page.has(evidence="8,120 conversations, 402 audits")
    page.has(evidence="alarm")
    options = [["reference", False], ["policy p1", False], ["policy p3 (cannot answer)", True]]
    assert page.find("#choice option", "[e.text, e.disabled]") == options
    page.check(width)


def test_everything_is_said_in_the_shadow(made_up: Any, page: Page) -> None:
    made_up(360, **SHADOW)
    compared = "To compare them, some conversations are also sent to small and medium."
    assert page.shown("lead").endswith(compared)
    page.says(
        saved_about="Nothing is saved while large answers everything: comparisons, audits and judges have cost 1.20 "
        "usd since then.",
        in_all=SHADOW["in_all"]["told"],
        quality_about="large is what quality is measured against.",
        uncovered="Every request counts.",
    )
    assert not page.displays("loss")
    page.has(standing="Nothing is certified now.\nThe first proposal is made once")
    page.has(drawn="10% of the conversations are compared now")
    assert "The file allows" not in page.shown("drawn")
    page.check(360)


@pytest.mark.parametrize(
    ("audits", "told"),
    [
        (4, "Too few audited users yet for an interval: 4 of at least 10."),
        (40, "Too little of what the audited users asked tells this yet."),
    ],
)
def test_where_audits_tell_too_little_there_is_no_interval(
    made_up: Any, page: Page, audits: int, told: str
) -> None:
    made_up(bill=bill(audits=audits, saved=None, lost=None, lost_answered=None), unit="user")
    assert page.shown("saved", "true") == "\u2013"
    page.has(saved_about=told, quality_about=told)
    page.has(uncovered="named no user, or came when their user's time was over")
    assert not page.displays("loss")


def test_a_limit_that_is_nearly_reached_is_marked(made_up: Any, page: Page) -> None:
    day = {**LIVE["money"]["day"], "left": 3.5, "near": True}
    made_up(money={**LIVE["money"], "day": day, "clients": {}})
    page.has(limits="3.50 usd left of 20 usd/day until 3 Feb 2027")
    (problem,) = page.find(".note.problem")
    assert problem.endswith(", nearly reached")


def test_a_policy_that_costs_more_and_loses_more(made_up: Any, page: Page) -> None:
    day = {
        "limit": "20 usd/day",
        "most": 20.0,
        "spent": 10_001.0,
        "left": 0.0,
        "overdrawn": 9981.0,
        "ends": None,
    }
    made_up(**{**LOSING, "money": {**LIVE["money"], "day": day}})
    page.has(limits="nothing left of 20 usd/day, 9,981.00 usd above it")
    page.says(saved="1.50 usd lost 3.1% of large\u2019s cost")
    page.says(chance="Not within chance: the whole interval lies above the certified limit of 4.0 points.")
    page.has(saved_about="95% interval: 2.25 usd lost to 1.00 usd saved.", alarms="comparisons have no grade")
    _, limit, low, *_ = page.places_of_loss()
    assert limit < low
    page.browser.execute_script("document.getElementById('choice').value = 'p1'")
    page.click("choose")
    page.says(sure_about="Guarantee: 5 points.")


def test_a_loss_above_the_limit_within_chance_and_one_below_nothing(made_up: Any, page: Page) -> None:
    made_up(
        bill=bill(lost=[0.062, 0.031, 0.093], opted_out=1), shadow={**LIVE["shadow"], "opted_out": "policy"}
    )
    page.says(chance="Within chance: the interval reaches down to the certified limit of 4.0 points.")
    page.has(
        uncovered="1 request came from clients who are not compared: the policy answers them, nobody knows"
    )
    page.leave()
    made_up(bill=bill(lost=[-0.02, -0.03, -0.01], saved=[3.0, 3.0, 3.0], estimated=0))
    assert "2.0 points above large" in " ".join(page.shown("quality").split())
    page.has(quality_about="1.0 point to 3.0 points above", loss="measured: 2.0 points above")
    page.has(saved_about="Nothing of this is estimated.")


def test_an_alarm_is_told(made_up: Any, page: Page) -> None:
    alarms = [
        {"time": 1.79e9, "policy": "p1", "alarm": "Drift: <b>since</b> input 5.", "ends": True},
        {"time": 1.795e9, "policy": "p1", "alarm": "14 of the latest 50 comparisons have no grade"},
        {"time": 1.8e9, "policy": "p2", "alarm": "Loss: since audit 312.", "ends": True},
    ]
    why = "connection failed (ConnectError)"
    resting = [
        {"name": "mock", "why": why, "for_s": 11.2, "models": ["small", "medium"]},
        {"name": "large", "why": "status 500", "for_s": 0.0, "models": ["large"]},
        {"name": "small/a", "why": "status 429", "for_s": 3.0, "models": []},
    ]
    made_up(
        policy="reference",
        certificate=None,
        limit=None,
        fallen_from="p2",
        alarms=alarms,
        policies={name: {"certificate": None, "unfit": ""} for name in ("p1", "p2")},
        resting=resting,
        stopped=["large"],
        disputed={"large": {"bills": 2, "claimed": 8_000.5, "maximum": 0.25}},
    )
    told = page.shown("fallen", "!element.hidden")
    assert told.startswith("Policy p2 is no longer certified: large has answered since 15 Jan 2027")
    first, second, third = re.split(r".*policy p1\n", page.shown("alarms"))
    assert "Loss: since audit 312." in first  # the latest first
    assert "have no grade" in second
    assert "Drift: <b>since</b> input 5." in third
    page.has(evidence_about="Evidence for policy p2 that requests or answers have changed")
    page.click("choose")
    ended = "Nothing is certified of it now. Its certificate ended at the alarm of 21 Sept 2026"
    assert page.shown("sure-about").startswith(ended)
    asked_again = f"mock rests after failures ({why}): small and medium are asked again in 12 s."
    tried = "large rests after failures (status 500): large is being tried now."
    waits = "small/a rests after failures (status 429): it is asked again in 3 s."
    page.lines("resting", asked_again, tried, f"{waits} Other deployments of its model answer.")
    disputed, stopped = page.shown("stopped").split("\n")
    assert re.match(r"large has billed .*8,000.50.* for 2 requests that can cost .*0.25.* at most", disputed)
    assert "exeunt gateway money FILE --book large" in disputed
    assert stopped.startswith("large is stopped: it billed more than it may cost.")


def test_names_are_text_and_fit_on_a_phone(made_up: Any, page: Page) -> None:
    one = {"limit": MARKUP, "most": 5.0, "spent": 3.0, "left": 2.0}
    names = [MARKUP, *(f"{LONG}-{i}" for i in range(22))]
    made_up(
        360,
        policy=MARKUP,
        reference=LONG,
        certificate=[MARKUP],
        standing=[MARKUP],
        fallen_from=MARKUP,
        policies={name: {"certificate": [name], "unfit": ""} for name in (MARKUP, LONG)},
        shadow={**LIVE["shadow"], "models": [MARKUP, LONG]},
        bill=bill(answered={MARKUP: 18_000, LONG: 240}),
        in_all={**LIVE["in_all"], "told": MARKUP},
        compared={"compared": 1, MARKUP: 2},
        money={**LIVE["money"], "clients": dict.fromkeys(names, one)},
        alarms=[{"time": 1.8e9, "policy": MARKUP, "alarm": MARKUP}],
        resting=[{"name": MARKUP, "why": MARKUP, "for_s": 1.0, "models": [LONG, MARKUP]}],
    )
    page.says(more_clients="And 3 clients who spent less: see /admin/state.")
    named = "clients title certificate standing answered compared alarms resting drawn fallen in_all"
    page.has(**dict.fromkeys(named.split(), MARKUP))
    assert page.find("img") == []
    assert page.browser.title != "hacked"
    page.check(360)


def test_the_page_itself_needs_no_key_and_tells_nothing(standing: Running) -> None:
    statuses = {
        **dict.fromkeys(("/", "/page/page.js", "/page/web/live.js", "/page/gateway.css"), 200),
        "/page/../app.py": 401,
        "/page/web/%2e%2e/server.py": 404,
        "/events": 401,
    }
    with standing.http("none") as http:
        assert {path: http.get(path).status_code for path in statuses} == statuses
