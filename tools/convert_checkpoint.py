"""Convert checkpoints between this project and Hugging Face. Compare, inspect, split and merge them."""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections.abc import Callable

from mars_megatron.program import Parser, run_program

EPILOG = """\
  python tools/convert_checkpoint.py init-from-hf Qwen2.5-7B start --image-tokenizer vq --experts.visual 4
  python -m mars_megatron.train --recipe mars_7b_stage1 --config start/model.yaml --checkpoint.init_from start ...
  python tools/convert_checkpoint.py export-hf runs/mine exported --dtype bf16
  python tools/convert_checkpoint.py verify runs/mine exported --logits

Everything runs on one CPU, tensor by tensor; COMMAND --help has the options. A checkpoint of this project loads under
any tensor, pipeline, expert and data-parallel layout, optimiser included. It need not be resharded.
"""
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size(text: str) -> int:
    """Bytes of a size such as 5GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not match or match.group(2).upper() not in _UNITS or float(match.group(1)) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; accepted: a number with one of {', '.join(_UNITS)}")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])


TARGET = ("target", "folder to make; must not exist, or be empty")
Command = Callable[..., argparse.ArgumentParser]


def build_parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, epilog=EPILOG, formatter_class=formatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *places: tuple[str, str]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for place, meaning in places:
            sub.add_argument(place, metavar=place.upper(), help=meaning)
        if name != "inspect":
            sub.add_argument("--no-progress", action="store_true", help="no progress bar")
        return sub

    add_conversions(command)
    add_comparisons(command)
    command(
        "extract-visual",
        "Write only the trained parameters to a file, without the frozen language model.",
        ("source", "a run, a checkpoint or an exported folder"),
        ("target", "the .safetensors file to make"),
    )
    command(
        "merge",
        "Merge a file of extract-visual with the language model that it was trained on.",
        ("base", "the language model, or a checkpoint with the same text expert"),
        ("visual", "the file of extract-visual"),
        TARGET,
    )
    return parser


def add_conversions(command: Command) -> None:
    start = command(
        "init-from-hf",
        "Make an initial MARS checkpoint of a language model (Qwen-7B, Qwen2, Qwen2.5, Qwen3, dense Llama): the text "
        "expert is loaded, the visual expert is a copy of it, every image row is the mean text row. Settings that the "
        "language model does not decide are given as in training: --experts.visual 4, --image.resolution 512, ... The "
        "text tokenizer is copied. It is refused if it gives ids for which the language model has no row. No begin "
        "token is added to texts; a tokenizer that asks for one causes a warning.",
        ("source", "Hugging Face folder (safetensors or .bin)"),
        TARGET,
    )
    start.add_argument("--image-tokenizer", default="", metavar="FOLDER", help="diffusers VQModel; is copied")
    start.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="auto: that of the source")
    export = command(
        "export-hf",
        "Export a MARS model and its tokenizers to a folder that transformers loads with trust_remote_code.",
        ("source", "a run, or one checkpoint"),
        TARGET,
    )
    export.add_argument(
        "--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="auto: that of the checkpoint"
    )
    export.add_argument("--max-shard-size", type=size, default="5GB", metavar="SIZE", help="default: %(default)s")
    for tokenizer in ("text", "image"):
        export.add_argument(f"--{tokenizer}-tokenizer", default="", metavar="PATH", help="instead of that of the run")
    command(
        "import-hf", "Make a checkpoint of a folder that export-hf wrote.", ("source", "the exported folder"), TARGET
    )


def add_comparisons(command: Command) -> None:
    check = command(
        "verify",
        "Compare two checkpoints of any format and layout, tensor by tensor, and the settings that decide what a model "
        "computes. Of a language model only the text expert is compared, of a file of extract-visual only its tensors. "
        "nan and inf on either side are reported as differences.",
        ("first", "run, checkpoint, Hugging Face folder or .safetensors file"),
        ("second", "as FIRST"),
    )
    check.add_argument("--tolerance", type=float, default=0.0, metavar="X", help="largest difference (default: 0)")
    check.add_argument("--ignore-dtype", action="store_true", help="compare values of different types")
    check.add_argument("--logits", action="store_true", help="also run both in fp32 on the same random sequences")
    check.add_argument(
        "--logits-tolerance", type=float, default=2e-5, metavar="X", help="largest difference (default: %(default)s)"
    )
    show = command(
        "inspect", "Print the contents of a checkpoint without loading tensors.", ("source", "as for verify")
    )
    show.add_argument("--json", action="store_true", help="everything, the configuration too, as JSON")


def run(options: argparse.Namespace) -> int:
    from mars_megatron.conversion import checkpoints, convert, visual

    progress = not getattr(options, "no_progress", True)
    if options.command == "init-from-hf":
        result = convert.init_from_hf(
            options.source,
            options.target,
            image_tokenizer=options.image_tokenizer,
            overrides=options.settings,
            dtype=options.dtype,
            progress=progress,
        )
    elif options.command == "export-hf":
        result = convert.export_hf(
            options.source,
            options.target,
            dtype=options.dtype,
            max_shard_size=options.max_shard_size,
            text_tokenizer=options.text_tokenizer,
            image_tokenizer=options.image_tokenizer,
            progress=progress,
        )
    elif options.command == "import-hf":
        result = convert.import_hf(options.source, options.target, progress=progress)
    elif options.command == "extract-visual":
        result = visual.extract_visual(options.source, options.target, progress=progress)
    elif options.command == "merge":
        result = visual.merge(options.base, options.visual, options.target, progress=progress)
    elif options.command == "verify":
        return verify(options, progress)
    else:
        found = checkpoints.inspect(checkpoints.open_checkpoint(options.source))
        print(json.dumps(found, ensure_ascii=False, indent=2) if options.json else checkpoints.describe(found))
        return 0
    print(f"{result}: written")
    return 0


def verify(options: argparse.Namespace, progress: bool) -> int:
    from mars_megatron.conversion.verify import compare, compare_logits, open_both
    from mars_megatron.platform.parallel import shut_down

    first, second = open_both(options.first, options.second)
    result = compare(first, second, tolerance=options.tolerance, ignore_dtype=options.ignore_dtype, progress=progress)
    for problem in result.problems:
        print(problem)
    print(
        f"{result.num_equal} of {result.num_compared} tensors equal, {len(result.problems)} problems, "
        f"max abs difference {result.max_abs_difference:.3g}"
    )
    same = not result.problems and result.num_compared > 0
    if options.logits:
        for name, difference in compare_logits(first, second).items():
            print(f"logits, {name}: max abs difference {difference:.3g}")
            same &= difference <= options.logits_tolerance
        shut_down()
    print("same" if same else "DIFFERENT")
    return 0 if same else 1


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    options, options.settings = parser.parse_known_args(arguments)
    if options.settings and options.command != "init-from-hf":
        parser.error(f"unrecognized arguments: {' '.join(options.settings)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    return run_program(parse_arguments, run, arguments)


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_rest, **_more: f"warning: {message}\n"
    sys.exit(main())
