"""k-means of encoder outputs, for codebooks."""

from __future__ import annotations

import torch


def nearest(rows: torch.Tensor, centres: torch.Tensor, chunk: int = 8192) -> torch.Tensor:
    """Number of the nearest centre of each row: [n, dim], [k, dim] -> int64 [n]."""
    norms = (centres * centres).sum(1)
    return torch.cat([(norms - 2 * part @ centres.T).argmin(1) for part in rows.split(chunk)])


def squared_distance(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Squared distance of each row to its nearest centre: [n, dim], [k, dim] -> [n]."""
    return (rows - centres[nearest(rows, centres)]).square().sum(1)


def draw_far(rows: torch.Tensor, distances: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` rows drawn without replacement, with probability in proportion to their distance: [count, dim]."""
    # the little addend keeps rows drawable where fewer than `count` have a distance above zero
    weights = distances.double() / distances.max().clamp(min=1e-12) + 1e-9
    return rows[torch.multinomial(weights.cpu(), count, generator=generator).to(rows.device)]


def kmeans(rows: torch.Tensor, k: int, iterations: int, generator: torch.Generator) -> torch.Tensor:
    """Lloyd's algorithm from k-means++ centres; a centre that loses all its rows is drawn anew.

    Args:
        rows: float [n, dim], n >= k.
        k: Number of centres.
        iterations: Rounds of Lloyd's algorithm.
        generator: CPU generator of every draw.

    Returns:
        Centres, float [k, dim].
    """
    assert len(rows) >= k, f"{len(rows)} rows do not make {k} centres"
    first = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
    centres = torch.empty(k, rows.shape[1], dtype=rows.dtype, device=rows.device)
    centres[0] = rows[first[0]]
    distances = (rows - centres[0]).square().sum(1)
    for number in range(1, k):
        centres[number] = draw_far(rows, distances, 1, generator)[0]
        distances = torch.minimum(distances, (rows - centres[number]).square().sum(1))
    for _ in range(iterations):
        members = nearest(rows, centres)
        counts = torch.bincount(members, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, members, rows)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = draw_far(rows, squared_distance(rows, centres), len(empty), generator)
    return centres
