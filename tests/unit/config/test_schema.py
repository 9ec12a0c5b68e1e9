"""What follows from the settings of a section."""

from __future__ import annotations

from mars_megatron.config.schema import ImageConfig


def test_the_token_grid_of_both_resolutions() -> None:
    image = ImageConfig(resolution=48, downsample=8, low_resolution=16)
    assert (image.side, image.num_codes, image.low_side, image.num_low_codes) == (6, 36, 2, 4)
    assert ImageConfig(resolution=16, downsample=4).num_low_codes == 0
