"""What follows from the settings of a section."""

from __future__ import annotations

import pytest

from mars_megatron.config.schema import FreezeConfig, ImageConfig, ModelConfig, RunConfig


def test_the_token_grid_of_both_resolutions() -> None:
    image = ImageConfig(resolution=48, downsample=8, low_resolution=16)
    assert (image.side, image.num_codes, image.low_side, image.num_low_codes) == (6, 36, 2, 4)
    assert ImageConfig(resolution=16, downsample=4).num_low_codes == 0


@pytest.mark.parametrize(
    ("expert", "is_norm", "setting"),
    [
        ("text", False, "text"),
        ("text", True, "text"),
        ("visual", False, "visual"),
        ("visual", True, "visual"),
        ("shared", True, "norms"),
        ("shared", False, "text"),
    ],
)
def test_which_setting_freezes_what(expert: str, is_norm: bool, setting: str) -> None:
    names = ("text", "visual", "norms")
    assert FreezeConfig(**{name: name == setting for name in names}).of(expert, is_norm)
    assert not FreezeConfig(**{name: name != setting for name in names}).of(expert, is_norm)


@pytest.mark.parametrize(
    ("text", "norms", "expert_norms", "expected"),
    [(True, True, False, True), (True, False, False, False), (True, False, True, True), (False, True, True, False)],
)
def test_text_is_frozen_with_the_norms_that_it_meets(
    text: bool, norms: bool, expert_norms: bool, expected: bool
) -> None:
    run = RunConfig(model=ModelConfig(expert_norms=expert_norms), freeze=FreezeConfig(text=text, norms=norms))
    assert run.text_is_frozen is expected
