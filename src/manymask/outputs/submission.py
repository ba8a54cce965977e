"""COCO results that are handed in for a task."""

import shutil
import zipfile
from collections.abc import Sequence
from typing import Any

from manymask.core import Instances
from manymask.core.files import replace_file
from manymask.core.json_files import JsonList
from manymask.formats import encode_coco_results
from manymask.formats.submission import ARCHIVE_NAME, RESULTS_NAME
from manymask.outputs.writer import GROUP_RUNS, ImageEntry, OutputWriter


class Submission(OutputWriter):
    """Results handed in for a task, and an archive that holds them; equal predictions give equal files."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._results = JsonList(self.folder / RESULTS_NAME)
        self._num_left = len(self.names)

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """The two files."""
        return [RESULTS_NAME, ARCHIVE_NAME]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Add the predictions of an image."""
        for part in instances.split(GROUP_RUNS):
            self._results.extend(encode_coco_results(part, image.id, self.categories))
        self._num_left -= 1

    def close(self) -> None:
        """Put the results in place, and pack them where they are whole: nobody shall hand in a part of them."""
        self._results.close()
        if self._num_left:
            return
        with replace_file(self.folder / ARCHIVE_NAME) as file, zipfile.ZipFile(file, "w") as archive:
            entry = zipfile.ZipInfo(RESULTS_NAME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with open(self.folder / RESULTS_NAME, "rb") as results, archive.open(entry, "w") as packed:
                shutil.copyfileobj(results, packed)
