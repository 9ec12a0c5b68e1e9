"""How an image is cut into the regions of next-K-token prediction."""

from __future__ import annotations

import math


def region_tiling(side: int, number: int) -> tuple[int, int] | None:
    """(rows, columns) of `number` equal regions of side x side codes, as square as they get; None if there are none."""
    for rows in range(math.isqrt(number), 0, -1):
        columns = number // rows
        if number % rows == 0 and side % rows == 0 and side % columns == 0:
            return rows, columns
    return None
