"""Score a checkpoint with one suite, or with all that a file asks for."""

from __future__ import annotations

import argparse
import sys

EPILOG = """\
  python tools/evaluate.py facts runs/base --facts facts.jsonl
  torchrun --nproc-per-node 2 tools/evaluate.py prompt_fidelity runs/digits --prompts prompts.jsonl --images held_out
  python tools/evaluate.py all runs/digits --config suites.yaml
  python tools/evaluate.py SUITE --help

suites.yaml has the options of each suite, and loads the model once:

  facts: {facts: facts.jsonl}
  fidelity_at_3: {suite: prompt_fidelity, prompts: prompts.jsonl, images: held_out, samples_per_prompt: 5}

Scores are printed with their 95 % confidence intervals, and written with all settings to OUTPUT/SUITE.json. What is
there is not computed again, and a run after an interruption goes on behind the images that it had drawn.
"""
# Settings of the checkpoint that have an option of their own.
SETTINGS = {
    "--guidance": "generation.guidance",
    "--temperature": "generation.temperature",
    "--top-k": "generation.top_k",
    "--top-p": "generation.top_p",
    "--seed": "generation.seed",
    "--batch-size": "generation.batch_size",
    "--text-tokenizer": "data.text_tokenizer",
    "--image-tokenizer": "data.image_tokenizer",
}


def common_options() -> argparse.ArgumentParser:
    """What all suites take."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")
    parser.add_argument(
        "--output", metavar="FOLDER", help="for SUITE.json (default: evaluation/STEP in the folder of the run)"
    )
    parser.add_argument("--again", action="store_true", help="compute also what is there, and replace it")
    parser.add_argument("--tensor", type=int, metavar="N", help="tensor-parallel size (default: all ranks)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    group = parser.add_argument_group("settings of the checkpoint")
    for option, setting in SETTINGS.items():
        group.add_argument(option, metavar="VALUE", dest=setting, help=f"{setting}, instead of the checkpoint's")
    return parser


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    from mars_megatron.evaluation.options import add_arguments, description_of
    from mars_megatron.evaluation.registry import SUITES, suite_class

    common = common_options()
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    for name in SUITES:
        suite = suite_class(name)
        short, long = (part.replace("%", "%%") for part in description_of(suite))
        one = suites.add_parser(name, parents=[common], help=short, description=f"{short}\n\n{long}")
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        add_arguments(one, suite)
    every = suites.add_parser("all", parents=[common], help="all suites that a file asks for")
    every.add_argument("--config", required=True, metavar="FILE", help="YAML or JSON of suites with their options")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    from mars_megatron.config.yaml_io import read_yaml
    from mars_megatron.evaluation.options import from_arguments
    from mars_megatron.evaluation.registry import Job, make_jobs, suite_class

    if options.suite == "all":
        jobs = make_jobs(read_yaml(options.config), options.config)
    else:
        jobs = [Job(options.suite, from_arguments(suite_class(options.suite), options))]
    from mars_megatron.evaluation.runner import evaluate

    given = {setting: getattr(options, setting) for setting in SETTINGS.values()}
    evaluate(
        options.checkpoint,
        jobs,
        options.output,
        tensor=options.tensor,
        overrides=[f"--{setting}={value}" for setting, value in given.items() if value is not None],
        device=options.device,
        again=options.again,
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    # after the arguments: --help and a wrong option should not wait for torch
    import warnings

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


if __name__ == "__main__":
    sys.exit(main())
