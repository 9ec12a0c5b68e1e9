"""Turn raw images and texts into .bin/.idx indices: build, merge, inspect, validate. Without a command: build."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import Any

BUILD_EPILOG = """\
An input is one of these, or a glob in quotes; each file becomes an index of its own, and these are merged:

  FOLDER            images and captions.jsonl; or images with a .txt (one caption) or .json of the same name;
                    or .tar, .parquet and .jsonl files
  FILE.jsonl        one sample per line, image files named relative to it:
                      {"image": "a.png", "captions": ["a red square", {"text": "一个红色方块", "weight": 2}]}
                      {"image": "b.png", "caption": "a blue circle", "low": "b_small.png"}
                      {"text": "a document without an image"}
                      {"parts": ["Look: ", {"image": "a.png"}, {"text": " and "}, {"image": "b.png"}]}
  FILE.tar(.gz)     WebDataset: KEY.jpg, KEY.txt (one caption), KEY.json (as above), KEY.low.jpg, KEY.0.jpg
  FILE.parquet      columns image (bytes, or struct of bytes and path), captions, low, text, parts
  FILE.txt          one text document per line

Written are PREFIX.bin and PREFIX.idx (megatron-core IndexedDataset with modes), PREFIX.json (the manifest), where
captions have weights PREFIX.weights.npy, and where something had to be left out PREFIX.skipped.jsonl (what, and why).
Run again after an interruption, it goes on with the inputs that were not finished.
"""


def add_build(subparsers: Any) -> None:
    """The command that makes an index."""
    parser = subparsers.add_parser(
        "build",
        help="make an index from raw images and texts",
        epilog=BUILD_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run_build, parser=parser)
    add = parser.add_argument
    add("--input", required=True, nargs="+", metavar="PATH", help="folders, files, globs")
    add("--output", required=True, metavar="PREFIX", help="path of the index, without ending")
    add("--text-tokenizer", required=True, metavar="PATH", help="SentencePiece .model, or Hugging Face folder")
    add("--image-tokenizer", metavar="FOLDER", help="diffusers VQModel folder; not needed for text alone")
    add("--resolution", type=int, metavar="PIXELS", help="images are brought to this square")
    add("--low-resolution", type=int, metavar="PIXELS", help="each image also at this size: pairs for super-resolution")
    add(
        "--fit", choices=("crop", "stretch", "centre"), default="crop",
        help="crop: shorter side to the resolution, the rest cut off; stretch: both sides; centre: cut out at the "
        "centre without scaling where the image is large enough (default: %(default)s)",
    )  # fmt: skip
    add(
        "--captions", nargs="+", default=["captions", "caption"], metavar="FIELD[=WEIGHT]",
        help="JSON keys and parquet columns that hold captions, and their relative weight in the choice of a caption "
        "(default: captions caption)",
    )  # fmt: skip
    for name in ("image", "low", "text", "parts"):
        add(f"--{name}-column", default=name, metavar="NAME", help=f"parquet column (default: {name})")
    add("--batch-size", type=int, default=64, help="images encoded at once (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where images are encoded (default: %(default)s)")
    add(
        "--workers", type=int, default=len(os.sched_getaffinity(0)),
        help="processes that tokenise texts and decode images; 0: none (default: one per core)",
    )  # fmt: skip
    add("--shard", metavar="I/N", help="only inputs number I, I + N, I + 2N, ... (I from 0); for several hosts")
    add("--strict", action="store_true", help="the first thing that would be left out is an error")
    add("--overwrite", action="store_true", help="replace an index of other inputs or settings")
    add("--max-caption-tokens", type=int, default=1024, help="longer captions are dropped (default: %(default)s)")
    add("--max-text-tokens", type=int, default=4096, help="longer texts are left out (default: %(default)s)")
    add("--max-pixels", type=int, default=89_478_485, help="larger images are left out (default: %(default)s)")
    add("--max-bytes", type=int, default=256 << 20, help="longer image files are left out (default: %(default)s)")
    add("--min-side", type=int, default=2, help="smaller images are left out, in pixels (default: %(default)s)")
    add("--allow-outside", action="store_true", help="JSONL may name images outside of its folder")
    add("--no-progress", action="store_true", help="no progress bar")


def run_build(options: argparse.Namespace) -> int:
    """Make an index and say what is in it."""
    if (options.image_tokenizer is None) != (options.resolution is None):
        options.parser.error("--image-tokenizer and --resolution go together")
    if options.low_resolution is not None and options.resolution is None:
        options.parser.error("--low-resolution needs --resolution")
    # after the arguments: --help and a wrong option should not wait for torch
    from mars_megatron.indexing.build import build_index
    from mars_megatron.indexing.options import BuildOptions, parse_captions, parse_shard
    from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer

    image_tokenizer = None
    if options.image_tokenizer is not None:
        image_tokenizer = load_image_tokenizer(options.image_tokenizer, options.device)
    names = ("fit", "image_column", "low_column", "text_column", "parts_column", "batch_size", "workers", "strict",
             "overwrite", "max_caption_tokens", "max_text_tokens", "max_pixels", "max_bytes", "min_side",
             "allow_outside")  # fmt: skip
    build_options = BuildOptions(
        resolution=options.resolution or 0,
        low_resolution=options.low_resolution or 0,
        captions=parse_captions(options.captions),
        shard=parse_shard(options.shard),
        **{name: getattr(options, name) for name in names},
    )
    began = time.monotonic()
    manifest = build_index(
        options.input,
        options.output,
        load_text_tokenizer(options.text_tokenizer),
        image_tokenizer,
        options=build_options,
        progress=not options.no_progress,
        say=print,
    )
    if manifest is not None:
        print(describe(options.output, manifest))
    print(f"{time.monotonic() - began:.1f} s")
    return 0


def describe(prefix: str, manifest: Any) -> str:
    """What an index holds, in a few lines."""
    documents = ", ".join(f"{count} {kind} documents" for kind, count in manifest.documents.items()) or "no documents"
    text = f"{prefix}: {documents}, {manifest.tokens['text']} text tokens, {manifest.tokens['visual']} visual tokens"
    if manifest.skipped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(manifest.skipped.items()))
        text += f"\nskipped: {reasons}; see {prefix}.skipped.jsonl"
    return text


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_build(subparsers)
    return parser


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; one that begins with an option is that of `build`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments.insert(0, "build")
    return make_parser().parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 128 + signal.SIGINT


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # of a scheduler: leave nothing half-written behind
    sys.exit(main())
