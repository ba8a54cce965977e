"""Tables of measurements: CSV and Parquet."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from manymask.core import Instances
from manymask.core.files import replace_file
from manymask.core.instances import import_extra
from manymask.core.label_painting import rank_instances
from manymask.core.measurements import Measurements, iterate_tables
from manymask.outputs.writer import ImageEntry, OutputWriter


class _Tables(OutputWriter):
    """Tables of a row for each prediction that is shown, in parts."""

    def _measure(self, image: ImageEntry, instances: Instances) -> Iterator[Measurements]:
        rows, _ = rank_instances(instances.runs, instances.scores, instances.iscrowd, self.score_threshold)
        shown = instances[rows]
        window = image.image.window
        corner = (window.top, window.left) if window else (0, 0)  # positions count in the whole file
        return iterate_tables(shown.runs, shown.labels, shown.scores, self.class_names, image.image, corner)


class CsvTables(_Tables):
    """CSV: measurements under scikit-image's names, one row for each prediction that is shown."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image."""
        return [f"measurements/{name}.csv" for name in names]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the table of an image."""
        write_csv(self.folder / "measurements" / f"{image.name}.csv", self._measure(image, instances))


def write_csv(path: Path, parts: Iterable[Measurements]) -> None:
    """Write a table in parts with equal columns, at least one, as CSV.

    Raises:
        ManymaskError: The disk is full or cannot be written to.
    """
    with replace_file(path, "w") as file:
        table = csv.writer(file, lineterminator="\n")
        for place, part in enumerate(parts):
            if place == 0:
                table.writerow(part)
            # Numbers of 32 bits are written with the digits that they have: 0.9, not 0.8999999761581421.
            columns = [map(str, c) if c.dtype == np.float32 else c.tolist() for c in part.values()]
            table.writerows(zip(*columns, strict=True))


class ParquetTables(_Tables):
    """Parquet: the same table as in CSV, smaller and with types; needs pyarrow."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image."""
        return [f"measurements/{name}.parquet" for name in names]

    @staticmethod
    def check() -> None:
        """Refuse where pyarrow is missing."""
        import_extra("pyarrow", "tables")

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the table of an image, a row group for each part."""
        pyarrow: Any = import_extra("pyarrow", "tables")
        parquet: Any = import_extra("pyarrow.parquet", "tables")
        with replace_file(self.folder / "measurements" / f"{image.name}.parquet") as file, ExitStack() as stack:
            writer = None
            for part in self._measure(image, instances):
                table = pyarrow.table(part | {"class": pyarrow.array(part["class"], pyarrow.string())})
                if writer is None:
                    writer = stack.enter_context(parquet.ParquetWriter(file, table.schema))
                writer.write_table(table)
