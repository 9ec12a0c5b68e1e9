"""Sample images for prompts from a checkpoint: a grid with the prompts beside it, single files, or codes."""

from __future__ import annotations

import argparse
import os
import sys

EPILOG = """\
  python tools/sample.py --checkpoint runs/digits --prompt "a handwritten digit three" --num-per-prompt 8
  torchrun --nproc-per-node 2 tools/sample.py --checkpoint runs/digits --prompts prompts.txt

The checkpoint may be of any parallel layout; here the model is split over all ranks (or over --tensor of them).
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


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="FOLDER", help="a checkpoint, or the folder of a run")
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompts", metavar="FILE", help='one prompt per line; in a .jsonl file as {"prompt": "..."}')
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt (repeatable)")
    parser.add_argument(
        "--num-per-prompt", type=int, default=4, metavar="N", help="images of each prompt (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="FILE", help="picture of all images with their prompts")
    parser.add_argument("--output-dir", metavar="FOLDER", help="single PNG files, named by prompt and image number")
    parser.add_argument("--save-codes", metavar="FILE", help="codes and prompts as .npz")
    parser.add_argument("--tensor", type=int, metavar="N", help="tensor-parallel size (default: all ranks)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    for option, setting in SETTINGS.items():
        parser.add_argument(option, metavar="VALUE", dest=setting, help=f"{setting}, instead of the checkpoint's")
    options = parser.parse_args(arguments)
    if options.num_per_prompt < 1:
        parser.error(f"--num-per-prompt is {options.num_per_prompt}; accepted: 1 or more")
    if not (options.output or options.output_dir or options.save_codes):
        options.output = "samples.png"
    return options


def overrides(options: argparse.Namespace) -> list[str]:
    """The settings given, as dotted overrides."""
    given = ((setting, getattr(options, setting)) for setting in SETTINGS.values())
    return [f"--{setting}={value}" for setting, value in given if value is not None]


def run(options: argparse.Namespace) -> None:
    from mars_megatron.generation import Prompt, Sampler, load_for_inference, read_prompts
    from mars_megatron.generation.output import write_samples

    prompts = read_prompts(options.prompts) if options.prompts else [Prompt(text) for text in options.prompt]
    texts = [prompt.text for prompt in prompts]
    loaded = load_for_inference(options.checkpoint, options.tensor, overrides(options), device=options.device)
    sampler = Sampler(loaded)
    codes = sampler.sample(texts, options.num_per_prompt, progress=True)
    if os.environ.get("RANK", "0") == "0":
        written = write_samples(
            texts,
            codes,
            sampler.decode(codes),
            grid_file=options.output,
            folder=options.output_dir,
            codes_file=options.save_codes,
        )
        print(f"{len(codes)} images of {len(texts)} prompts: {', '.join(map(str, written))}")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    # after the arguments: --help and a wrong option should not wait for torch
    import warnings

    warnings.filterwarnings("ignore", module=r"megatron\.core.*")  # of every GPU library that is missing
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")  # of its own names
    from mars_megatron.platform.parallel import shut_down

    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shut_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
