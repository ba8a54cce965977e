"""How fast the page of ``manymask serve`` is with a million made objects: ``python benchmarks/page.py``.

In headless Chromium without a GPU, 1920 x 1080 pixels, the page on the tests' own server: the time from opening the
page to its first objects, from a move of a filter to the end of its frame, of a hover, the memory of its process; and
the frames of a flight over 3,000 objects. Needs the extra ``dev``, and Chromium.
"""

import argparse
import json
import shutil
import subprocess
import sys
from bisect import bisect
from collections import Counter
from pathlib import Path

from playwright import sync_api

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

# Not `wait_for_function`, which the page's policy forbids: it compiles text.
UNTIL_SHOWN = """async () => {
  while (!globalThis.manymask?.viewer.firstShown) await new Promise((resolve) => setTimeout(resolve, 20));
}"""

IN_VIEW = """() => {
  const [layer] = manymask.viewer.overlays[0].layers;
  return layer ? new Set(layer.map((id) => id & 0x7fffffff)).size - 1 : 0;
}"""

# Milliseconds from a slider's event to the task after the frame that it asked for was drawn, and those of script in it.
FILTER = """async () => {
  const input = document.querySelector("#filter-score input"), times = [], work = [];
  for (let i = 0; i < 120; i++) {
    const begin = performance.now();
    input.value = 250 + (i % 40) * 15;
    input.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);
    work.push(performance.now() - begin);
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port2.onmessage = resolve;
      port1.postMessage(0);
    });
    times.push(performance.now() - begin);
  }
  input.value = 0;
  input.dispatchEvent(new Event("input"));
  return [times.slice(10), work.slice(10)];
}"""

HOVER = """async () => {
  const stage = document.getElementById("stage"), box = stage.getBoundingClientRect(), times = [];
  for (let i = 0; i < 400; i++) {
    const x = box.x + 100 + ((i * 37) % (box.width - 200)), y = box.y + 50 + ((i * 53) % (box.height - 100));
    const begin = performance.now();
    const move = new PointerEvent("pointermove", { bubbles: true, clientX: x, clientY: y, pointerType: "mouse" });
    stage.querySelector(".openseadragon-canvas").dispatchEvent(move);
    times.push(performance.now() - begin);
    if (i % 20 === 0) await new Promise(requestAnimationFrame);
  }
  return times.slice(20);
}"""

# Frames of zooms and pans: the time between two, and of it in scripts.
FLY = """async () => {
  const { viewer } = manymask, between = [], inside = [];
  const { viewport } = viewer.osd;
  let isFlying = true, last = 0;
  const frame = (now) => {
    if (last) between.push(now - last);
    last = now;
    if (isFlying) requestAnimationFrame(frame);
  };
  const follow = viewer.follow.bind(viewer);
  viewer.follow = () => { const begin = performance.now(); follow(); inside.push(performance.now() - begin); };
  requestAnimationFrame(frame);
  for (let i = 0; i < 12; i++) {
    if (i % 3 === 0) viewport.zoomBy(i % 2 ? 0.6 : 1.7);
    else viewport.panBy(new OpenSeadragon.Point(i % 2 ? 0.1 : -0.07, 0.05 * (i % 3 - 1)));
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  isFlying = false;
  return [between.slice(3), inside.slice(3)];
}"""


def summarize(times: list[float]) -> str:
    ordered = sorted(times)
    middle, high = (ordered[int(len(ordered) * share)] for share in (0.5, 0.95))
    return f"median {middle:.1f}, p95 {high:.1f}, longest {ordered[-1]:.1f} ms ({len(ordered)})"


def read_memory(renderer: int) -> float:
    """Private memory of a process, in megabytes."""
    lines = Path(f"/proc/{renderer}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


def find_renderer(browser: sync_api.Browser) -> int:
    """The process with the page: of all renderers, the one with most memory."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    return max((entry["id"] for entry in processes if entry["type"] == "renderer"), key=read_memory)


def trace(browser: sync_api.Browser, page: sync_api.Page, script: str) -> tuple[list, list[float]]:
    """What a script gives, and the processor's milliseconds of the page's main thread in each frame while it ran.

    Unlike times by the clock, these do not grow with other work on the machine.
    """
    browser.start_tracing(page=page, categories=["disabled-by-default-devtools.timeline", "devtools.timeline"])
    result = page.evaluate(script)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    calls = [event for event in events if event["name"] == "FireAnimationFrame"]
    thread = Counter((event["pid"], event["tid"]) for event in calls).most_common(1)[0][0]
    own = [event for event in events if (event["pid"], event["tid"]) == thread]
    starts = sorted(event["ts"] for event in own if event["name"] == "FireAnimationFrame")
    times, used = [], 0.0
    for task in sorted((event for event in own if event["name"] == "RunTask"), key=lambda event: event["ts"]):
        used += task.get("tdur", 0) / 1000
        place = bisect(starts, task["ts"])
        if place < len(starts) and starts[place] < task["ts"] + task.get("dur", 0):  # the task that drew a frame
            times.append(used)
            used = 0.0
    return result, times[2:]


def measure(browser: sync_api.Browser, number: int, size: int) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.serve.fake_server",
        "--objects",
        str(number),
        "--size",
        str(size),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            page = browser.new_page(viewport={"width": 1920, "height": 1080})
            page.goto(address)
            page.evaluate(UNTIL_SHOWN)
            shown, loaded = page.evaluate(
                "[manymask.viewer.firstShown, performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd]"
            )
            print(f"\n{number:,} objects on {size:,} pixels a side")
            print(f"first objects {shown:.0f} ms after the address was opened, {shown - loaded:.0f} ms after the page")
            page.wait_for_timeout(1500)
            for view, act in (("whole image", None), ("1:1", "manymask.viewer.zoomToPixels()")):
                if act:
                    page.evaluate(act)
                    page.wait_for_timeout(2500)
                (frames, work), used = trace(browser, page, FILTER)
                in_view = page.evaluate(IN_VIEW)
                print(f"{view}, {in_view} objects in the id buffer: filter to frame {summarize(frames)}")
                print(f"{view}: of it script {summarize(work)}; processor a frame {summarize(used)}")
                print(f"{view}: hover {summarize(page.evaluate(HOVER))}")
            (frames, follow), used = trace(browser, page, FLY)
            print(f"flight: between frames {summarize(frames)}; overlay {summarize(follow)}")
            late = sum(time > 17 for time in frames)
            print(f"flight: processor a frame {summarize(used)}; {late} frames of {len(frames)} came later than 17 ms")
            heap = page.evaluate("performance.memory.usedJSHeapSize / 2 ** 20")
            memory = read_memory(find_renderer(browser))
            print(f"memory of the page's process {memory:.0f} MB, of it JavaScript's {heap:.0f} MB")
            page.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, help="one of the two numbers of objects")
    only = parser.parse_args().only
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for number, size in ((3000, 2230), (1_000_000, 40_000)):
            if only in (None, number):
                measure(browser, number, size)
        browser.close()
