"""Build the compositional benchmark: canvases of two coloured handwritten digits in a spatial relation, with captions
in English and Chinese, text for a base language model, and prompts of combinations seen and never seen in training."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields

from mars_megatron.program import Parser, run_program


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    from mars_megatron.indexing.compositional import BuildSettings

    parser = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where everything is written")
    told = dict(re.findall(r"^\s+(\w+): (.+?)\.$", BuildSettings.__doc__ or "", re.MULTILINE))
    for field in fields(BuildSettings):
        kind = type(field.default)
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(
            name, type=kind, default=field.default, metavar=kind.__name__.upper(), help=told[field.name]
        )
    return parser.parse_args(arguments)


def run(given: argparse.Namespace) -> None:
    from mars_megatron.indexing.compositional import BuildSettings, build

    options = vars(given)
    output = options.pop("output")
    division = build(output, BuildSettings(**options))
    counts = ", ".join(f"{name} {len(scenes)}" for name, scenes in division.scenes.items())
    print(f"{output}: possible scenes: {counts}; pairs never seen: {len(division.unseen)}")


def main(arguments: list[str] | None = None) -> int:
    return run_program(parse_arguments, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
