"""The recipes by name, and recipes of users."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from mars_megatron.config.schema import RunConfig
from mars_megatron.config.user_code import FORMS, is_attribute, load_attribute
from mars_megatron.recipes.mars_7b import mars_7b_stage1, mars_7b_stage2, mars_7b_stage3
from mars_megatron.recipes.tiny import tiny

RECIPES: dict[str, Callable[[], RunConfig]] = {
    recipe.__name__: recipe for recipe in (tiny, mars_7b_stage1, mars_7b_stage2, mars_7b_stage3)
}
ACCEPTED = f"{', '.join(RECIPES)}, or a function that returns a RunConfig as {FORMS}"


def get_recipe(name: str) -> RunConfig:
    """The configuration of a recipe.

    Args:
        name: One of RECIPES, or a user's function of no arguments, as `load_attribute` takes it.

    Raises:
        ValueError: There is no such recipe, or the function gives something else.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if not is_attribute(name):
        raise ValueError(f"--recipe is {name!r}{_hint(name)}; accepted: {ACCEPTED}")
    recipe = load_attribute("--recipe", name, ACCEPTED)
    if not _needs_nothing(recipe):
        raise ValueError(f"--recipe is {name!r}, which cannot be called without arguments; accepted: {ACCEPTED}")
    config = recipe()
    if not isinstance(config, RunConfig):
        raise ValueError(f"--recipe is {name!r}, which gives a {type(config).__name__}; accepted: {ACCEPTED}")
    return config


def _needs_nothing(recipe: object) -> bool:
    try:
        inspect.signature(recipe).bind()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _hint(name: str) -> str:
    """The recipe of an example that a short name of earlier versions, FOLDER or FOLDER_FUNCTION, may mean."""
    folder, _, function = name.partition("_")
    there = folder and Path("examples", folder, "recipes.py").is_file()
    return f", perhaps examples.{folder}.recipes.{function or 'mars'}" if there else ""
