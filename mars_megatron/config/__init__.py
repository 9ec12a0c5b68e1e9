"""The configuration of a run: frozen dataclasses, their validation, and YAML in and out.

The command line is `mars_megatron.recipes.command_line`; it is not imported here because it knows the recipes.
"""

from mars_megatron.config.parser import from_yaml, to_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.config.validate import validate

__all__ = ["RunConfig", "from_yaml", "to_yaml", "validate"]
