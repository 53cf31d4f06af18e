"""One headless Chromium for all tests of pages; a conftest.py that needs it imports the fixture."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
           "--disable-extensions", "--disable-background-networking", "--hide-scrollbars")  # fmt: skip


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Iterator[Any]:
    """A tab, which shows nothing once the tests of a file are done: pages go on asking their server."""
    yield chromium
    chromium.get("about:blank")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra dev)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    # Without a window of its own the page would not know what has the focus.
    session.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield session
    session.quit()


def set_screen(browser: Any, *, width: int, scheme: str) -> None:
    """Give pages a width (px), as of a phone below 600, and a colour scheme."""
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": feature})
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.set_script_timeout(10)


def shown(browser: Any, part: str, test: str = "element.innerText.trim().length > 1") -> str:
    """Return the text of a part of the page, once `test`, JavaScript of `element`, holds."""
    text: str = browser.execute_async_script(
        f"""
        const [part, done] = arguments, element = document.getElementById(part);
        const look = () => ({test} ? done(element.innerText) : setTimeout(look, 20));
        look();
        """,
        part,
    )
    return text.replace("\u00a0", " ")
