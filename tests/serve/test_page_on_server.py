"""The page in a real browser, on the real server with the model ``nuclei``."""

import base64
import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import tifffile
from PIL import Image

from manymask.outputs import OUTPUTS
from manymask.serve.objects import ImageObjects
from tests.serve.browsing import (
    drag,
    go_to,
    locate,
    read_selected,
    read_shown,
    set_range,
    until,
    until_drawn,
    until_still,
)
from tests.serve.live_server import run_server


def draw_nuclei() -> bytes:
    """A PNG with twelve bright blurred discs on a dark ground, as in fluorescence."""
    y, x = np.mgrid[:160, :200]
    picture = np.full((160, 200), 12.0)
    for index in range(12):
        distance = np.hypot(x - 30 - 46 * (index % 4), y - 30 - 50 * (index // 4))
        picture += 170 / (1 + np.exp((distance - 11) / 1.2))
    picture += np.random.default_rng(0).normal(0, 3, picture.shape)
    file = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with run_server(Path("nuclei"), tmp_path_factory.mktemp("serve")) as live:
        yield live


@pytest.fixture(scope="module")
def page(browser, live):
    """The page, with an image that was dropped on it; fails for any message on the console."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(f"{live.url}/?token={live.access.link_token}")
    page.get_by_text("Drop images here").wait_for()
    page.evaluate(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "plate <1>.png"));
            for (const name of ["dragenter", "drop"])
                dispatchEvent(new DragEvent(name, { cancelable: true, dataTransfer: transfer }));
        }""",
        base64.b64encode(draw_nuclei()).decode(),
    )
    page.locator("#images .done").wait_for(timeout=120_000)
    until(page, "manymask.state.meta?.status === 'done'")
    until_drawn(page)
    yield page
    page.close()
    assert messages == []


def read_objects(live) -> ImageObjects:
    image, *_ = live.server.workspace.list_images()
    return live.server.get_objects(image)


def read_ids(page) -> list[int]:
    return page.evaluate(
        "Array.from(manymask.state.objects.table.keys()).filter((id) => manymask.state.objects.isShown(id))"
    )


def test_objects_are_shown_filtered_and_told(page):
    assert "plate <1>.png" in page.locator("#images").inner_text()
    shown, all_ = read_shown(page)
    assert shown == all_ >= 10
    set_range(page, "lowest score", 1000)
    assert read_shown(page)[0] < all_
    page.get_by_role("button", name="show all").click()
    page.wait_for_timeout(100)
    page.mouse.move(*locate(page, read_ids(page)[0]))
    assert "nucleus" in page.locator("#tip").inner_text()


def test_every_correction_is_on_the_server_and_undone(page, live):
    before = read_objects(live).to_instances()
    first, second, third, fourth = read_ids(page)[:4]
    page.mouse.click(*locate(page, first))
    page.keyboard.press("Delete")
    until(page, f"!manymask.state.objects.isShown({first})")
    page.mouse.click(*locate(page, second))
    page.keyboard.down("Alt")
    page.mouse.click(*locate(page, third))
    page.keyboard.up("Alt")
    until(page, f"!manymask.state.objects.isShown({third})")
    page.keyboard.press("Escape")
    x, y = go_to(page, fourth)
    page.keyboard.press("s")
    drag(page, (x - 200, y), (x + 200, y))
    until(page, f"manymask.state.objects.size > {len(before) + 1}")
    until_still(page)
    page.keyboard.press("Escape")
    page.keyboard.press("v")
    x, y = locate(page, fourth)
    page.mouse.click(x, y)
    assert read_selected(page) == [fourth]
    page.keyboard.press("b")
    drag(page, (x, y), (x + 120, y))
    objects = read_objects(live)
    assert objects.num_objects == len(before) - 1
    assert page.evaluate("manymask.state.objects.revision") == objects.revision
    for _ in range(4):
        page.keyboard.press("Control+z")
        until_still(page)
    assert page.locator("#undo").is_disabled()
    after = read_objects(live).to_instances()
    assert np.array_equal(after.runs.start, before.runs.start)
    assert np.array_equal(after.runs.length, before.runs.length)
    assert read_shown(page) == (len(before), len(before))


@pytest.mark.parametrize("format", OUTPUTS)
def test_every_format_is_downloaded_and_read_back(page, live, format, tmp_path):
    number = read_objects(live).num_objects
    page.get_by_role("button", name="Download").click()
    page.locator("#formats").select_option(format)
    with page.expect_download() as download:
        page.get_by_role("link", name="All objects").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert count_objects(path, format) in (number, None)


def count_objects(path: Path, format: str) -> int | None:
    """The objects in a downloaded file; None where it is a picture."""
    if zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        assert len(names) > 1 or format == "imagej"
        if format == "imagej":
            return len(names)
        zipfile.ZipFile(path).extractall(path.parent)
        path = next(
            file
            for name in names
            if (file := path.parent / name).suffix in (".tif", ".json") and "images.json" not in name
        )
    if format == "coco":
        return len(json.loads(path.read_text()))
    if format == "geojson":
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        content = json.loads(text)
        return len(content["features"] if isinstance(content, dict) else content)
    if format == "labels":
        return len(np.unique(tifffile.imread(path))) - 1
    if format == "csv":
        return len(path.read_text().splitlines()) - 1
    if format == "parquet":
        return len(pandas.read_parquet(path))
    assert Image.open(path).width >= 200
    return None


def test_a_model_is_trained_from_corrections(page, live):
    page.locator("#files").set_input_files([{"name": "b.png", "mimeType": "image/png", "buffer": draw_nuclei()}])
    page.locator("#images .done").nth(1).wait_for(timeout=120_000)
    for number in range(2):
        page.locator("#images [data-image]").nth(number).click()
        until_drawn(page)
        page.get_by_role("button", name="Checked", exact=True).click()
        page.locator("#images small").get_by_text("✓ checked").nth(number).wait_for()
    page.get_by_role("button", name="Improve").click()
    page.get_by_label("Minutes").fill("1")
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("#improve-progress").wait_for()
    page.get_by_role("button", name="Use this model").wait_for(timeout=400_000)
    assert page.locator("#improve-sentence").inner_text()
    page.get_by_role("button", name="Use this model").click()
    page.get_by_text("New images are predicted with").wait_for()
