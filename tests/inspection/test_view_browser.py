"""The viewer in a real browser: keys, shading, both colour schemes, and that agents' text does nothing."""

import math
import os
import random
import re
import shutil
from collections.abc import Iterator

import pytest
from test_index import make_rollout, make_run, write_group
from test_view import HOSTILE, TINY, make_turn, view

from loop_rl.data.updates import TokenValues
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import write_updates

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONG = "\n".join(f"line {number}" for number in range(400))

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: `make setup`")
pytestmark = [
    pytest.mark.slow(40),
    pytest.mark.skipif(not CHROMIUM, reason="needs chromium, in the PATH or named by CHROMIUM"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    """A group with tokens of every shade, another one, and a hostile one."""
    run, rng = make_run(tmp_path_factory.mktemp("runs"), TINY), random.Random(0)
    turn = make_turn(
        "Think.\n```python\nfor x in range(3):  # three\n    print('a', x + 1, None)\n```", observation=LONG
    )
    turn.executed = "for x in range(3):  # three\n    print('a', x + 1, None)"
    turn.logprobs = [math.log(rng.choice((0.0005, 0.005, 0.05, 0.3, 0.7, 0.95, 0.999))) for _ in turn.action_ids]
    ids = ("g000000-k0", "g000000-k1")
    write_rollouts(run.group_file(0), [make_rollout(name, turns=[turn], started_at=2000) for name in ids])
    ratios = [rng.choice((0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3, 1.5)) for _ in turn.logprobs]
    trainers = [logprob + math.log(ratio) for logprob, ratio in zip(turn.logprobs, ratios, strict=True)]
    entropies = [rng.choice((0.001, 0.05, 0.2, 0.5, 1.0, 1.5, 2.5)) for _ in ratios]
    write_updates(run.update_file(0), {ids[0]: -0.6, ids[1]: 0.6}, dict.fromkeys(ids, TokenValues(trainers, entropies)))
    write_group(run, 1)
    hostile = make_turn(f"{HOSTILE}\n```python\n{HOSTILE}\n```", executed=HOSTILE, observation=HOSTILE, log=[HOSTILE])
    fields = {"instruction": HOSTILE, "task_id": HOSTILE, "end_reason": HOSTILE, "failures": [HOSTILE]}
    write_rollouts(run.group_file(2), [make_rollout(f"hostile {HOSTILE}", 2, turns=[hostile], **fields)])
    (run.train_rollouts / "<img src=x onerror=alert(1)>.parquet").write_text(HOSTILE)
    return run


@pytest.fixture(scope="module")
def url(run) -> Iterator[str]:
    with view(run.path) as viewer:
        url = viewer.stdout.readline().split(": ")[1].split()[0]
        yield url.rstrip("/")
        viewer.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as launcher:
        browser = launcher.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(browser, url, request) -> Iterator["playwright.Page"]:
    """A page with the list, in light and in dark; it may say nothing on the console and ask no other machine."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1400, "height": 900})
    page, noise, requests = context.new_page(), [], []
    page.set_default_timeout(10_000)
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("dialog", lambda dialog: (noise.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    playwright.expect(page.locator("#status")).to_have_text(re.compile("files indexed"))
    page.reload()
    yield page
    context.close()
    assert noise == []
    assert all(address.startswith(url) for address in requests)


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_the_list_by_keyboard(page, url):
    press(page, "j", "j", "k", "j", "Enter")
    page.wait_for_url(f"{url}/rollout/g000000-k0")  # newest first, and the later row of two that started together
    press(page, "l")
    page.wait_for_url(f"{url}/")
    press(page, "/")
    page.keyboard.type("task 1jk?")
    press(page, "Escape", "?")
    assert page.locator("#help").is_visible()
    press(page, "j", "Escape")
    assert not page.locator("#help").is_visible()
    page.locator("#search").fill('"Do task 1"')
    page.locator("#search").press("Enter")
    page.wait_for_load_state()
    assert page.locator("tbody tr").count() == 2
    page.get_by_role("link", name="reward").click()
    page.wait_for_load_state()
    assert page.locator("tbody tr a").first.inner_text() == "g000001-k1"
    assert page.locator("th[aria-sort=descending]").inner_text() == "reward ▼"


def test_tokens_are_shaded_on_every_scale(page, url):
    page.goto(f"{url}/rollout/g000000-k0")
    assert page.locator(".as-code").is_visible() and not page.locator(".as-tokens").is_visible()
    for key, scale, num_colours in (("1", "advantage", 1), ("2", "ratio", 9), ("3", "logprob", 7), ("4", "entropy", 7)):
        press(page, key)
        assert not page.locator(".as-code").is_visible()
        assert page.locator(".legend:visible .token").count() in (7, 9)
        colours = "[...new Set([...document.querySelectorAll('.as-tokens .token')].map(t => getComputedStyle(t).backgroundColor))]"
        shown = page.evaluate(colours)
        assert len(shown) == num_colours, scale
        # What the legend says of a level is what a token of that level looks like.
        legend = page.evaluate(colours.replace(".as-tokens", f".legend.{scale}"))
        assert set(shown) <= set(legend)
    press(page, "ArrowRight", "ArrowRight", "ArrowLeft")
    assert page.locator("#figures").inner_text() == page.locator(".as-tokens .token").first.get_attribute("title")
    page.locator(".as-tokens .token").nth(3).hover()
    assert page.locator("#figures").inner_text().startswith("token 3 ")
    press(page, "j")
    page.wait_for_url(f"{url}/rollout/g000000-k1")
    assert page.locator("#shade-entropy").is_checked()  # remembered
    press(page, "0")
    assert page.locator(".as-code").is_visible()


def test_long_output_is_folded_and_a_key_unfolds_all(page, url):
    page.goto(f"{url}/rollout/g000000-k0")
    output = page.locator(".observation pre")
    assert not output.is_visible()
    press(page, "f")
    assert output.is_visible() and page.locator(".prompt pre").is_visible()
    press(page, "f")
    assert not output.is_visible()


def test_a_group_by_keyboard(page, url):
    page.goto(f"{url}/rollout/g000000-k0")
    press(page, "g")
    page.wait_for_url(f"{url}/group/0")
    press(page, "n")
    page.wait_for_url(f"{url}/group/1")
    press(page, "p")
    page.wait_for_url(f"{url}/group/0")
    press(page, "j", "j", "Enter")
    page.wait_for_url(f"{url}/rollout/g000000-k1")


def test_hostile_text_does_nothing(page, url):
    assert page.locator("img, main script").count() == 0
    page.get_by_role("link", name="hostile").click()
    page.wait_for_url("**/rollout/hostile**")
    for key in "01234f":
        press(page, key)
    assert page.locator("img, main script, iframe").count() == 0
    assert "\\x1b[31mred" in page.locator(".observation pre").inner_text()
    assert page.locator("h1").inner_text().startswith("hostile <script>alert(1)</script>")
    press(page, "g")
    page.wait_for_url(f"{url}/group/2")
    assert page.locator("img, main script, iframe").count() == 0


# Least contrast of all text on the page with what lies behind it (WCAG 2), and the text.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let least = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own.length || !element.checkVisibility()) continue;
    const behind = [];
    for (let e = element; e; e = e.parentElement) behind.unshift(getComputedStyle(e).backgroundColor);
    const back = luminance(over(['white', ...behind]));
    const front = luminance(over(['white', ...behind, getComputedStyle(element).color]));
    const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (contrast < least[0]) least = [contrast, element.className + ': ' + own[0].textContent];
  }
  return least;
}"""


@pytest.mark.parametrize("path", ["/", "/rollout/g000000-k0", "/group/0"])
def test_all_text_is_readable(page, url, path):
    page.goto(url + path)
    for key in "f01234":
        press(page, key)
        contrast, text = page.evaluate(CONTRAST)
        assert contrast >= 4.5, text


def test_pages_work_without_scripts(browser, url):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{url}/rollout/g000000-k0")
        page.get_by_label("entropy at choice").check()
        assert page.locator(".as-tokens").is_visible()


def test_a_page_says_that_the_run_has_gone_on(browser, url, run):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        write_group(run, 7)
        page.get_by_text("the run has gone on").click(timeout=15_000)
        page.get_by_role("link", name="g000007-k0").wait_for()
