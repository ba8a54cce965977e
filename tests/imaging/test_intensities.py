import numpy as np
import pytest

from manymask.imaging.intensities import keep_differences


def count_apart(values):
    found = keep_differences(values)
    return np.unique(found).size, (found.max() - found) / (found.max() - found.min())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", ">u2", "int16", "float16", "bool"])
def test_narrow_types_are_as_they_were(dtype):
    values = np.arange(-100, 100).reshape(10, 20).astype(dtype)
    assert keep_differences(values).dtype == np.float32
    np.testing.assert_array_equal(keep_differences(values), values.astype(np.float32))


@pytest.mark.parametrize(
    ("start", "dtype"),
    [
        (2**32 - 200, "uint32"),
        (-(2**31), "int32"),
        (2**64 - 200, "uint64"),
        (2**60, ">i8"),
        (-(2**63), "int64"),
        (1e8, "float64"),
    ],
)
def test_neighbours_stay_apart(start, dtype):
    values = np.array([start], dtype=dtype) + np.arange(200).astype(dtype)
    count, shares = count_apart(values)
    assert count == 200
    np.testing.assert_allclose(shares, np.arange(199, -1, -1) / 199, atol=1e-12)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_from_one_end_of_the_type_to_the_other(dtype):
    limits = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    _, shares = count_apart(np.array([limits.min, 0, limits.max], dtype=dtype))
    np.testing.assert_allclose(shares, [1, 0.5, 0], atol=1e-9)
