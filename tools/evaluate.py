"""Score a checkpoint with one suite, or with all that a file asks for."""

from __future__ import annotations

import argparse
import sys

from command_line import add_layout_options, add_settings, overrides, run_on_ranks

from mars_megatron.program import Parser

EPILOG = """\
  python tools/evaluate.py facts runs/base --facts facts.jsonl
  torchrun --nproc-per-node 2 tools/evaluate.py prompt_fidelity runs/digits --prompts prompts.jsonl --images held_out
  python tools/evaluate.py all runs/digits --config suites.yaml
  python tools/evaluate.py SUITE --help

suites.yaml has the options of each suite, and loads the model once:

  facts: {facts: facts.jsonl}
  fidelity_at_3: {suite: prompt_fidelity, prompts: prompts.jsonl, images: held_out, samples_per_prompt: 5}

Scores are printed with their 95 % confidence intervals, and written with all settings to OUTPUT/SUITE.json. What is
there is not computed again, and a run after an interruption goes on behind the images, captions, texts and likelihoods
that it had.
"""


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What all suites take."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")
    parser.add_argument(
        "--output", metavar="FOLDER", help="for SUITE.json (default: evaluation/STEP in the folder of the run)"
    )
    parser.add_argument("--again", action="store_true", help="compute also what is there, and replace it")
    add_layout_options(parser)
    add_settings(parser)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    from mars_megatron.evaluation.options import add_arguments, description_of
    from mars_megatron.evaluation.registry import SUITES, suite_class

    parser = Parser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    for name in SUITES:
        suite = suite_class(name)
        short, long = (part.replace("%", "%%") for part in description_of(suite))
        one = suites.add_parser(name, help=short, description=f"{short}\n\n{long}")
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        add_arguments(one, suite)
        add_common_options(one)
    every = suites.add_parser("all", help="all suites that a file asks for")
    every.add_argument("--config", required=True, metavar="FILE", help="YAML or JSON of suites with their options")
    add_common_options(every)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    from mars_megatron.config.parser import read_yaml
    from mars_megatron.evaluation.options import from_arguments
    from mars_megatron.evaluation.registry import Job, make_jobs, suite_class

    if options.suite == "all":
        jobs = make_jobs(read_yaml(options.config), options.config)
    else:
        jobs = [Job(options.suite, from_arguments(suite_class(options.suite), options))]
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
