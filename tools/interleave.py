"""Go on with documents of texts and images: a model writes, begins images by itself, draws them, and writes on."""

from __future__ import annotations

import argparse
import os
import sys

EPILOG = """\
  python tools/interleave.py --checkpoint runs/mine --prompts documents.jsonl --output documents
  torchrun --nproc-per-node 2 tools/interleave.py --checkpoint runs/mine --prompts documents.jsonl --output documents

Each line of the file is a document to go on with, its images named relative to the file:
  {"parts": [{"text": "a red square: "}], "seed": 1, "max_images": 2}
  {"parts": [{"image": "a.png"}, {"text": " and a blue one: "}], "max_text_tokens": 20, "stop_after_image": true}

The model must have been trained on interleaved documents (data.tasks.interleaved). The folder gets documents.jsonl
with a line for each ({"number", "prompt", "parts"}), PNG files in images/, index.html that shows them, and
settings.json. Run again after an interruption, or with lines added to the file, it makes what is missing.
"""
# Settings of the checkpoint that have an option of their own.
SETTINGS = {
    "--guidance": "generation.guidance",
    "--temperature": "generation.temperature",
    "--text-temperature": "generation.text_temperature",
    "--top-k": "generation.top_k",
    "--top-p": "generation.top_p",
    "--batch-size": "generation.batch_size",
    "--text-tokenizer": "data.text_tokenizer",
    "--image-tokenizer": "data.image_tokenizer",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="FOLDER", help="a checkpoint, or the folder of a run")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="JSONL, see below")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where results go")
    for option, text, default in (
        ("--seed", "seed of the random numbers of a document", 0),
        ("--max-images", "most images that the model may draw in a document", 1),
        ("--max-text-tokens", "most text tokens that it may write in a document", 64),
    ):
        parser.add_argument(
            option, type=int, metavar="N", default=default, help=f"{text}, where its line does not say (%(default)s)"
        )
    parser.add_argument(
        "--stop-after-image", action="store_true", help="end behind the first image, where the line does not say"
    )
    parser.add_argument("--tensor", type=int, metavar="N", help="tensor-parallel size (default: all ranks)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    for option, setting in SETTINGS.items():
        parser.add_argument(option, metavar="VALUE", dest=setting, help=f"{setting}, instead of the checkpoint's")
    options = parser.parse_args(arguments)
    for name, least in (("seed", 0), ("max_images", 0), ("max_text_tokens", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; accepted: {least} or more")
    return options


def run(options: argparse.Namespace) -> None:
    from mars_megatron.generation.document_prompts import DocumentPrompt, read_document_prompts
    from mars_megatron.generation.interleave import interleave

    defaults = DocumentPrompt((), options.seed, options.max_images, options.max_text_tokens, options.stop_after_image)
    prompts = read_document_prompts(options.prompts, defaults)
    given = ((setting, getattr(options, setting)) for setting in SETTINGS.values())
    folder = interleave(
        options.checkpoint,
        prompts,
        options.output,
        tensor=options.tensor,
        overrides=[f"--{setting}={value}" for setting, value in given if value is not None],
        device=options.device,
    )
    if os.environ.get("RANK", "0") == "0":
        images = sum("image" in part for line in folder.lines for part in line["parts"])
        print(f"{folder.num_finished} documents with {images} new images: {folder.path}")


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
