"""The report in a real browser: Debian's chromium, driven by Playwright."""

import shutil
from itertools import pairwise

import pytest

from records import HOSTILE, make_compare_record, make_prune_record
from secateurs.report.stored import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra browser)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")
NETWORK_FIGURES = ("heat", "pairs", "map", "importance", "entropy", "widths")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Opened:
    """A page, with all that the console said and all that was asked of the network."""

    def __init__(self, browser, path, **settings):
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("() => document.querySelectorAll('.plot .main-svg').length > 0")

    def colour_of(self, selector, name):
        return self.page.evaluate("([s, n]) => getComputedStyle(document.querySelector(s))[n]", [selector, name])


@pytest.fixture
def show(browser, tmp_path):
    opened = []

    def open_page(record, **settings):
        path = tmp_path / "report.html"
        write_page(record, path)
        opened.append(Opened(browser, path, **settings))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


@pytest.mark.parametrize("record", [make_prune_record(), make_compare_record()], ids=["prune", "compare"])
def test_it_opens_from_disk_without_an_error_or_a_request(show, record, tmp_path):
    opened = show(record)
    plots = opened.page.locator(".plot")
    assert plots.count() > 0
    assert all(plots.nth(place).locator(".main-svg").count() > 0 for place in range(plots.count()))
    assert opened.said == []
    assert opened.asked == [(tmp_path / "report.html").as_uri()]


def test_choosing_a_network_changes_all_its_figures(show):
    opened = show(make_prune_record())

    def drawn(key):
        return opened.page.evaluate(
            "id => JSON.stringify(document.getElementById(id).data.map(trace => [trace.z, trace.x, trace.y]))",
            f"network-{key}",
        )

    first = {key: drawn(key) for key in NETWORK_FIGURES}
    told = opened.page.locator("#network-map").get_attribute("aria-label")
    opened.page.select_option("#network", "2")
    assert all(drawn(key) != first[key] for key in NETWORK_FIGURES)
    assert opened.page.locator("#network-map").get_attribute("aria-label") != told
    told = opened.page.locator("#told").inner_text()
    assert (
        told
        == "3 of 3; width 24 before, 12 after; output error 0.3200 as cut, 0.1000 refitted; dead: 1 of those looked at"
    )
    opened.page.click("#next")  # round to the first
    assert {key: drawn(key) for key in NETWORK_FIGURES} == first


def test_the_keyboard_is_enough(show):
    opened = show(make_prune_record())
    opened.page.focus("#network")
    opened.page.keyboard.press("ArrowDown")
    opened.page.wait_for_function("() => document.getElementById('told').textContent.startsWith('2 of 3')")
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.id") == "next"
    opened.page.keyboard.press("Enter")
    assert opened.page.locator("#told").inner_text().startswith("3 of 3")


@pytest.mark.parametrize(
    ("record", "figure", "words"),
    [
        (
            make_prune_record(),
            "network-map",
            ("neuron:", "importance:", "nearest that stays:", "in common with it, nats:"),
        ),
        (make_compare_record(), "across-quality", ("secateurs: refit", "gap:")),
    ],
    ids=["neuron", "way to prune"],
)
def test_pointing_at_a_point_tells_of_it(show, record, figure, words):
    opened = show(record)
    opened.page.locator(f"#{figure}").scroll_into_view_if_needed()
    point = opened.page.locator(f"#{figure} .points path.point").first.bounding_box()
    opened.page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    hover = opened.page.locator(f"#{figure} .hoverlayer .hovertext")
    hover.first.wait_for()
    text = hover.first.text_content()
    assert [word for word in words if word not in text] == []


def test_tables_can_be_sorted(show):
    opened = show(make_compare_record())
    headers = opened.page.locator("table.sortable th")

    def column(number):
        cells = opened.page.locator(f"table.sortable tbody td:nth-child({number + 1})")
        return [text.strip() for text in cells.all_inner_texts()]

    names = [text.strip() for text in headers.all_inner_texts()]
    assert column(0) == ["secateurs", "random", "osscar"]
    headers.nth(0).locator("button").click()
    assert column(0) == ["osscar", "random", "secateurs"]
    assert headers.nth(0).get_attribute("aria-sort") == "ascending"
    seconds = next(place for place, name in enumerate(names) if name.startswith("seconds"))
    headers.nth(seconds).locator("button").click()
    headers.nth(seconds).locator("button").click()
    assert column(seconds) == ["2.5", "1.5", "0.5"]
    assert headers.nth(seconds).get_attribute("aria-sort") == "descending"
    assert headers.nth(0).get_attribute("aria-sort") is None


def test_dark_mode_follows_the_system_and_its_change(show):
    opened = show(make_prune_record(), color_scheme="dark")
    assert opened.colour_of("body", "backgroundColor") == "rgb(20, 23, 28)"

    def text_colour():
        return opened.page.evaluate("document.getElementById('network-map').layout.font.color")

    dark = text_colour()
    opened.page.emulate_media(color_scheme="light")
    opened.page.wait_for_function("old => document.getElementById('network-map').layout.font.color !== old", arg=dark)
    assert opened.colour_of("body", "backgroundColor") == "rgb(255, 255, 255)"


def test_print_is_on_white(show):
    opened = show(make_prune_record(), color_scheme="dark")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.colour_of("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert opened.page.evaluate("document.getElementById('network-map').layout.font.color") == "#000000"
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.colour_of("body", "backgroundColor") == "rgb(20, 23, 28)"


@pytest.mark.parametrize("record", [make_prune_record(), make_compare_record()], ids=["prune", "compare"])
def test_it_fits_a_phone(show, record):
    opened = show(record, viewport={"width": 360, "height": 740})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert all(box["width"] <= 360 for box in (plot.bounding_box() for plot in opened.page.locator(".plot").all()))
    assert opened.said == []


@pytest.mark.parametrize("make", [make_prune_record, make_compare_record])
def test_hostile_texts_stay_text(show, make):
    record = make(text=HOSTILE)
    if record.kind == "compare":
        record = make(text=HOSTILE, methods=(HOSTILE, "random"))
    opened = show(record)
    for point in opened.page.locator(".points path.point").all()[:3]:
        point.scroll_into_view_if_needed()
        point.hover(force=True)
    if record.kind == "prune":
        opened.page.select_option("#network", "1")
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("h1").inner_text().startswith("</script><img src=x")
    assert opened.said == []
    assert len(opened.asked) == 1


def test_headings_and_labels_are_in_order(show):
    opened = show(make_prune_record())
    levels = opened.page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(two <= one + 1 for one, two in pairwise(levels))
    assert opened.page.evaluate(
        "[...document.querySelectorAll('.plot')].every(p => p.getAttribute('aria-label').length > 30)"
    )
    assert opened.page.evaluate("document.querySelectorAll('h3:empty').length") == 0


@pytest.mark.parametrize(("networks", "width"), [(30, 1536), (80, 28672)])
def test_a_large_one_opens_in_time(show, networks, width):
    opened = show(make_prune_record(networks=networks, neurons=512, width=width))
    ready_ms = opened.page.evaluate("performance.now()")
    assert ready_ms < 10_000  # 3 s on a machine that does nothing else: benchmarks/report
    assert opened.said == []
