"""Shared by the tools that run a checkpoint: options for its settings, and the end of a run on several ranks."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from mars_megatron.program import run_program

# Settings of the checkpoint that have an option of their own.
SETTINGS = {
    "--guidance": "generation.guidance",
    "--guidance-schedule": "generation.guidance_schedule",
    "--temperature": "generation.temperature",
    "--top-k": "generation.top_k",
    "--top-p": "generation.top_p",
    "--min-p": "generation.min_p",
    "--seed": "generation.seed",
    "--batch-size": "generation.batch_size",
    "--text-tokenizer": "data.text_tokenizer",
    "--image-tokenizer": "data.image_tokenizer",
}


def add_layout_options(parser: argparse.ArgumentParser) -> None:
    """Where the checkpoint runs: `tensor` and `device`."""
    parser.add_argument("--tensor", type=int, metavar="N", help="tensor-parallel size (default: all ranks)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")


def add_settings(parser: argparse.ArgumentParser, settings: dict[str, str] = SETTINGS) -> None:
    """An option for each setting, named by its dotted path in the result."""
    group = parser.add_argument_group("settings of the checkpoint")
    for option, setting in settings.items():
        group.add_argument(option, metavar="VALUE", dest=setting, help=f"{setting}, instead of the checkpoint's")


def overrides(options: argparse.Namespace) -> list[str]:
    """The settings given, as dotted overrides of a configuration."""
    given = ((name, value) for name, value in vars(options).items() if "." in name and value is not None)
    return [f"--{setting}={value}" for setting, value in given]


def run_on_ranks(
    parse: Callable[[list[str]], argparse.Namespace],
    run: Callable[[argparse.Namespace], int | None],
    arguments: list[str] | None,
) -> int:
    """`run_program` for what torchrun may start on several ranks, which leave together."""

    def together(options: argparse.Namespace) -> int | None:
        code = run(options)
        from mars_megatron.platform.parallel import shut_down

        shut_down()
        return code

    return run_program(parse, together, arguments)
