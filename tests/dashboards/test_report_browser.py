"""A real browser opens the report from a file and draws it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.dashboards import fabricate
from tests.dashboards.test_report_page import HOSTILE_NAMES, html_of

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in _NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what they wrote to the console."""
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    browser = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        dom, log = browser.communicate(timeout=120)
    finally:
        if browser.poll() is None:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
    return dom, [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("names", [tuple(fabricate.SLOTS), HOSTILE_NAMES], ids=["plain", "hostile"])
def test_every_figure_is_drawn_without_an_error(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Each plot holds plotly's drawing, and no script failed, was refused or came from a name."""
    page = tmp_path / "report.html"
    page.write_text(html_of(names), encoding="utf-8")
    dom, console = opened(page, tmp_path / "profile")
    assert console == []
    plots = re.findall(r'<div class="plot[^"]*" id="([^"]+)"', dom)
    assert len(plots) == 9
    assert dom.count('class="main-svg"') >= 2 * len(plots), "plotly draws two layers per plot"
    assert '<img src="x"' not in dom
    assert "<script>alert" not in dom


def test_a_foreign_script_is_refused_and_noticed(tmp_path: Path) -> None:
    """The silence of the console means something: an inserted script is refused aloud."""
    page = tmp_path / "report.html"
    html = html_of(tuple(fabricate.SLOTS))
    page.write_text(html.replace("</body>", "<script>document.title='broken'</script></body>"))
    dom, console = opened(page, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)
    assert "<title>broken" not in dom
