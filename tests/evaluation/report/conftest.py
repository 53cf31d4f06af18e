"""The report, opened in a headless Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_report import made_report

from exeunt.evaluation.report import write_report

OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[OpenPage]:
    """Write a report and open it at a width (px) in a colour scheme; at the end, no error was logged."""

    def opened(
        data: Any = None, *, width: int = 1280, scheme: str = "light", media: str = "screen", **options: Any
    ) -> Any:
        write_report(data or made_report(), tmp_path / "report.html", **options)
        scheme_feature = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": scheme_feature})
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get((tmp_path / "report.html").as_uri())
        return browser

    yield opened
    assert browser.get_log("browser") == []
