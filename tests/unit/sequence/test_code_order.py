"""The order in which codes are predicted."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from mars_megatron.config.schema import ImageConfig
from mars_megatron.sequence.code_order import code_order, region_tiling


def test_four_regions_of_a_small_image() -> None:
    order = code_order(ImageConfig(resolution=16, downsample=4, next_k=4, order="regions"))
    assert order.tolist() == [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]


@given(side=st.integers(1, 12), k=st.sampled_from([1, 2, 3, 4, 8, 9, 16, 25]))
def test_regions_are_predicted_in_parallel(side: int, k: int) -> None:
    assume(side**2 % k == 0)
    rows, columns = region_tiling(side, k)
    assert rows * columns == k and rows <= columns
    height, width = side // rows, side // columns
    order = code_order(ImageConfig(resolution=side, downsample=1, next_k=k, order="regions"))
    assert sorted(order.tolist()) == list(range(side**2))
    y, x = np.divmod(order.reshape(-1, k), side)  # [steps, regions]
    regions = (y // height) * columns + x // width
    assert (regions == np.arange(k)).all(), "each step has one code of every region"
    inside = (y % height) * width + x % width
    assert (inside == np.arange(height * width)[:, None]).all(), "at the same place of each, row by row"


def test_raster_is_row_by_row_whatever_k_is() -> None:
    assert code_order(ImageConfig(resolution=16, next_k=4)).tolist() == list(range(16))
