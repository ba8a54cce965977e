import json

import pytest

from manymask.errors import DatasetError, FormatError
from manymask.formats import match_image_ids, read_image_ids
from manymask.formats.submission import ImageId

ENTRY = {"file_name": "a.tif", "id": 3, "height": 6, "width": 8}


def test_read(tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps([ENTRY]))
    assert read_image_ids(tmp_path / "ids.json") == [ImageId("a.tif", 3, 6, 8)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no list of images"),
        ({}, "no list of images"),
        ([ENTRY, 5], "entry 1 needs"),
        ([{"file_name": "a.tif", "id": 1}], "entry 0 needs"),
        ([ENTRY | {"height": 0}], "entry 0 needs"),
        ([ENTRY | {"id": "3"}], "entry 0 needs"),
        ([ENTRY, ENTRY | {"file_name": "b.tif"}], "id 3 occurs twice"),
        ([ENTRY, ENTRY | {"id": 4, "file_name": "a.png"}], "name a occurs twice"),
    ],
)
def test_bad_list_is_refused(tmp_path, content, message):
    (tmp_path / "ids.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=rf"ids\.json.*{message}"):
        read_image_ids(tmp_path / "ids.json")


def test_broken_json_is_refused(tmp_path):
    (tmp_path / "ids.json").write_text("[{")
    with pytest.raises(FormatError, match=r"ids\.json is not JSON"):
        read_image_ids(tmp_path / "ids.json")


def test_match_keeps_the_order_of_the_list(tmp_path):
    ids = [ImageId("b.tif", 1, 6, 8), ImageId("a.tif", 2, 6, 8)]
    images = [("a", tmp_path / "a" / "image.tif"), ("b", tmp_path / "b.tif")]
    assert match_image_ids(ids, images) == [(ids[0], images[1][1]), (ids[1], images[0][1])]


def test_match_names_what_is_missing(tmp_path):
    ids = [ImageId(f"{name}.tif", i, 6, 8) for i, name in enumerate("abcdefg")]
    images = [(name, tmp_path / f"{name}.tif") for name in "abcdefgh"]
    with pytest.raises(DatasetError, match=r"list of ids lists 6 images \(b, c, d, e, f and 1 more\) that are not in "):
        match_image_ids(ids, images[:1])
    with pytest.raises(DatasetError, match=rf"ids\.json lists 1 image \(a\) that is not in {tmp_path};"):
        match_image_ids(ids[:3], images[1:3], "ids.json")
    with pytest.raises(DatasetError, match=rf"{tmp_path} holds 1 image \(h\) that is not in ids\.json;"):
        match_image_ids(ids, images, "ids.json")
    with pytest.raises(DatasetError, match=r"7 images .* not in the images;"):
        match_image_ids(ids, [])


def test_real_list(shared_data):
    ids = read_image_ids(shared_data / "homework_sample" / "test_image_name_to_ids.json")
    assert [image_id.id for image_id in ids] == list(range(1, len(ids) + 1))
