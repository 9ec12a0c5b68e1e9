"""The Frechet distance against torchmetrics and against the formula with a general matrix root."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from examples.digits.images import load_digit_images
from mars_megatron.evaluation.features import pixels
from mars_megatron.evaluation.frechet import FeatureSums, Moments, frechet_distance


class Given(torch.nn.Module):
    """A feature extractor whose images are the features."""

    num_features = 24

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def features(count: int, seed: int, mean: float = 0.0, size: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mixing + mean


def moments(*parts: torch.Tensor) -> Moments:
    sums = FeatureSums()
    for part in parts:
        sums.add(part)
    return sums.moments()


@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_equals_torchmetrics(mean: float) -> None:
    real, drawn = features(300, 0), features(200, 1, mean)
    metric = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    for part in real.split(64):
        metric.update(part, real=True)
    for part in drawn.split(64):
        metric.update(part, real=False)
    ours = frechet_distance(moments(*real.split(50)), moments(*drawn.split(33)))
    assert ours == pytest.approx(metric.compute().item(), abs=1e-4)


def test_equals_the_formula_with_a_general_root() -> None:
    real, drawn = features(300, 0).numpy(), features(200, 1, 0.5).numpy()
    product = np.cov(real, rowvar=False) @ np.cov(drawn, rowvar=False)
    apart = ((real.mean(axis=0) - drawn.mean(axis=0)) ** 2).sum()
    trace = np.trace(np.cov(real, rowvar=False)) + np.trace(np.cov(drawn, rowvar=False))
    expected = apart + trace - 2 * np.trace(scipy.linalg.sqrtm(product).real)
    assert frechet_distance(moments(torch.tensor(drawn)), moments(torch.tensor(real))) == pytest.approx(
        expected, abs=1e-6
    )


def test_known_gaussians() -> None:
    wide = Moments(torch.tensor([1.0, 0.0]).double(), torch.diag(torch.tensor([4.0, 9.0])).double())
    unit = Moments(torch.zeros(2).double(), torch.eye(2).double())
    assert frechet_distance(wide, unit) == pytest.approx(1 + (2 - 1) ** 2 + (3 - 1) ** 2)


def test_sums_keep_their_digits_about_a_large_mean() -> None:
    x = features(200, 0)
    near, far = moments(*x.split(17)), moments(*(x + 1e7).split(17))
    torch.testing.assert_close(far.covariance, near.covariance, rtol=1e-6, atol=1e-8)  # raw squares would lose it all
    torch.testing.assert_close(near.covariance, torch.cov(x.T))


def test_fewer_images_than_features() -> None:
    few = features(10, 0)
    assert frechet_distance(moments(few), moments(few)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(moments(few), moments(features(10, 1))) > 1


def test_halves_of_a_set_are_near_and_noise_is_far() -> None:
    digits, _ = load_digit_images("train", 16)
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    noise = torch.randint(0, 256, digits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    first, second = (moments(pixels(part)) for part in digits.chunk(2))
    between_halves = frechet_distance(first, second)
    to_noise = frechet_distance(first, moments(pixels(noise)))
    assert between_halves < 0.5 and to_noise > 30 * between_halves


@pytest.mark.parametrize("wrong", [torch.zeros(1, 3), torch.full((4, 3), float("nan"))])
def test_no_moments(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="needs 2 or more|not finite"):
        moments(wrong)
