"""A server that answers as ``manymask serve`` does, with made objects: for tests of the page, and to measure it.

``python -m tests.serve.fake_server --objects 1000000 --size 40000`` shows a slide; images and edits live in memory.
"""

import argparse
import io
import json
import re
import struct
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jinja2
import numpy as np
from PIL import Image
from scipy import ndimage

SERVE = Path(__file__).parents[2] / "src/manymask/serve"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
BLOCK, TILE, MARGIN = 2048, 256, 24
CLASSES = [{"id": 1, "name": "tumour"}, {"id": 2, "name": "stroma"}, {"id": 3, "name": "lymphocyte"}]
EDITED, DELETED, ACCEPTED, DRAWN = 2, 4, 16, 32


@cache
def make_shape(number: int) -> np.ndarray:
    """One of 64 blobs of 300 to 700 pixels, as a mask."""
    rng = np.random.default_rng(number)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(rng.normal(0, 0.06) * np.cos(k * angle + rng.uniform(0, 6)) for k in range(2, 5))
    radius = rng.uniform(8.5, 12.5) * (1 + waves)
    y, x = np.mgrid[-19:20, -19:20]
    stretch = rng.uniform(0.8, 1.25)
    turned = (np.arctan2(y / stretch, x * stretch) % (2 * np.pi)) / (2 * np.pi) * 48
    mask = np.hypot(y / stretch, x * stretch) < np.interp(turned, np.arange(49), np.append(radius, radius[0]))
    return mask[np.ix_(mask.any(1), mask.any(0))]


def pack_mask(mask: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """The numbers of runs in each column, and the steps of their first rows and of the rows after their last."""
    steps = np.diff(np.pad(mask, ((1, 1), (0, 0))).T.astype(np.int8), axis=1)
    column, top = np.nonzero(steps == 1)
    bottom = np.nonzero(steps == -1)[1]
    counts = np.bincount(column, minlength=mask.shape[1]).astype("u1")
    return (
        counts.tobytes(),
        np.diff(top, prepend=0).astype("<i2").tobytes(),
        np.diff(bottom, prepend=0).astype("<i2").tobytes(),
    )


@cache
def pack_shape(number: int) -> tuple[bytes, bytes, bytes]:
    return pack_mask(make_shape(number))


@dataclass
class Slide:
    """Objects on a jittered grid; ``own`` has the masks, with their corners, of those that were edited."""

    id: str
    name: str
    size: int
    number: int
    status: str = "done"
    checked: bool = False
    region: list[int] | None = None
    revision: int = 0
    error: str | None = None
    own: dict[int, tuple[int, int, np.ndarray]] = field(default_factory=dict)
    done: list[dict] = field(default_factory=list)
    undone: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.number)
        side = max(int(np.ceil(np.sqrt(max(self.number, 1)))), 1)
        pitch = (self.size - 2 * MARGIN) / side
        place = np.arange(self.number)
        # In the order of blocks, as predictions are, which lie together in memory as they do in the image.
        x, y = (place % side + 0.5) * pitch + MARGIN, (place // side + 0.5) * pitch + MARGIN
        jitter = np.clip((pitch - 32) / 2, 0, 8)  # so that no two overlap
        self.x = (x + rng.uniform(-jitter, jitter, self.number)).astype(np.int32)
        self.y = (y + rng.uniform(-jitter, jitter, self.number)).astype(np.int32)
        self.shape = rng.integers(0, 64, self.number)
        areas = np.array([make_shape(i).sum() for i in range(64)])
        self.area = areas[self.shape].astype(np.uint32)
        self.score = (65535 * np.sqrt(rng.uniform(0.1, 1, self.number))).astype(np.uint16)
        near = np.sin(self.x / self.size * 9) + np.cos(self.y / self.size * 7) + rng.normal(0, 0.5, self.number)
        self.cls = np.digitize(near, [-0.3, 0.9]).astype(np.uint8)
        self.flags = np.where(rng.uniform(size=self.number) < 0.01, 8, 0).astype(np.uint8)

    @property
    def shift(self) -> int:
        return max((self.size - 1).bit_length() - 16, 0)

    def describe(self) -> dict:
        alive = self.flags & DELETED == 0
        return {
            "id": self.id, "name": self.name, "width": self.size, "height": self.size, "status": self.status,
            "progress": [self.revision % 9, 9] if self.status == "predicting" else [9, 9],
            "num_objects": int(alive.sum()), "num_edited": int((self.flags & EDITED > 0).sum()),
            "num_unsure": int((self.score[alive] < 30000).sum()), "checked": self.checked, "region": self.region,
            "model": "nuclei", "version": 1, "revision": self.revision, "error": self.error,
        }  # fmt: skip

    def describe_fully(self) -> dict:
        return self.describe() | {
            "levels": int(np.ceil(np.log2(self.size))) + 1, "tile_size": TILE, "num_channels": 3,
            "pixel_size": [0.25, 0.25], "classes": CLASSES, "block_size": BLOCK,
            "can_undo": bool(self.done), "can_redo": bool(self.undone),
            "versions": [
                {"number": n, "model": model, "num_objects": self.number, "time": 0.0}
                for n, model in enumerate(("old", "nuclei"))
            ],
        }  # fmt: skip

    def pack_table(self) -> bytes:
        columns = (
            np.arange(1, len(self.x) + 1, dtype="<u4"), self.score, self.cls, self.flags, self.area,
            (self.x >> self.shift).astype("<u2"), (self.y >> self.shift).astype("<u2"),
        )  # fmt: skip
        return (
            b"MMT1"
            + struct.pack("<3I", len(self.x), self.revision, self.shift)
            + b"".join(c.tobytes() for c in columns)
        )

    def get_mask(self, id: int) -> tuple[int, int, np.ndarray]:
        """(left, top, mask) of an object."""
        if id in self.own:
            return self.own[id]
        mask = make_shape(int(self.shape[id - 1]))
        return int(self.x[id - 1]) - mask.shape[1] // 2, int(self.y[id - 1]) - mask.shape[0] // 2, mask

    def pack_block(self, bx: int, by: int) -> bytes:
        ids = np.flatnonzero((self.x // BLOCK == bx) & (self.y // BLOCK == by)) + 1
        packed, corners = [], np.zeros((len(ids), 3), dtype=np.int64)
        for row, id in enumerate(ids.tolist()):
            left, top, mask = self.get_mask(id)
            corners[row] = left, top, mask.shape[1]
            packed.append(pack_mask(mask) if id in self.own else pack_shape(int(self.shape[id - 1])))
        counts, starts, ends = (b"".join(part) for part in zip(*packed, strict=True)) if packed else (b"", b"", b"")
        sections = (
            ids.astype("<u4").tobytes(), bytes(len(ids)), corners[:, 0].astype("<i4").tobytes(),
            corners[:, 1].astype("<i4").tobytes(), corners[:, 2].astype("<u2").tobytes(), counts, starts, ends,
        )  # fmt: skip
        header = b"MMB1" + struct.pack("<3I", len(ids), 1, int(corners[:, 2].sum()))
        return header + b"".join(part + bytes(-len(part) % 4) for part in sections)

    # Edits: each keeps the state before of the objects that it touches.

    def snapshot(self, ids: list[int]) -> dict:
        keep = [id for id in ids if id <= len(self.x)]
        columns = {
            name: getattr(self, name)[np.array(keep, dtype=int) - 1].copy()
            for name in ("x", "y", "area", "score", "cls", "flags")
        }
        return {"ids": keep, "columns": columns, "own": {id: self.own.get(id) for id in keep}}

    def apply(self, edit: dict) -> dict:
        op, ids = edit["op"], list(edit.get("ids", [edit["id"]] if "id" in edit else []))
        first_new = len(self.x) + 1
        before = self.snapshot(ids)
        if op in ("delete", "restore", "accept", "class"):
            for id in ids:
                if op == "class":
                    self.cls[id - 1] = [entry["id"] for entry in CLASSES].index(edit["value"])
                flags = int(self.flags[id - 1])
                self.flags[id - 1] = {
                    "delete": flags | DELETED,
                    "restore": flags & ~DELETED,
                    "accept": flags | ACCEPTED,
                    "class": flags | EDITED,
                }[op]
        elif op == "merge":
            self.set_pixels(ids[0], np.concatenate([self.list_pixels(id) for id in ids]))
            self.flags[np.array(ids[1:]) - 1] |= DELETED
        elif op in ("paint", "erase"):
            pixels, stroke = self.list_pixels(ids[0]), spread(edit["runs"])
            pixels = np.concatenate([pixels, stroke]) if op == "paint" else pixels[~is_among(pixels, stroke)]
            if len(pixels):
                self.set_pixels(ids[0], pixels)
            else:
                self.flags[ids[0] - 1] |= DELETED
        elif op == "draw":
            ids = [self.add(spread(edit["runs"]), [entry["id"] for entry in CLASSES].index(edit["class"]), DRAWN)]
        elif op == "split":
            ids += self.split(ids[0], np.array(edit["stroke"]))
        added = list(range(first_new, len(self.x) + 1))
        self.done.append({"before": before, "added": added, "edit": edit})
        self.undone.clear()
        return self.tell(before["ids"] + added, added, [], f"{op} {len(ids)}")

    def split(self, id: int, stroke: np.ndarray) -> list[int]:
        left, top, mask = self.get_mask(id)
        cut = np.zeros_like(mask)
        for (ax, ay), (bx, by) in pairwise(stroke):
            for share in np.linspace(0, 1, 200):
                x, y = int(ax + share * (bx - ax)) - left, int(ay + share * (by - ay)) - top
                if 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]:
                    cut[y, x] = True
        parts, number = ndimage.label(mask & ~cut)
        if number < 2:
            raise ValueError("The stroke does not cut the object in two.")
        order = np.argsort(-np.bincount(parts.ravel(), minlength=number + 1)[1:]) + 1
        label = int(self.cls[id - 1])
        new = []
        for rank, part in enumerate(order.tolist()):
            y, x = np.nonzero(parts == part)
            pixels = np.stack([x + left, y + top], axis=1)
            if rank == 0:
                self.set_pixels(id, pixels)
            else:
                new.append(self.add(pixels, label, EDITED))
        return new

    def list_pixels(self, id: int) -> np.ndarray:
        left, top, mask = self.get_mask(id)
        y, x = np.nonzero(mask)
        return np.stack([x + left, y + top], axis=1)

    def set_pixels(self, id: int, pixels: np.ndarray) -> None:
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        mask = np.zeros((high - low + 1)[::-1], dtype=bool)
        mask[pixels[:, 1] - low[1], pixels[:, 0] - low[0]] = True
        self.own[id] = (int(low[0]), int(low[1]), mask)
        self.x[id - 1], self.y[id - 1] = (low + high + 1) // 2
        self.area[id - 1] = mask.sum()
        self.flags[id - 1] |= EDITED

    def add(self, pixels: np.ndarray, label: int, flags: int) -> int:
        for name, value in {
            "x": 0,
            "y": 0,
            "shape": 0,
            "area": 0,
            "score": 65535,
            "cls": label,
            "flags": flags,
        }.items():
            column = getattr(self, name)
            setattr(self, name, np.append(column, np.array(value, dtype=column.dtype)))
        self.set_pixels(len(self.x), pixels)
        return len(self.x)

    def undo(self) -> dict:
        entry = self.done.pop()
        self.undone.append(entry)
        before = entry["before"]
        old_blocks = self.find_blocks(before["ids"] + entry["added"])
        rows = np.array(before["ids"], dtype=int) - 1
        for name, values in before["columns"].items():
            getattr(self, name)[rows] = values
        for id, mask in before["own"].items():
            if mask is None:
                self.own.pop(id, None)
            else:
                self.own[id] = mask
        self.flags[np.array(entry["added"], dtype=int) - 1] |= DELETED
        change = self.tell(before["ids"] + entry["added"], [], entry["added"], f"undid {entry['edit']['op']}")
        change["blocks"] = sorted({*map(tuple, change["blocks"]), *old_blocks})
        return change

    def find_blocks(self, ids: list[int]) -> list[tuple[int, int]]:
        return sorted({(int(self.x[id - 1]) // BLOCK, int(self.y[id - 1]) // BLOCK) for id in ids})

    def tell(self, ids: list[int], added: list[int], removed: list[int], what: str) -> dict:
        self.revision += 1
        touched = np.array(sorted(set(ids)), dtype=int)
        columns = {
            "id": touched,
            "class": self.cls[touched - 1],
            "x": self.x[touched - 1] >> self.shift,
            "y": self.y[touched - 1] >> self.shift,
        }
        columns |= {name: getattr(self, name)[touched - 1] for name in ("score", "flags", "area")}
        rows = {name: column.tolist() for name, column in columns.items()}
        return {
            "revision": self.revision, "added": added, "removed": removed, "changed": sorted(set(ids) - set(added)),
            "blocks": self.find_blocks(ids), "rows": rows, "can_undo": bool(self.done), "can_redo": bool(self.undone),
            "what": what,
        }  # fmt: skip

    def draw_tile(self, level: int, column: int, row: int) -> bytes:
        """A tile of a picture that looks like stained tissue, with each object darker."""
        scale = 2 ** (int(np.ceil(np.log2(self.size))) - level)
        left, top = column * TILE * scale, row * TILE * scale
        width, height = (min(TILE, -(-(self.size - start) // scale)) for start in (left, top))
        y, x = np.mgrid[:height, :width] * scale
        tissue = np.sin((x + left) / 311) * np.cos((y + top) / 257) + np.sin((x + y + left + top) / 83) * 0.4
        picture = np.stack([226 + 10 * tissue, 190 + 18 * tissue, 214 + 10 * tissue], axis=-1)
        reach = 24
        near = np.zeros(0, dtype=int)
        if scale <= 8:
            inside = (np.abs(self.x - left - TILE * scale / 2) < TILE * scale / 2 + reach) & (
                np.abs(self.y - top - TILE * scale / 2) < TILE * scale / 2 + reach
            )
            near = np.flatnonzero(inside[: self.number])
        for index in near.tolist():
            mask = make_shape(int(self.shape[index]))
            x0, y0 = int(self.x[index]) - mask.shape[1] // 2 - left, int(self.y[index]) - mask.shape[0] // 2 - top
            sample = mask[(-y0) % scale :: scale, (-x0) % scale :: scale]
            px, py = -(-x0 // scale), -(-y0 // scale)
            a, b = max(px, 0), max(py, 0)
            c, d = min(px + sample.shape[1], width), min(py + sample.shape[0], height)
            if a < c and b < d:
                inner = sample[b - py : d - py, a - px : c - px, None]
                tint = np.array([[96, 70, 150], [130, 90, 160], [70, 60, 130]][int(self.cls[index])])
                picture[b:d, a:c] = np.where(inner, tint + tissue[b:d, a:c, None] * 14, picture[b:d, a:c])
        picture += np.random.default_rng(level * 7919 + column * 104729 + row).normal(0, 5, (height, width, 1))
        file = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "WEBP", quality=80)
        return file.getvalue()


def spread(runs: list[list[int]]) -> np.ndarray:
    """All pixels (x, y) of runs."""
    return np.array([(x, y) for x, start, length in runs for y in range(start, start + length)])


def is_among(pixels: np.ndarray, others: np.ndarray) -> np.ndarray:
    keys = [part[:, 0].astype(np.int64) << 32 | part[:, 1] for part in (pixels, others)]
    return np.isin(*keys)


class FakeServer(ThreadingHTTPServer):
    """The server, in a thread of its own while it is a context."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, slides: list[Slide] | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.slides = {slide.id: slide for slide in slides or []}
        self.lock = threading.RLock()
        self.refusal = ""  # what the next uploads are refused with
        self.fails = ""  # a pattern of paths that break down
        self.listeners: list[list[dict]] = []
        self.requests: list[str] = []
        self.job: dict | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "FakeServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Browsers leave while they are answered."""

    def tell(self, event: dict) -> None:
        for queue in self.listeners:
            queue.append(event)

    def add(self, name: str, number: int = 300, size: int = 700) -> Slide:
        slide = Slide(f"i{len(self.slides) + 1}", name, size, number)
        self.slides[slide.id] = slide
        return slide


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, body: object, kind: str = "application/json", status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", "default-src 'self'")
        self.send_header("Cache-Control", "no-cache" if kind != "image/webp" else "max-age=600")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        self.server.requests.append(self.path)
        if self.server.fails and re.search(self.server.fails, self.path):
            return self.reply({"detail": "The disk of the server cannot be read."}, status=500)
        if path == "/":
            template = jinja2.Template((SERVE / "templates/index.html").read_text())
            return self.reply(template.render(version="0.0").encode(), "text/html; charset=utf-8")
        if path.startswith("/static/"):
            file = SERVE / path[1:]
            return self.reply(file.read_bytes(), TYPES[file.suffix]) if file.is_file() else self.reply({}, status=404)
        if path == "/api/events":
            return self.stream()
        if path == "/api/session":
            models = [{"name": name, "classes": CLASSES, "note": ""} for name in ("nuclei", "old")]
            images = [slide.describe() for slide in self.server.slides.values()]
            return self.reply(
                {
                    "version": "0.0",
                    "models": models,
                    "current": "nuclei",
                    "images": images,
                    "limits": {},
                    "formats": [],
                    "outputs": ["coco", "csv", "geojson", "imagej", "labels"],
                }
            )
        match = re.fullmatch(r"/api/images/(\w+)/(.+)", path)
        slide = self.server.slides.get(match[1]) if match else None
        if slide is None:
            return self.reply({"detail": "There is no such image."}, status=404)
        with self.server.lock:
            return self.reply_of(slide, match[2], query)

    def reply_of(self, slide: Slide, what: str, query: dict) -> None:
        if what == "meta":
            return self.reply(slide.describe_fully())
        if what == "table.bin":
            return self.reply(slide.pack_table(), "application/octet-stream")
        if match := re.fullmatch(r"blocks/(\d+)_(\d+).bin", what):
            return self.reply(slide.pack_block(int(match[1]), int(match[2])), "application/octet-stream")
        if match := re.fullmatch(r"tiles/(\d+)/(\d+)_(\d+).webp", what):
            return self.reply(slide.draw_tile(*map(int, match.groups())), "image/webp")
        if match := re.fullmatch(r"objects/(\d+)", what):
            id = int(match[1])
            return self.reply({"id": id, "area": int(slide.area[id - 1]), "perimeter": 71.2, "eccentricity": 0.62})
        if match := re.fullmatch(r"download/(\w+)", what):
            return self.reply(
                {"format": match[1], "query": query}, Content_Disposition=f'attachment; filename="{slide.id}.json"'
            )
        return self.reply({"detail": "There is no such page."}, status=404)

    def stream(self) -> None:
        queue: list[dict] = []
        self.server.listeners.append(queue)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.wfile.write(b": hello\n\n")
            while self.server.socket.fileno() >= 0:
                while queue:
                    self.wfile.write(f"data: {json.dumps(queue.pop(0))}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.02)
        except OSError:
            pass
        finally:
            self.server.listeners.remove(queue)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.fails and re.search(self.server.fails, self.path):
            return self.reply({"detail": "The disk of the server is full."}, status=507)
        if self.path in ("/api/images", "/api/images/example"):
            names = re.findall(rb'filename="([^"]+)"', body) or [b"example.png"]
            if self.server.refusal:
                return self.reply(
                    {
                        "images": [],
                        "refused": [
                            {"name": name.decode(), "status": 415, "detail": self.server.refusal} for name in names
                        ],
                    }
                )
            return self.reply({"images": [self.server.add(name.decode()).describe() for name in names], "refused": []})
        value = json.loads(body or b"{}")
        if self.path == "/api/improve":
            self.server.job = {
                "id": "j1",
                "kind": "improve",
                "status": "running",
                "progress": [0, 10],
                "what": "training",
                "rows": [],
                "result": None,
                "error": None,
            }
            return self.reply(self.server.job)
        if self.path == "/api/models/current":
            return self.reply({})
        match = re.fullmatch(r"/api/images/(\w+)/(\w+)", self.path)
        slide = self.server.slides[match[1]]
        with self.server.lock:
            return self.change(slide, match[2], value)

    def change(self, slide: Slide, what: str, value: dict) -> None:
        expected = self.headers.get("If-Match", "").strip('"')
        if expected and int(expected) != slide.revision:
            return self.reply({"detail": "The image was changed meanwhile."}, status=409)
        if what == "edits":
            try:
                return self.reply([slide.apply(edit) for edit in value["edits"]][-1])
            except ValueError as error:
                return self.reply({"detail": str(error)}, status=422)
        if what in ("undo", "redo"):
            return self.reply(slide.undo() if what == "undo" else slide.apply(slide.undone[-1]["edit"]))
        if what == "checked":
            slide.checked, slide.region = value["checked"], value["region"] if value["checked"] else None
        return self.reply(slide.describe())

    def do_DELETE(self) -> None:
        if match := re.fullmatch(r"/api/images/(\w+)", self.path):
            self.server.slides.pop(match[1], None)
        self.reply({})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=3000)
    parser.add_argument("--size", type=int, default=2230)
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    with FakeServer([Slide("i1", "slide.tif", arguments.size, arguments.objects)], arguments.port) as server:
        print(server.address, flush=True)
        threading.Event().wait()
