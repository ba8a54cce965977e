"""The page in a real browser, on made objects."""

import time

import pytest

from tests.serve.browsing import (
    drag,
    go_to,
    locate,
    pick,
    read_selected,
    read_shown,
    set_range,
    until,
    until_drawn,
    until_still,
    zoom_to,
)
from tests.serve.fake_server import FakeServer, Slide


@pytest.fixture
def server():
    with FakeServer([Slide("i1", "first.tif", 700, 300), Slide("i2", "second.tif", 640, 100)]) as server:
        yield server


@pytest.fixture
def page(browser, server):
    """The page at laptop size; fails for any message on the console, such as for what its policy forbids."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.allowed = ["Ignoring tile"]  # OpenSeadragon says so where an image is left before its tiles came
    page.goto(server.address)
    until_drawn(page)
    yield page
    page.close()
    assert [text for text in messages if not any(part in text for part in page.allowed)] == []


def read_ids(page) -> dict[int, int]:
    """How many pixels of the image each object has, read off the id buffer at two screen pixels for one."""
    return page.evaluate(
        """() => {
            const counts = {};
            for (const value of manymask.viewer.overlays[0].layers[0]) {
                const id = value & 0x7fffffff;
                if (id) counts[id] = (counts[id] ?? 0) + 1;
            }
            return counts;
        }"""
    )


def test_objects_are_painted_to_the_pixel(page, server):
    slide = server.slides["i1"]
    zoom_to(page, 150, 2)
    assert page.evaluate("manymask.viewer.view.scale") == pytest.approx(2)
    painted = read_ids(page)
    for id in range(1, 301):
        x, y = locate(page, id)
        if 340 < x < 900 and 150 < y < 650:
            assert painted[str(id)] == 4 * int(slide.area[id - 1])
    left, top, mask = slide.get_mask(150)
    x, y = locate(page, 150)
    for row, column in zip(*mask.nonzero(), strict=True):
        place = float(x + 2 * (left + column - slide.x[149])), float(y + 2 * (top + row - slide.y[149]))
        assert pick(page, *place)[0] == 150


def test_outlines_are_one_pixel_wide_at_any_zoom(page):
    for scale in (1, 4):
        x, y = zoom_to(page, 160, scale)
        box = page.locator("#stage").bounding_box()
        edges = page.evaluate(
            """([x, y]) => {
                const { layers, canvas } = manymask.viewer.overlays[0], edges = [];
                for (let column = x; column < x + 120; column++) {
                    const value = layers[0][column * canvas.height + y];
                    edges.push((value & 0x7fffffff) === 160 ? (value < 0 ? 2 : 1) : 0);
                }
                return edges;
            }""",
            [int(x - box["x"]), int(y - box["y"])],
        )
        inside = edges[: edges.index(0)]
        assert inside[:-1] == [1] * (len(inside) - 1)
        assert inside[-1] == 2


def test_filters_count_and_hide(page, server):
    slide = server.slides["i1"]
    assert read_shown(page) == (300, 300)
    set_range(page, "lowest score", 700)
    assert read_shown(page) == (int((slide.score >= round(0.7 * 65535)).sum()), 300)
    low = int(slide.score.argmin()) + 1
    assert pick(page, *locate(page, low)) == []
    page.get_by_role("button", name="show all").click()
    page.wait_for_timeout(100)
    assert read_shown(page) == (300, 300)
    page.get_by_label("tumour").uncheck()
    page.wait_for_timeout(100)
    assert read_shown(page)[0] == int((slide.cls != 0).sum())
    page.locator("#filter-classes label").first.dblclick()
    page.wait_for_timeout(100)
    assert read_shown(page)[0] == int((slide.cls == 0).sum())


def test_a_moved_slider_leaves_what_colouring_all_would(page):
    """Only objects between where the slider was and is are looked at, in the table and in the density."""
    differences = page.evaluate(
        """async () => {
            const { state: { objects }, select } = manymask, inputs = [...document.querySelectorAll(".range input")];
            const read = () => {
                const { pixels, sums } = objects.getDensity();
                return JSON.stringify([...objects.table, objects.shown, ...pixels, ...sums]);
            };
            const full = objects.colour.bind(objects), wrong = [];
            let numFull = 0;
            objects.colour = () => (numFull++, full());
            // As small as objects are whose sizes are few, between which the ends of the slider lie.
            objects.area.forEach((area, id) => (objects.area[id] = area / 8));
            objects.measure();
            manymask.filters.update();
            objects.getDensity();
            numFull = 0;
            for (let i = 0; i < 60; i++) {
                const input = inputs[i % 4], isUpper = i % 2;
                input.value = (isUpper ? 1000 : 0) + (isUpper ? -1 : 1) * ((i * 37) % 450);
                input.dispatchEvent(new Event("input"));
                if (i % 9 === 5) select([1 + ((i * 31) % 300), 2 + ((i * 17) % 290)]);
                await new Promise(requestAnimationFrame);
                const moved = read();
                full();
                if (read() !== moved) wrong.push(i);
            }
            return [wrong, numFull];
        }"""
    )
    assert differences[0] == []
    assert differences[1] < 40  # of 60 moves and 7 selections: the others did not look at all objects


def test_filters_reach_the_download(page):
    set_range(page, "lowest score", 700)
    set_range(page, "highest size", 500)
    page.get_by_label("stroma").uncheck()
    page.wait_for_timeout(100)
    page.get_by_role("button", name="Download").click()
    page.locator("#formats").select_option("geojson")
    with page.expect_download() as download:
        page.get_by_role("link", name="Shown objects").click()
    assert "download/geojson?min_score=0.7000076295109483&" in download.value.url
    assert "classes=1%2C3" in download.value.url
    assert "max_area" in download.value.url
    page.keyboard.press("Escape")
    page.get_by_label("only unusual sizes").check()
    until(page, "manymask.filters.query.get('odd') === 'true'")


def test_pointer_tells_what_lies_under_it(page):
    page.mouse.move(*locate(page, 77))
    assert "object 77" in page.locator("#tip").inner_text()
    page.mouse.move(*locate(page, 78))
    assert "object 78" in page.locator("#tip").inner_text()
    page.mouse.click(*locate(page, 77))
    assert read_selected(page) == [77]
    page.get_by_text("All measurements").click()
    page.get_by_text("perimeter").wait_for()
    page.keyboard.press("Escape")
    assert read_selected(page) == []


def test_box_and_lasso_add_and_take_out(page):
    page.keyboard.press("r")
    (x0, y0), (x1, y1) = locate(page, 55), locate(page, 75)
    drag(page, (x0 - 8, y0 - 8), (x1 + 8, y1 + 8))
    first = set(read_selected(page))
    assert {55, 75} <= first
    assert "selected" in page.locator("#selection-title").inner_text()
    page.keyboard.press("l")
    x, y = locate(page, 55)
    page.keyboard.down("Alt")
    drag(page, (x - 9, y - 9), (x + 9, y - 9), (x + 9, y + 9), (x - 9, y + 9))
    page.keyboard.up("Alt")
    assert set(read_selected(page)) == first - {55}
    x, y = locate(page, 120)
    page.keyboard.down("Shift")
    drag(page, (x - 9, y - 9), (x + 9, y - 9), (x + 9, y + 9), (x - 9, y + 9))
    page.keyboard.up("Shift")
    assert set(read_selected(page)) == first - {55} | {120}


def test_delete_class_accept_undo_redo(page, server):
    slide = server.slides["i1"]
    page.mouse.click(*locate(page, 100))
    page.keyboard.press("Delete")
    until(page, "manymask.state.objects.number === 299")
    assert pick(page, *locate(page, 100)) == []
    page.keyboard.press("Control+z")
    until(page, "manymask.state.objects.number === 300")
    page.keyboard.press("Control+Shift+z")
    until(page, "manymask.state.objects.number === 299")
    page.keyboard.press("Control+z")
    until(page, "manymask.state.objects.number === 300")
    until_still(page)
    page.mouse.click(*locate(page, 100))
    page.keyboard.press("3")
    until(page, "manymask.state.objects.cls[100] === 2")
    page.get_by_role("button", name="Accept").click()
    until(page, "manymask.state.objects.flags[100] & 16")
    assert slide.flags[99] & 16
    until_still(page)
    assert "saved" in page.locator("#saved").inner_text()
    page.wait_for_timeout(450)  # the view moves to the next object
    page.keyboard.press("0")
    page.wait_for_timeout(450)
    until_still(page)
    page.keyboard.down("Control")
    page.mouse.click(*locate(page, 101))
    page.keyboard.up("Control")
    until(page, "manymask.state.objects.number === 299")


def test_merge_and_split(page, server):
    slide = server.slides["i1"]
    together = int(slide.area[99] + slide.area[100])
    page.mouse.click(*locate(page, 100))
    page.keyboard.down("Shift")
    page.mouse.click(*locate(page, 101))
    page.keyboard.up("Shift")
    page.keyboard.press("m")
    until(page, "manymask.state.objects.flags[101] & 4")
    until_still(page)
    assert together - 60 < slide.area[99] <= together
    x, y = go_to(page, 120)
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    drag(page, (x - 150, y), (x + 150, y))
    until(page, "manymask.state.objects.size > 301")
    page.keyboard.press("Control+z")
    until(page, "manymask.state.objects.flags[301] & 4")
    until_still(page)
    assert slide.area[119] == slide.get_mask(120)[2].sum()


def test_brush_eraser_and_drawing(page, server):
    slide = server.slides["i1"]
    x, y = go_to(page, 140)
    before = int(slide.area[139])
    page.mouse.click(x, y)
    page.keyboard.press("b")
    drag(page, (x, y), (x + 160, y))
    assert slide.area[139] > before
    grown = int(slide.area[139])
    page.keyboard.press("e")
    drag(page, (x + 160, y - 4), (x + 120, y - 4), (x + 160, y + 4))
    assert slide.area[139] < grown
    page.keyboard.press("Control+z")
    until_still(page)
    page.keyboard.press("Control+z")
    until_still(page)
    assert slide.area[139] == before
    page.keyboard.press("v")
    page.keyboard.press("Escape")
    drag(page, (x - 60, y - 60), (x + 60, y - 60), (x + 60, y + 60), (x - 60, y + 60), button="right")
    scale = page.evaluate("manymask.viewer.view.scale")
    assert slide.area[-1] == pytest.approx((120 / scale) ** 2, rel=0.1)
    assert read_selected(page) == [301]


def test_edits_of_others_are_shown_and_not_written_over(page, server):
    page.allowed.append("409")
    page.mouse.click(*locate(page, 100))
    server.slides["i1"].apply({"op": "delete", "ids": [7]})
    page.keyboard.press("Delete")
    page.get_by_text("was changed elsewhere").wait_for()
    assert read_shown(page) == (299, 299)
    assert not server.slides["i1"].flags[99] & 4
    change = server.slides["i1"].apply({"op": "delete", "ids": [8]})
    server.tell({"type": "blocks", "id": "i1", "blocks": change["blocks"], "revision": change["revision"]})
    until(page, "manymask.state.objects.number === 298")


def test_a_failed_edit_is_told_and_can_be_repeated(page, server):
    page.allowed += ["507", "Failed to load", "ERR_"]
    page.mouse.click(*locate(page, 100))
    server.fails = "edits"
    page.keyboard.press("Delete")
    page.get_by_text("The disk of the server is full.").wait_for()
    assert read_shown(page) == (300, 300)
    server.fails = ""
    page.route("**/edits", lambda route: route.abort())
    page.wait_for_timeout(300)  # until the browser heeds it
    page.keyboard.press("Delete")
    page.get_by_text("The server does not answer.").locator("visible=true").wait_for()
    page.unroute("**/edits")
    page.get_by_role("button", name="Try again").click()
    until(page, "manymask.state.objects.number === 299")


def test_what_is_tried_again_is_done_where_it_was_meant(page, server):
    page.allowed += ["Failed to load", "ERR_"]
    page.mouse.click(*locate(page, 50))
    page.route("**/edits", lambda route: route.abort())
    page.wait_for_timeout(300)  # until the browser heeds it
    page.keyboard.press("Delete")
    page.get_by_text("The server does not answer.").locator("visible=true").wait_for()
    page.unroute("**/edits")
    page.keyboard.press("d")
    until(page, "manymask.state.meta?.id === 'i2'")
    page.get_by_role("button", name="Try again").click()
    until(page, "!manymask.edits.pending")
    gone = [[id for id, flags in enumerate(server.slides[each].flags, start=1) if flags & 4] for each in ("i1", "i2")]
    assert gone == [[50], []]


def test_a_touch_that_is_called_off_leaves_the_tools_as_they_were(page):
    x, y = locate(page, 10)
    for kind, id in (("pointerdown", 7), ("pointercancel", 7)):
        page.evaluate(
            """([kind, pointerId, clientX, clientY]) => {
                const event = { pointerId, clientX, clientY, bubbles: true, cancelable: true, pointerType: "touch" };
                manymask.viewer.stage.setPointerCapture = () => {};
                manymask.viewer.stage.dispatchEvent(new PointerEvent(kind, event));
            }""",
            [kind, id, x, y],
        )
    page.mouse.move(x, y)
    page.mouse.down(button="middle")
    page.mouse.move(1270, 790)  # over the panel
    page.mouse.up(button="middle")
    page.mouse.click(x, y)
    assert read_selected(page) == [10]


def test_the_classes_that_are_shown_stay_from_image_to_image(page):
    page.get_by_label("tumour").uncheck()
    page.keyboard.press("d")
    until(page, "manymask.state.meta?.id === 'i2'")
    until_drawn(page)
    assert not page.get_by_label("tumour").is_checked()
    assert page.evaluate("[...manymask.state.objects.filter.hiddenClasses]") == [0]
    shown, number = read_shown(page)
    assert shown < number


def test_a_server_that_lets_in_nobody_any_more_says_so(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.route("**/api/**", lambda route: route.fulfill(status=401, json={"detail": "a token is needed"}))
    page.goto(server.address)
    page.locator("#offline").get_by_text("A token is needed.").wait_for()
    page.close()


def test_a_stream_that_was_refused_is_asked_for_again(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.route("**/api/events", lambda route: route.fulfill(status=503, json={"detail": "full"}), times=1)
    page.goto(server.address)
    page.locator("#offline").wait_for()
    page.locator("#offline").wait_for(state="hidden")
    page.close()


def test_an_image_that_is_done_while_it_is_opened(page, server):
    def answer_late(route):
        response = route.fetch()
        server.tell({"type": "image", "image": {**server.slides["i2"].describe(), "revision": 10**6}})
        time.sleep(1)
        route.fulfill(json={**response.json(), "status": "predicting"})

    page.route("**/i2/meta*", answer_late, times=1)
    page.wait_for_timeout(300)  # until the browser heeds it
    page.keyboard.press("d")
    until(page, "manymask.state.meta?.id === 'i2' && manymask.state.meta.status === 'done'")


def test_files_are_added_and_refusals_told(page, server):
    page.locator("#files").set_input_files([{"name": "third <b>.tif", "mimeType": "image/tiff", "buffer": b"x"}])
    page.locator("#images li").nth(2).wait_for()
    assert "third <b>.tif" in page.locator("#images").inner_text()
    server.refusal = "This is not an image."
    page.locator("#files").set_input_files([{"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"}])
    page.get_by_text("a.txt: This is not an image.").wait_for()
    page.keyboard.press("d")
    until(page, "manymask.state.meta?.id === 'i2'")


def test_folders_are_dropped(page):
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["x"], "dropped.png"));
            for (const name of ["dragenter", "drop"])
                dispatchEvent(new DragEvent(name, { cancelable: true, dataTransfer: transfer }));
        }"""
    )
    page.get_by_text("dropped.png", exact=True).wait_for()


def test_objects_appear_while_they_are_predicted(page, server):
    slide = server.add("growing.tif", 50)
    slide.status = "predicting"
    server.tell({"type": "image", "image": slide.describe()})
    page.get_by_text("50 so far, 0 %").wait_for()
    page.get_by_text("growing.tif", exact=True).click()
    until(page, "manymask.state.objects?.number === 50")
    assert page.get_by_role("button", name="Cancel", exact=True).is_visible()
    for number in (120, 200):
        server.slides[slide.id] = grown = Slide(
            slide.id, "growing.tif", 700, number, status="predicting", revision=number
        )
        server.tell({"type": "blocks", "id": slide.id, "blocks": [[0, 0]], "revision": number})
        until(page, f"manymask.state.objects?.number === {number}")
    until(
        page,
        "new Set(manymask.viewer.overlays[0].layers[0].map((id) => id & 0x7fffffff)).size > 150",
    )
    grown.status = "done"
    server.tell({"type": "image", "image": grown.describe()})
    page.get_by_text("200 objects", exact=True).wait_for()
    assert not page.get_by_role("button", name="Cancel", exact=True).is_visible()


def test_two_versions_beside_each_other(page):
    page.locator("#compare").select_option("0")
    until(page, "manymask.state.other?.number === 300")
    divider = page.get_by_role("slider", name="Where the second version begins")
    before = divider.bounding_box()["x"]
    divider.focus()
    page.keyboard.press("ArrowLeft")
    assert divider.bounding_box()["x"] < before
    page.keyboard.press("c")
    assert page.evaluate("manymask.viewer.split") in (0, 1)
    assert page.locator("#compare").input_value() == "0"
    set_range(page, "lowest score", 700)  # one filter for both
    shown, other = page.evaluate("[manymask.state.objects.shown, manymask.state.other.shown]")
    assert shown == other < 300


def test_an_older_version_is_looked_at_and_not_corrected(page, server):
    page.locator("#versions").select_option("0")
    until(page, "manymask.state.objects.version === 0 && manymask.state.objects.number === 300")
    server.tell({"type": "image", "image": server.slides["i1"].describe()})
    page.wait_for_timeout(300)
    assert page.locator("#versions").input_value() == "0"
    page.evaluate("manymask.select([1])")
    page.keyboard.press("Delete")
    page.get_by_text("Corrections and checks go to the current version.").wait_for()
    assert server.slides["i1"].done == []
    page.get_by_text("All measurements").click()
    until(page, "document.querySelector('#selection details').children.length > 1")
    assert "/api/images/i1/objects/1?version=0" in server.requests
    page.get_by_role("button", name="Download").click()
    assert "?version=0&" in page.locator("#download-all").get_attribute("href")


def test_table_sorts_and_finds(page, server):
    page.get_by_role("button", name="Table").click()
    page.get_by_role("columnheader", name="score").click()
    row = page.locator("#table-rows .row").first
    best = int(server.slides["i1"].score.argmax()) + 1
    assert row.inner_text().split()[0] == str(best)
    row.click()
    page.wait_for_timeout(450)
    assert read_selected(page) == [best]
    x, _ = locate(page, best)
    box = page.locator("#stage").bounding_box()
    assert abs(x - box["x"] - box["width"] / 2) < 60


def test_a_part_is_checked(page, server):
    part = page.get_by_role("button", name="Checked in view")
    assert page.evaluate("() => manymask.viewer.seen") == [0, 0, 700, 700]  # all of the image is seen
    go_to(page, 1)
    left, top, width, height = page.evaluate("() => manymask.viewer.seen")
    x, y = int(server.slides["i1"].x[0]), int(server.slides["i1"].y[0])
    assert 0 <= left < x < left + width < 700
    assert 0 <= top < y < top + height < 700
    part.click()
    page.get_by_text("✓ a part checked").wait_for()
    assert server.slides["i1"].region == [left, top, width, height]
    assert page.locator("#checked").get_attribute("aria-pressed") == "false"
    page.keyboard.press("0")
    until_still(page)
    box, frame = page.locator("#stage").bounding_box(), page.locator(".region").bounding_box()
    view = page.evaluate("() => manymask.viewer.view")
    expected = {
        "x": box["x"] + (left - view["left"]) * view["scale"],
        "y": box["y"] + (top - view["top"]) * view["scale"],
        "width": width * view["scale"],
        "height": height * view["scale"],
    }
    assert frame == pytest.approx(expected, abs=1)
    page.locator("#images [data-image]").nth(1).click()
    until_drawn(page)
    assert page.locator(".region").count() == 0
    assert part.get_attribute("aria-pressed") == "false"
    page.locator("#images [data-image]").nth(0).click()
    until_drawn(page)
    page.locator(".region").wait_for()
    part.click()  # elsewhere: that part instead
    until(page, "manymask.state.meta.region?.[2] === 700")
    part.click()  # the same again takes it back
    page.locator(".region").wait_for(state="detached")
    assert (server.slides["i1"].checked, server.slides["i1"].region) == (False, None)


def test_improving_shows_its_curve(page, server):
    page.get_by_role("button", name="Checked", exact=True).click()
    page.get_by_text("✓ checked").wait_for()
    page.get_by_role("button", name="Improve").click()
    page.get_by_text("1 checked image, 300 objects. Two or more are needed").wait_for()
    assert page.get_by_role("button", name="Train").is_disabled()
    page.keyboard.press("Escape")
    server.slides["i2"].checked = True
    server.tell({"type": "image", "image": server.slides["i2"].describe()})
    page.locator("#images small").get_by_text("✓ checked").nth(1).wait_for()
    page.get_by_role("button", name="Improve").click()
    page.get_by_text("2 checked images, 400 objects.").wait_for()
    page.get_by_role("button", name="Train").click()
    rows = [{"epoch": i, "loss": 1.0, "val_mask_AP50": 0.5 + i / 50} for i in range(1, 6)]
    job = server.job | {"rows": rows, "progress": [5, 10]}
    server.tell({"type": "job", "job": job})
    page.locator("#improve-curve path").wait_for()
    result = {"model": "improved-1", "sentence": "Mask AP50 rises by 0.03 (0.01 to 0.05)."}
    server.tell({"type": "job", "job": job | {"status": "done", "result": result}})
    page.get_by_text("Mask AP50 rises by 0.03").wait_for()
    page.get_by_role("button", name="Use this model").click()
    page.get_by_text("New images are predicted with improved-1").wait_for()


def test_no_images_and_no_server(browser, server):
    server.slides.clear()
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(server.address)
    page.get_by_text("Drop images here").wait_for()
    page.get_by_role("button", name="Take an example", exact=True).click()
    page.locator("#empty").wait_for(state="hidden")
    until_drawn(page)
    server.shutdown()
    server.server_close()
    page.locator("#offline").wait_for()
    page.close()


def test_all_is_reached_by_keys(page):
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("(({ id, dataset }) => id || dataset.tool || dataset.image || '')(document.activeElement)")
        )
    for name in ("model", "predict", "download", "i2", "select", "brush", "only-edited", "colour-by", "open-table"):
        assert name in reached
    page.keyboard.press("?")
    assert page.get_by_text("split an object by a stroke").is_visible()


@pytest.mark.parametrize("width", [1280, 820, 390])
def test_nothing_is_wider_than_the_screen(browser, server, width):
    page = browser.new_page(viewport={"width": width, "height": 780}, has_touch=width < 1000)
    page.goto(server.address)
    until_drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    if width < 1000:
        page.get_by_role("button", name="Images").click()
        page.wait_for_timeout(300)
        page.get_by_text("second.tif", exact=True).click()
        until(page, "manymask.state.meta?.id === 'i2'")
    page.close()
