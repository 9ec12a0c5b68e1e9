"""In which order the codes of a high-resolution image are predicted."""

from __future__ import annotations

import numpy as np

from mars_megatron.config.regions import region_tiling
from mars_megatron.config.schema import ImageConfig


def code_order(image: ImageConfig) -> np.ndarray:
    """The raster place of each code in the order of prediction: int64 [codes], a permutation.

    With `image.order` regions, consecutive groups of `image.next_k` codes are the same place of every region, and the
    places go row by row. So a position, which predicts the code `next_k` further on, predicts the right-hand
    neighbour of the code that it reads (at the end of a region's row, the start of the next), and what is predicted
    at once lies far apart.
    """
    side = image.resolution // image.downsample
    places = np.arange(side**2, dtype=np.int64)
    if image.order == "raster":
        return places
    tiling = region_tiling(side, image.next_k)
    assert tiling is not None, "validate() refuses what cannot be cut into regions"
    rows, columns = tiling
    # [region row, row, region column, column] -> [row, column, region row, region column]
    by_region = places.reshape(rows, side // rows, columns, side // columns)
    return by_region.transpose(1, 3, 0, 2).ravel()
