"""Complete configurations by name. They import only mars_megatron.config."""

from mars_megatron.recipes.registry import RECIPES, get_recipe

__all__ = ["RECIPES", "get_recipe"]
