"""The Frechet distance of two sets of features, from running sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features.

    Args:
        mean: fp64 [features].
        covariance: fp64 [features, features], divided by count - 1.
        count: Images behind them; 0 where it is not known (published statistics do not say).
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    count: int = 0


class FeatureSums:
    """Sums over features that come in parts and on several ranks.

    Deviations from the mean so far are summed, never raw squares, whose difference would cancel in features
    that vary little about a large mean. torchmetrics' FrechetInceptionDistance sums raw squares, and takes no published
    mean and covariance.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, features: torch.Tensor) -> None:
        """Take in features [N, features] of any floating type."""
        if len(features) == 0:
            return
        x = features.detach().to("cpu", torch.float64)
        mean = x.mean(dim=0)
        part = FeatureSums()
        part.count, part.mean, part.scatter = len(x), mean, (x - mean).T @ (x - mean)
        self.merge(part)

    def merge(self, other: FeatureSums) -> None:
        """Take in other sums (Chan, Golub and LeVeque 1979)."""
        if other.count == 0:
            return
        if self.count == 0:
            self.count, self.mean, self.scatter = other.count, other.mean, other.scatter
            return
        count, apart = self.count + other.count, other.mean - self.mean
        weight = self.count * other.count / count
        self.scatter = self.scatter + other.scatter + weight * torch.outer(apart, apart)
        self.mean = self.mean + apart * (other.count / count)
        self.count = count

    def reduce(self, device: torch.device) -> FeatureSums:
        """The sums over all ranks of the job; every rank must call it, and gets the same.

        Args:
            device: One that the job's process group can send from.
        """
        if torch.distributed.get_world_size() == 1:
            return self
        # a rank may have seen no image, and then does not know the number of features
        size = _summed(torch.tensor([float(len(self.mean))]), device, torch.distributed.ReduceOp.MAX)
        if self.count == 0:
            self.mean = torch.zeros(int(size), dtype=torch.float64)
            self.scatter = torch.zeros(int(size), int(size), dtype=torch.float64)
        whole = FeatureSums()
        whole.count = int(_summed(torch.tensor([float(self.count)], dtype=torch.float64), device))
        whole.mean = _summed(self.mean * self.count, device) / max(whole.count, 1)
        apart = self.mean - whole.mean
        whole.scatter = _summed(self.scatter + self.count * torch.outer(apart, apart), device)
        return whole

    def moments(self) -> Moments:
        """Mean and covariance of all that was taken in.

        Raises:
            ValueError: There are fewer than two images, or a feature is no finite number.
        """
        if self.count < 2:
            raise ValueError(f"there are features of {self.count} images; a covariance needs 2 or more")
        if not (self.mean.isfinite().all() and self.scatter.isfinite().all()):
            raise ValueError("the feature extractor gave values that are not finite")
        return Moments(self.mean, self.scatter / (self.count - 1), self.count)


def _summed(
    values: torch.Tensor, device: torch.device, operation: torch.distributed.ReduceOp.RedOpType | None = None
) -> torch.Tensor:
    sent = values.to(device, copy=True)
    torch.distributed.all_reduce(sent, operation or torch.distributed.ReduceOp.SUM)
    return sent.cpu()


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians with these moments.

    |m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)) (Dowson and Landau 1982; Heusel et al. 2017 for images). C1 C2 is similar
    to the symmetric sqrt(C1) C2 sqrt(C1), whose eigenvalues are real: no root of a general matrix, which is complex and
    unreliable where a covariance is singular (fewer images than features).
    """
    assert first.mean.shape == second.mean.shape, (first.mean.shape, second.mean.shape)
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ second.covariance @ root
    shared = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    apart = (first.mean - second.mean).square().sum()
    distance = apart + first.covariance.trace() + second.covariance.trace() - 2 * shared
    return max(float(distance), 0.0)  # rounding can leave a little below zero
