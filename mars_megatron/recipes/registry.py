"""The recipes by name."""

from __future__ import annotations

from collections.abc import Callable

from mars_megatron.config.schema import RunConfig
from mars_megatron.recipes.compositional import compositional, compositional_base
from mars_megatron.recipes.digits import digits, digits_base
from mars_megatron.recipes.digits_stages import digits_stage1, digits_stage2, digits_stage3
from mars_megatron.recipes.mars_7b import mars_7b_stage1, mars_7b_stage2, mars_7b_stage3
from mars_megatron.recipes.tiny import tiny

RECIPES: dict[str, Callable[[], RunConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        tiny,
        digits_base,
        digits,
        digits_stage1,
        digits_stage2,
        digits_stage3,
        compositional_base,
        compositional,
        mars_7b_stage1,
        mars_7b_stage2,
        mars_7b_stage3,
    )
}


def get_recipe(name: str) -> RunConfig:
    """The configuration of a recipe.

    Raises:
        ValueError: There is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"--recipe is {name!r}; accepted: {', '.join(RECIPES)}")
    return RECIPES[name]()
