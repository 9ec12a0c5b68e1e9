"""Time parts of the project and common alternatives, in one process."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from mars_megatron.program import Parser, run_program

EPILOG = """\
Every ratio is the alternative's time / ours, medians of one run: above 1, ours is faster. --json writes
{"ratios": {...}, "seconds": {...}, "machine": {...}}.
"""

DISPATCH = """\
Copy the tokens of a packed sequence to their experts and back. Ours against two copies of the same bytes (copy),
torch's index_select both ways (index_select), boolean masks (masks) and megatron-core's permute and unpermute
(mcore_permute). All allocate their outputs. Values that depend only on routing are computed before, but masks counts
its tokens and mcore_permute sorts them in every call, as in every layer. Also the time to build a dispatch plan.
"""

DISPATCH_EPILOG = """\
In the JSON, ratios[NAME] is the least over the dtypes, ratios[DTYPE][NAME] that of one, and on the CPU
ratios[DTYPE_reused_memory][NAME] with outputs in memory that is held, not mapped anew. seconds[DTYPE][NAME];
seconds["plan"] for 64 samples of 512 tokens.
"""

STEP = """\
One training step (forward, backward, optimiser) of SemVIE on packed text-to-image samples against megatron-core's
GPTModel of one expert's shapes, all of it trained (dense), and against SemVIE by boolean masks in every layer, nothing
detached: with the text experts frozen as ours are (masked), and trained as well (masked_trained). All use the same
attention, loss and optimiser.
"""

STEP_EPILOG = """\
In the JSON, ratios[SHARE][NAME] and seconds[SHARE][NAME], a share being written as given to --text-share.
"""

CONVERT = """\
Conversions of checkpoints (init-from-hf, export-hf, import-hf) of a model with the shapes of 7B, few layers, a small
vocabulary and random bf16 weights, against copying the files that they write; both end when the bytes are on the disk.
Each conversion runs in its own process, whose peak of resident memory (mapped files included) is reported too.
"""

CONVERT_EPILOG = """\
In the JSON, ratios[KIND] is the median over the rounds; seconds[KIND] has bytes, seconds, copy_seconds, all ratios,
and bytes of peak memory above a fresh interpreter with torch (peak) and with the tool's other code too (peak_of_data).
"""

DATA = """\
Indexing, loading and packing, against required values. text: indexing texts in JSONL, against a plain loop that uses
the same tokenizer and megatron-core's IndexedDatasetBuilder (both must write the same tokens). image: indexing JPEG
files in a tar, against the image tokenizer alone on pixels that are in memory (of random weights, aMUSEd's shape made
narrower; then the quickstart's small one). loader: tokens that one worker delivers, against what the step of the tiny
recipe consumes. startup: from the imports to the first micro-batch of stage I of 7B, and memory. packing: the
unused rows in micro-batches of stage I.
"""

DATA_EPILOG = """\
In the JSON, ratios has text, image, image_small and loader; seconds[NAME] the measurements, and seconds["figures"] the
rows of the table with the required values.
"""

SAMPLE = """\
Drawing images with the KV cache, fp32, from prompts of equal length: sample_images against transformers' generate on
the exported model (generate; its own guidance and draws), and against the exported model's own loop (exported).
"""

SAMPLE_EPILOG = """\
In the JSON, ratios["BATCH, guidance G"][NAME] and seconds["BATCH, guidance G"][NAME].
"""

# Of each part the module below benchmarks/ and the class of its options.
PARTS = {
    "dispatch": ("dispatch", "DispatchOptions"),
    "step": ("step", "StepOptions"),
    "convert": ("conversion", "ConversionOptions"),
    "data": ("data", "DataOptions"),
    "sample": ("sampling", "SamplingOptions"),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    form: Any = dict(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser = Parser(description=__doc__, epilog=EPILOG, **form)
    parts = parser.add_subparsers(dest="part", required=True, metavar="|".join(PARTS))

    dispatch = parts.add_parser("dispatch", help="token dispatch", description=DISPATCH, epilog=DISPATCH_EPILOG, **form)
    add(dispatch, "--tokens", 8192, "budget of the packed sequence; as many whole samples as fit are taken")
    add(dispatch, "--hidden", 4096, "elements of a token")
    add(dispatch, "--text-tokens", 64, "text tokens of a sample", dest="text")
    add(dispatch, "--visual-tokens", 256, "visual tokens of a sample", dest="visual")
    dispatch.add_argument(
        "--dtype", dest="dtypes", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"], help="(both)"
    )
    dispatch.add_argument(
        "--no-reuse-memory",
        dest="reuse_memory",
        action="store_false",
        help="leave out the second run, with outputs in memory that is held, not mapped anew",
    )
    step = parts.add_parser("step", help="training step", description=STEP, epilog=STEP_EPILOG, **form)
    add(step, "--layers", 8, "transformer layers")
    add(step, "--hidden", 1024, "width")
    add(step, "--ffn", 2816, "width of the SwiGLU FFN")
    add(step, "--heads", 16, "attention heads")
    add(step, "--tokens", 2048, "budget of the packed sequence; as many whole samples as fit are taken")
    add(step, "--image-tokens", 256, "codes of an image")
    step.add_argument(
        "--text-share",
        dest="text_shares",
        nargs="+",
        default=["0.1", "0.2", "0.5"],
        help="shares of the tokens that are text (%(default)s)",
    )
    step.add_argument(
        "--dtype", dest="precision", choices=("bf16", "fp32"), default="fp32", help="precision (default: %(default)s)"
    )
    convert = parts.add_parser(
        "convert", help="conversion of checkpoints", description=CONVERT, epilog=CONVERT_EPILOG, **form
    )
    add_conversion(convert)
    data = parts.add_parser("data", help="indexing and loading", description=DATA, epilog=DATA_EPILOG, **form)
    add_data(data)
    sample = parts.add_parser("sample", help="drawing images", description=SAMPLE, epilog=SAMPLE_EPILOG, **form)
    add_sampling(sample)
    for part, rounds in ((dispatch, 30), (step, 5), (convert, 3), (sample, 7)):
        add(part, "--rounds", rounds, "timed calls of each implementation")
    for part in (dispatch, step, convert, data, sample):
        add(part, "--threads", 0, "threads of torch; 0 leaves its own choice")
        part.add_argument("--json", metavar="FILE", help="write the report there")
        part.add_argument("--no-progress", action="store_true", help="show no progress bars")
    return parser.parse_args(arguments)


def add_conversion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gigabytes",
        type=float,
        metavar="N",
        default=2.0,
        help="about 10^9 bytes of the MARS; decides the layers, at least one (default: %(default)s)",
    )
    add(parser, "--hidden", 4096, "width")
    add(parser, "--ffn", 11008, "width of the SwiGLU FFN")
    add(parser, "--heads", 32, "attention heads")
    add(parser, "--text-size", 32000, "rows of the text vocabulary")
    add(parser, "--codebook-size", 8192, "image codes")
    parser.add_argument(
        "--folder", metavar="DIR", help="on the disk to be measured (default: that for temporary files)"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    add(parser, "--layers", 4, "transformer layers")
    add(parser, "--hidden", 128, "width")
    add(parser, "--ffn", 344, "width of the SwiGLU FFN")
    add(parser, "--heads", 4, "attention heads")
    add(parser, "--text-size", 256, "rows of the text vocabulary")
    add(parser, "--codebook-size", 256, "image codes")
    add(parser, "--grid", 4, "rows and columns of codes of an image")
    add(parser, "--prompt-tokens", 4, "length of every prompt")
    batch, scales = "images at once (%(default)s)", "scales, 1 is without (%(default)s)"
    parser.add_argument("--batch", dest="batches", type=int, nargs="+", metavar="N", default=[1, 16, 64], help=batch)
    parser.add_argument(
        "--guidance", dest="guidances", type=float, nargs="+", metavar="G", default=[1.0, 2.0], help=scales
    )
    parser.add_argument(
        "--temperature", type=float, metavar="T", default=1.0, help="of the draws (default: %(default)s)"
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Options whose names are those of `DataOptions`, in which the ones that are not given keep their defaults."""
    from benchmarks.data_options import PARTS, QUICK, DataOptions

    full = DataOptions()

    def add_option(name: str, text: str, **how: Any) -> None:
        values = [getattr(options, name) for options in (full, QUICK)]
        shown = [" ".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values]
        quick = f"; --quick: {shown[1]}" if shown[1] != shown[0] else ""
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, **how, help=f"{text} (default: {shown[0]}{quick})")

    add_option("parts", "what to measure", nargs="+", choices=PARTS, metavar="PART")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: seconds instead of minutes")
    for name, text in (
        ("captions", "texts to index"),
        ("text_vocabulary", "ids of the text tokenizer"),
        ("workers", "worker processes of indexing"),
        ("images", "JPEG files to index"),
        ("resolution", "their side after resizing, in pixels"),
        ("batch_size", "images encoded at once"),
        ("small_images", "images of 16 pixels to index"),
        ("micro_batches", "micro-batches that the loader delivers in one timed run"),
        ("steps", "training steps in one timed run"),
        ("documents", "documents of the index of the start-up"),
        ("packed_documents", "documents to pack"),
        ("rounds", "timed runs of each implementation"),
    ):
        add_option(name, text, type=int, metavar="N")
    add_option("image_size", "width and height of the JPEG files", type=int, nargs=2, metavar="N")
    add_option("widths", "channels of the image tokenizer at each resolution", type=int, nargs="+", metavar="N")
    add_option("folder", "where temporary files go", metavar="DIR")


def add(parser: argparse.ArgumentParser, name: str, default: int, text: str, **how: Any) -> None:
    parser.add_argument(name, type=int, metavar="N", default=default, help=f"{text} (default: %(default)s)", **how)


def run(options: argparse.Namespace) -> None:
    # after the arguments: --help and a wrong option should not wait for torch

    import torch
    from benchmarks.timing import machine, write_report

    from mars_megatron import platform

    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise ValueError(f"--json {options.json}: its folder is not there; make it first")
    platform.initialize("auto")
    if options.threads:
        torch.set_num_threads(options.threads)
    print("\n".join(f"{name}: {value}" for name, value in machine().items()), flush=True)
    module, kind = PARTS[options.part]
    part = import_module(f"benchmarks.{module}")
    defaults = getattr(part, kind)()
    if getattr(options, "quick", False):
        from benchmarks.data_options import QUICK

        defaults = QUICK
    ratios, seconds = part.run(given(defaults, options))
    if options.json:
        write_report(options.json, ratios, seconds)


def given(defaults: Any, options: argparse.Namespace) -> Any:
    """The options of a benchmark, a dataclass: what the command line has under the names of its fields."""
    from dataclasses import fields, replace

    values = {field.name: getattr(options, field.name, None) for field in fields(defaults)}
    values["progress"] = not options.no_progress
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return replace(defaults, **{name: value for name, value in values.items() if value is not None})


def main(arguments: list[str] | None = None) -> int:
    return run_program(parse_arguments, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
