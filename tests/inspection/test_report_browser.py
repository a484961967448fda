"""The report in a real browser: everything is drawn, nothing is asked for outside, nothing of an agent runs."""

import shutil
from collections.abc import Iterator

import pytest
from test_report import HOSTILE, make_run

from loop_rl.inspection.report.report import write_report

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: `make setup` installs it")
pytestmark = [
    pytest.mark.slow(30),
    pytest.mark.skipif(not CHROMIUM, reason="needs a program named chromium on the PATH"),
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two runs side by side, with hostile REPL output and a hostile task name."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder, name, observation=HOSTILE) for name in ("one", "other")]
    return write_report(runs, folder / "report.html")


def opened(browser, report, scheme: str):
    """The page, and what it asked for and complained about."""
    page, requests, complaints = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-drawn]")
    return page, requests, complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_drawn_whole_and_asks_for_nothing(browser, report, scheme):
    page, requests, complaints = opened(browser, report, scheme)
    assert requests == [report.as_uri()]
    assert complaints == []
    empty = page.evaluate(
        "[...document.querySelectorAll('.plot')].filter(d => !d.querySelector('svg .trace, svg .hm, svg .point')).map(d => d.id)"
    )
    assert empty == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.close()


def test_text_of_agents_does_not_run(browser, report):
    page, _, _ = opened(browser, report, "light")
    assert page.title() == "one and other · loop_rl report"
    page.locator("details").first.evaluate("details => details.open = true")
    assert "<script>document.title = 'taken'</script>" in page.locator("details pre").nth(1).inner_text()
    assert page.locator("main img").count() == 0
    page.close()


def test_it_follows_the_colour_scheme_and_the_keyboard(browser, report):
    page, _, complaints = opened(browser, report, "light")
    tick = page.locator("#plot-learning .xtick text").first
    light = tick.evaluate("tick => getComputedStyle(tick).fill")
    page.emulate_media(color_scheme="dark")
    playwright.expect(tick).not_to_have_css("fill", light)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.focus("#choose-0")
    task = page.locator("#scenario-0 .legendtext").first
    before = task.text_content()
    page.keyboard.press("ArrowDown")
    playwright.expect(task).not_to_have_text(before)
    assert complaints == []
    page.close()
