import gzip
import json
import uuid

import numpy as np
import pytest
import shapely

from manymask.core.palette import PALETTE
from manymask.outputs import GeoJson
from manymask.outputs import geojson as geojson_module
from manymask.outputs import writer as writer_module
from tests.outputs.results import ROWS, make_instances, write


def read(folder):
    with gzip.open(folder / "geojson" / "a.geojson.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


def fill(feature, size):
    """Pixels whose middles lie inside, by shapely."""
    shape = shapely.from_geojson(json.dumps(feature["geometry"]))
    assert shape.is_valid
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    return shapely.contains_xy(shape, x, y)


def test_filled_features_are_the_masks(tmp_path):
    write(GeoJson, tmp_path)
    instances = make_instances()
    features = read(tmp_path)["features"]
    assert [feature["properties"]["measurements"]["label"] for feature in features] == [1, 2, 3, 4, 5, 6]
    for feature, mask in zip(features, instances.to_masks()[ROWS], strict=True):
        np.testing.assert_array_equal(fill(feature, instances.size), mask)


def test_fields_are_those_that_qupath_reads(tmp_path):
    """Names and types of QuPath 0.6's GeoJSON reader (design notes on exports)."""
    write(GeoJson, tmp_path)
    collection = read(tmp_path)
    assert collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        assert list(feature) == ["type", "id", "geometry", "properties"]
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert {*properties} == {"objectType", "classification", "measurements"}
        assert all(isinstance(value, int | float) or value == "NaN" for value in properties["measurements"].values())
    geometries = [feature["geometry"] for feature in collection["features"]]
    assert [geometry["type"] for geometry in geometries] == [*["Polygon"] * 2, "MultiPolygon", *["Polygon"] * 3]
    assert [len(geometries[0]["coordinates"]), len(geometries[2]["coordinates"])] == [2, 3]
    second = collection["features"][1]["properties"]
    assert second["classification"] == {"name": "seed, large", "color": list(PALETTE[1])}
    assert second["measurements"] | {"score": 0.9, "area": 375} == second["measurements"]
    assert len({feature["id"] for feature in collection["features"]}) == 6


def test_equal_predictions_are_equal_files(tmp_path):
    for name in ("first", "second"):
        write(GeoJson, tmp_path / name)
    first, second = ((tmp_path / name / "geojson" / "a.geojson.gz").read_bytes() for name in ("first", "second"))
    assert first == second


def test_nothing_found(tmp_path):
    write(GeoJson, tmp_path, make_instances()[:0])
    assert read(tmp_path) == {"type": "FeatureCollection", "features": []}


def test_very_many_features_are_in_several_files(tmp_path, monkeypatch):
    write(GeoJson, tmp_path / "whole")
    features = read(tmp_path / "whole")["features"]
    for most, counts in ((5, [5, 1]), (2, [2, 4]), (6, [6])):
        monkeypatch.setattr(geojson_module, "MANY_FEATURES", most)
        monkeypatch.setattr(geojson_module, "MOST_FILES", 2)
        if len(counts) > 1:
            with pytest.warns(
                match=rf"holds {most} objects, as many as QuPath loads .* are in .*a\.part2\.geojson\.gz"
            ):
                write(GeoJson, tmp_path / f"{most}")
        else:
            write(GeoJson, tmp_path / f"{most}")
        files = [tmp_path / f"{most}" / name for name in GeoJson.list_files(["a"])[: len(counts)]]
        assert sorted((tmp_path / f"{most}" / "geojson").iterdir()) == sorted(files)
        parts = [json.loads(gzip.decompress(file.read_bytes()))["features"] for file in files]
        assert [len(part) for part in parts] == counts
        assert [feature for part in parts for feature in part] == features


def test_parts_of_predictions_are_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "GROUP_RUNS", 20)
    write(GeoJson, tmp_path / "parts")
    monkeypatch.undo()
    write(GeoJson, tmp_path / "whole")
    assert read(tmp_path / "parts") == read(tmp_path / "whole")
