"""Draw images for prompts. Write PNG files, a contact sheet, and a manifest from which each image can be reproduced."""

from __future__ import annotations

import argparse
import os
import sys

from command_line import SETTINGS, add_layout_options, add_settings, overrides, run_on_ranks

from mars_megatron.program import Parser

EPILOG = """\
  python tools/generate.py --checkpoint runs/digits --prompt "a handwritten digit three" --output three --num-images 8
  torchrun --nproc-per-node 2 tools/generate.py --checkpoint runs/digits --prompts prompts.jsonl --output images
  python tools/generate.py --checkpoint runs/stage2 --super-resolution runs/stage3 --resolution high \\
      --prompts prompts.txt --output images --best-of 4 --keep-low
  python tools/generate.py --again images/manifest.jsonl --only images/0003_01.png --output look

A file of prompts has one prompt per line. A line of a .jsonl file has settings of its own:
  {"prompt": "a red three", "num_images": 2, "seed": 1, "guidance": 4.0}
It may also have label, group, guidance_schedule, temperature, top_k, top_p and min_p. The output folder gets
images/PROMPT_IMAGE.png, sheet.png, and manifest.jsonl with a line for each image. Run the command again after an
interruption or with more prompts, and it draws the missing images. Prompt, seed and number determine an image; the
other images of a batch do not change it. --again draws images of a manifest again and compares them bit for bit.

Checkpoints may have any parallel layout. The model is split over all ranks, or over groups of --tensor ranks, which
share the images.
"""
# Settings of super-resolution, which otherwise are those of its checkpoint.
HIGH = {
    option.replace("--", "--high-"): setting.replace("generation.", "high.")
    for option, setting in SETTINGS.items()
    if setting.startswith("generation.") and option not in ("--seed", "--batch-size")
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompts", metavar="FILE", help="prompts, see below")
    what.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt (repeatable)")
    what.add_argument("--again", metavar="MANIFEST", help="draw the images of a manifest again, with its settings")
    parser.add_argument("--checkpoint", metavar="FOLDER", help="a checkpoint, or the folder of a run")
    parser.add_argument(
        "--output", metavar="FOLDER", help="where images go (with --again, default: the folder of the manifest)"
    )
    parser.add_argument(
        "--num-images", type=int, metavar="N", help="images of each prompt without num_images (default: 4)"
    )
    parser.add_argument(
        "--best-of",
        type=int,
        metavar="N",
        help="draw N candidates for each image and keep the one for which the model gives the prompt the highest "
        "probability as its caption (before super-resolution; default: 1)",
    )
    parser.add_argument(
        "--resolution",
        choices=("low", "high"),
        help="low: the image that --checkpoint draws. high: the image after super-resolution (default: low)",
    )
    parser.add_argument(
        "--super-resolution",
        metavar="FOLDER",
        help="checkpoint of the super-resolution (default: that of --checkpoint)",
    )
    parser.add_argument("--keep-low", action="store_true", help="write the low-resolution images too, to low/")
    parser.add_argument("--save-codes", action="store_true", help="write the codes of each image too, to codes/*.npz")
    parser.add_argument("--sheet", metavar="FILE", help="contact sheet (default: sheet.png in the folder)")
    parser.add_argument("--only", action="append", metavar="FILE", help="with --again: only this image (repeatable)")
    add_layout_options(parser)
    add_settings(parser)
    group = parser.add_argument_group("settings of super-resolution")
    for option, setting in HIGH.items():
        name = setting.replace("high.", "generation.")
        group.add_argument(option, metavar="VALUE", dest=setting, help=f"{name}, instead of that checkpoint's")
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with an error where an option would have no effect."""
    given = {name for name, value in vars(options).items() if value is not None and value is not False}
    if options.again:
        kept = {"again", "only", "output", "checkpoint", "super_resolution", "tensor", "device"}
        useless = {name for name in given - kept if not name.startswith("data.")}
        reason = "with --again (settings and prompts are those of the manifest)"
    else:
        high = {name for name in given if name.startswith("high.")} | {"super_resolution", "keep_low"}
        useless = given & ({"only"} | (set() if options.resolution == "high" else high))
        reason = "--only without --again" if "only" in useless else "without --resolution high"
        for name in ("checkpoint", "output"):
            if name not in given:
                parser.error(f"--{name} is missing")
    if useless:
        names = {name: name.replace("generation.", "").replace("high.", "high-").replace("_", "-") for name in useless}
        parser.error(f"without effect {reason}: {', '.join(f'--{names[name]}' for name in sorted(useless))}")


def run(options: argparse.Namespace) -> int:
    from mars_megatron.gallery.cascade import Models

    changed = overrides(options)
    models = Models(
        options.checkpoint or "",
        options.resolution == "high",
        options.super_resolution or "",
        tuple(given for given in changed if not given.startswith("--high.")),
        tuple(given.replace("--high.", "--generation.") for given in changed if given.startswith("--high.")),
        options.tensor,
        options.device,
    )
    return (sample_again if options.again else sample)(options, models)


def sample(options: argparse.Namespace, models: object) -> int:
    from mars_megatron.files.plain_text import check_unicode
    from mars_megatron.gallery.image_gallery import sample_gallery
    from mars_megatron.gallery.prompts import ImageRequest, Prompt, read_requests

    if options.prompts:
        requests = read_requests(options.prompts)
    else:
        requests = [ImageRequest(Prompt(check_unicode(text, f"--prompt {ascii(text)}"))) for text in options.prompt]
    made = sample_gallery(
        models,
        requests,
        options.output,
        num_images=4 if options.num_images is None else options.num_images,
        best_of=1 if options.best_of is None else options.best_of,
        keep_low=options.keep_low,
        save_codes=options.save_codes,
        sheet=options.sheet,
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"{made.num_images} images of {len(requests)} prompts, {made.num_new} of them new: {made.path}")
        print(f"contact sheet: {made.sheet}")
    return 0


def sample_again(options: argparse.Namespace, models: object) -> int:
    from mars_megatron.gallery.image_gallery import SampledOtherwise, sample_manifest

    try:
        written = sample_manifest(options.again, models, only=options.only or (), output=options.output)
    except SampledOtherwise as error:
        print(error)
        return 1
    if os.environ.get("RANK", "0") == "0":
        others = ", ..." * (len(written) > 3)
        print(f"as the manifest says, {len(written)}: {', '.join(map(str, written[:3]))}{others}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    return run_on_ranks(parse_arguments, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
