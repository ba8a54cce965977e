"""The page in a real browser."""

import shutil

import pytest
from playwright import sync_api

from tests.reporting.pages import make_viewed_image, write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, [make_viewed_image(index, 30, (120, 160)) for index in range(3)])
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(require):
    require("chromium", CHROMIUM)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser):
    return browser.new_context()


@pytest.fixture
def page(context, address):
    """The page at laptop size; fails for any message on the console and any request but for the file."""
    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 900})
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or messages.append(request.url))
    page.goto(address)
    page.locator("#stage").scroll_into_view_if_needed()
    yield page
    page.close()
    assert messages == []


def read_scale(page) -> float:
    return page.evaluate("document.getElementById('world').transform.baseVal.consolidate().matrix.a")


def find_shown(page, group: str):
    return page.locator(f"#canvas .{group} [data-row]:visible")


def move_to(page, outline: str) -> None:
    box = page.locator(outline).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


@pytest.mark.parametrize(("key", "group"), [("g", "truth"), ("p", "predictions")])
def test_keys_and_boxes_toggle_outlines(page, key, group):
    count = find_shown(page, group).count()
    page.keyboard.press(key)
    assert count > 10
    assert find_shown(page, group).count() == 0
    assert not page.locator(f"#show-{group}").is_checked()
    page.locator(f"#show-{group}").check()
    assert find_shown(page, group).count() == count


def test_only_errors_hides_what_is_right(page):
    count = find_shown(page, "predictions").count()
    page.keyboard.press("e")
    assert 0 < find_shown(page, "predictions").count() < count


def test_legend_hides_a_kind(page):
    count = find_shown(page, "truth").count()
    page.locator("#legend button", has_text="missed").click()
    assert find_shown(page, "truth").count() < count
    assert page.locator("#legend button", has_text="missed").get_attribute("aria-pressed") == "false"


def test_hovering_names_the_instance(page):
    move_to(page, "#canvas .predictions [data-row='3']")
    text = page.locator("#tip").inner_text()
    assert "Prediction 4: " in text
    assert all(part in text for part in ("class", "score 0.", "IoU 0."))
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()


def test_colours_follow_the_choice(page):
    outline = page.locator("#canvas .truth [data-row='0']")
    by_kind = outline.evaluate("element => element.style.stroke")
    page.locator("#color-by").select_option("class")
    assert outline.evaluate("element => element.style.stroke") != by_kind
    assert "class1" in page.locator("#legend").inner_text()


def test_wheel_and_buttons_zoom_and_double_click_fits(page):
    fitted = read_scale(page)
    page.wait_for_timeout(300)  # a wheel right after scrolling goes on scrolling
    move_to(page, "#stage")
    page.mouse.wheel(0, -200)
    page.wait_for_function(
        f"document.getElementById('world').transform.baseVal.consolidate().matrix.a > {fitted} * 1.2"
    )
    page.locator("#zoom-in").click()
    assert read_scale(page) > 1.7 * fitted
    page.locator("#stage").dblclick()
    assert read_scale(page) == pytest.approx(fitted)


def test_dragging_pans(page):
    page.keyboard.press("+")
    move_to(page, "#stage")
    before = page.locator("#world").get_attribute("transform")
    page.mouse.down()
    page.mouse.move(300, 300, steps=4)
    page.mouse.up()
    assert page.locator("#world").get_attribute("transform") != before


def test_arrow_keys_and_thumbnails_choose_the_image(page):
    names = page.locator("#thumbnails b").all_inner_texts()
    page.keyboard.press("ArrowRight")
    assert page.locator("#name").inner_text() == names[1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#name").inner_text() == names[2]
    page.locator("#thumbnails button").nth(1).click()
    assert page.locator("#name").inner_text() == names[1]


def test_worst_instance_is_shown_enlarged(page):
    fitted = read_scale(page)
    page.locator(".worst summary").click()
    page.locator(".worst .link").nth(1).click()
    assert read_scale(page) > fitted


def test_phone_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#stage").bounding_box()["width"] > 340


def test_tap_names_the_instance(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(address)
    page.locator("#canvas .truth [data-row='0']").scroll_into_view_if_needed()
    box = page.locator("#canvas .truth [data-row='0']").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "Ground truth 1: " in page.locator("#tip").inner_text()
    page.close()


def test_print_has_all_settings_and_no_controls(page):
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator(".settings").is_visible()
    assert not page.locator(".toolbar").is_visible()
    assert page.locator("#thumbnails li:visible").count() == 3
