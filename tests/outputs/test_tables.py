import sys

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import tifffile
from skimage.measure import regionprops_table

from manymask.core import ArraySource
from manymask.errors import ManymaskError
from manymask.outputs import CsvTables, LabelTiffs, ParquetTables
from tests.outputs.results import ROWS, make_image, make_instances, write

NAMES = (
    "label", "area", "centroid", "bbox", "perimeter", "eccentricity", "solidity", "orientation", "axis_major_length",
    "axis_minor_length", "intensity_mean", "intensity_min", "intensity_max", "intensity_std",
)  # fmt: skip


def read(kind, folder):
    name = folder / "measurements" / "a"
    return pandas.read_csv(f"{name}.csv") if kind is CsvTables else pandas.read_parquet(f"{name}.parquet")


@pytest.mark.parametrize("kind", [CsvTables, ParquetTables])
def test_columns_are_those_of_skimage(kind, tmp_path):
    write(kind, tmp_path)
    found = read(kind, tmp_path)
    assert found["class"].tolist() == ["grain", "seed, large", "grain", "seed, large", "seed, large", "grain"]
    assert found["score"].astype("float32").tolist() == make_instances().scores[ROWS].tolist()
    for place, mask in enumerate(make_instances().to_masks()[ROWS]):
        ids = mask.astype(np.int32) * (place + 1)
        for name, (expected,) in regionprops_table(ids, make_image().pixels, properties=NAMES).items():
            np.testing.assert_allclose(found[name][place], expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", [CsvTables, ParquetTables])
def test_rows_join_the_label_image(kind, tmp_path):
    write(kind, tmp_path)
    write(LabelTiffs, tmp_path)
    ids = tifffile.imread(tmp_path / "labels" / "a.tif")
    table, shown = read(kind, tmp_path), pandas.read_csv(tmp_path / "labels" / "a.csv")
    joined = shown.merge(table, left_on="id", right_on="label")
    assert len(joined) == len(shown) == ids.max()
    assert (joined["score_x"] == joined["score_y"].astype(str).astype(float)).all()
    for row in table.itertuples():
        assert (ids == row.label).sum() <= row.area


def test_micrometres_stand_beside_pixels_where_the_image_has_a_size(tmp_path):
    write(CsvTables, tmp_path / "sized")
    write(CsvTables, tmp_path / "bare", image=ArraySource(make_image(num_channels=1).pixels))
    sized, bare = (read(CsvTables, tmp_path / name) for name in ("sized", "bare"))
    np.testing.assert_allclose(sized["area_um2"], sized["area"] / 4)
    np.testing.assert_allclose(sized["perimeter_um"], sized["perimeter"] / 2)
    assert not any(name.endswith(("_um", "_um2")) for name in bare)
    assert "intensity_mean" in bare
    assert "intensity_mean-2" in sized


@pytest.mark.parametrize("kind", [CsvTables, ParquetTables])
def test_nothing_found_is_a_table_without_rows(kind, tmp_path):
    write(kind, tmp_path, make_instances()[:0])
    found = read(kind, tmp_path)
    assert len(found) == 0
    assert list(found)[:4] == ["label", "class", "score", "area"]


def test_both_tables_are_equal_and_parquet_has_types(tmp_path):
    for kind in (CsvTables, ParquetTables):
        write(kind, tmp_path)
    schema = pyarrow.parquet.read_schema(tmp_path / "measurements" / "a.parquet")
    types = {name: str(schema.field(name).type) for name in ("label", "class", "score", "area", "perimeter")}
    assert types == {"label": "int64", "class": "string", "score": "float", "area": "int64", "perimeter": "double"}
    assert schema.names == list(read(CsvTables, tmp_path))


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ManymaskError, match=r"needs pyarrow; install it with: pip install 'manymask\[tables\]'"):
        ParquetTables.check()
