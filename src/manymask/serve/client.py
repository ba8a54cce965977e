"""Prediction on a server, with the outputs of a local one."""

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from manymask.core import Category, Instances
from manymask.core.outputs import check_outputs, record_outputs
from manymask.core.progress import Progress, track
from manymask.errors import BrokenImagesError, DatasetError, ManymaskError, PlanError
from manymask.imaging import find_images, open_image
from manymask.imaging.files import list_given
from manymask.outputs import DEFAULT_OUTPUTS, OUTPUTS, ImageEntry, close_writers
from manymask.prediction.background import work_beside
from manymask.serve.packed import decode_packed
from manymask.wording import count_of, list_some

TOKEN_NAME = "MANYMASK_TOKEN"
_WAIT_SECONDS = 60
_TIMEOUT_SECONDS = 600
# How often a request that the server has no room for is sent again, and how long at most between two of them.
_TRIES = 30
_LONGEST_PAUSE = 10.0
_POLL_SECONDS = 0.5


def is_server(source: str) -> bool:
    """Whether what stands where a model is expected is a server's address."""
    return source.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Client:
    """A server, as programs see it.

    Attributes:
        url: Its address.
        token: What opens it.
        model: The model that is asked for; by default the server's current one.
    """

    url: str
    token: str | None = None
    model: str | None = None

    @classmethod
    def choose(cls, url: str, token_file: Path | None = None, model: str | None = None) -> "Client":
        """A client with the token of a file, or else of the environment.

        Raises:
            PlanError: The file cannot be read.
        """
        try:
            token = token_file.read_text(encoding="utf-8").strip() if token_file else os.environ.get(TOKEN_NAME)
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{token_file} cannot be read as a token ({error})") from error
        return cls(url.rstrip("/"), token, model)

    def describe_model(self) -> tuple[tuple[Category, ...], float]:
        """The classes and the score threshold of the model.

        Raises:
            ManymaskError: The server is not there, does not let us in, or has no such model.
        """
        session: dict[str, Any] = json.loads(self._ask("GET", "/api/session")[1])
        models = {each["name"]: each for each in session["models"]}
        if (name := self.model or session["current"]) not in models:
            raise PlanError(f"{self.url} has no model {name!r}; there are: {', '.join(models)}")
        categories = tuple(Category(each["id"], each["name"]) for each in models[name]["classes"])
        return categories, models[name]["score_threshold"]

    def predict(self, path: Path) -> Instances:
        """What the server finds in an image: all instances that the model keeps, by falling score.

        Raises:
            DatasetError: The server does not take the image.
            ManymaskError: The server is gone, or does not let us in.
        """
        query: dict[str, str] = {"format": "packed", "wait": str(_WAIT_SECONDS)}
        query |= {"model": self.model} if self.model else {}
        boundary = uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{urllib.parse.quote(path.name)}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        status, content = self._ask("POST", f"/api/predict?{urllib.parse.urlencode(query)}", body, headers, path)
        if status == 202:
            content = self._fetch(json.loads(content)["id"], path)
        return decode_packed(content)

    def _fetch(self, job_id: str, path: Path) -> bytes:
        """The result of a job, when it is there."""
        while True:
            job: dict[str, Any] = json.loads(self._ask("GET", f"/api/jobs/{job_id}")[1])
            if job["status"] == "done":
                return self._ask("GET", f"/api/jobs/{job_id}/result?format=packed")[1]
            if job["status"] in ("failed", "cancelled"):
                raise DatasetError(f"{path}: the server's prediction {job['status']}: {job['error'] or 'called off'}")
            time.sleep(_POLL_SECONDS)

    def _ask(
        self,
        method: str,
        place: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        path: Path | None = None,
    ) -> tuple[int, bytes]:
        """Send a request, again where the server has no room for it."""
        own = (headers or {}) | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        request = urllib.request.Request(f"{self.url}{place}", body, own, method=method)
        # Not urlopen, which keeps the proxies of the process's first request for all others.
        opener = urllib.request.build_opener()
        for last in (*[False] * _TRIES, True):
            try:
                with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                sentence = _read_detail(error)
                if error.code in (429, 503) and not last:
                    time.sleep(min(float(error.headers.get("Retry-After", 1)), _LONGEST_PAUSE))
                    continue
                if error.code in (401, 403):
                    raise PlanError(f"{self.url}: {sentence}; set {TOKEN_NAME}, or give --token-file") from error
                if path is not None and 400 <= error.code < 500:
                    raise DatasetError(f"{path}: {sentence}") from error
                raise ManymaskError(f"{self.url} answers with {error.code}: {sentence}") from error
            except OSError as error:
                reason = getattr(error, "reason", error)
                raise ManymaskError(f"{self.url} cannot be reached ({reason}); is manymask serve running?") from error
        raise AssertionError


def _read_detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)


def predict_files(
    client: Client,
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    formats: Sequence[str] = DEFAULT_OUTPUTS,
    progress: Progress | None = None,
) -> list[Path]:
    """Predict images on a server and write the files that ``manymask.predict_files`` writes.

    Args:
        client: The server.
        images: As there.
        output: Where to write.
        formats: What to write, as there.
        progress: Called with the number of images done, their number, and what is being done.

    Returns:
        The files and folders written.

    Raises:
        BrokenImagesError: The server does not take some of several images; the results of the others are written.
        ManymaskError: The server cannot be used, an image cannot be read, or files that were not written so are in the
            way.
    """
    if unknown := set(formats) - set(OUTPUTS):
        raise PlanError(f"there is no output format {min(unknown)!r}; there are: {', '.join(OUTPUTS)}")
    given, output = list_given(images), Path(output)
    found = find_images(given)
    kinds = [OUTPUTS[name] for name in dict.fromkeys(formats)]
    for kind in kinds:
        kind.check()
    stems = [stem for stem, _ in found]
    names = [name for kind in kinds for name in kind.list_files(stems)]
    check_outputs(output, "predict", names)
    categories, shown_score = client.describe_model()
    root = os.path.commonpath([os.path.abspath(path if path.is_dir() else path.parent) for path in given])
    broken: list[str] = []

    def ask(image: tuple[int, str, Path]) -> Any:
        place, stem, path = image
        try:
            entry = ImageEntry(place, stem, Path(os.path.relpath(path, root)).as_posix(), open_image(path))
            return entry, client.predict(path)
        except DatasetError as error:
            if len(found) == 1:
                raise
            broken.append(str(error))
            return None

    def list_answers() -> Iterator[Any]:
        tasks = [(place, stem, path) for place, (stem, path) in enumerate(found, start=1)]
        answers = work_beside(ask, tasks)  # the next image is sent while results are written
        yield from track(answers, len(tasks), "predicting", progress)

    with record_outputs(output, "predict", names):
        writers = [kind(output, stems, categories, shown_score) for kind in kinds]
        with close_writers(writers):
            for answer in list_answers():
                if answer is None:
                    continue
                entry, instances = answer
                for writer in writers:
                    writer.write(entry, instances)
    if len(broken) == len(found):
        raise DatasetError(broken[0])
    if broken:
        raise BrokenImagesError(
            f"{len(broken)} of {count_of(len(found), 'image')} could not be predicted; the results of the others are "
            f"in {output}: {list_some(broken, separator='; ')}"
        )
    places = dict.fromkeys(name.partition("/")[0] for name in names if (output / name).exists())
    return [output / place for place in sorted(places, key=lambda place: "." in place)]
