"""What browser tests of the page share: a browser, and where things are on its screen."""

import shutil

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def until(page, condition: str):
    """Not ``wait_for_function``, which the page's policy forbids: it compiles text."""
    return page.evaluate(
        f"""async () => {{
            for (let i = 0; i < 1000; i++) {{
                const value = await ({condition});
                if (value) return value;
                await new Promise((resolve) => setTimeout(resolve, 20));
            }}
            throw new Error("not within 20 seconds");
        }}"""
    )


def until_drawn(page):
    until(page, "globalThis.manymask?.viewer.overlays[0].hasObjects")
    until_still(page)


def until_still(page):
    # A movement is painted in each of its frames, so that what is painted does not tell whether it is over.
    is_over = """(({ viewport }) => {
        const now = viewport.getBounds(true), end = viewport.getBounds();
        return ["x", "y", "width"].every((key) => Math.abs(now[key] - end[key]) < 1e-9);
    })(manymask.viewer.osd)"""
    until(page, f"!manymask.edits.pending && manymask.viewer.isSame(manymask.viewer.view) && {is_over}")


def read_shown(page) -> tuple[int, int]:
    return tuple(int(page.locator(each).inner_text().replace(",", "")) for each in ("#shown", "#all"))


def locate(page, id: int) -> tuple[float, float]:
    """Where on the screen an object's middle is."""
    return tuple(
        page.evaluate(
            """(id) => {
                const { left, top, scale } = manymask.viewer.view, [x, y] = manymask.state.objects.center(id);
                const box = document.getElementById("stage").getBoundingClientRect();
                return [box.x + (x + 0.5 - left) * scale, box.y + (y + 0.5 - top) * scale];
            }""",
            id,
        )
    )


def go_to(page, id: int) -> tuple[float, float]:
    page.evaluate("(id) => manymask.viewer.goTo(manymask.state.objects.center(id), 25)", id)
    page.wait_for_timeout(450)
    until_still(page)
    return locate(page, id)


def zoom_to(page, id: int, scale: float) -> tuple[float, float]:
    """Shows an object in the middle, with so many screen pixels for one."""
    page.evaluate(
        """([id, scale]) => {
            const { viewer, state } = manymask, { viewport } = viewer.osd, [x, y] = state.objects.center(id);
            viewport.zoomTo(viewer.image.width * scale / viewer.stage.clientWidth, null, true);
            viewport.panTo(new OpenSeadragon.Point(x / viewer.image.width, y / viewer.image.width), true);
        }""",
        [id, scale],
    )
    page.wait_for_timeout(300)
    until_still(page)
    return locate(page, id)


def pick(page, x: float, y: float) -> list[int]:
    return page.evaluate(
        """([x, y]) => {
            const box = document.getElementById("stage").getBoundingClientRect();
            return manymask.viewer.overlays[0].pick(x - box.x, y - box.y);
        }""",
        [x, y],
    )


def read_selected(page) -> list[int]:
    return page.evaluate("[...manymask.state.objects.selected]")


def set_range(page, label: str, value: int) -> None:
    page.get_by_label(label).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
    page.wait_for_timeout(100)


def drag(page, *places: tuple[float, float], button: str = "left") -> None:
    page.mouse.move(*places[0])
    page.mouse.down(button=button)
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up(button=button)
    page.wait_for_timeout(50)
    until_still(page)
