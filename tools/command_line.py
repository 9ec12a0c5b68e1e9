"""What the tools that run a checkpoint share: options for its settings, fewer warnings, errors in one line."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable

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


def run_tool(run: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    """Call `run`, after --help and wrong options have been answered for: they should not wait for torch.

    Returns:
        The exit code: 0, or 2 behind an error that the user can do something about.
    """
    warnings.filterwarnings("ignore", module=r"megatron\.core.*")  # of every GPU library that is missing
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")  # of its own names
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from mars_megatron.platform.parallel import shut_down

    shut_down()
    return 0
