from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manymask.core import RunLengths, decode_coco_rle, encode_coco_rle
from manymask.errors import FormatError
from tests import dense, strategies

SIZE = (6, 5)
WHOLE: dict[str, Any] = {"size": [6, 5], "counts": [0, 30]}


# Steps up and down, counts of one to three characters; they add up to 60 x 50 pixels.
COUNTS = [1, 70, 3, 40, 200, 1, 1, 600, 33, 2, 17, 1100, 5, 31, 32, 33, 831]


def make_stripes():
    """A mask of COUNTS, (60, 50)."""
    return np.repeat(np.arange(len(COUNTS)) % 2 == 1, COUNTS).reshape(50, 60).T


class TestEncode:
    def test_none(self):
        assert encode_coco_rle(RunLengths.empty(SIZE)) == []

    @pytest.mark.parametrize("value", [False, True])
    def test_one_of_a_single_value(self, value):
        masks = np.full((1, *SIZE), value)
        assert encode_coco_rle(dense.encode_runs(masks)) == dense.encode_coco(masks)

    def test_overlapping_with_empty_ones_between(self):
        masks = np.zeros((5, *SIZE), dtype=bool)
        masks[1, 1:4, 1:4] = masks[3, 2:6, 2:5] = True
        assert encode_coco_rle(dense.encode_runs(masks)) == dense.encode_coco(masks)

    def test_long_counts_with_steps_up_and_down(self):
        masks = make_stripes()[None]
        assert encode_coco_rle(dense.encode_runs(masks)) == dense.encode_coco(masks)

    @pytest.mark.parametrize("length", [15, 16, 31, 32, 511, 512, 1023, 1024, 16_383, 16_384, 524_287, 524_288])
    def test_counts_at_the_ends_of_a_character(self, length):
        masks = np.zeros((1, 1, 2 * length + 3), dtype=bool)
        masks[:, :, 1 : length + 1] = masks[:, :, length + 2] = True
        found = encode_coco_rle(RunLengths((1, 2 * length + 3), 1, *np.array([[0, 0], [1, length + 2], [length, 1]])))
        assert found == dense.encode_coco(masks)

    def test_more_than_65535(self):
        position = np.arange(70_000)
        runs = RunLengths((260, 280), 70_000, position, position, np.ones_like(position))
        rles = encode_coco_rle(runs)
        sample = np.array([0, 1, 255, 256, 65_535, 65_536, 69_999])
        assert [rles[row] for row in sample] == dense.encode_coco(dense.decode_runs(runs.select(sample)))
        dense.assert_same_runs(decode_coco_rle(rles, runs.size), runs)

    def test_huge_image_round_trip(self):
        size = (30_000, 30_000)
        runs = RunLengths(size, 2, *np.array([[0, 0, 1], [0, 30_000**2 - 1, 1], [1, 1, 30_000**2 - 1]]))
        dense.assert_same_runs(decode_coco_rle(encode_coco_rle(runs), size), runs)

    def test_sizes_are_not_shared(self):
        first, second = encode_coco_rle(RunLengths.empty(SIZE, 2))
        assert first["size"] is not second["size"]

    def test_plain_python_numbers(self):
        assert repr(encode_coco_rle(RunLengths.empty(SIZE, 1))[0]["size"]) == "[6, 5]"

    @given(strategies.stacks())
    def test_equals_pycocotools(self, masks):
        assert encode_coco_rle(dense.encode_runs(masks)) == dense.encode_coco(masks)


class TestDecode:
    def test_none(self):
        dense.assert_same_runs(decode_coco_rle([], SIZE), RunLengths.empty(SIZE))

    @given(strategies.stacks(), st.sampled_from(["str", "bytes", "list"]))
    def test_equals_dense(self, masks, form):
        rles = dense.encode_coco(masks)
        for rle, mask in zip(rles, masks, strict=True):
            rle["counts"] = {
                "str": rle["counts"],
                "bytes": str(rle["counts"]).encode(),
                "list": dense.count_pixels(mask),
            }[form]
        dense.assert_same_runs(decode_coco_rle(rles, masks.shape[1:]), dense.encode_runs(masks))

    def test_forms_can_be_mixed(self):
        masks = np.stack([make_stripes()] * 2)
        rles = dense.encode_coco(masks)
        rles[0]["counts"] = dense.count_pixels(masks[0])
        dense.assert_same_runs(decode_coco_rle(rles, (60, 50)), dense.encode_runs(masks))

    def test_size_as_a_tuple(self):
        assert decode_coco_rle([{"size": (6, 5), "counts": [0, 30]}], SIZE).areas.tolist() == [30]

    @pytest.mark.parametrize("counts", [[2, 0, 3, 4, 0, 2, 0, 0, 19], [5, 4, 0, 2, 19, 0], [5, 1, 0, 5, 19, 0, 0]])
    def test_counts_of_zero_join(self, counts):
        dense.assert_same_runs(
            decode_coco_rle([{"size": [6, 5], "counts": counts}], SIZE),
            RunLengths(SIZE, 1, np.array([0]), np.array([5]), np.array([6])),
        )


class TestDamaged:
    @pytest.mark.parametrize("size", [[5, 6], [6], [6, 5, 1], None, "65", 30, [], [6, None]])
    def test_wrong_size(self, size):
        with pytest.raises(FormatError, match=r"RLE 1 .*6, 5"):
            decode_coco_rle([WHOLE, {"size": size, "counts": [0, 30]}], SIZE)

    @pytest.mark.parametrize("rle", [{}, {"size": [6, 5]}, {"counts": [0, 30]}])
    def test_missing_key(self, rle):
        with pytest.raises(FormatError, match="RLE 1 "):
            decode_coco_rle([WHOLE, rle], SIZE)

    @pytest.mark.parametrize(
        "counts",
        [
            pytest.param("", id="empty text"),
            pytest.param(b"", id="empty bytes"),
            pytest.param("h", id="text that ends inside a number"),
            pytest.param("0n", id="truncated"),
            pytest.param("0n/", id="character below the alphabet"),
            pytest.param("0n0p", id="character above the alphabet"),
            pytest.param("0n0\n", id="newline"),
            pytest.param(b"0n0\x00", id="zero byte"),
            pytest.param("0n\N{SNOWMAN}0", id="character outside of latin-1"),
            pytest.param("?\N{SNOWMAN}", id="character that a replacement would hide"),
            pytest.param("\ud800", id="half a surrogate pair"),
            pytest.param("0N0", id="negative count"),
            pytest.param("00", id="too few"),
            pytest.param("0o0", id="too many"),
            pytest.param("o" * 12 + "0", id="a number of 13 characters"),
            pytest.param("o" * 11 + "?", id="a number of 60 bits"),
            pytest.param("n0" + 2 * ("P" * 11 + "8") + "0" * 62, id="counts whose sum passes 64 bits"),
        ],
    )
    def test_text(self, counts):
        with pytest.raises(FormatError, match="RLE 1 "):
            decode_coco_rle([WHOLE, {"size": [6, 5], "counts": counts}], SIZE)

    @pytest.mark.parametrize(
        "counts",
        [
            pytest.param([], id="empty"),
            pytest.param([0, 29], id="too few"),
            pytest.param([1, 30], id="too many"),
            pytest.param([31, -1], id="negative"),
            pytest.param([4.5, 26.5], id="fractions"),
            pytest.param(["4", "26"], id="text"),
            pytest.param(["x"], id="letters"),
            pytest.param([None, 30], id="null"),
            pytest.param([[0, 30]], id="nested"),
            pytest.param([[0], [30, 0]], id="ragged"),
            pytest.param([2**62] * 4 + [30], id="sum passes 64 bits"),
            pytest.param([2**70, 30], id="above 64 bits"),
        ],
    )
    def test_list(self, counts):
        with pytest.raises(FormatError, match="RLE 1 "):
            decode_coco_rle([WHOLE, {"size": [6, 5], "counts": counts}], SIZE)

    @pytest.mark.parametrize("counts", [None, 30, {"a": 1}, 3.5])
    def test_other_types(self, counts):
        with pytest.raises(FormatError, match="RLE 1 "):
            decode_coco_rle([WHOLE, {"size": [6, 5], "counts": counts}], SIZE)

    @given(strategies.stacks(min_instances=1, max_instances=1), st.data())
    def test_cut_text_is_never_accepted(self, masks, data):
        (rle,) = dense.encode_coco(masks)
        text = str(rle["counts"])
        rle["counts"] = text[: data.draw(st.integers(0, len(text) - 1))]
        with pytest.raises(FormatError, match="RLE 0 "):
            decode_coco_rle([rle], masks.shape[1:])

    @given(st.one_of(st.text(max_size=12), st.binary(max_size=30), st.text(st.characters(codec="ascii"), max_size=30)))
    def test_any_text_is_refused_or_gives_valid_runs(self, counts):
        try:
            runs = decode_coco_rle([{"size": [6, 5], "counts": counts}], SIZE)
        except FormatError:
            return
        dense.assert_valid_runs(runs)

    @given(st.lists(st.one_of(st.integers(), st.integers(-5, 40), st.floats(), st.none(), st.text()), max_size=4))
    def test_any_list_is_refused_or_gives_valid_runs(self, counts):
        try:
            runs = decode_coco_rle([{"size": [6, 5], "counts": counts}], SIZE)
        except FormatError:
            return
        dense.assert_valid_runs(runs)
