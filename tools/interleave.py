"""Continue documents of texts and images: the model writes text, starts images by itself, and draws them."""

from __future__ import annotations

import argparse
import os
import sys

from command_line import SETTINGS, add_layout_options, add_settings, overrides, run_on_ranks

from mars_megatron.program import Parser

EPILOG = """\
  python tools/interleave.py --checkpoint runs/mine --prompts documents.jsonl --output documents
  torchrun --nproc-per-node 2 tools/interleave.py --checkpoint runs/mine --prompts documents.jsonl --output documents

Each line of the file is a document to continue. Paths of images are relative to the file:
  {"parts": [{"text": "a red square: "}], "seed": 1, "max_images": 2}
  {"parts": [{"image": "a.png"}, {"text": " and a blue one: "}], "max_text_tokens": 20, "stop_after_image": true}

The model must have been trained on interleaved documents (data.tasks.interleaved). The output folder gets
documents.jsonl with a line for each document ({"number", "prompt", "parts"}), PNG files in images/, index.html, which
shows the documents, and settings.json. Run the command again after an interruption or with more lines, and it
continues the missing documents.
"""
# The seed is that of a document, see --seed.
OPTIONS = {option: setting for option, setting in SETTINGS.items() if option != "--seed"}
OPTIONS["--text-temperature"] = "generation.text_temperature"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="FOLDER", help="a checkpoint, or the folder of a run")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="JSONL, see below")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where results go")
    for option, text, default in (
        ("--seed", "seed of a document", 0),
        ("--max-images", "largest number of images drawn in a document", 1),
        ("--max-text-tokens", "largest number of text tokens written in a document", 64),
    ):
        parser.add_argument(
            option,
            type=int,
            metavar="N",
            default=default,
            help=f"{text}, unless its line sets it (default: %(default)s)",
        )
    parser.add_argument(
        "--stop-after-image",
        action="store_true",
        help="end each document after its first drawn image, unless its line sets it",
    )
    add_layout_options(parser)
    add_settings(parser, OPTIONS)
    options = parser.parse_args(arguments)
    for name, least in (("seed", 0), ("max_images", 0), ("max_text_tokens", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; accepted: {least} or more")
    return options


def run(options: argparse.Namespace) -> None:
    from mars_megatron.gallery.document_gallery import DocumentPrompt, interleave, read_document_prompts

    defaults = DocumentPrompt(
        seed=options.seed,
        max_images=options.max_images,
        max_text_tokens=options.max_text_tokens,
        stop_after_image=options.stop_after_image,
    )
    prompts = read_document_prompts(options.prompts, defaults)
    folder = interleave(
        options.checkpoint,
        prompts,
        options.output,
        tensor=options.tensor,
        overrides=overrides(options),
        device=options.device,
    )
    if os.environ.get("RANK", "0") == "0":
        images = sum("image" in part for line in folder.lines for part in line["parts"])
        print(f"{folder.num_finished} documents with {images} new images: {folder.path}")


def main(arguments: list[str] | None = None) -> int:
    return run_on_ranks(parse_arguments, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
