"""Build .bin/.idx indices of raw images and texts; merge, inspect and validate them. Without a command: build."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mars_megatron.program import Parser, run_program

BUILD_EPILOG = """\
An input is one of these, or a glob in quotes. Each file becomes a shard; the shards are merged:

  FOLDER            images and captions.jsonl; or images with metadata.jsonl, .csv or .parquet, here or in folders
                    below; or images with a .txt (one caption) or .json (captions) of the same name (a.txt, or else
                    a.png.txt); or .tar, .parquet and .jsonl files
  FILE.jsonl        one sample per line, image files named relative to it:
                      {"image": "a.png", "captions": ["a red square", {"text": "一个红色方块", "weight": 2}]}
                      {"image": "b.png", "caption": "a blue circle", "low": "b_small.png"}
                      {"text": "a document without an image"}
                      {"parts": ["Look: ", {"image": "a.png"}, {"text": " and "}, {"image": "b.png"}]}
  metadata.*        the image-folder convention: file_name (or image_file_name), and the caption in one of --captions,
                    else in text or prompt
  FILE.tar(.gz)     WebDataset: KEY.jpg, KEY.txt (one caption), KEY.json (as above), KEY.low.jpg, KEY.0.jpg; KEY ends
                    at the first dot, or at the last one where there is neither KEY.jpg nor KEY.json
  FILE.parquet      columns image (bytes, or struct of bytes and path), captions, low, text, parts
  FILE.txt          one text document per line

Images are converted to upright 8-bit sRGB on a white background. Bit depth, alpha and colours (ICC profiles too) are
read from the file. A file that does not define its sample values, such as a float TIFF without a range, is skipped
with a reason (unknown_range, unknown_colours, unsupported_pixels) and a remedy.

Output: PREFIX.bin and PREFIX.idx (megatron-core IndexedDataset with modes), PREFIX.json (the manifest),
PREFIX.weights.npy if captions have weights, and PREFIX.skipped.jsonl with the reason of every skipped item. Every file
of a folder and every member of a tar file is read, or counted as left out. Run the command again after an
interruption, and it resumes with the inputs that are not finished.
"""
SHEET_ROWS, SHEET_TEXT = 64, 300  # documents, and characters of each, that a picture can show


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
    add(
        "--text-tokenizer",
        required=True,
        metavar="PATH",
        help="SentencePiece .model, or a folder: its tokenizer.json as it is, or without one its .model file",
    )
    add("--image-tokenizer", metavar="FOLDER", help="diffusers VQModel folder; not needed for text alone")
    add("--resolution", type=int, metavar="PIXELS", help="height and width of the indexed images")
    add("--low-resolution", type=int, metavar="PIXELS", help="also index each image at this size, for super-resolution")
    add(
        "--fit", choices=("crop", "stretch", "centre"), default="crop",
        help="crop: shorter side to the resolution, the rest cut off; stretch: both sides; centre: cut out at the "
        "centre without scaling where the image is large enough (default: %(default)s)",
    )  # fmt: skip
    add(
        "--captions", nargs="+", default=["captions", "caption"], metavar="FIELD[=WEIGHT]",
        help="JSON keys and columns that hold captions, and their relative weight in the choice of a caption "
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
    add("--strict", action="store_true", help="skip nothing: the first such item is an error, hidden files excepted")
    add("--overwrite", action="store_true", help="replace an index of other inputs or settings")
    add("--max-caption-tokens", type=int, default=1024, help="longer captions are dropped (default: %(default)s)")
    add("--max-text-tokens", type=int, default=4096, help="longer texts are skipped (default: %(default)s)")
    add("--max-pixels", type=int, default=89_478_485, help="larger images are skipped (default: %(default)s)")
    add("--max-bytes", type=int, default=256 << 20, help="longer image files are skipped (default: %(default)s)")
    add("--min-side", type=int, default=2, help="smaller images are skipped, in pixels (default: %(default)s)")
    add("--allow-outside", action="store_true", help="JSONL may name images outside of its folder")
    add("--no-progress", action="store_true", help="no progress bar")


def run_build(options: argparse.Namespace) -> int:
    """Make an index and say what is in it."""
    if (options.image_tokenizer is None) != (options.resolution is None):
        options.parser.error("--image-tokenizer and --resolution go together")
    if options.low_resolution is not None and options.resolution is None:
        options.parser.error("--low-resolution needs --resolution")
    if options.device != "cpu" and options.image_tokenizer is None:
        options.parser.error("--device needs --image-tokenizer")
    _check_output(options.output)
    from mars_megatron.indexing.build import build_index
    from mars_megatron.indexing.options import BuildOptions, parse_captions, parse_shard

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
    _check_device(options.device)
    began = time.monotonic()
    manifest = build_index(
        options.input,
        options.output,
        options.text_tokenizer,
        options.image_tokenizer,
        options=build_options,
        device=options.device,
        progress=not options.no_progress,
        say=print,
    )
    if manifest is not None:
        print(describe(options.output, manifest))
    print(f"{time.monotonic() - began:.1f} s")
    return 0


def _check_output(prefix: str) -> None:
    """Raise ValueError where an index cannot be: below a file, or without a name of its own."""
    if prefix.endswith("/") or not Path(prefix).name:
        raise ValueError(f"output is {prefix!r}; it must be the path of an index without ending, such as corpus/train")
    for parent in Path(prefix).parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"output is {prefix}, but {parent} is a file, not a folder; give another path")


def _check_device(device: str | None) -> None:
    """Raise ValueError where torch has no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU; give --device cpu, or a torch with CUDA")


def describe(prefix: str, manifest: Any) -> str:
    """What an index holds, in a few lines."""
    documents = ", ".join(f"{count} {kind} documents" for kind, count in manifest.documents.items()) or "no documents"
    text = f"{prefix}: {documents}, {manifest.tokens['text']} text tokens, {manifest.tokens['visual']} visual tokens"
    if manifest.skipped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(manifest.skipped.items()))
        text += f"\nskipped: {reasons}; see {prefix}.skipped.jsonl"
    if manifest.unknown:
        text += (
            f"\nunknown: {manifest.unknown['texts']} texts hold what the text tokenizer cannot spell, as "
            f"{manifest.unknown['tokens']} unknown tokens"
        )
    from mars_megatron.indexing.statistics import describe_files

    lines = describe_files(*(manifest.summed(name) for name in ("files", "members", "unread")))
    return "\n".join([text, *lines])


def add_merge(subparsers: Any) -> None:
    """The command that joins indices."""
    parser = subparsers.add_parser(
        "merge",
        help="merge the shards of a build, or other indices of the same tokenizers and settings",
        description="Write the documents of several indices, in this order, as one index. If that is done, do nothing.",
    )
    parser.set_defaults(run=run_merge, parser=parser)
    add = parser.add_argument
    add("--output", required=True, metavar="PREFIX", help="path of the result, without ending")
    add(
        "--inputs", nargs="+", metavar="PREFIX",
        help="the indices (default: the shards in OUTPUT.shards, all of which must be finished)",
    )  # fmt: skip
    add("--overwrite", action="store_true", help="replace an existing index")
    add("--remove-shards", action="store_true", help="remove OUTPUT.shards afterwards")
    add("--no-progress", action="store_true", help="no progress bar")


def run_merge(options: argparse.Namespace) -> int:
    """Join indices and say what is in the result."""
    if options.remove_shards and options.inputs:
        options.parser.error("--remove-shards goes with the shards of a build, not with --inputs")
    _check_output(options.output)
    from mars_megatron.index.manifest import Manifest
    from mars_megatron.index.merge import already_merged, merge_indices, remove_shards, shard_prefixes, shards_folder

    output, progress = options.output, not options.no_progress
    manifest_path = Path(f"{output}.json")
    if not options.inputs and not shards_folder(output).exists() and manifest_path.is_file():
        remove_shards(output)  # what an interrupted removal has left of them
        print(f"{output} is whole; there are no shards to merge\n{describe(output, Manifest.read(manifest_path))}")
        return 0
    prefixes = options.inputs or shard_prefixes(output)
    if not options.overwrite and already_merged(prefixes, output, progress=progress):
        print("already merged")
        manifest = Manifest.read(manifest_path)
    else:
        manifest = merge_indices(prefixes, output, progress=progress, overwrite=options.overwrite)
    print(describe(output, manifest))
    if options.remove_shards:
        remove_shards(output)
        print(f"removed {shards_folder(output)}")
    return 0


def add_inspect(subparsers: Any) -> None:
    """The command that shows what is in an index."""
    parser = subparsers.add_parser(
        "inspect",
        help="print statistics of an index, and decode documents to images and texts",
        description="Print statistics; with --samples or --document also decode documents into an image-text folder "
        "(PNG files, captions.jsonl, and sheet.png, which shows them side by side).",
    )
    parser.set_defaults(run=run_inspect, parser=parser)
    add = parser.add_argument
    add("prefix", metavar="PREFIX", help="path of the index, without ending")
    add("--json", metavar="FILE", help="also write the statistics here")
    add("--samples", type=int, metavar="N", help="decode N documents drawn at random")
    add("--seed", type=int, metavar="S", help="seed of --samples (default: 0)")
    add("--document", type=int, nargs="+", metavar="K", help="decode these documents, numbered from 0")
    add("--output", metavar="FOLDER", help="where decoded documents go")
    add("--text-tokenizer", metavar="PATH", help="its path now (default: its path during the build)")
    add("--image-tokenizer", metavar="FOLDER", help="its path now (default: its path during the build)")
    add("--device", choices=("cpu", "cuda"), help="where images are decoded (default: cpu)")
    add("--no-progress", action="store_true", help="no progress bar")


def run_inspect(options: argparse.Namespace) -> int:
    """Print statistics, write them, decode documents."""
    decodes = options.samples is not None or options.document is not None
    if options.samples is not None and options.document is not None:
        options.parser.error("--samples and --document exclude each other")
    if options.seed is not None and options.samples is None:
        options.parser.error("--seed needs --samples")
    if decodes != (options.output is not None):
        options.parser.error("--samples or --document, and --output go together")
    for name in ("text_tokenizer", "image_tokenizer", "device"):
        if getattr(options, name) is not None and not decodes:
            options.parser.error(f"--{name.replace('_', '-')} needs --samples or --document")
    from mars_megatron.indexing.statistics import describe as describe_statistics
    from mars_megatron.indexing.statistics import inspect_index

    found = inspect_index(options.prefix)
    print(describe_statistics(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if decodes:
        _decode(options)
    return 0


def _decode(options: argparse.Namespace) -> None:
    """Write the documents that were asked for, and a sheet of the first of them."""
    from mars_megatron.indexing.decoded_samples import choose_documents, decode_documents, write_folder

    _check_device(options.device)
    numbers = options.document
    if numbers is None:
        numbers = choose_documents(options.prefix, options.samples, options.seed or 0)
    decoded = decode_documents(
        options.prefix,
        numbers,
        text_tokenizer=options.text_tokenizer,
        image_tokenizer=options.image_tokenizer,
        device=options.device or "cpu",
    )
    first = []
    for document in write_folder(decoded, options.output, total=len(numbers), progress=not options.no_progress):
        if len(first) < SHEET_ROWS:
            first.append(document)
    sheet = Path(options.output) / "sheet.png"
    _draw_sheet(first).save(sheet)
    print(f"decoded {len(numbers)} documents into {options.output}; {sheet} shows {len(first)} of them")


def _draw_sheet(documents: list[Any]) -> Any:
    """One row for each document: its number, kind and texts, then its images, brought to one size."""
    import numpy as np
    from PIL import Image

    from mars_megatron.gallery.sheet import image_grid

    images = [image for document in documents for image in document.images]
    height, width = max((image.shape[:2] for image in images), default=(64, 64))
    rows, labels = [], []
    for document in documents:
        fitted = [Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST) for image in document.images]
        rows.append(np.stack(fitted) if fitted else np.zeros((0, height, width, 3), dtype=np.uint8))
        text = " | ".join(document.texts)
        text = text if len(text) <= SHEET_TEXT else text[:SHEET_TEXT] + " ..."
        labels.append(f"{document.number} ({document.kind}): {text}")
    return image_grid(rows, labels)


def add_validate(subparsers: Any) -> None:
    """The command that reads an index again."""
    parser = subparsers.add_parser(
        "validate",
        help="read all of an index, and report every problem",
        description="Compare all files with each other, the tokenizers' sizes and the manifest. The exit code is 1 "
        "if there is a problem.",
    )
    parser.set_defaults(run=run_validate)
    parser.add_argument("prefix", metavar="PREFIX", help="path of the index, without ending")
    parser.add_argument("--sources", action="store_true", help="also compute the checksums of the inputs")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def run_validate(options: argparse.Namespace) -> int:
    """Print one line if all is well, else every problem."""
    from mars_megatron.index.reader import index_path
    from mars_megatron.indexing.validation import validate_index

    if not any(index_path(options.prefix, ending).exists() for ending in ("json", "idx", "bin")):
        raise ValueError(f"there is no index {options.prefix}; give the path of one, without ending")
    found = validate_index(options.prefix, sources=options.sources, progress=not options.no_progress)
    if not found.problems:
        print(f"{options.prefix} is sound: {found.summary}")
        return 0
    for problem in found.problems:
        print(problem)
    print(f"{options.prefix} has {len(found.problems)} problem{'s' if len(found.problems) > 1 else ''}")
    return 1


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; one that begins with an option is that of `build`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments.insert(0, "build")
    parser = Parser(description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (add_build, add_merge, add_inspect, add_validate):
        add(subparsers)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    return options.run(options)


def main(arguments: list[str] | None = None) -> int:
    return run_program(parse_arguments, run, arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of a scheduler: leave nothing half-written behind
    sys.exit(main())
