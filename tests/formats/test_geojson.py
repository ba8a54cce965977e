import gzip
import json
import time

import numpy as np
import pytest

from manymask.core.outputs import record_outputs
from manymask.errors import DatasetError
from manymask.formats import geojson as geojson_module
from manymask.formats import read_dataset
from manymask.formats.datasets import detect_format, open_dataset
from manymask.formats.geojson import GeojsonWriter, parse_geojson, read_geojson
from manymask.outputs import GeoJson
from manymask.outputs import geojson as outputs_module
from tests.formats.format_files import make_ids, make_instances, make_pixels, write_array
from tests.outputs.results import ROWS, write
from tests.outputs.results import make_instances as make_results

SQUARE = [[1, 1], [4, 1], [4, 4], [1, 4], [1, 1]]
FAR = [[6, 0], [8, 0], [8, 2], [6, 2], [6, 0]]
LARGE = [[0, 0], [8, 0], [8, 6], [0, 6], [0, 0]]
HOLE = [[2, 2], [3, 2], [3, 3], [2, 3], [2, 2]]


def make_feature(*rings, kind="annotation", name=None, **fields):
    """A feature as QuPath 0.6 writes it."""
    properties = {"objectType": kind} | ({} if name is None else {"classification": {"name": name, "color": [1, 2, 3]}})
    properties |= fields.pop("properties", {})
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {"type": "Feature", "id": fields.pop("id", None), "geometry": geometry, "properties": properties} | fields


def write_features(root, *features, name="a", file="a.geojson"):
    write_array(root / f"{name}.png", make_pixels())
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_kinds_classes_holes_and_parts(tmp_path):
    multi = make_feature(kind="cell", name="b")
    multi["geometry"] = {"type": "MultiPolygon", "coordinates": [[SQUARE], [FAR]]}
    write_features(
        tmp_path,
        make_feature(SQUARE, HOLE, name="b"),
        make_feature(FAR, kind="detection", properties={"measurements": {"score": 0.25, "Area": "NaN"}}),
        multi | {"nucleusGeometry": {"type": "Polygon", "coordinates": [HOLE]}},
        make_feature(FAR, properties={"classification": {"names": ["b", "x"]}}),
        make_feature(FAR, properties={"classification": "a"}),
    )
    dataset = open_dataset(tmp_path)
    assert dataset.format.name == "geojson"
    assert [category.name for category in dataset.categories] == ["a", "b", "b: x", "object"]
    instances = dataset[0].to_instances()
    assert instances.labels.tolist() == [2, 4, 2, 3, 1]
    assert instances.runs.areas.tolist() == [8, 4, 13, 4, 4]
    assert not instances.to_masks()[0][2, 2]
    assert [problem.severity for problem in dataset.problems] == ["note", "note"]
    assert "the cells are the objects" in dataset.problems[0].message
    assert "1 object without a class" in dataset.problems[1].message
    assert dataset.records[0].annotation.objects[1].score == 0.25


@pytest.mark.parametrize(
    ("features", "areas"),
    [
        ([make_feature(LARGE, name="Tumor"), make_feature(SQUARE, kind="detection")], [9]),
        ([make_feature(LARGE), make_feature(SQUARE), make_feature(FAR)], [9, 4]),
        ([make_feature(LARGE, properties={"childObjects": [make_feature(SQUARE), make_feature(FAR)]})], [9, 4]),
        ([make_feature(LARGE, name="cell"), make_feature(SQUARE, name="nucleus")], [48, 9]),  # a cell and its nucleus
        ([make_feature(LARGE, kind="cell"), make_feature(SQUARE), make_feature(FAR)], [48, 9, 4]),
        ([make_feature(LARGE, name="Region*"), make_feature(SQUARE)], [9]),
        ([make_feature(LARGE, kind="tile"), make_feature(SQUARE)], [9]),
        ([make_feature(LARGE) | {"id": "PathDetectionObject", "properties": {}}, make_feature(SQUARE)], [48, 9]),
    ],
)
def test_regions_of_interest_are_no_objects(tmp_path, features, areas):
    write_features(tmp_path, *features)
    dataset = open_dataset(tmp_path)
    assert dataset[0].to_instances().runs.areas.tolist() == areas
    is_left_out = any("left out" in problem.message for problem in dataset.problems)
    assert is_left_out == (48 not in areas)


def test_points_and_other_planes_are_left_out(tmp_path):
    point, other = make_feature(), make_feature(SQUARE)
    point["geometry"] = {"type": "Point", "coordinates": [1, 2]}
    other["geometry"]["plane"] = {"c": -1, "z": 2, "t": 0}
    write_features(tmp_path, point, other, make_feature(FAR))
    dataset = open_dataset(tmp_path)
    assert dataset[0].to_instances().runs.areas.tolist() == [4]
    assert ["feature 0" in problem.message for problem in dataset.problems] == [True, False]
    assert "other planes" in dataset.problems[1].message


@pytest.mark.parametrize(
    ("file", "name"), [("a.geojson", "a"), ("annotations/a.png.geojson", "a"), ("labels/a.b.geojson", "a.b")]
)
def test_places_and_names(tmp_path, file, name):
    write_features(tmp_path, make_feature(SQUARE), name="x", file=file)
    (tmp_path / "x.png").rename(tmp_path / f"{name}.png")
    dataset = read_dataset(tmp_path)
    assert (dataset.records[0].name, dataset.problems) == (name, ())


@pytest.mark.parametrize("content", [[make_feature(SQUARE)], make_feature(SQUARE), make_feature(SQUARE)["geometry"]])
def test_other_forms_and_endings(tmp_path, content):
    write_array(tmp_path / "images" / "a.png", make_pixels())
    (tmp_path / "labels").mkdir()
    with gzip.open(tmp_path / "labels" / "a.geojson.gz", "wt") as file:
        json.dump(content, file)
    assert read_dataset(tmp_path)[0].to_instances().runs.areas.tolist() == [9]


def test_features_in_a_json_file(tmp_path):
    write_features(tmp_path, make_feature(SQUARE), file="a.json")
    (tmp_path / "_.json").write_text("{}")
    assert detect_format(tmp_path) == "geojson"
    assert read_dataset(tmp_path)[0].to_instances().runs.areas.tolist() == [9]


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"type": "Feature"}, "feature 1 has no geometry"),
        (make_feature([[1, 1], [2, 2]]), "feature 1 is a Polygon of which no outline can be made"),
        (make_feature([["x", 1], [2, 2], [3, 3]]), "feature 1 is a Polygon"),
        (make_feature(SQUARE, [[1, 1]]), "feature 1 is a Polygon"),
        (make_feature(3), "feature 1 is a Polygon"),
        ({"geometry": {"type": "MultiPolygon", "coordinates": 3}}, "feature 1 is a MultiPolygon"),
        (7, "feature 1 has no geometry"),
    ],
)
def test_an_object_that_cannot_be_taken_is_listed(tmp_path, feature, message):
    write_features(tmp_path, make_feature(SQUARE), feature)
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.kind, problem.image) == ("bad-annotation", "a")
    assert message in problem.message
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_damaged_and_endless_files_are_listed(tmp_path, monkeypatch):
    write_features(tmp_path, make_feature(SQUARE))
    (tmp_path / "b.geojson.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    (tmp_path / "c.geojson.gz").write_bytes(gzip.compress(b" " * 5000))
    (tmp_path / "d.geojson").write_text('{"features": 1}')
    monkeypatch.setattr(geojson_module, "_MAX_BYTES", 4000)
    messages = [problem.message for problem in open_dataset(tmp_path).problems]
    assert len(messages) == 3
    for message, part in zip(messages, ["damaged or cut short", "holds more than", "holds no features"], strict=True):
        assert part in message


def test_a_copy_has_the_same_masks_with_holes_parts_and_nesting(tmp_path):
    ring = make_ids((0, 0, 6, 6)) - make_ids((1, 1, 5, 5))
    parts = make_ids((0, 6, 2, 8)) + make_ids((3, 7, 6, 8))
    inner, other = make_ids((2, 2, 3, 3)), make_ids((3, 3, 5, 4))
    masks = [make_ids((0, 0, 6, 8)), ring, parts, inner, other]
    write_features(tmp_path, make_feature(SQUARE, name="cell"), make_feature(SQUARE, name="dot"))
    dataset = read_geojson(tmp_path)
    writer = GeojsonWriter(tmp_path / "copy", dataset)
    writer.write(dataset.records[0], make_instances(*masks, labels=[1, 2, 1, 1, 2]), np.arange(5))
    writer.close()
    copy = read_dataset(tmp_path / "copy")
    assert (copy.format.name, copy.problems) == ("geojson", ())
    instances = copy[0].to_instances()
    assert instances.labels.tolist() == [1, 2, 1, 1, 2]
    np.testing.assert_array_equal(instances.to_masks(), np.stack(masks) > 0)
    feature = json.loads((tmp_path / "copy" / "a.geojson").read_text())["features"][0]
    assert feature["properties"]["objectType"] == "annotation"


def test_a_bad_file_alone_is_an_error(tmp_path):
    write_features(tmp_path, make_feature(SQUARE))
    (tmp_path / "a.geojson").write_text("{")
    with pytest.raises(DatasetError, match="a.geojson is not JSON"):
        read_dataset(tmp_path)


def test_what_predict_writes_is_no_ground_truth_until_somebody_changes_it(tmp_path):
    with record_outputs(tmp_path, "predict", GeoJson.list_files(["a"])):
        write(GeoJson, tmp_path)
    write_array(tmp_path / "a.png", make_pixels(40, 60))
    with pytest.raises(DatasetError, match="fits no layout"):
        read_dataset(tmp_path)
    assert len(read_dataset(tmp_path, "geojson")) == 1
    write(GeoJson, tmp_path, make_results()[:1])
    assert len(read_dataset(tmp_path)[0].labels) == 1


def test_very_many_predictions_in_several_files_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs_module, "MANY_FEATURES", 2)
    with pytest.warns(UserWarning, match="further ones of a are in"):
        write(GeoJson, tmp_path)
    assert len(list((tmp_path / "geojson").iterdir())) == 3
    results = make_results()[ROWS]
    write_array(tmp_path / "a.png", make_pixels(*results.size))
    dataset = read_geojson(tmp_path)
    assert dataset.problems == ()
    np.testing.assert_array_equal(dataset[0].to_instances().to_masks(), results.to_masks())


def test_regions_are_searched_for_as_fast_in_a_column_as_in_a_row(tmp_path):
    def measure(step_x, step_y):
        rings = [[[x + step_x * i, y + step_y * i] for x, y in SQUARE] for i in range(10_000)]
        write_features(tmp_path, *map(make_feature, rings))
        start = time.process_time()
        (drawn,) = parse_geojson(tmp_path).images
        assert len(drawn.objects) == 10_000
        return time.process_time() - start

    assert measure(0, 5) < 3 * measure(5, 0)
