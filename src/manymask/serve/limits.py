"""What a server takes at most, so that no request holds up or fills up the machine."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    """What a server takes at most.

    Attributes:
        body_bytes: Of one upload, with all its files.
        json_bytes: Of the body of any other request.
        files: In one upload.
        images: On the page at once.
        tiled_pixels: Of an image of which parts can be decoded (TIFF that is not compressed, or in strips or tiles).
        pixels: Of any other.
        decode_seconds: To decode one image.
        decode_bytes: Of memory to decode one image.
        idle_seconds: Between two parts of a body.
        uploads: That are received at once.
        queue: Requests to ``/api/predict`` that wait for the model.
        edits: In one request.
        listeners: Pages that are told of what happens, at once.
        minutes: Of training.
    """

    body_bytes: int = 2 << 30
    json_bytes: int = 16 << 20
    files: int = 1000
    images: int = 2000
    tiled_pixels: int = 1_000_000_000
    pixels: int = 179_000_000
    decode_seconds: float = 120.0
    decode_bytes: int = 3 << 30
    idle_seconds: float = 30.0
    uploads: int = 32
    queue: int = 32
    edits: int = 1000
    listeners: int = 64
    minutes: float = 600.0

    def to_json(self) -> dict[str, int | float]:
        """All of them by name."""
        return asdict(self)
