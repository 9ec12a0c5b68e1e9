"""Turn an image-text folder and two tokenizers into a .bin/.idx index."""

from __future__ import annotations

import argparse
import sys

EPILOG = """\
The folder holds captions.jsonl, one sample per line, and the images that it names:

  {"image": "a.png", "captions": ["a red square", "一个红色方块"]}
  {"image": "b.png", "caption": "a blue circle"}
  {"text": "a document without an image"}

Written are PREFIX.bin and PREFIX.idx (megatron-core IndexedDataset with modes), PREFIX.json (the manifest)
and, where samples had to be left out, PREFIX.skipped.jsonl (which line, and why).
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, metavar="FOLDER", help="image-text folder")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="path of the index, without ending")
    parser.add_argument(
        "--text-tokenizer", required=True, metavar="PATH", help="SentencePiece .model, or Hugging Face folder"
    )
    parser.add_argument(
        "--image-tokenizer", metavar="FOLDER", help="diffusers VQModel folder; not needed for text alone"
    )
    parser.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="images are resized and centre-cropped to this square",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images encoded at once (default: %(default)s)")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where images are encoded (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if (options.image_tokenizer is None) != (options.resolution is None):
        parser.error("--image-tokenizer and --resolution go together")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    # after the arguments: --help and a wrong option should not wait for torch
    from mars_megatron.indexing.build import build_index
    from mars_megatron.indexing.sources import FolderSource
    from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer

    try:
        source = FolderSource(options.input)
        text_tokenizer = load_text_tokenizer(options.text_tokenizer)
        image_tokenizer = None
        if options.image_tokenizer is not None:
            image_tokenizer = load_image_tokenizer(options.image_tokenizer, options.device)
        manifest = build_index(
            source,
            options.output,
            text_tokenizer,
            image_tokenizer,
            resolution=options.resolution or 0,
            batch_size=options.batch_size,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.output}: {manifest.num_image_documents} image documents, "
        f"{manifest.num_text_documents} text documents, {manifest.tokens['text']} text tokens, "
        f"{manifest.tokens['visual']} visual tokens"
    )
    if manifest.skipped:
        print(f"skipped {manifest.skipped}, see {options.output}.skipped.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
