"""Hypothesis strategies for masks and layers that are small and awkward."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def sizes(max_side: int = 14) -> st.SearchStrategy[tuple[int, int]]:
    """(height, width) of an image, from one pixel on."""
    return st.tuples(st.integers(1, max_side), st.integers(1, max_side))


@st.composite
def rectangles(draw: st.DrawFn, size: tuple[int, int]) -> np.ndarray:
    """A filled rectangle, often against a border."""
    mask = np.zeros(size, dtype=bool)
    y1, y2 = sorted(draw(st.tuples(*2 * [st.integers(0, size[0])])))
    x1, x2 = sorted(draw(st.tuples(*2 * [st.integers(0, size[1])])))
    mask[y1:y2, x1:x2] = True
    return mask


@st.composite
def blobs(draw: st.DrawFn, size: tuple[int, int]) -> np.ndarray:
    """An ellipse, which may reach over the border."""
    y, x = np.mgrid[: size[0], : size[1]]
    centre_y, centre_x = draw(st.integers(-2, size[0] + 2)), draw(st.integers(-2, size[1] + 2))
    radius_y, radius_x = draw(st.integers(1, size[0])), draw(st.integers(1, size[1]))
    return ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 <= 1


@st.composite
def wrapping_runs(draw: st.DrawFn, size: tuple[int, int]) -> np.ndarray:
    """One run in column order, which passes the ends of columns."""
    begin, end = sorted(draw(st.tuples(*2 * [st.integers(0, size[0] * size[1])])))
    flat = np.zeros(size[0] * size[1], dtype=bool)
    flat[begin:end] = True
    return flat.reshape(size[1], size[0]).T


@st.composite
def single_pixels(draw: st.DrawFn, size: tuple[int, int]) -> np.ndarray:
    """One pixel, often in a corner."""
    mask = np.zeros(size, dtype=bool)
    mask[draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))] = True
    return mask


@st.composite
def borders(draw: st.DrawFn, size: tuple[int, int]) -> np.ndarray:
    """Some of the image's four borders, whole."""
    mask = np.zeros(size, dtype=bool)
    sides = [np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]]
    for side in draw(st.lists(st.sampled_from(range(4)), min_size=1, max_size=4)):
        mask[sides[side]] = True
    return mask


def masks(size: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    """One mask of any kind, (height, width) bool."""
    return st.one_of(
        st.just(np.zeros(size, dtype=bool)),
        st.just(np.ones(size, dtype=bool)),
        arrays(bool, size),
        *(kind(size) for kind in (rectangles, blobs, wrapping_runs, single_pixels, borders)),
    )


@st.composite
def stacks(
    draw: st.DrawFn, size: tuple[int, int] | None = None, min_instances: int = 0, max_instances: int = 6
) -> np.ndarray:
    """A dense stack of masks that may overlap, (instances, height, width) bool."""
    size = size or draw(sizes())
    drawn = draw(st.lists(masks(size), min_size=min_instances, max_size=max_instances))
    return np.array(drawn, dtype=bool).reshape(-1, *size)


@st.composite
def stack_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two stacks of one image."""
    size = draw(sizes())
    return draw(stacks(size)), draw(stacks(size))


@st.composite
def label_layers(draw: st.DrawFn, max_layers: int = 3, max_ids: int = 8) -> tuple[np.ndarray, int]:
    """Layers of noisy ids with gaps, each id in one layer only, and the number of instances."""
    num_layers, num_instances = draw(st.integers(1, max_layers)), draw(st.integers(0, max_ids))
    size = draw(sizes())
    layer_of = draw(arrays(np.int64, num_instances, elements=st.integers(0, num_layers - 1)))
    layers = np.zeros((num_layers, *size), dtype=np.int32)
    for index, layer in enumerate(layers):
        ids = [0, *(np.flatnonzero(layer_of == index) + 1).tolist()]
        layer[:] = draw(arrays(np.int32, size, elements=st.sampled_from(ids)))
    return layers, num_instances
