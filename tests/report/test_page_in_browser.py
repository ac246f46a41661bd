"""The page of bundles in a real browser, Debian's chromium: make test-browser."""

import math
import os
import shutil
from itertools import permutations, product
from pathlib import Path

import pytest

from et_pipeline.report.bundles import METRICS, find, fronts, rows
from et_pipeline.report.bundles_page import anchor, page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: make test-browser installs it")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: apt-get install chromium"),
]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FIGURES = ("size", "KL", "decode", "prefill", "memory")
PICTURE = "document.getElementById('picture')"


@pytest.fixture(scope="module")
def made(shelf):
    return rows(find(shelf)[0])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as started:
        profile = tmp_path_factory.mktemp("profile")
        context = started.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, offline=True
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def file(shelf, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page("shelf", *find(shelf)), encoding="utf-8")
    return path


@pytest.fixture
def tab(browser, file):
    """The page, opened from a file; afterwards, whether it asked for anything else, or complained."""
    opened, asked, complaints = browser.new_page(), set(), []
    opened.set_viewport_size({"width": 1400, "height": 1000})
    opened.on("request", lambda request: asked.add(request.url.partition("#")[0]))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(file.as_uri())
    yield opened
    opened.close()
    assert {url for url in asked if not url.startswith("blob:")} == {file.as_uri()}  # a blob is the page's own
    assert complaints == []


def shown(tab):
    """The bundles of the table, from the top."""
    return tab.locator("#table tbody tr:visible a").all_inner_texts()


def heading(tab, name):
    return tab.locator("#table thead th").filter(has_text=name).first


def values(tab, name):
    """What a column is sorted by, from the top."""
    at = heading(tab, name).evaluate("(cell) => cell.cellIndex")
    return tab.locator("#table tbody tr").evaluate_all("(rows, at) => rows.map((r) => r.cells[at].dataset.value)", at)


def drawn(tab):
    """The row's number of each point, and of those that are marked as on the front."""
    traces = [trace for trace in tab.evaluate(f"{PICTURE}.data") if "customdata" in trace]
    sizes = {n: size for trace in traces for n, size in zip(trace["customdata"], trace["marker"]["size"], strict=True)}
    return list(sizes), {n for n, size in sizes.items() if size == 13}


def test_a_heading_sorts_up_and_down_and_what_is_not_known_stays_last(tab, made):
    for name in ("size", "KL", "decode"):
        known = sorted(row.cells[name].value for row in made if name in row.cells)
        button = heading(tab, name).get_by_role("button")
        button.click()
        assert heading(tab, name).get_attribute("aria-sort") == "ascending"
        assert values(tab, name) == [*map(str, known), *[""] * (len(made) - len(known))]
        button.press("Enter")  # as with the keyboard
        assert heading(tab, name).get_attribute("aria-sort") == "descending"
        assert values(tab, name) == [*map(str, known[::-1]), *[""] * (len(made) - len(known))]
        assert tab.locator("#table th[aria-sort]").count() == 1


def test_a_filter_hides_rows_and_points(tab, made):
    tab.get_by_label("Filter").fill("BETA xnnpack")
    expected = {row.bundle for row in made if row.model == "beta" and row.cells["backend"].text == "xnnpack"}
    assert set(shown(tab)) == {made[number].bundle for number in drawn(tab)[0]} == expected
    assert tab.locator("#count").inner_text() == f"{len(expected)} of {len(made)} shown"
    tab.get_by_label("Filter").fill("nothing is called so")
    assert shown(tab) == drawn(tab)[0] == []
    tab.get_by_label("Filter").fill("")
    tab.locator("#model").select_option("alpha")
    assert set(shown(tab)) == {row.bundle for row in made if row.model == "alpha"}
    tab.get_by_label("passed only").check()
    assert set(shown(tab)) == {row.bundle for row in made if row.model == "alpha" and row.passed}


def test_any_two_figures_are_drawn_with_their_front(tab, made):
    known = fronts(made)
    for x, y in product(FIGURES, repeat=2):
        tab.get_by_label("Across").select_option(x)
        tab.get_by_label("Up").select_option(y)
        for axis, name in (("x", x), ("y", y)):
            assert tab.locator(f"#picture .{axis}title").text_content() == METRICS[name].title
        expected = known.get(f"{x}|{y}") or known.get(f"{y}|{x}") or {"model": [], "all": []}
        for scope in ("model", "all"):
            tab.locator("#scope").select_option(scope)
            numbers, marked = drawn(tab)
            assert set(numbers) == {n for n, row in enumerate(made) if {x, y} <= row.cells.keys()}
            assert marked == set(expected[scope])
            assert tab.locator("#table .badge:visible").count() == len(marked)


@pytest.mark.parametrize("words", ["", "fp32", "alpha", "beta xnnpack", "vectors"])
def test_every_point_is_within_the_axes(tab, words):
    tab.get_by_label("Filter").fill(words)
    for x, y in permutations(FIGURES, 2):
        tab.get_by_label("Across").select_option(x)
        tab.get_by_label("Up").select_option(y)
        for axis in "xy":
            layout = tab.evaluate(f"{PICTURE}.layout.{axis}axis")
            place = math.log10 if layout["type"] == "log" else float
            low, high = layout["range"]
            found = [value for trace in tab.evaluate(f"{PICTURE}.data") for value in trace[axis]]
            assert all(low < place(value) < high for value in found), (x, y, layout, found)


def test_what_failed_its_gate_is_a_cross(tab, made):
    symbols = {
        number: trace["marker"]["symbol"]
        for trace in tab.evaluate(f"{PICTURE}.data")
        for number in trace.get("customdata", ())
    }
    legend = tab.locator("#picture .legendtext").all_text_contents()
    assert sorted(legend) == sorted({made[number].model for number in symbols})
    assert symbols == {n: "circle" if made[n].passed else "x" for n in symbols}
    assert set(symbols.values()) == {"circle", "x"}


def test_a_click_on_a_point_leads_to_its_bundle_and_back(tab, made):
    number = next(n for n, row in enumerate(made) if row.bundle == "alpha-8")
    box = tab.locator("#picture .point").nth(drawn(tab)[0].index(number)).bounding_box()
    at = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(*at)
    assert "alpha-8" in tab.locator("#picture .hoverlayer").text_content()
    tab.mouse.click(*at)
    tab.wait_for_url(f"**#{anchor('alpha-8')}")
    assert tab.locator("section:visible").get_attribute("id") == anchor("alpha-8")
    assert not tab.locator("#picture").is_visible()
    tab.go_back()
    assert tab.locator("#picture .point").first.is_visible()
    assert shown(tab) == [row.bundle for row in made]


def test_a_click_on_a_row_leads_to_its_bundle(tab, made):
    for number, row in enumerate(made):
        tab.locator("#table tbody tr").nth(number).locator("td").nth(1).click()
        assert tab.locator("section:visible h1").all_inner_texts() == [row.bundle]
        tab.locator("section:visible").get_by_role("link", name="All bundles").click()
        assert tab.locator("#table").is_visible()


def test_a_page_opened_at_a_bundle_draws_its_picture_when_it_is_asked_for(tab, file):
    tab.goto("about:blank")
    tab.goto(f"{file.as_uri()}#{anchor('alpha-8')}")
    assert tab.locator("section:visible").count() == 1
    tab.locator("section:visible").get_by_role("link", name="All bundles").click()
    assert tab.locator("#picture .main-svg").first.bounding_box()["width"] > 1000


def test_names_are_text_in_the_picture_too(tab, made):
    assert tab.locator("#picture svg a[*|href], #picture svg script").count() == 0
    assert "<script>alert(1)</script>" in tab.locator("#picture .legend").text_content()
    assert '<a href="//x.y">z</a>' in tab.locator("#picture .scatterlayer").text_content()


def test_nothing_offers_to_send_the_picture_away(tab):
    buttons = tab.locator("#picture .modebar-btn").evaluate_all("(each) => each.map((button) => button.dataset.title)")
    assert buttons == ["Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"]
    assert tab.evaluate(f"{PICTURE}._context.plotlyServerURL") == ""
    with tab.expect_download() as download:
        tab.locator("#picture .modebar-btn").first.click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_it_is_readable_in_light_and_dark_wide_and_narrow(tab, scheme, width):
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 900})
    for _ in range(50):  # it follows the window in its own time
        if (reached := tab.evaluate("document.documentElement.scrollWidth")) <= width:
            break
        tab.wait_for_timeout(100)
    assert reached <= width
    plot = tab.locator("#picture .bglayer").bounding_box()
    names = [name.bounding_box() for name in tab.locator("#picture .textpoint").all() if name.text_content()]
    assert names
    for name in names:
        assert plot["x"] <= name["x"]
        assert name["x"] + name["width"] <= plot["x"] + plot["width"]
    back, text = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(map(int, back[4:-1].split(","))) < 384) == (scheme == "dark")
    assert tab.locator("#picture .xtitle").evaluate("(title) => getComputedStyle(title).fill") == text
    if "ET_PIPELINE_SCREENSHOTS" in os.environ:  # a folder, for people to look at them
        tab.screenshot(path=Path(os.environ["ET_PIPELINE_SCREENSHOTS"], f"{scheme}-{width}.png"), full_page=True)
