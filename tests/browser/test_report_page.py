"""The report's page in a real Chromium: it asks for nothing, links arrive, it fits, it can be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from retention import reports
from tests.browser.sample_report import TITLES, sample

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (1280, 390)
KINDS = ("busy", "many", "empty")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        said = "no Chromium found: install it (Debian: apt-get install -y chromium) or set CHROMIUM to its path"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {"busy": sample(), "many": sample(30, red=True), "empty": sample(empty=True)}
    folder = tmp_path_factory.mktemp("pages")
    return {kind: reports.write(report, folder / kind, ("html",))["html"] for kind, report in made.items()}


@pytest.fixture(
    scope="module", params=[(kind, width) for kind in KINDS for width in WIDTHS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def page(request: pytest.FixtureRequest, browser: Browser, files: dict[str, Path]) -> Iterator[Page]:
    kind, width = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    said: list[str] = []
    opened.on("request", lambda one: asked.append(one.url))
    opened.on("console", lambda one: said.append(one.text))
    opened.goto(files[kind].as_uri())
    yield opened
    opened.close()
    assert [url for url in asked if not url.startswith("data:")] == [files[kind].as_uri()]
    assert said == []


def test_it_fits_and_asks_for_nothing(page: Page) -> None:
    wide, shown = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= shown
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= shown
    assert page.evaluate("document.scripts.length") == 0
    # what is wider than its column is scrolled within it, and the keyboard gets there
    unreachable = "document.querySelectorAll('.scroll:not([tabindex=\"0\"])').length"
    assert page.evaluate(unreachable) == 0


def test_every_link_arrives(page: Page) -> None:
    lost = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
        ".filter(id => !document.getElementById(id))"
    )
    assert lost == []
    here = Path(page.url.removeprefix("file://")).parent
    elsewhere = page.evaluate("[...document.querySelectorAll('a:not([href^=\"#\"])')].map(a => a.getAttribute('href'))")
    assert [link for link in elsewhere if not (here / link).is_file()] == []


def test_headings_are_in_order(page: Page) -> None:
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_and_charts_say_what_they_are(page: Page) -> None:
    assert page.evaluate("[...document.querySelectorAll('main .scroll > table')].filter(t => !t.caption).length") == 0
    assert page.evaluate("document.querySelectorAll('th:not([scope])').length") == 0
    unnamed = page.evaluate(
        "[...document.querySelectorAll('svg.chart')].filter(s => s.getAttribute('aria-labelledby').split(' ')"
        ".some(id => !document.getElementById(id)?.textContent)).length"
    )
    assert unnamed == 0


def test_text_can_be_read(page: Page) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for all text that is shown."""
    faint = page.evaluate(
        """() => {
        const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const light = rgb => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
        const parse = text => text.match(/[\\d.]+/g).map(Number);
        const behind = element => {
            for (let e = element; e; e = e.parentElement) {
                const found = parse(getComputedStyle(e).backgroundColor);
                if (found.length === 3 || found[3] > 0) return found;
            }
            return [255, 255, 255];
        };
        const found = [];
        for (const element of document.querySelectorAll('body *')) {
            const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
            if (!own || ['TITLE', 'DESC', 'title', 'desc', 'STYLE'].includes(element.tagName)) continue;
            const style = getComputedStyle(element);
            const front = light(parse(element.closest('svg') ? style.fill : style.color));
            const back = light(behind(element));
            const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
            if (ratio < 4.5) found.push([element.tagName, element.className.baseVal ?? element.className, ratio]);
        }
        return found;
    }"""
    )
    assert faint == []


def test_text_is_not_small(page: Page) -> None:
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('main *')].filter(e => e.textContent.trim())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 11.5


def opened(browser: Browser, path: Path, width: int = 1280) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    return page


def test_a_number_opens_its_list(browser: Browser, files: dict[str, Path]) -> None:
    page = opened(browser, files["busy"])
    link = page.locator("#held tbody a").first
    assert link.inner_text() == "412"
    target = page.locator("#list-held-IL-FIN-010")
    assert not target.is_visible()
    link.click()
    target.wait_for(state="visible")
    assert "The first 200 of 412 rows" in target.inner_text()
    assert target.locator("tbody tr").count() == 200
    page.close()


def test_hebrew_is_isolated_and_right_to_left(browser: Browser, files: dict[str, Path]) -> None:
    page = opened(browser, files["busy"])
    found = page.evaluate(
        "[...document.querySelectorAll('#held bdi[lang=he]')].map(e => [e.textContent, getComputedStyle(e).direction])"
    )
    assert found == [[hebrew, "rtl"] for _, _, hebrew, _ in TITLES if hebrew]
    law = page.locator("#due td[data-label=Authority] bdi").nth(1)
    assert law.inner_text().startswith("תקנות הגנת הפרטיות")
    page.close()


def test_status_is_said_in_words(browser: Browser, files: dict[str, Path]) -> None:
    page = opened(browser, files["many"])
    words = page.locator("#checks tbody .status").all_inner_texts()
    assert words == sorted(words, key=["Red", "Amber", "Green"].index)
    assert words[0] == "Red"
    assert "must be mended first: Interrupted runs" in page.locator(".masthead").inner_text()
    page.close()


def test_it_prints_without_closed_lists(browser: Browser, files: dict[str, Path]) -> None:
    page = opened(browser, files["busy"])
    page.emulate_media(media="print")
    assert not page.locator("details").first.is_visible()
    assert not page.locator("nav.contents").is_visible()
    assert page.locator("#checks table").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()
