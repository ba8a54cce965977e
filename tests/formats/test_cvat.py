import numpy as np
import pytest

from manymask.errors import DatasetError, FormatError
from manymask.formats import read_dataset
from manymask.formats.cvat import read_cvat
from manymask.formats.datasets import open_dataset
from tests.formats.format_files import copy_with, make_ids, make_pixels, write_array

SQUARE = '<polygon label="cell" points="1.00,1.00;4.00,1.00;4.00,4.00;1.00,4.00" occluded="0" z_order="0"/>'
META = """<meta><task><name>t</name><mode>annotation</mode><labels>
<label><name>dot</name><type>any</type><attributes/></label><label><name>cell</name></label></labels></task></meta>"""


def write_task(root, *shapes, name="a.png", size=(6, 8), head=""):
    """The file as CVAT's documentation of XML 1.1 has it."""
    write_array(root / "images" / "a.png", make_pixels())
    image = f'<image id="0" name="{name}" width="{size[1]}" height="{size[0]}">{"".join(shapes)}</image>'
    text = (
        f'<?xml version="1.0" encoding="utf-8"?>\n{head}<annotations><version>1.1</version>{META}{image}</annotations>'
    )
    (root / "annotations.xml").write_text(text)


def test_polygon_mask_box_and_ellipse(tmp_path):
    write_task(
        tmp_path,
        SQUARE,
        '<mask label="dot" source="manual" occluded="0" rle="1, 2, 1, 2" left="5" top="1" width="3" height="2"/>',
        '<box label="cell" xtl="4" ytl="2" xbr="7" ybr="5"/>',
        '<ellipse label="cell" cx="4" cy="3" rx="2" ry="2"/>',
        '<box label="dot" xtl="2" ytl="0" xbr="4" ybr="6" rotation="90"/>',
    )
    dataset = read_dataset(tmp_path)
    assert dataset.format.name == "cvat"
    assert [category.name for category in dataset.categories] == ["dot", "cell"]
    instances = dataset[0].to_instances()
    assert instances.labels.tolist() == [2, 1, 2, 2, 1]
    masks = instances.to_masks()
    np.testing.assert_array_equal(masks[0], make_ids((1, 1, 4, 4)) > 0)
    np.testing.assert_array_equal(np.argwhere(masks[1]), [[1, 6], [1, 7], [2, 6], [2, 7]])
    np.testing.assert_array_equal(masks[2], make_ids((2, 4, 5, 7)) > 0)
    y, x = np.indices((6, 8)) + 0.5
    np.testing.assert_array_equal(masks[3], np.hypot(x - 4, y - 3) < 1.98)
    np.testing.assert_array_equal(masks[4], make_ids((2, 0, 4, 6)) > 0)


def test_files_of_other_tools_beside_do_not_decide(tmp_path):
    write_task(tmp_path, SQUARE)
    (tmp_path / "a.xml").write_text("<annotation><image><label><name>x</name></label></image></annotation>")
    dataset = read_dataset(tmp_path)
    assert (dataset.format.name, len(dataset), len(dataset.categories)) == ("cvat", 1, 2)


def test_shapes_of_a_group_and_label_are_one_object_and_lines_are_none(tmp_path):
    far = SQUARE.replace("1.00,1.00;4.00,1.00;4.00,4.00;1.00,4.00", "6,0;8,0;8,2;6,2").replace(
        "<polygon", "<polygon {}"
    )
    group = 'group_id="3"'
    write_task(
        tmp_path,
        SQUARE.replace("<polygon", f"<polygon {group}"),
        far.format(group),
        far.format(group).replace("cell", "dot"),
        f'<mask label="cell" rle="0, 1" left="5" top="5" width="1" height="1" {group}/>',
        far.format('group_id="0"'),
        '<polyline label="cell" points="1,1;2,2"/>',
        '<tag label="cell"/>',
    )
    dataset = open_dataset(tmp_path)
    assert dataset[0].to_instances().runs.areas.tolist() == [14, 4, 4]
    assert [problem.severity for problem in dataset.problems] == ["note"]
    assert "a.png: shape 5, a.png: shape 6" in dataset.problems[0].message


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<polygon points="1,1;4,1;4,4"/>', r"a\.png: shape 1 \(polygon\) has no label"),
        ('<polygon label="cell"/>', "has points ''"),
        ('<polygon label="cell" points="1,1;4,1"/>', "has points '1,1;4,1', expected three"),
        ('<polygon label="cell" points="1,1;4,1;4"/>', "has points"),
        ('<polygon label="cell" points="nan,1;4,1;4,4"/>', "has points"),
        ('<polygon label="cell" points="1e99,1;4,1;4,4"/>', "has points"),
        ('<box label="cell" xtl="1" ytl="x" xbr="2" ybr="3"/>', "has ytl 'x', expected a number"),
        ('<ellipse label="cell" cx="1" cy="1" rx="1e12" ry="1"/>', "has rx '1e12'"),
        ('<mask label="cell" rle="1, x" left="0" top="0" width="1" height="1"/>', "do not add up to its box of 1 x 1"),
        ('<mask label="cell" rle="1, 2" left="0" top="0" width="2" height="2"/>', "do not add up to its box of 2 x 2"),
        ('<mask label="cell" rle="-1, 5" left="0" top="0" width="2" height="2"/>', "do not add up"),
        ('<mask label="cell" rle="1" left="0" top="0" width="99999" height="99999"/>', "larger than its image"),
        ('<mask label="cell" rle="1" left="0" top="0" width="1"/>', "has height None"),
    ],
)
def test_an_object_that_cannot_be_taken_is_listed(tmp_path, shape, message):
    write_task(tmp_path, SQUARE, shape)
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.kind, problem.image) == ("bad-annotation", "a")
    with pytest.raises(FormatError, match=message):
        raise FormatError(problem.message)
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_masks_that_reach_out_of_the_image_are_cut(tmp_path):
    mask = '<mask label="cell" rle="0, 4" left="{}" top="{}" width="2" height="2"/>'
    write_task(tmp_path, *(mask.format(*place) for place in [(-1, -1), (7, 5), (20, 20)]))
    assert read_cvat(tmp_path)[0].to_instances().runs.areas.tolist() == [1, 1]


def test_a_large_ellipse_is_cut(tmp_path):
    write_task(tmp_path, '<ellipse label="cell" cx="4" cy="3" rx="1e9" ry="1e9"/>')
    assert read_cvat(tmp_path)[0].to_instances().runs.areas.tolist() == [48]


def test_images_that_are_not_there_are_listed(tmp_path):
    write_task(tmp_path, SQUARE)
    text = (tmp_path / "annotations.xml").read_text()
    image = text[text.index("<image") : text.index("</annotations>")]
    missing = image.replace("a.png", "sub/b.png")
    (tmp_path / "annotations.xml").write_text(text.replace(image, image + missing))
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert [(problem.kind, problem.image) for problem in dataset.problems] == [("bad-image-entry", "sub/b.png")]


ENTITY = '<!DOCTYPE a [<!ENTITY x "xxxxxxxx"><!ENTITY y "&x;&x;">]>'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("</annotations>", ""), "is not XML without entities"),
        (lambda text: text.replace("<annotations>", f"{ENTITY}<annotations>"), "is not XML without entities"),
        (lambda text: text.replace('encoding="utf-8"', 'encoding="x-none"'), "is not XML without entities"),
        (lambda text: text.replace("</annotations>", '<track id="0"/></annotations>'), "holds tracks of a video"),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    write_task(tmp_path, SQUARE)
    path = tmp_path / "annotations.xml"
    path.write_text(change(path.read_text()))
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_the_size_is_compared(tmp_path):
    write_task(tmp_path, SQUARE, size=(6, 9))
    with pytest.raises(DatasetError, match=r"annotations.xml gives image a.png as 6 x 9"):
        read_cvat(tmp_path)[0]


def test_a_copy_has_the_same_masks_with_holes_parts_and_overlaps(tmp_path):
    ring = make_ids((0, 0, 5, 5)) - make_ids((1, 1, 4, 4))
    parts = make_ids((0, 5, 2, 8)) + make_ids((3, 6, 6, 8))
    overlapping = make_ids((2, 2, 6, 7))
    write_task(tmp_path / "data", SQUARE.replace("cell", "a &lt; &quot;b&quot; &amp; c"))
    dataset = read_cvat(tmp_path / "data")
    copy = copy_with(dataset, tmp_path / "copy", ring, parts, overlapping, labels=[1, 2, 3])
    assert copy.problems == ()
    assert [category.name for category in copy.categories] == ["dot", "cell", 'a < "b" & c']
    instances = copy[0].to_instances()
    assert instances.labels.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(instances.to_masks(), np.stack([ring, parts, overlapping]) > 0)
    text = (tmp_path / "copy" / "annotations.xml").read_text()
    assert (text.count("<mask"), text.count("<polygon")) == (2, 1)


def test_an_image_of_bad_shapes_only_is_left_out_where_another_is_called_alike(tmp_path):
    for folder in "xy":
        write_array(tmp_path / "images" / folder / "a.png", make_pixels())
    images = [
        f'<image id="0" name="{folder}/a.png" width="8" height="6">{shape}</image>'
        for folder, shape in (("x", '<polygon label="cell" points="1,1;2,2"/>'), ("y", SQUARE))
    ]
    (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(images)}</annotations>")
    dataset = open_dataset(tmp_path)
    assert [record.path.parent.name for record in dataset.records] == ["y"]
    assert {problem.image for problem in dataset.problems} == {"x_a"}


def test_masks_larger_than_any_image_are_not_decoded(tmp_path):
    mask = '<mask label="cell" rle="0, 10000000000" left="0" top="0" width="100000" height="100000"/>'
    write_task(tmp_path, SQUARE, mask, size=(100000, 100000))
    with pytest.raises(DatasetError, match="100000 x 100000"):
        read_cvat(tmp_path)[0]
    (problem,) = read_cvat(tmp_path).problems
    assert "make a polygon" in problem.message
