"""Build the compositional benchmark: canvases of two coloured handwritten digits in a spatial relation, with captions
in English and Chinese, text for a base language model, and prompts of combinations seen and never seen in training."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    from mars_megatron.indexing.compositional import BuildSettings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where everything is written")
    told = dict(re.findall(r"^\s+(\w+): (.+?)\.$", BuildSettings.__doc__ or "", re.MULTILINE))
    for field in fields(BuildSettings):
        kind = type(field.default)
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(
            name, type=kind, default=field.default, metavar=kind.__name__.upper(), help=told[field.name]
        )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    from mars_megatron.indexing.compositional import BuildSettings, build

    options = vars(parse_arguments(arguments))
    output = options.pop("output")
    try:
        division = build(output, BuildSettings(**options))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{name} {len(scenes)}" for name, scenes in division.scenes.items())
    print(f"{output}: possible scenes: {counts}; pairs never seen: {len(division.unseen)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
