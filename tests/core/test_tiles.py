import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from manymask.core import Instances, RunLengths, Tile, Window, crop_runs, encode_crops, list_tiles, merge_tiles
from manymask.core.tiles import place_instances
from tests import dense, strategies


def look(truth: Instances, window: Window) -> Instances:
    """What a detector that is always right finds in a window: every object, as far as it lies there."""
    boxes = truth.runs.boxes
    is_in = (boxes[:, 2] > window.left) & (boxes[:, 0] < window.left + window.width)
    is_in &= (boxes[:, 3] > window.top) & (boxes[:, 1] < window.top + window.height)
    near = truth[is_in]
    runs = crop_runs(near.runs, window)
    return Instances.from_runs(runs, near.labels, scores=near.scores)[runs.areas > 0]


def merge_shuffled(truth: Instances, tiles: list[Tile], seed: int) -> Instances:
    """Look at the tiles in any order, with what is found in each in any order, and merge."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(tiles))
    found = [look(truth, tiles[index].window) for index in order]
    found = [part[rng.permutation(len(part))] for part in found]
    return merge_tiles(truth.size, [tiles[index] for index in order], found).instances


def list_objects(instances: Instances) -> list[tuple]:
    """All that is known of each object, in an order of its own."""
    splits = instances.runs.row_splits
    return sorted(
        (label, score, instances.runs.start[a:b].tobytes(), instances.runs.length[a:b].tobytes())
        for label, score, a, b in zip(
            instances.labels.tolist(), instances.scores.tolist(), splits[:-1], splits[1:], strict=True
        )
    )


class TestListTiles:
    @given(st.integers(1, 60), st.integers(1, 60), st.integers(3, 20), st.integers(1, 3), st.sampled_from([1, 2, 4]))
    def test_cores_partition_and_windows_overlap(self, height, width, tile_size, half, alignment):
        overlap = 2 * half
        if tile_size - overlap < alignment:
            with pytest.raises(ValueError, match="expected an even overlap"):
                list_tiles((height, width), tile_size, overlap, alignment)
            return
        tiles = list_tiles((height, width), tile_size, overlap, alignment)
        owners = np.zeros((height, width), dtype=int)
        for core, window in tiles:
            owners[core.slices] += 1
            assert window.top % alignment == window.left % alignment == 0
            assert max(window.height, window.width) <= tile_size
            for axis, length in enumerate((height, width)):
                first, last = core[axis] - window[axis], window[axis] + window[axis + 2] - core[axis] - core[axis + 2]
                assert first == (half if window[axis] else 0)
                assert last == (half if window[axis] + window[axis + 2] < length else 0)
        assert (owners == 1).all()

    def test_an_image_of_the_tile_s_size_is_one_tile(self):
        assert list_tiles((64, 50), 64, 8) == [Tile(Window(0, 0, 64, 50), Window(0, 0, 64, 50))]

    def test_tiles_are_about_as_large_as_each_other(self):
        heights = [tile.window.height for tile in list_tiles((1030, 10), 1024, 64)]
        assert heights == [547, 547]

    @pytest.mark.parametrize("overlap", [0, 7, 64])
    def test_an_overlap_that_is_none(self, overlap):
        with pytest.raises(ValueError, match=f"got {overlap}"):
            list_tiles((100, 100), 64, overlap)


@given(st.data())
def test_windows_of_runs(data):
    size = data.draw(strategies.sizes())
    masks = data.draw(strategies.stacks(size))
    top, left = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    window = Window(top, left, data.draw(st.integers(1, size[0] - top)), data.draw(st.integers(1, size[1] - left)))
    cropped = crop_runs(dense.encode_runs(masks), window)
    inside = masks[:, *window.slices]
    dense.assert_same_runs(cropped, dense.encode_runs(inside))
    placed = place_instances(Instances.from_runs(cropped, np.ones(len(masks), dtype=np.int64)), window, size)
    expected = np.zeros_like(masks)
    expected[:, *window.slices] = inside
    dense.assert_same_runs(placed.runs, dense.encode_runs(expected))


@st.composite
def connected_masks(draw: st.DrawFn, size: tuple[int, int]) -> np.ndarray:
    """One mask in one piece, often long, thin or branched."""
    mask = draw(strategies.masks(size))
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        mask[draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))] = True
        return mask
    return pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1


@st.composite
def crowds(draw: st.DrawFn) -> Instances:
    """Objects that touch, overlap, hold each other or are the same, each with a score of its own."""
    size = draw(strategies.sizes(30))
    masks = np.array(draw(st.lists(connected_masks(size), min_size=0, max_size=8)), dtype=bool).reshape(-1, *size)
    scores = np.linspace(0.9, 0.1, len(masks), dtype=np.float32)
    labels = np.array(draw(st.lists(st.integers(1, 2), min_size=len(masks), max_size=len(masks))), dtype=np.int64)
    return Instances.from_runs(dense.encode_runs(masks), labels, scores=scores)


class TestMergeTiles:
    @settings(max_examples=20)
    @given(crowds(), st.integers(4, 16), st.integers(1, 4), st.integers(0, 9))
    def test_gives_the_truth_that_each_tile_sees_a_part_of(self, truth, tile_size, half, seed):
        tiles = list_tiles(truth.size, max(tile_size, 2 * half + 3), 2 * half)
        assert list_objects(merge_shuffled(truth, tiles, seed)) == list_objects(truth)

    @settings(max_examples=15)
    @given(st.data(), st.integers(9, 16), st.integers(0, 9))
    def test_pieces_far_apart_are_one_object_where_it_is_shorter_than_the_overlap(self, data, tile_size, seed):
        size = data.draw(strategies.sizes(24))
        masks = data.draw(strategies.stacks((5, 5), max_instances=8))
        masks = masks[masks.any(axis=(1, 2))]
        crops = [
            (data.draw(st.integers(0, max(size[1] - 5, 0))), data.draw(st.integers(0, max(size[0] - 5, 0))), mask)
            for mask in (mask[: size[0], : size[1]] for mask in masks)
            if mask.any()
        ]
        scores = np.linspace(0.9, 0.1, len(crops), dtype=np.float32)
        truth = Instances.from_runs(encode_crops(crops, size), np.ones(len(crops), dtype=np.int64), scores=scores)
        tiles = list_tiles(size, tile_size, 6)
        assert list_objects(merge_shuffled(truth, tiles, seed)) == list_objects(truth)

    @settings(max_examples=10)
    @given(crowds(), st.integers(4, 16), st.integers(1, 4))
    def test_order_of_tiles_plays_no_part_whatever_each_finds(self, truth, tile_size, half):
        """Not even in the order of the result: scores of all kinds, and objects that only some tiles see."""
        tiles = list_tiles(truth.size, max(tile_size, 2 * half + 3), 2 * half)
        rng = np.random.default_rng(0)
        found = [look(truth, tile.window) for tile in tiles]
        found = [part[rng.random(len(part)) < 0.7] for part in found]
        first = merge_tiles(truth.size, tiles, found)
        order = rng.permutation(len(tiles))
        second = merge_tiles(truth.size, [tiles[index] for index in order], [found[index] for index in order])
        dense.assert_same_runs(second.instances.runs, first.instances.runs)
        np.testing.assert_array_equal(second.instances.scores, first.instances.scores)
        assert second.num_stitched == first.num_stitched

    def test_nothing(self):
        tiles = list_tiles((50, 50), 20, 4)
        none = [
            Instances.from_runs(RunLengths.empty((w.height, w.width)), np.zeros(0, dtype=np.int64)) for _, w in tiles
        ]
        merged = merge_tiles((50, 50), tiles, none)
        assert (len(merged.instances), merged.num_stitched) == (0, 0)

    def test_an_object_is_its_core_s_with_score_and_box(self):
        """Two tiles see it, a little differently; its centre lies in the second one's core."""
        tiles = list_tiles((10, 30), 20, 10)
        assert [core.left for core, _ in tiles] == [0, 15]
        first = make((10, 20), (0, 12, 4, 18), score=0.9)
        second = make((10, 20), (0, 3, 4, 9), score=0.6)
        merged = merge_tiles((10, 30), tiles, [first, second])
        assert merged.num_stitched == 0
        assert merged.instances.scores.tolist() == pytest.approx([0.6])
        assert merged.instances.boxes.tolist() == [[13, 0, 19, 4]]

    def test_what_the_owner_does_not_see_is_dropped(self):
        tiles = list_tiles((10, 30), 20, 10)
        nothing = make((10, 20))
        assert len(merge_tiles((10, 30), tiles, [nothing, make((10, 20), (0, 0, 4, 5))]).instances) == 0
        assert len(merge_tiles((10, 30), tiles, [make((10, 20), (0, 10, 4, 15)), nothing]).instances) == 1

    def test_two_tiles_claim_the_same_pixels(self):
        """One sees a single object where the other one sees two: the better score stays."""
        tiles = list_tiles((10, 30), 20, 10)
        one = make((10, 20), (0, 11, 4, 18), score=0.6)
        two = make((10, 20), (0, 1, 4, 4), (0, 5, 4, 8), score=0.9)
        merged = merge_tiles((10, 30), tiles, [one, two]).instances
        assert merged.boxes.tolist() == [[15, 0, 18, 4]]  # the other one's centre is not its tile's
        merged = merge_tiles((10, 30), tiles, [replace_scores(one, 0.95), two]).instances
        assert merged.boxes.tolist() == [[11, 0, 18, 4]]

    @pytest.mark.parametrize(("score", "kept"), [(0.9, [[12, 0, 19, 8]]), (0.6, [[12, 4, 15, 8]])])
    def test_nothing_lies_inside_of_what_another_tile_takes_for_one(self, score, kept):
        """The owner of the larger part sees one object; it agrees with that part, but holds the smaller one as well."""
        tiles = list_tiles((10, 30), 20, 10)
        parts = make((10, 20), (0, 12, 4, 19), (4, 12, 8, 15), score=0.7)
        whole = np.ones((8, 7), dtype=bool)
        whole[4:, 3:] = False
        both = replace_scores(Instances.from_runs(encode_crops([(2, 0, whole)], (10, 20)), np.array([1])), score)
        merged = merge_tiles((10, 30), tiles, [parts, both]).instances
        assert merged.boxes.tolist() == kept

    def test_a_long_object_is_stitched(self):
        truth = Instances.from_runs(encode_crops([(2, 3, np.ones((2, 90), dtype=bool))], (10, 100)), np.array([1]))
        tiles = list_tiles((10, 100), 20, 4)
        merged = merge_tiles((10, 100), tiles, [look(truth, tile.window) for tile in tiles])
        assert merged.num_stitched == 1
        assert merged.instances.boxes.tolist() == [[2, 3, 92, 5]]


def make(size, *rectangles, score=1.0):
    """Instances of rectangles y1 x1 y2 x2."""
    crops = [(x1, y1, np.ones((y2 - y1, x2 - x1), dtype=bool)) for y1, x1, y2, x2 in rectangles]
    labels = np.ones(len(crops), dtype=np.int64)
    return Instances.from_runs(encode_crops(crops, size), labels, scores=np.full(len(crops), score, dtype=np.float32))


def replace_scores(instances, score):
    return Instances.from_runs(
        instances.runs, instances.labels, scores=np.full(len(instances), score, dtype=np.float32)
    )


def draw_crowd(side: int, num_objects: int, seed: int = 0) -> Instances:
    """Ellipses at random, which overlap; bars of up to 900 pixels; and rows and columns of squares that touch."""
    rng = np.random.default_rng(seed)
    crops = []
    for place in range(12, side - 12, 12):
        crops += [(place, line, np.ones((12, 12), dtype=bool)) for line in (500, 512, side // 2)]
        crops += [(line, place, np.ones((12, 12), dtype=bool)) for line in (700, 712, side // 3)]
    num_bars = num_objects // 100
    while len(crops) < num_objects:
        is_bar = num_bars > 0
        num_bars -= is_bar
        angle = rng.uniform(0, np.pi)
        half_length = rng.uniform(60, 450) if is_bar else rng.uniform(4, 25)
        half_width = rng.uniform(2, 6) if is_bar else rng.uniform(3, 12)
        reach = int(half_length + half_width) + 1
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        if is_bar:
            mask = (np.abs(along) <= half_length) & (np.abs(across) <= half_width)
        else:
            mask = (along / half_length) ** 2 + (across / half_width) ** 2 <= 1
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = rng.integers(0, side - mask.shape[0]), rng.integers(0, side - mask.shape[1])
        crops.append((int(left), int(top), mask))
    labels = rng.integers(1, 3, len(crops))
    scores = rng.choice(np.array([0.3, 0.6, 0.9], dtype=np.float32), len(crops))  # many the same
    return Instances.from_runs(encode_crops(crops, (side, side)), labels, scores=scores)


@pytest.fixture(scope="module")
def crowd() -> Instances:
    return draw_crowd(8000, 20_000)


@pytest.mark.parametrize(("tile_size", "overlap"), [(640, 64), (1024, 96), (2048, 128)])
def test_20_000_objects(crowd, tile_size, overlap):
    """Nothing is cut, joined, doubled or lost, on 64 million pixels, whatever the tiles and their order."""
    tiles = list_tiles(crowd.size, tile_size, overlap, 32)
    assert len(tiles) > 16
    merged = merge_shuffled(crowd, tiles, seed=tile_size)
    assert len(merged) == len(crowd) == 20_000
    assert list_objects(merged) == list_objects(crowd)
