"""Score a checkpoint with one suite, or with all suites of a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from command_line import add_layout_options, add_settings, overrides, run_on_ranks

from mars_megatron.program import Parser

EPILOG = """\
  python tools/evaluate.py facts runs/base --facts facts.jsonl
  torchrun --nproc-per-node 2 tools/evaluate.py prompt_fidelity runs/mars --prompts prompts.jsonl --images held_out
  python tools/evaluate.py all runs/mars --config suites.yaml
  python tools/evaluate.py SUITE --help

SUITE may be a class of your own, as package.module.name, package.module:name or folder/file.py:name. Modules are
looked for in the current directory first. mars_megatron/evaluation/suite.py describes such a class. suites.yaml has
the options of each suite; the model is loaded once:

  facts: {facts: facts.jsonl}
  fidelity_at_3: {suite: prompt_fidelity, prompts: prompts.jsonl, images: held_out, samples_per_prompt: 5}

Scores are printed with 95 % confidence intervals, and written with all settings to OUTPUT/SUITE.json. A finished
result is not computed again. Run the command again after an interruption, and it keeps the images, captions, texts and
likelihoods that exist.
"""


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What all suites take."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")
    parser.add_argument(
        "--output", metavar="FOLDER", help="for SUITE.json (default: evaluation/STEP in the folder of the run)"
    )
    parser.add_argument("--again", action="store_true", help="compute finished results again, and replace them")
    add_layout_options(parser)
    add_settings(parser)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    from mars_megatron.evaluation.dataclass_options import add_arguments, description_of
    from mars_megatron.evaluation.jobs import SUITES, suite_class

    parser = Parser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    chosen = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    for name, (_, about) in SUITES.items():
        if name != chosen:
            suites.add_parser(name, help=about)
    every = suites.add_parser("all", help="all suites of a file")
    every.add_argument("--config", required=True, metavar="FILE", help="YAML or JSON of suites with their options")
    add_common_options(every)
    if chosen and chosen != "all":
        try:
            kind = suite_class(chosen, "SUITE")
        except ValueError as error:
            parser.error(str(error))
        one = suites.add_parser(chosen, description=description_of(kind).replace("%", "%%"))
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        add_arguments(one, kind, f"options of {kind.name}")
        add_common_options(one)
        one.set_defaults(kind=kind)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    from mars_megatron.config.parser import read_yaml
    from mars_megatron.evaluation.dataclass_options import values_of
    from mars_megatron.evaluation.jobs import make_job, make_jobs

    if options.suite == "all":
        jobs = make_jobs(read_yaml(options.config), options.config)
    else:
        jobs = [make_job(options.suite, values_of(options.kind, options), options.suite)]
    from mars_megatron.evaluation.runner import evaluate

    evaluate(
        options.checkpoint,
        jobs,
        options.output,
        tensor=options.tensor,
        overrides=overrides(options),
        device=options.device,
        again=options.again,
    )


def main(arguments: list[str] | None = None) -> int:
    return run_on_ranks(parse_arguments, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
