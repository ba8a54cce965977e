import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manymask.core import Instances, RunLengths, merge_scales, merge_views
from manymask.core.merging import vote_runs
from tests import dense, strategies

SIZE = (12, 15)


def make(*rectangles, scores=None, labels=None, size=SIZE):
    """Instances of rectangles y1 x1 y2 x2."""
    masks = np.zeros((len(rectangles), *size), dtype=bool)
    for mask, (y1, x1, y2, x2) in zip(masks, rectangles, strict=True):
        mask[y1:y2, x1:x2] = True
    scores = np.full(len(masks), 0.8) if scores is None else scores
    labels = np.ones(len(masks), dtype=np.int64) if labels is None else np.array(labels)
    return Instances.from_runs(dense.encode_runs(masks), labels, scores=np.array(scores, dtype=np.float32))


class TestMergeViews:
    @pytest.mark.parametrize("num_views", [1, 3])
    def test_none(self, num_views):
        merged = merge_views([make()] * num_views)
        assert len(merged) == 0
        assert merged.size == SIZE

    @pytest.mark.parametrize("num_views", [1, 2, 5])
    def test_views_that_agree(self, num_views):
        view = make((0, 0, 4, 4), (0, 4, 5, 15), (8, 8, 12, 15), scores=[0.9, 0.4, 0.6])  # touching, and at borders
        merged = merge_views([view] * num_views)
        assert merged.scores == pytest.approx([0.9, 0.6, 0.4])
        np.testing.assert_array_equal(merged.to_masks(), view.to_masks()[[0, 2, 1]])
        np.testing.assert_array_equal(merged.boxes, merged.runs.boxes)

    def test_what_one_view_sees_counts_less(self):
        merged = merge_views([make((0, 0, 4, 4), (6, 6, 9, 9)), make((0, 0, 4, 4)), make((0, 0, 4, 4))])
        assert merged.scores == pytest.approx([0.8, 0.8 / 3])

    def test_mask_of_the_majority(self):
        merged = merge_views([make((0, 0, 4, 4)), make((0, 0, 4, 5)), make((0, 0, 4, 5))])
        assert merged.boxes.tolist() == [[0, 0, 5, 4]]

    def test_surer_views_decide(self):
        merged = merge_views([make((0, 0, 4, 4), scores=[0.9]), make((0, 0, 4, 5), scores=[0.3])])
        assert merged.boxes.tolist() == [[0, 0, 4, 4]]

    def test_other_classes_and_little_overlap_stay_apart(self):
        merged = merge_views([make((0, 0, 4, 4)), make((0, 0, 4, 4), labels=[2])])
        assert sorted(merged.labels.tolist()) == [1, 2]
        assert len(merge_views([make((0, 0, 4, 4)), make((0, 2, 4, 6))])) == 2

    def test_at_most_one_of_each_view(self):
        """Two instances of one view are two objects, however alike; each finds a partner of its own."""
        view = make((0, 0, 4, 4), (0, 0, 4, 5), scores=[0.9, 0.7])
        merged = merge_views([view, view])
        assert merged.scores == pytest.approx([0.9, 0.7])
        assert merged.runs.areas.tolist() == [16, 20]

    def test_many(self):
        corners = [(y, x) for y in range(0, 60, 3) for x in range(0, 60, 3)]
        view = make(*[(y, x, y + 2, x + 2) for y, x in corners], size=(60, 60))
        merged = merge_views([view, view])
        assert len(merged) == len(corners) == 400
        np.testing.assert_array_equal(merged.to_masks().sum(0), view.to_masks().sum(0))

    @given(strategies.stacks(), st.integers(1, 4), st.data())
    def test_views_that_agree_are_each_of_them(self, masks, num_views, data):
        """Whatever overlaps or is the same in one view; empty masks are no objects."""
        numbers = st.lists(st.integers(1, 2), min_size=len(masks), max_size=len(masks))
        labels = np.array(data.draw(numbers), dtype=np.int64)
        scores = np.linspace(1, 0.1, len(masks), dtype=np.float32)
        view = Instances.from_runs(dense.encode_runs(masks), labels, scores=scores)
        merged, is_kept = merge_views([view] * num_views), masks.any(axis=(1, 2))
        np.testing.assert_array_equal(merged.to_masks(), masks[is_kept])
        np.testing.assert_array_equal(merged.labels, labels[is_kept])
        np.testing.assert_allclose(merged.scores, scores[is_kept], rtol=1e-6)

    @given(st.data())
    def test_no_score_is_lost_or_made(self, data):
        """Each instance is part of one that is merged, with at most one of each view, and scores fall."""
        size, num_views = data.draw(strategies.sizes()), data.draw(st.integers(1, 4))
        views = []
        for masks in data.draw(
            st.lists(strategies.stacks(size, max_instances=4), min_size=num_views, max_size=num_views)
        ):
            masks = masks[masks.any(axis=(1, 2))]
            scores = data.draw(st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=len(masks), max_size=len(masks)))
            ones = np.ones(len(masks), dtype=np.int64)
            views.append(Instances.from_runs(dense.encode_runs(masks), ones, scores=np.array(scores, dtype=np.float32)))
        merged = merge_views(views)
        assert merged.scores.sum() == pytest.approx(sum(view.scores.sum() for view in views) / num_views)
        assert merged.scores.max(initial=0) <= max(view.scores.max(initial=0) for view in views) + 1e-6
        assert (np.diff(merged.scores) <= 0).all()
        assert len(merged) >= max(map(len, views))


class TestMergeScales:
    """A fine pass for objects of up to 5 pixels, a coarse one for larger ones."""

    def test_each_size_is_of_its_own_pass(self):
        fine, coarse = make((0, 0, 3, 3), (4, 4, 12, 12)), make((4, 4, 12, 11), (0, 0, 3, 2), scores=[0.9, 0.7])
        merged = merge_scales([fine, coarse], [5.0])
        assert merged.scores == pytest.approx([0.9, 0.8])
        np.testing.assert_array_equal(merged.boxes, [[4, 4, 11, 12], [0, 0, 3, 3]])

    @pytest.mark.parametrize(("large_score", "kept"), [(0.9, [[0, 0, 8, 8]]), (0.7, [[0, 0, 3, 3], [4, 4, 7, 7]])])
    def test_the_better_of_a_cluster_and_its_parts(self, large_score, kept):
        fine, coarse = make((0, 0, 3, 3), (4, 4, 7, 7)), make((0, 0, 8, 8), scores=[large_score])
        np.testing.assert_array_equal(merge_scales([fine, coarse], [5.0]).boxes, kept)

    def test_an_object_of_another_class_may_lie_inside(self):
        merged = merge_scales([make((0, 0, 3, 3), labels=[2]), make((0, 0, 8, 8))], [5.0])
        assert len(merged) == 2

    def test_instances_of_one_pass_stay(self):
        assert len(merge_scales([make((0, 0, 4, 4), (1, 1, 3, 3)), make()], [5.0])) == 2

    def test_none(self):
        assert merge_scales([make(), make()], [5.0]).size == SIZE


class TestVoteRuns:
    def test_no_masks(self):
        runs = vote_runs(RunLengths.empty(SIZE), np.zeros(0, dtype=np.int64), 2, np.zeros(0))
        assert len(runs) == 2
        assert runs.areas.tolist() == [0, 0]

    @given(st.data())
    def test_as_counted_pixel_by_pixel(self, data):
        size = data.draw(strategies.sizes())
        masks = np.array(data.draw(st.lists(strategies.masks(size), min_size=1, max_size=6)))
        cluster = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(masks), max_size=len(masks))))
        weights = np.array(
            data.draw(st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=len(masks), max_size=len(masks)))
        )
        runs = vote_runs(dense.encode_runs(masks), cluster, 3, weights)
        for index in range(3):
            own = cluster == index
            votes = (masks[own] * weights[own][:, None, None]).sum(0)
            expected = dense.encode_runs((votes > weights[own].sum() / 2)[None])
            found = runs.select(np.array([index]))
            assert (found.start.tolist(), found.length.tolist()) == (expected.start.tolist(), expected.length.tolist())
