import numpy as np
import pytest

from manymask.errors import FormatError
from manymask.formats import read_dataset
from manymask.formats.aperio import read_aperio
from manymask.formats.datasets import detect_format, open_dataset
from tests.formats.format_files import make_ids, make_instances, make_pixels, write_array

SQUARE = [(1, 1), (4, 1), (4, 4), (1, 4)]


def make_region(corners, **fields):
    """A region with the fields that ImageScope writes."""
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    fields = {"Id": 1, "Type": 0, "NegativeROA": 0, "InputRegionId": 0} | fields
    text = " ".join(f'{name}="{value}"' for name, value in fields.items())
    return f"<Region {text}><Attributes/><Vertices>{vertices}</Vertices></Region>"


def make_layer(*regions, attribute='<Attribute Name="Epithelial" Id="0" Value=""/>', name=""):
    return (
        f'<Annotation Id="1" Name="{name}" Visible="1" Type="4"><Attributes>{attribute}</Attributes>'
        f"<Regions><RegionAttributeHeaders/>{''.join(regions)}</Regions><Plots/></Annotation>"
    )


def write_slide(root, *layers, name="a", pixels=True):
    if pixels:
        write_array(root / f"{name}.tif", make_pixels())
    root.mkdir(exist_ok=True, parents=True)
    (root / f"{name}.xml").write_text(f'<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>')


def test_regions_of_layers_with_holes(tmp_path):
    whole, hole = [(0, 0), (8, 0), (8, 6), (0, 6)], [(1.0, 1.0), (3.0, 1.0), (3.0, 3.0), (1.0, 3.0)]
    write_slide(
        tmp_path,
        make_layer(make_region(whole), make_region(SQUARE), make_region(hole, NegativeROA=1)),
        make_layer(
            make_region([(4, 2), (7, 5)], Type=1), make_region([(2, 1), (6, 5)], Type=2), attribute="", name="B"
        ),
    )
    dataset = read_dataset(tmp_path)
    assert dataset.format.name == "aperio"
    assert [category.name for category in dataset.categories] == ["B", "Epithelial"]
    instances = dataset[0].to_instances()
    assert instances.labels.tolist() == [2, 2, 1, 1]
    masks = instances.to_masks()
    assert masks[0].all()
    np.testing.assert_array_equal(masks[1], (make_ids((1, 1, 4, 4)) > 0) & (make_ids((1, 1, 3, 3)) == 0))
    np.testing.assert_array_equal(masks[2], make_ids((2, 4, 5, 7)) > 0)
    y, x = np.indices((6, 8)) + 0.5
    np.testing.assert_array_equal(masks[3], np.hypot(x - 4, y - 3) < 1.98)


@pytest.mark.parametrize(
    ("attribute", "name", "expected"),
    [
        ('<Attribute Name="Lymphocyte" Value=""/>', "x", "Lymphocyte"),
        ('<Attribute Name="Description" Value="nucleus"/>', "x", "nucleus"),
        ('<Attribute Name="Description" Value=""/>', "x", "x"),
        ("", "", "object"),
    ],
)
def test_classes(tmp_path, attribute, name, expected):
    write_slide(tmp_path, make_layer(make_region(SQUARE), attribute=attribute, name=name))
    assert [category.name for category in read_dataset(tmp_path).categories] == [expected]


def test_folders_of_patients_and_of_files(tmp_path):
    for patient in ("p1", "p2"):
        write_slide(tmp_path / "one" / patient, make_layer(make_region(SQUARE)))
    assert detect_format(tmp_path / "one") == "aperio"
    assert [record.name for record in read_dataset(tmp_path / "one").records] == ["p1_a", "p2_a"]
    write_slide(tmp_path / "two" / "Annotations", make_layer(make_region(SQUARE)), pixels=False)
    write_array(tmp_path / "two" / "Tissue Images" / "a.tif", make_pixels())
    assert read_dataset(tmp_path / "two")[0].to_instances().runs.areas.tolist() == [9]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (make_region([]), "layer 1 region 7 has no numbers"),
        (make_region([(1, 1), (2, 2)]), "layer 1 region 7 has 2 vertices"),
        (make_region([(1, 1), (2, "x"), (3, 3)]), "has no numbers"),
        (make_region([(1, 1), (2, "nan"), (3, 3)]), "has no numbers"),
        (make_region([(1, 1), (2, 1e99), (3, 3)]), "has no numbers"),
        (make_region([(5, 5), (6, 5), (6, 6)], NegativeROA=1), "is negative, but lies in no other region"),
        (make_region([(2, 2), (6, 2), (6, 3)], NegativeROA=1), "is negative, but lies in no other region"),
    ],
)
def test_an_object_that_cannot_be_taken_is_listed(tmp_path, region, message):
    write_slide(tmp_path, make_layer(make_region(SQUARE), region.replace('Id="1"', 'Id="7"', 1)))
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.kind, problem.image) == ("bad-annotation", "a")
    with pytest.raises(FormatError, match=message):
        raise FormatError(problem.message)
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_rulers_are_left_out(tmp_path):
    write_slide(tmp_path, make_layer(make_region(SQUARE), make_region([(0, 0), (5, 5), (6, 6)], Id=2, Type=4)))
    dataset = open_dataset(tmp_path)
    assert len(dataset[0].labels) == 1
    assert ["a.xml: layer 1 region 2" in problem.message for problem in dataset.problems] == [True]


def test_images_and_files_that_lack_each_other_are_listed(tmp_path):
    write_slide(tmp_path, make_layer(make_region(SQUARE)))
    write_slide(tmp_path, make_layer(make_region(SQUARE)), name="b", pixels=False)
    write_array(tmp_path / "c.tif", make_pixels())
    (tmp_path / "d.xml").write_text("<Annotations>")
    (tmp_path / "_.xml").write_text("<annotation/>")  # of another tool
    assert detect_format(tmp_path) == "aperio"
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert [(problem.kind, problem.path.name) for problem in dataset.problems] == [
        ("bad-image-entry", "d.xml"),
        ("bad-image-entry", "b.xml"),
        ("incomplete-image", "c.tif"),
    ]


def test_a_copy_is_of_labelme(tmp_path):
    write_slide(tmp_path / "data", make_layer(make_region(SQUARE)))
    dataset = read_aperio(tmp_path / "data")
    mask = make_ids((2, 2, 6, 7))
    writer = dataset.format.open_writer(tmp_path / "copy", dataset)
    writer.write(dataset.records[0], make_instances(mask), np.arange(1))
    writer.close()
    np.testing.assert_array_equal(read_dataset(tmp_path / "copy")[0].to_instances().to_masks()[0], mask > 0)


def test_of_several_images_beside_a_file_the_slide_of_its_own_name_is_meant(tmp_path):
    """Thumbnails and masks beside a slide are not in the pixels of its regions."""
    write_slide(tmp_path, make_layer(make_region(SQUARE)))
    for other in ("a.jpg", "a.mask.tif", "a.png"):
        write_array(tmp_path / other, make_pixels())
    assert [record.path.name for record in open_dataset(tmp_path).records] == ["a.tif"]
