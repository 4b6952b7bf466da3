"""The page in a real browser: properties that no parser can check."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from test_report import write_inputs, written_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="THE PAGE WAS NOT LOOKED AT: no chromium here; `apt-get install chromium chromium-driver`",
    ),
]

# Only the page may use the network, so that every detected request comes from the page.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
WIDTHS = (1280, 820, 390, 320)

CLIPPED_TEXT = """
const outside = [];
for (const svg of document.querySelectorAll("svg")) {
  const room = svg.getBoundingClientRect();
  if (!room.width) continue;
  for (const text of svg.querySelectorAll("text")) {
    const box = text.getBoundingClientRect();
    const inside = box.left >= room.left - 1 && box.right <= room.right + 1;
    if (!inside || box.top < room.top - 1 || box.bottom > room.bottom + 1) outside.push(text.textContent);
  }
}
return outside;
"""

OVERLAPPING_LABELS = """
const touching = [];
for (const svg of document.querySelectorAll("svg.lines, svg.square")) {
  const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  boxes.forEach(([name, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (a.width && wide > 1 && high > 3) touching.push(name + " / " + other);
  }));
}
return touching;
"""

OPEN = "document.querySelectorAll('details').forEach(part => { part.open = true; })"

SHOWN = "return document.querySelector('#run-digits figure').checkVisibility()"

CUT_OFF = """
return [...document.querySelectorAll(".scroll")].filter(part => part.scrollWidth > part.clientWidth + 1)
  .map(part => part.textContent.trim().slice(0, 40));
"""

# Every piece of text is compared with the colours behind it; cells of a heat map are mixed like in the browser.
CONTRASTS = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const over = (top, alpha, below) => below.map((value, i) => alpha * top[i] + (1 - alpha) * value);
const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = element => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
    layers.push([[r, g, b], a]);
  }
  let colour = [255, 255, 255];
  for (const [rgb, alpha] of layers.reverse()) colour = over(rgb, alpha, colour);
  const svg = element.tagName === "text" && element.closest("svg.heat");
  if (svg) {
    const box = element.getBoundingClientRect(), x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
    for (const cell of svg.querySelectorAll("path, use")) {
      const style = getComputedStyle(cell), at = cell.getBoundingClientRect();
      const covers = at.left < x && x < at.right && at.top < y && y < at.bottom;
      if (covers && style.fill !== "none" && !cell.closest("defs"))
        colour = over(parse(style.fill).slice(0, 3), Number(style.fillOpacity) * Number(style.opacity), colour);
    }
  }
  return colour;
};
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const unseen = ["SCRIPT", "STYLE", "title", "desc"].includes(element.tagName);
  if (!own || unseen || !element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const ink = parse(element.tagName === "text" ? style.fill : style.color).slice(0, 3);
  const pair = [light(ink), light(ground(element))].sort((a, b) => a - b);
  const ratio = (pair[1] + 0.05) / (pair[0] + 0.05);
  if (ratio < 4.45) low.push(element.textContent.slice(0, 30) + " " + ratio.toFixed(2));
}
return low;
"""


class Browser:
    """A headless Chromium, controlled by plain WebDriver, so that no package is needed."""

    def __init__(self, profile):
        self.driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started = next((line for line in self.driver.stdout if "successfully on port" in line), "")
        self.address = "http://127.0.0.1:" + re.findall(r"on port (\d+)", started)[0]
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.session = ""
        self.session = self.send("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def send(self, path, body=None, method="POST"):
        address = f"{self.address}/session{'/' + self.session if self.session else ''}{path}"
        data = None if method == "DELETE" else json.dumps(body or {}).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
        with self.opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def command(self, name, **values):
        return self.send("/goog/cdp/execute", {"cmd": name, "params": values})

    def run(self, script):
        return self.send("/execute/sync", {"script": script, "args": []})

    def show(self, page, *, width=1280, scheme="light", media="", opened=True):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", media=media, features=[feature])
        self.send("/url", {"url": page.as_uri()})
        if opened:
            self.run(OPEN)

    def log(self, kind):
        return self.send("/se/log", {"type": kind})

    def picture(self, path, **clip):
        values = {"clip": clip | {"scale": 1}} if clip else {}
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True, **values)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        with contextlib.suppress(OSError):
            self.send("", method="DELETE")
        self.driver.terminate()
        self.driver.wait(20)
        self.driver.stdout.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    arguments = write_inputs(tmp_path_factory.mktemp("inputs"))
    written_page(arguments)
    return arguments.output


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def test_nothing_is_requested_but_the_page_and_the_console_stays_silent(browser, page):
    browser.send("/url", {"url": "about:blank"})
    browser.log("performance")
    browser.log("browser")
    browser.show(page)
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "chrome:"))} == {page.as_uri()}
    assert browser.log("browser") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_page_never_scrolls_sideways_and_no_text_is_cut(browser, page, width):
    browser.show(page, width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(CLIPPED_TEXT) == []
    assert browser.run(OVERLAPPING_LABELS) == []


def test_every_image_loads_and_says_what_it_shows(browser, page):
    browser.show(page)
    found = browser.run("return [...document.images].map(image => [image.complete, image.naturalWidth, image.alt])")
    assert len(found) == 1
    assert all(complete and width > 100 and alt for complete, width, alt in found)


def test_a_wide_window_cuts_no_table_off(browser, page):
    browser.show(page, width=1280)
    assert browser.run(CUT_OFF) == []


def test_details_are_closed_at_first_and_a_link_opens_them(browser, page):
    browser.show(page, opened=False)
    assert browser.run("return document.querySelectorAll('details[open]').length") == 0
    assert not browser.run(SHOWN)
    browser.run("document.querySelector('a[href=\"#run-digits\"]').click()")
    assert browser.run(SHOWN)


def test_paper_shows_everything_and_cuts_nothing_off(browser, page):
    browser.show(page, width=690, media="print", opened=False)  # an A4 sheet between its margins
    assert browser.run("return document.documentElement.scrollWidth") <= 690
    assert browser.run(CUT_OFF) == []
    assert browser.run(SHOWN)


def test_ids_stand_once_and_each_figure_is_named(browser, page):
    browser.show(page)
    ids = browser.run("return [...document.querySelectorAll('[id]')].map(part => part.id)")
    assert len(ids) == len(set(ids))
    names = browser.run("""return [...document.querySelectorAll('svg[role=img]')].map(svg =>
        svg.getAttribute('aria-labelledby').split(' ').map(id => document.getElementById(id).textContent))""")
    assert len(names) > 10
    assert all(title and described for title, described in names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(browser, page, scheme):
    browser.show(page, scheme=scheme)
    assert browser.run(CONTRASTS) == []


def test_dark_preference_makes_the_page_dark_and_paper_stays_white(browser, page):
    grounds = []
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        browser.show(page, scheme=scheme, media=media)
        colour = browser.run("return getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
    assert grounds[0] > 700
    assert grounds[1] < 100
    assert grounds[2] == 765


def test_a_title_sorts_its_column_both_ways_and_blanks_stay_last(browser, page):
    browser.show(page)
    column = """
      const table = document.querySelector("#run-digits_sgd table.sortable");
      const at = [...table.tHead.rows[0].cells].findIndex(head => head.textContent === arguments[0]);
    """.replace("arguments[0]", "'forgetting from best'")
    click = column + "table.tHead.rows[0].cells[at].querySelector('button').click();"
    read = click + "return [...table.tBodies[0].rows].map(row => row.cells[at].dataset.value);"
    down, up = browser.run(read), browser.run(read)
    numbers = [float(value) for value in down if value]
    assert numbers == sorted(numbers, reverse=True)
    assert up == [*[value for value in reversed(down) if value], ""]
    assert down[-1] == ""


def test_page_is_complete_without_scripts(browser, page):
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.show(page)
        tree = browser.command("DOM.getDocument", depth=-1)
        text = json.dumps(tree)
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert "nearest class mean" in text
    assert '"nodeName": "BUTTON"' not in text


def test_picture_of_the_page_shows_more_than_one_colour(browser, page, tmp_path):
    image = pytest.importorskip("PIL.Image")
    browser.show(page, width=390, scheme="dark")
    browser.picture(tmp_path / "page.png")
    with image.open(tmp_path / "page.png") as shot:
        assert shot.width == 390
        assert len(shot.convert("RGB").getcolors(1 << 20) or []) > 50
