"""The report's page in a real browser: what it asks for, what can be chosen, sorted and saved, and who can read it.

Needs Selenium (`pip install '.[browser]'`), Chromium and its driver; `.ci/run` installs Debian's. GHOSTKV_PAGE names another page to
try than the made-up one, GHOSTKV_SCREENSHOTS a folder to keep pictures of it in.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ghostkv.report.theme import ON_BRIGHT, ON_DARK
from tests.report.page import write_page

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
from selenium.webdriver.support.ui import Select  # noqa: E402

if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

AXE = "axe-core@4.14.1"
WIDTHS, THEMES = (1280, 360), ("light", "dark")
_TALLEST = 8000
# Words of charts whose contrast with the page is under 4.5 (AA); those on coloured cells have inks of their own.
_FAINT_WORDS = """
const light = (colour) => {
  const shares = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255);
  const [r, g, b] = shares.map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = light(getComputedStyle(document.body).backgroundColor);
return [...document.querySelectorAll(".chart text")]
  .filter((one) => one.textContent.trim() && !arguments[0].includes(one.getAttribute("fill")))
  .map((one) => [one.closest("figure").dataset.name, one.textContent, light(getComputedStyle(one).fill)])
  .filter(([, , ink]) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5);
"""
_FAINT = "[opacity='0.12']"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    given = os.getenv("GHOSTKV_PAGE")
    return Path(given) if given else write_page(tmp_path_factory.mktemp("page")) / "report.html"


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The accessibility checks of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    try:
        asked = ["npm", "pack", "--silent", AXE]
        archive = subprocess.run(asked, cwd=folder, check=True, capture_output=True, text=True, timeout=120)
        subprocess.run(["tar", "xzf", archive.stdout.strip()], cwd=folder, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{AXE} cannot be had from npm here ({error})")
    return (folder / "package/axe.min.js").read_text(encoding="utf-8")


class Browser:
    """A headless Chromium that has opened the page."""

    def __init__(self, page: Path, downloads: Path, scripts: bool = True):
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        preferences = {
            "download.default_directory": str(downloads),
            "profile.default_content_setting_values.automatic_downloads": 1,
        }
        if not scripts:
            preferences["profile.managed_default_content_settings.javascript"] = 2
        options.add_experimental_option("prefs", preferences)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.chrome.service.Service(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.page, self.scripts = page, scripts

    def open(self, width: int = 1280, theme: str = "light") -> Browser:
        """The page anew, at a width and in a theme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", size)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.command("Emulation.setEmulatedMedia", scheme)
        self.driver.get(self.page.as_uri())
        if self.scripts:
            self.until("return document.documentElement.dataset.ready")
        return self

    def command(self, name: str, arguments: dict) -> dict:
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments, seconds: float = 20.0):
        """What a script returns, once it is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, script
            time.sleep(0.02)
        return found

    def live(self, name: str) -> None:
        """Bring a figure to life, as scrolling to it does."""
        self.run(
            "const f = document.querySelector(arguments[0]); const d = f.closest('details'); if (d) d.open = true; f.scrollIntoView()",
            f"#figure-{name}",
        )
        self.until("return document.querySelector(arguments[0]).dataset.live", f"#figure-{name}")

    def marks(self, name: str) -> str:
        """What a figure draws."""
        return self.run(
            "return document.querySelector(arguments[0] + ' .chart').innerHTML", f"#figure-{name}"
        )

    def open_all(self) -> None:
        self.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    def picture(self, name: str) -> None:
        """Keep pictures of the whole page, where pictures are wanted; Chromium takes no larger ones."""
        if folder := os.getenv("GHOSTKV_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            width, height = self.run(
                "const r = document.documentElement; return [innerWidth, r.scrollHeight]"
            )
            for number, top in enumerate(range(0, height, _TALLEST)):
                part = {"x": 0, "y": top, "width": width, "height": min(_TALLEST, height - top), "scale": 1}
                taken = self.command("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": part})
                Path(folder, f"{name}_{number}.png").write_bytes(base64.b64decode(taken["data"]))


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(page, downloads):
    found = Browser(page, downloads)
    yield found
    found.driver.quit()


def test_nothing_is_asked_for_and_nothing_goes_wrong(browser, page):
    browser.open()
    for name in browser.run("return [...document.querySelectorAll('figure')].map((one) => one.dataset.name)"):
        browser.live(name)
    messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    sent = [
        one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in sent
    assert [url for url in sent if not url.startswith((page.as_uri(), "data:", "blob:"))] == []
    assert [entry for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_it_is_ready_within_two_seconds_and_shows_its_picture_first(browser):
    browser.open()
    assert browser.run("return Number(document.documentElement.dataset.ready)") < 2000
    first = browser.run(
        "const r = document.querySelector('.chart').getBoundingClientRect(); return [r.top, r.bottom]"
    )
    assert 0 < first[0] < first[1] < 900


def test_a_head_that_is_chosen_changes_its_charts(browser):
    browser.open().live("heads")
    lists = browser.driver.find_elements("css selector", "#figure-heads .vega-bindings select")
    assert len(lists) == 2
    before = browser.marks("heads")
    for one in lists:
        other = browser.run("return [...arguments[0].options].find((one) => !one.selected).value", one)
        Select(one).select_by_value(other)
    browser.until("return document.querySelector('#figure-heads .chart').innerHTML !== arguments[0]", before)
    listed = browser.run("return [...arguments[0]].map((one) => one.value)", lists)
    # A click on a cell moves the lists along.
    cells = browser.driver.find_element("css selector", "#figure-heads .mark-rect.role-mark")
    cells.find_elements("css selector", "path")[-1].click()
    browser.until("return [...arguments[0]].some((one, i) => one.value !== arguments[1][i])", lists, listed)


def test_a_name_that_is_chosen_stands_out_in_every_chart_that_has_it(browser):
    browser.open()
    browser.live("frontier_by_codec")
    browser.live("record_size")
    faint = f"return document.querySelectorAll(`#figure-${{arguments[0]}} .chart {_FAINT}`).length"
    picker = Select(browser.driver.find_element("id", "stand-out"))
    picker.select_by_visible_text("transform code")
    for name in ("frontier_by_codec", "record_size"):
        browser.until(faint, name)
    picker.select_by_index(0)
    for name in ("frontier_by_codec", "record_size"):
        browser.until(faint.replace(".length", ".length === 0"), name)


def test_a_legend_chooses_for_all_charts(browser):
    browser.open().live("bytes_and_loss")
    label = browser.driver.find_element("css selector", "#figure-bytes_and_loss .role-legend-label text")
    name = label.text
    label.click()
    browser.until("return document.getElementById('stand-out').value === arguments[0]", name)
    browser.live("frontier_by_codec")
    browser.until(f"return document.querySelectorAll(`#figure-frontier_by_codec .chart {_FAINT}`).length")


def test_a_table_sorts_and_filters(browser):
    browser.open().open_all()
    column = "return [...document.querySelectorAll('#table-tables tbody tr')].map((row) => row.cells[1].textContent)"
    sort = browser.driver.find_element("css selector", "#table-tables th:nth-child(2) button")
    rows = [int(value.replace(",", "")) for value in browser.run(column)]
    for order in ("ascending", "descending"):
        browser.run("arguments[0].click()", sort)
        found = [int(value.replace(",", "")) for value in browser.run(column)]
        assert found == sorted(rows, reverse=order == "descending")
        assert browser.run("return arguments[0].parentElement.getAttribute('aria-sort')", sort) == order
    browser.driver.find_element("css selector", "#table-tables input").send_keys("frontier/")
    left = browser.run(
        column.replace(".map(", ".filter((row) => row.offsetParent).map(").replace("cells[1]", "cells[0]")
    )
    assert 0 < len(left) < len(rows)
    assert all("frontier/" in path for path in left)


def test_numbers_and_pictures_are_saved(browser, page, downloads):
    browser.open()
    wanted = {f"frontier_by_codec.{kind}" for kind in ("csv", "svg", "png")} | {"key_numbers.csv"}
    for block in ("#figure-frontier_by_codec", "#table-key_numbers"):
        for one in browser.driver.find_elements("css selector", f"{block} .bar button"):
            browser.run("arguments[0].click()", one)
    end = time.monotonic() + 20
    while not wanted <= {path.name for path in downloads.iterdir()} and time.monotonic() < end:
        time.sleep(0.05)
    assert wanted <= {path.name for path in downloads.iterdir()}
    saved, own = (folder / "frontier_by_codec.csv" for folder in (downloads, page.parent / "figures"))
    assert saved.read_bytes() == own.read_bytes()
    assert (downloads / "frontier_by_codec.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("width", "theme"), zip(WIDTHS, THEMES, strict=True))
def test_nothing_overflows_and_nobody_is_left_out(browser, axe, width, theme):
    browser.open(width, theme).picture(f"front_{width}_{theme}")
    browser.open_all()
    for name in browser.run("return [...document.querySelectorAll('figure')].map((one) => one.dataset.name)"):
        browser.live(name)
    browser.run("scrollTo(0, 0)")
    browser.picture(f"all_{width}_{theme}")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(_FAINT_WORDS, [ON_BRIGHT, ON_DARK]) == []
    browser.run(axe)
    found = browser.driver.execute_async_script("axe.run().then(arguments[0])")["violations"]
    serious = {
        one["id"]: one["nodes"][0]["html"][:200] for one in found if one["impact"] in ("serious", "critical")
    }
    assert serious == {}


def test_the_ink_of_charts_is_the_themes(browser):
    bright = {}
    for theme in THEMES:
        browser.open(1280, theme).live("frontier_by_codec")
        script = "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector(arguments[0])).fill]"
        colours = browser.run(script, "#figure-frontier_by_codec .role-axis-title text")
        bright[theme] = [sum(map(int, colour.strip("rgb()").split(","))) / 765 for colour in colours]
    assert bright["light"][0] > 0.9 > 0.4 > bright["light"][1]
    assert bright["dark"][0] < 0.2 < 0.7 < bright["dark"][1]


def test_without_scripts_every_picture_is_there(page, downloads):
    still = Browser(page, downloads, scripts=False)
    try:
        still.open()
        # Without scripts nothing waits for the page to have loaded: figures are counted until they are no more than before.
        count, before = len(still.driver.find_elements("css selector", "figure")), -1
        while count != before:
            time.sleep(1)
            count, before = len(still.driver.find_elements("css selector", "figure")), count
        pictures = still.driver.find_elements("css selector", "figure .chart > svg[role=img][aria-label]")
        assert len(pictures) == count > 5
        assert still.driver.find_elements("css selector", ".bar, #stand-out") == []
        still.picture("without_scripts")
    finally:
        still.driver.quit()
