"""The page in a browser: pointing, switching, sorting and sliding show what the data say."""

from __future__ import annotations

import io
import re

import pytest
from made_report import NAMES, made_report

from exeunt.evaluation.report import DrawnWatch

INTERVALS = [f"{what}{end}" for what in ("accuracy", "mean_cost", "gain") for end in ("", "_low", "_high")]
MISSING = dict.fromkeys([*INTERVALS, "rates"]) | {"over_budget": 0, "of": 0}


def css(page, selector):
    return page.find_element("css selector", selector)


def count(page, selector):
    return len(page.find_elements("css selector", selector))


def of_all(page, selector, what):
    """Return something of each element, an expression of JavaScript in `e`."""
    return page.execute_script(
        f"return [...document.querySelectorAll(arguments[0])].map((e) => {what})", selector
    )


def texts(page, selector):
    return [found.text for found in page.find_elements("css selector", selector)]


def click(page, selector):
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", css(page, selector))
    css(page, selector).click()


def shown(page, chart):
    return {*of_all(page, f"#{chart} .line", "e.parentNode.dataset.key")}


def tip(page):
    (title,), labels, values = (
        of_all(page, f"#tip:not([hidden]) {tag}", "e.textContent") for tag in ("strong", "dt", "dd")
    )
    return {"title": title} | dict(zip(labels, values, strict=True))


def percent(value):
    return f"{100 * value:.2f}%"


def points(value):
    return f"{100 * value:+.2f}".replace("-", "\u2212")


def with_interval(point, name, write):
    return f"{write(point[name])} ({write(point[f'{name}_low'])} to {write(point[f'{name}_high'])})"


def rows(page, table):
    return of_all(page, f"#{table} tbody tr", "e.dataset.key")


def test_the_page_opens_with_the_best_few_and_asks_for_nothing(open_page):
    data = made_report(policies=14, exits=27, budgets=16)
    page = open_page(data)
    assert css(page, ".lead").text == "At half the cost, auto answers 92.1% right."
    gains = {row["policy"]: row["mean_gain"] for row in data["overall"]}
    best = max(set(gains) - {"auto", "eero"}, key=gains.get)
    assert shown(page, "frontier") == {"auto", "eero", best, "mixture"}
    assert shown(page, "cost") == {"auto", "eero", best}
    assert css(page, "#budget-value strong").text == "50%"
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert count(page, "#frontier [data-key=exits] .point") > 5


def test_a_click_in_the_legend_switches_a_policy_off_in_every_chart(open_page):
    page = open_page()
    entry = "#policies li[data-key=auto] .entry"
    click(page, entry)
    assert css(page, entry).get_attribute("aria-pressed") == "false"
    for chart in ("frontier", "cost", "rates"):
        assert not count(page, f"#{chart} [data-key=auto]")
    click(page, "#frontier-view [data-view=gain]")
    assert "auto" not in shown(page, "frontier")
    click(page, entry)
    assert css(page, entry).get_attribute("aria-pressed") == "true"
    assert {"auto"} < shown(page, "frontier")
    assert page.execute_script(f"return document.activeElement === document.querySelector('{entry}')")


def test_all_none_default_and_only_this_and_references(open_page):
    page = open_page()
    first = shown(page, "cost")
    click(page, "#show-all")
    assert shown(page, "cost") == set(NAMES[:6])
    click(page, "#show-none")
    assert shown(page, "cost") == set()
    assert rows(page, "table")
    click(page, "#policies li[data-key=gaussian] .only")
    assert shown(page, "cost") == {"gaussian"}
    click(page, "#show-some")
    assert shown(page, "cost") == first
    click(page, "#references li[data-key=oracle] .entry")
    assert {"oracle", "mixture"} < shown(page, "frontier")
    click(page, "#references li[data-key=mixture] .entry")
    assert shown(page, "frontier") & {"oracle", "mixture"} == {"oracle"}


def test_pointing_at_a_mark_shows_its_numbers(open_page):
    from selenium.webdriver import ActionChains, Keys

    data = made_report()
    page = open_page(data)
    click(page, "#policies li[data-key=auto] .only")
    point = data["traces"][0]["policies"][0]["points"][2]
    writers = {"accuracy": percent, "gain": points, "mean_cost": percent}
    target = page.find_elements("css selector", "#frontier [data-key=auto] .point")[2]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
    ActionChains(page, duration=0).move_to_element(target).perform()
    assert tip(page) == {
        "title": "auto",
        "budget": f"{100 * point['budget']:.1f}".removesuffix(".0") + "%",
        **{name.replace("_", " "): with_interval(point, name, write) for name, write in writers.items()},
        "same shares at random": percent(point["at_random"]),
        "over budget": f"{point['over_budget']} of {point['of']} splits",
    }
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not css(page, "#tip").is_displayed()


def test_arrow_keys_walk_over_the_marks(open_page):
    from selenium.webdriver import Keys

    data = made_report()
    page = open_page(data)
    assert count(page, "#cost .point[tabindex='0']") == 1
    of_all(page, "#cost .point[tabindex='0']", "e.focus()")
    assert tip(page)["title"] == "auto"
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    second = data["traces"][0]["policies"][0]["points"][1]
    assert tip(page)["accuracy"].startswith(percent(second["accuracy"]))
    assert percent(second["mean_cost"]) in page.switch_to.active_element.get_attribute("aria-label")
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert tip(page)["title"] == "eero"


def test_the_table_sorts_by_any_column_and_what_is_missing_comes_last(open_page):
    from selenium.webdriver import Keys

    data = made_report()
    data["traces"][0]["policies"][3]["points"][2] |= MISSING
    page = open_page(data)
    policies = {policy["name"]: policy for policy in data["traces"][0]["policies"]}
    gains = {name: p["points"][2]["gain"] for name, p in policies.items() if name != "msdnet"}
    assert rows(page, "table") == [*sorted(gains, key=gains.get, reverse=True), "msdnet"]
    click(page, "#table [data-column=gain] button")
    assert css(page, "#table [data-column=gain]").get_attribute("aria-sort") == "ascending"
    assert rows(page, "table") == [*sorted(gains, key=gains.get), "msdnet"]
    css(page, "#table [data-column=name] button").send_keys(Keys.ENTER)
    assert rows(page, "table") == sorted(policies)
    assert css(page, "#table [data-column=gain]").get_attribute("aria-sort") == "none"
    click(page, "#overall [data-column=fit_seconds] button")
    times = {row["policy"]: row["fit_seconds"] for row in data["overall"]}
    assert rows(page, "overall") == sorted(times, key=times.get)


def test_names_stand_on_the_line_of_their_numbers(open_page):
    page = open_page(made_report(policies=3))
    page.execute_script("""window.bottom = (node) => {
      const range = document.createRange(); range.selectNode(node); return range.getBoundingClientRect().bottom; }""")
    pair = "[bottom(e.querySelector('.named > span:last-child').firstChild), bottom(e.cells[1].firstChild)]"
    bottoms = of_all(page, "#table tbody tr, #table tfoot tr", pair)
    assert len(bottoms) == 6
    assert all(name == pytest.approx(number, abs=1) for name, number in bottoms)


def test_nearly_a_second_is_a_second(open_page):
    data = made_report()
    for row, took in zip(data["overall"], [0.996, 0.994, 0.0123, 1.26, 104.2], strict=False):
        row["fit_seconds"] = took
    page = open_page(data)
    cells = [f"#overall tr[data-key='{name}'] [data-column=fit_seconds]" for name in NAMES[:5]]
    assert [css(page, cell).text for cell in cells] == ["1 s", "990 ms", "12 ms", "1.3 s", "104 s"]


def test_exits_outside_the_chart_are_counted_and_not_cut_in_half(open_page):
    data = made_report(policies=2)
    first = data["traces"][0]["exit_points"][0]
    first |= dict.fromkeys(["accuracy", "accuracy_low", "accuracy_high"], 0.7)
    assert first["cost"] < 0.15 < data["traces"][0]["budgets"][0]
    page = open_page(data)
    inside = page.execute_script("""
      const [axis] = document.querySelectorAll("#frontier .base");
      const [left, right] = ["x1", "x2"].map((end) => +axis.getAttribute(end));
      return [...document.querySelectorAll("#frontier [data-key=exits] .point")].map(
        (mark) => left <= mark.at[0] && mark.at[0] <= right);
    """)
    assert 0 < len(inside) < 5
    assert all(inside)
    away = 5 - len(inside)
    outside = f"{away} exit{'s' if away > 1 else ''} alone {'lie' if away > 1 else 'lies'} outside the chart."
    assert css(page, "#frontier-caption").text.endswith(outside)
    click(page, "#references li[data-key=exits] .entry")
    assert "outside" not in css(page, "#frontier-caption").text


def test_the_page_of_models_speaks_of_models(open_page):
    data = made_report(exits=3)
    trace = data["traces"][0]
    models = ["small", "other", "large"]
    trace |= {"models": models, "one_exit": "model", "whole": "large alone", "unit": "usd"}
    for point, name in zip(trace["exit_points"], models, strict=True):
        point["name"] = name
    page = open_page(data)
    for budget in (0, 6):
        of_all(page, "#budget", f"(e.value = {budget}, e.dispatchEvent(new Event('input')))")
        told = page.execute_script("""
          const said = ["title", "aria-label", "aria-valuetext"];
          return [document.querySelector(".layout").innerText, document.querySelector(".wide").innerText,
                  ...[...document.querySelectorAll("svg text")].map((text) => text.textContent),
                  ...said.flatMap((is) => [...document.querySelectorAll(`[${is}]`)].map((e) => e.getAttribute(is)))
                 ].join(" ");
        """)
        for words in ("share of the cost of large alone", "mixture of two models", "each model alone"):
            assert words in told.lower()
        for words in ("answered at each of the 3 models", "0 is the cheapest", "large alone 93.40"):
            assert words in told.lower()
        assert re.findall(r"\bexits?\b|full network", told) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_no_word_of_a_chart_lies_where_its_lines_are(open_page, width):
    page = open_page(made_report(), width=width)
    click(page, "#cost-view [data-view=over]")
    inside = page.execute_script("""
      return [...document.querySelectorAll("#frontier > svg, #cost > svg")].flatMap((chart) => {
        const base = chart.querySelector(".base"), top = 34 - 8;
        const [left, right, bottom] = ["x1", "x2", "y1"].map((end) => +base.getAttribute(end));
        return [...chart.querySelectorAll("text")].filter((text) => {
          const box = text.getBBox();
          return box.x + box.width > left && box.x < right && box.y + box.height > top && box.y < bottom;
        }).map((text) => text.textContent); });
    """)
    assert inside == []
    named = page.execute_script("return document.querySelector('#frontier').innerText")
    assert "the full network 93.40%" in named
    assert "auto (Exeunt)" in named


def test_the_product_is_drawn_last_in_a_colour_of_its_own(open_page):
    page = open_page(made_report(policies=14))
    click(page, "#show-all")
    line = (
        "[e.parentNode.dataset.key, getComputedStyle(e).stroke, parseFloat(getComputedStyle(e).strokeWidth)]"
    )
    *others, product = of_all(page, "#frontier .line", line)
    assert product[0] == "auto"
    assert all(product[1] != colour and product[2] > thick for _, colour, thick in others)


def test_the_axis_starts_where_a_typical_budget_can_be_judged(open_page):
    data = made_report()
    points = [point for policy in data["traces"][0]["policies"][:2] for point in policy["points"]]
    for point in points:
        below = max(0.0, 0.5 - point["budget"])
        level = 0.933 - 0.02 * below**2 - 0.5 * (point["budget"] < 0.3)
        point |= {"accuracy": level, "accuracy_low": level - 1e-3, "accuracy_high": level + 1e-3}
    page = open_page(data)
    click(page, "#policies li[data-key=auto] .only")
    click(page, "#policies li[data-key=eero] .entry")
    ticks = texts(page, "#frontier .axis:nth-of-type(1) .tick")
    assert min(float(tick) for tick in ticks if "%" not in tick) > 85
    assert "2 points of policies" in css(page, "#frontier-caption").text


def test_counts_over_the_budget_are_held_against_what_a_kept_guarantee_may_do(open_page):
    data = made_report()
    data["traces"][0]["may_exceed"] = 0.082
    page = open_page(data)
    click(page, "#cost-view [data-view=over]")
    assert css(page, "#cost .labels .tone-level text").text.endswith("8.2%")
    assert "delta at 5% may exceed the budget on up to 8.2% of" in css(page, "#cost-caption").text
    page = open_page(made_report(delta=None))
    click(page, "#cost-view [data-view=over]")
    assert not count(page, "#cost .labels .tone-level")
    assert "by chance about half of the splits are over it" in css(page, "#cost-caption").text


def test_every_policy_is_described_where_it_is_named(open_page):
    about = "The paper's <b>rates</b>."
    page = open_page(made_report(about={"eero": about}))
    assert (texts(page, "#about dt"), texts(page, "#about dd")) == (["eero"], [about])
    for place in ("#policies li[data-key=eero] .entry", "#table tr[data-key=eero] th"):
        assert css(page, place).get_attribute("title") == about
    assert not css(open_page(), ".about").is_displayed()


def test_the_slider_chooses_the_budget_of_rates_and_table(open_page):
    from selenium.webdriver import Keys

    data = made_report()
    page = open_page(data)
    css(page, "#budget").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    point = data["traces"][0]["policies"][0]["points"][1]
    assert css(page, "#budget").get_attribute("aria-valuetext").startswith("32.5")
    cell = css(page, "#table tr[data-key=auto] [data-column=accuracy]")
    assert cell.get_attribute("textContent").startswith(percent(point["accuracy"]))
    labels = of_all(page, "#rates [data-key=auto] .segment", "e.getAttribute('aria-label')")
    for rate, label in zip(point["rates"], labels, strict=True):
        assert f"answered here: {percent(rate)}" in label
    widths = of_all(page, "#rates [data-key=auto] rect", "+e.getAttribute('width')")
    assert widths == pytest.approx([rate * sum(widths) for rate in point["rates"]], rel=0.05, abs=1)


def test_another_trace_is_chosen(open_page):
    data = made_report(traces=3)
    data["traces"][1]["budgets"] = data["traces"][1]["budgets"][:2]
    data["traces"][1]["policies"] = data["traces"][1]["policies"][1:]
    page = open_page(data)
    click(page, "#network option[value='1']")
    assert css(page, "#table-caption").text.startswith("net1-cifar10")
    assert "auto" not in rows(page, "table")
    assert css(page, "#budget").get_attribute("max") == "1"


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_shows_it_without_scrolling_sideways(open_page, width):
    page = open_page(made_report(traces=2, policies=14, exits=27, budgets=16), width=width)
    page.execute_script("document.getElementById('legend').open = true")
    click(page, "#show-all")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert css(page, "#frontier svg").size["width"] <= width


def test_the_figure_of_a_watch_is_shown_and_fits_a_phone(open_page):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="500" height="300"><rect width="500" height="300"/></svg>'
    page = open_page(made_report(), width=390, watches={"net <b>": DrawnWatch("no drift", svg)})
    assert css(page, "figcaption").text == "net <b>: no drift"
    assert css(page, "figure img").get_property("naturalWidth") == 500
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    assert not css(open_page(), "[aria-labelledby='watch-title']").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_shows_where_there_is_more_to_scroll_to(open_page, scheme):
    image = pytest.importorskip("PIL.Image")
    page = open_page(made_report(policies=14), width=390, scheme=scheme)

    def edge():
        page.execute_script("document.getElementById('overall').scrollIntoView({block: 'end'})")
        seen = image.open(io.BytesIO(css(page, "#overall").screenshot_as_png)).convert("L")
        return sorted(seen.getpixel((seen.width - 1, y)) for y in range(seen.height))[seen.height // 2]

    more = edge()
    page.execute_script("document.getElementById('overall').scrollLeft = 9999")
    assert edge() > more + 10


def test_dark_and_light_are_both_readable(open_page):
    contrast = """
      const light = (text) => { const c = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      const ratio = (ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      const of = (selector, what) => ratio(light(getComputedStyle(document.querySelector(selector))[what]));
      return [paper, of(".lead", "color"), of(".caption", "color"), of(".axis .tick", "fill"),
              Math.min(...[...document.querySelectorAll("#frontier .line")]
                .map((line) => ratio(light(getComputedStyle(line).stroke))))];
    """
    for scheme in ("light", "dark"):
        page = open_page(made_report(policies=8), scheme=scheme)
        click(page, "#show-all")
        paper, lead, caption, tick, line = page.execute_script(contrast)
        assert paper > 0.9 if scheme == "light" else paper < 0.05
        assert lead > 7
        assert min(caption, tick) > 4.5
        assert line > 3


def test_names_stay_text(open_page):
    name = "<img src=x onerror='window.hurt=1'></script> \"quoted\""
    data = made_report(summary=[name], command=name)
    data["traces"][0]["policies"][0]["name"] = data["overall"][0]["policy"] = name
    page = open_page(data)
    assert page.execute_script("return window.hurt") is None
    assert not count(page, "img")
    click(page, "#show-all")
    assert name in texts(page, "#policies .entry")
    assert css(page, "#command").text == name


def test_the_command_is_copied(open_page):
    page = open_page()
    click(page, "#copy")
    page.execute_async_script("setTimeout(arguments[0], 100)")
    assert css(page, "#copy").text == "copied"


def test_without_a_command_or_a_long_summary_nothing_empty_is_shown(open_page):
    page = open_page(made_report(command=None))
    assert not css(page, ".command").is_displayed()
    assert not css(page, ".rest").is_displayed()


@pytest.mark.parametrize("size", [1, 2])
def test_the_least_comparison_is_shown(open_page, size):
    data = made_report(policies=size, exits=size, budgets=size, splits=1, delta=None)
    for point in data["traces"][0]["policies"][0]["points"]:
        point |= {key: None for key in point if key.endswith(("_low", "_high"))}
    data["traces"][0]["policies"][-1]["points"][-1] |= MISSING
    data["overall"][0] |= {"gain_low": None, "gain_high": None, "mean_gain": None}
    page = open_page(data)
    click(page, "#cost-view [data-view=over]")
    click(page, "#frontier-view [data-view=gain]")
    assert css(page, "#rates text").text
    assert len(rows(page, "table")) == size


def test_print_leaves_out_what_only_a_screen_needs(open_page):
    page = open_page(made_report(), scheme="dark", media="print")
    for selector in (".pick", ".only", "#copy", "#frontier-view"):
        assert not css(page, selector).is_displayed()
    assert css(page, "#frontier svg").is_displayed()
    assert of_all(page, "body", "getComputedStyle(e).backgroundColor") == ["rgb(255, 255, 255)"]


def test_graded_answers_are_called_by_their_measure(open_page):
    data = made_report()
    data["traces"][0]["measure"] = "IoU <mean>"
    page = open_page(data)
    assert css(page, "h1").text == "IoU <mean> within a budget"
    assert css(page, "#frontier-caption").text.startswith("IoU <mean> against the mean cost per input.")
    assert "IoU <mean>" in texts(page, "#table thead th")
    assert texts(page, "#frontier-view button") == ["IoU <mean>", "gain"]
    assert "ccuracy" not in css(page, "main").text
