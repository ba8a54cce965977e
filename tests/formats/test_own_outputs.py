"""What ``predict`` writes for other tools is read as their files are."""

import numpy as np
import pytest

from manymask.formats.geojson import read_geojson
from manymask.formats.imagej import read_imagej
from manymask.outputs import GeoJson, ImagejRois
from tests.formats.format_files import make_pixels, write_array
from tests.outputs.results import ROWS, make_instances, write


@pytest.mark.parametrize(("output", "read"), [(GeoJson, read_geojson), (ImagejRois, read_imagej)])
def test_what_predict_writes_comes_back_exactly(tmp_path, output, read):
    write(output, tmp_path)
    results = make_instances()[ROWS]
    write_array(tmp_path / "a.png", make_pixels(*results.size))
    dataset = read(tmp_path)
    found = dataset[0].to_instances()
    np.testing.assert_array_equal(found.to_masks(), results.to_masks())
    names = [dataset.categories[label - 1].name for label in found.labels]
    assert names == ["grain" if label == 1 else "seed, large" for label in results.labels]
    assert [each.score for each in dataset.records[0].annotation.objects] == pytest.approx(results.scores)
