"""The command line of a run: one recipe or YAML file, then dotted overrides."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence

from mars_megatron.config.parser import build, build_parser, dotted, instantiate, read_yaml, to_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.config.validate import validate
from mars_megatron.recipes.registry import ACCEPTED, get_recipe

DESCRIPTION = """Train a model. Settings come from the recipe, then from the YAML file, then from the options below; the
later takes precedence. The defaults shown are those of the chosen recipe and file."""
INIT_FROM = "--checkpoint.init_from"


def parse(
    argv: Sequence[str] | None = None, prog: str = "python -m mars_megatron.train", epilog: str | None = None
) -> RunConfig:
    """Read the command line of a training run.

    `--help` and `--print-config` end the process; so does a wrong setting, with exit code 2 and a message that
    names it, its value and what would be accepted. The number of ranks is torchrun's WORLD_SIZE, or 1.

    Args:
        argv: Arguments; None takes those of the process.
        prog: Name shown in the usage line.
        epilog: What --help ends with.

    Returns:
        The validated configuration.
    """
    first = _first_parser()
    chosen, rest = first.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    parser = build_parser(prog=prog, description=DESCRIPTION, epilog=epilog, parents=[first])
    try:
        config = get_recipe(chosen.recipe)
        if chosen.config:
            config = build(config, read_yaml(chosen.config), chosen.config, parser)
        parser.set_defaults(dotted(config))
        config = instantiate(parser, parser.parse_args([*rest, *_init_from(chosen, rest)]))
        world_size = os.environ.get("WORLD_SIZE")
        if chosen.print_config:
            print(to_yaml(config), end="")
            validate(config, int(world_size) if world_size else None)
            sys.exit(0)
        return validate(config, int(world_size or 1), training=True)
    except (ArgumentError, ValueError) as error:
        if os.environ.get("RANK", "0") == "0":  # once, not from every rank
            print(f"{prog}: error: {error}", file=sys.stderr)
        sys.exit(2)


def _init_from(chosen: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """The setting for which --init-from is short.

    Raises:
        ValueError: Both are given.
    """
    if not chosen.init_from:
        return []
    if any(argument.split("=")[0] == INIT_FROM for argument in rest):
        raise ValueError(f"--init-from is {chosen.init_from!r}; accepted: nothing, because {INIT_FROM} is given too")
    return [INIT_FROM, chosen.init_from]


def _first_parser() -> argparse.ArgumentParser:
    """The options that decide the defaults of all the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="tiny", metavar="NAME", help=ACCEPTED)
    parser.add_argument("--config", default="", metavar="FILE", help="YAML file of settings, complete or partial")
    parser.add_argument(
        "--init-from", default="", metavar="CHECKPOINT", help=f"short for {INIT_FROM}: load initial parameters"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved YAML and exit")
    return parser
