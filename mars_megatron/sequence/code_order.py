"""The order in which the codes of a high-resolution image are predicted."""

from __future__ import annotations

import math

import numpy as np

from mars_megatron.config.schema import ImageConfig


def code_order(image: ImageConfig) -> np.ndarray:
    """The raster place of each code in the order of prediction: int64 [codes], a permutation.

    With `image.order` regions, consecutive groups of `image.next_k` codes are the same place of every region, and the
    places go row by row. So a position, which predicts the code `next_k` further on, predicts the right-hand
    neighbour of the code that it reads (at the end of a region's row, the start of the next), and what is predicted
    at once lies far apart.
    """
    side, places = image.side, np.arange(image.num_codes, dtype=np.int64)
    if image.order == "raster":
        return places
    rows, columns = region_tiling(side, image.next_k)
    # [region row, row, region column, column] -> [row, column, region row, region column]
    by_region = places.reshape(rows, side // rows, columns, side // columns)
    return by_region.transpose(1, 3, 0, 2).ravel()


def region_tiling(side: int, number: int) -> tuple[int, int]:
    """(rows, columns) of `number` equal regions of side x side codes, as square as they get.

    There always are some, because `number` divides side**2: half of its prime factors, or one more of a kind, divide
    side.
    """
    assert side**2 % number == 0, (side, number)
    for rows in range(math.isqrt(number), 0, -1):
        columns = number // rows
        if number % rows == 0 and side % rows == 0 and side % columns == 0:
            return rows, columns
    raise AssertionError((side, number))
