"""The page of the server in a headless Chromium, behind a stand-in that sends made events."""

from __future__ import annotations

import shutil

import pytest
from made_server import made_images, made_run, running
from page_server import EXITS, POLICIES, PageServer, made_about, made_events

from chromium import set_screen, shown

WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait

BURST = 130  # seconds: in the middle of it


@pytest.fixture
def opened(browser):
    """Open the page behind a stand-in, at a width (px) in a colour scheme."""
    servers = []

    def page(events, *, width=1400, scheme="light", **options):
        server = PageServer(events, **options)
        servers.append(server)
        set_screen(browser, width=width, scheme=scheme)
        browser.get(server.url)
        return server

    yield page
    browser.get("about:blank")  # before the server goes: the page would say that it is gone
    for server in servers:
        server.close()
    browser.get_log("browser")


def test_drift_is_told_in_words_and_drawn_with_its_threshold(opened, browser):
    events = made_events(200)
    opened(events)
    shown(browser, "evidence", "element.querySelector('svg')")
    assert hidden(browser, "drift")
    labels = browser.execute_script("return document.getElementById('evidence').innerText")
    assert "alarm" in labels
    assert "110%" in labels
    drift = "Drift: since about input 2,014 <b>inputs</b> are not like those of calibration."
    again = "Calibrated again on 1,000 inputs."
    for told, other, text in (("drift", "recalibrated", drift), ("recalibrated", "drift", again)):
        events[-1] |= {told: {"45%": text}, other: {}}
        opened(events)
        assert shown(browser, told, "!element.hidden") == f"Policy 45%: {text}"
        assert not browser.find_element("id", other).is_displayed()


def test_small_prices_are_of_a_million_inputs(opened, browser):
    opened(made_events(3))
    found = browser.execute_async_script(
        "const done = arguments[0];"
        "import('/page/web/numbers.js').then(({ amount }) =>"
        " done([amount(1e-7, 'usd'), amount(2e-5, 'cent'), amount(3, 'usd')]))"
    )
    assert [text.replace("\u00a0", " ") for text in found] == ["0.1 usd per 1M", "20 cent per 1M", "3 usd"]


def live(browser):
    assert shown(browser, "state", "element.innerText === 'live'") == "live"


def fits(browser, width=390):
    """Whether nothing is wider than the screen."""
    return browser.execute_script("return document.documentElement.scrollWidth") <= width


def hidden(browser, name):
    return browser.execute_script("return document.getElementById(arguments[0]).hidden", name)


def leave(browser):
    """Leave a page of a server that ends: its events would be kept for whoever goes back."""
    browser.execute_script("window.stop()")
    browser.get("about:blank")
    browser.get_log("browser")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_everything_shows_and_nothing_is_wider_than_the_screen(opened, browser, width, scheme):
    events = made_events(BURST)
    opened(events, width=width, scheme=scheme)
    live(browser)
    last, text = events[-1], shown(browser, "lead")
    assert f"{round(last['rows_per_s']):,} rows per second" in text
    assert "Load costs an estimated 2.17 points of accuracy." in text
    assert shown(browser, "model") == "cifar10-cascade"
    assert shown(browser, "active-budget") == "22% (27.7 MMACs)"
    assert shown(browser, "set-budget") == "45% (56.6 MMACs)"
    assert hidden(browser, "workers")
    assert shown(browser, "lost-now") == "2.17 points"
    target = "Target: 99% of the answers within 50 ms. The controller has lowered the budget."
    assert target in shown(browser, "controller")
    assert shown(browser, "errors_per_s") == "0.4 per second"
    read = "return [...document.querySelectorAll('#exits [data-exit] text:first-child')].map((e) => e.textContent)"
    assert browser.execute_script(read) == EXITS
    charts = "return [...document.querySelectorAll('.chart')]"
    lines = f"{charts}.map((e) => e.querySelectorAll('path.line').length)"
    assert browser.execute_script(lines) == [1, 3, 2, 1, 1, 0]
    assert fits(browser, width)
    loaded = "return performance.getEntriesByType('resource')"
    from_outside = f"{loaded}.filter((e) => !e.name.startsWith(origin)).length"
    assert browser.execute_script(from_outside) == 0
    assert browser.get_log("browser") == []


WARNING = "These inputs are not exchangeable with the calibration inputs (p = 1e-09): exit 2 is less sure."
SLOW = {"latency_ms": {"p50": 940.0, "p95": 26_066.0, "p99": 28_417.0}}


@pytest.mark.parametrize(
    ("changes", "about", "name", "message"),
    [
        ({"expired_per_s": 0.1}, {}, "controller", "as it is. Rows past their deadline return the"),
        ({"expired_per_s": 3.0, "policy": "40%"}, {}, "controller", "lowered the budget. Rows past their"),
        ({}, {"slo_quantile": 0.999}, "controller", "99.9% of the answers within 50 ms. The controller"),
        ({"workers": 4}, {"workers": 4}, "workers", "All 4 workers together."),
        ({"workers": 3}, {"workers": 4}, "workers", "Only 3 of 4 workers answer: see the log of the server."),
        ({}, {"warning": WARNING}, "warning", f"not be kept. Evaluation on the test part found: {WARNING}"),
        (SLOW, {}, "lead", "at most 940 ms, 99% at most 28.4 s"),
        (SLOW, {}, "latency", "p99 28.4 s"),
    ],
)
def test_what_the_server_says_is_told_on_a_narrow_screen(opened, browser, changes, about, name, message):
    (event,) = made_events(1)
    opened([event | {"policy": POLICIES[6]["name"]} | changes], width=390, about=about)
    live(browser)
    assert message in shown(browser, name)
    assert hidden(browser, "warning") == (name != "warning")
    assert fits(browser)


def test_the_slider_puts_a_budget_and_says_what_it_buys(opened, browser):
    server = opened(made_events(3))
    live(browser)
    slider = browser.find_element("id", "budget")
    assert slider.get_attribute("value") == "6"
    slider.send_keys("\ue012\ue012")  # left, twice
    text = shown(browser, "budget-value", "element.innerText.startsWith('34')")
    assert text.splitlines() == ["34%", "42.7 MMACs, accuracy 93.03%"]
    WebDriverWait(browser, 5).until(lambda _: {"budget": POLICIES[4]["budget"]} in server.put[-1:])


def test_budgets_are_put_one_after_the_other_and_the_last_one_stays(opened, browser):
    server = opened(made_events(3))
    live(browser)
    server.answering.clear()
    slider = browser.find_element("id", "budget")
    slider.send_keys("\ue012\ue012\ue012")  # left, thrice
    WebDriverWait(browser, 5).until(lambda _: server.put)
    shown(browser, "budget-value", "element.innerText.startsWith('30')")
    assert [put["budget"] for put in server.put] == [POLICIES[5]["budget"]]
    server.answering.set()
    WebDriverWait(browser, 5).until(lambda _: len(server.put) > 1)
    assert [put["budget"] for put in server.put] == [POLICIES[5]["budget"], POLICIES[3]["budget"]]
    assert slider.get_attribute("value") == "3"


def test_a_budget_that_is_refused_says_why_and_goes_back(opened, browser):
    opened(made_events(3), refuse="the disk is full")
    live(browser)
    browser.find_element("id", "budget").send_keys("\ue012")
    assert shown(browser, "problem", "!element.hidden") == "the disk is full"
    assert shown(browser, "budget-value", "element.innerText.startsWith('45')").startswith("45%")
    assert all("422" in entry["message"] for entry in browser.get_log("browser"))


def test_a_run_that_is_loaded_again_shows_its_own_policies(browser, tmp_path):
    with running(made_run(tmp_path / "pixels")) as started:
        browser.get(started.url)
        live(browser)
        slider = browser.find_element("id", "budget")
        assert slider.get_attribute("max") == "2"
        other = made_run(tmp_path / "other", budgets=("50%", "70%"))
        shutil.copy(other.path / "policies.json", started.run.path)
        assert started.client.post("/reload").status_code == 200
        WebDriverWait(browser, 10).until(lambda _: slider.get_attribute("max") == "1")
        assert shown(browser, "budget-value").startswith("70%")
        leave(browser)


def test_a_real_server_with_a_key_and_a_controller(browser, tmp_path):
    """What the stand-in says is what a server says, and what the page asks is what a server takes."""
    with running(made_run(tmp_path / "pixels"), slo_s=0.05, api_keys=("secret",)) as started:
        started.client.headers["authorization"] = "Bearer secret"
        browser.get(started.url)
        assert shown(browser, "problem", "!element.hidden") == "The server needs an API key."
        browser.find_element("id", "key").send_keys("secret\n")
        live(browser)
        assert len(started.answers(made_images(8))) == 8
        assert "rows per second are answered" in shown(browser, "lead", "element.innerText.includes('rows')")
        assert "99% of the answers within 50 ms" in shown(browser, "controller")
        slider = browser.find_element("id", "budget")
        slider.send_keys("\ue012")
        WebDriverWait(browser, 5).until(lambda _: started.policy() == "60%")
        assert set(started.event()) == set(made_events(1)[0])
        assert set(started.client.get("/budget").json()) == set(made_about())
        leave(browser)


def test_a_key_is_asked_for_and_sent(opened, browser):
    opened(made_events(3), key="secret")
    assert shown(browser, "problem", "!element.hidden") == "The server needs an API key."
    browser.find_element("id", "key").send_keys("secret\n")
    live(browser)
    assert hidden(browser, "key-form")
    assert all("401" in entry["message"] for entry in browser.get_log("browser"))


def test_a_server_without_controller_traffic_or_labels(opened, browser):
    (event,) = made_events(1)
    unknown = {"mean_cost": None, "estimated_accuracy": None, "accuracy_without_load": None, "exits_now": None,
               "rows_per_s": 0.0, "latency_ms": {"p50": None, "p95": None, "p99": None}}  # fmt: skip
    opened([event | unknown], about={"slo_ms": None})
    live(browser)
    assert shown(browser, "lead") == "No requests at the moment."
    assert shown(browser, "lost-now", "true") == "\u2013"
    assert "Start the server with --slo-ms" in shown(browser, "controller")
    assert browser.get_log("browser") == []
