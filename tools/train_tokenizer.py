"""Train a text tokenizer (SentencePiece) on a text file, or an image tokenizer (VQ) on an image-text folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from mars_megatron.program import Parser, run_program


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    text = commands.add_parser(
        "text",
        help="SentencePiece model from a text file",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    text.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="UTF-8 text, one sentence per line, of any length (lines longer than 4192 bytes are split)",
    )
    text.add_argument("--output", required=True, metavar="FILE", help="the .model file to write")
    text.add_argument("--vocab-size", type=int, default=512, help="number of ids")
    text.add_argument("--model-type", choices=("unigram", "bpe"), default="unigram", help="algorithm of SentencePiece")
    text.add_argument("--at-most", action="store_true", help="accept fewer ids if the text has too few pieces")
    text.add_argument("--character-coverage", type=float, default=1.0, help="share of the characters that get a piece")
    text.add_argument(
        "--symbols", nargs="*", default=[], metavar="TEXT", help="strings that always become a single token"
    )

    image = commands.add_parser(
        "image",
        help="VQ model (diffusers VQModel) from the images of a folder",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    image.add_argument(
        "--input",
        required=True,
        metavar="FOLDER",
        help="folder of images, or with captions.jsonl or metadata.* that names them",
    )
    image.add_argument("--output", required=True, metavar="FOLDER", help="the model folder to write")
    image.add_argument(
        "--resolution",
        type=int,
        nargs="+",
        required=True,
        metavar="PIXELS",
        help="height and width of the images; of several sizes, each is trained in turn",
    )
    image.add_argument("--max-images", type=int, default=50000, help="largest number of images; all are held in memory")
    image.add_argument("--codebook-size", type=int, default=256, help="number of codes")
    image.add_argument("--code-dim", type=int, default=8, help="channels of a code")
    image.add_argument(
        "--widths",
        type=int,
        nargs="+",
        default=[16, 32, 32],
        help="channels at each resolution; each after the first halves the image",
    )
    image.add_argument("--warmup-steps", type=int, default=250, help="steps as a plain autoencoder")
    image.add_argument("--steps", type=int, default=350, help="steps with quantisation")
    image.add_argument("--batch-size", type=int, default=32, help="images per step")
    image.add_argument("--warmup-lr", type=float, default=4e-3, help="peak learning rate of the warm-up")
    image.add_argument("--lr", type=float, default=2e-3, help="peak learning rate with quantisation")
    image.add_argument("--seed", type=int, default=0, help="seed of the weights and of the order of the images")
    image.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it trains")
    return parser.parse_args(arguments)


def train_text(options: argparse.Namespace) -> None:
    from mars_megatron.tokenizers.train_text import train_text_tokenizer

    tokenizer = train_text_tokenizer(
        options.input,
        options.output,
        vocab_size=options.vocab_size,
        model_type=options.model_type,
        character_coverage=options.character_coverage,
        symbols=options.symbols,
        at_most=options.at_most,
        say=lambda note: print(f"note: {note}", file=sys.stderr),
    )
    print(f"{options.output}: {tokenizer.size} ids, end of text {tokenizer.eos_id}")


def train_image(options: argparse.Namespace) -> None:
    from mars_megatron.indexing.images import load_images
    from mars_megatron.indexing.sources import folder_images
    from mars_megatron.tokenizers.train_image import ImageTrainingConfig, train_image_tokenizer

    options.widths = tuple(options.widths)
    names = {field.name for field in fields(ImageTrainingConfig)}
    config = ImageTrainingConfig(**{name: value for name, value in vars(options).items() if name in names})
    for resolution in options.resolution:
        if resolution < 1 or resolution % config.downsample:
            raise ValueError(f"--resolution is {resolution}; it must be a multiple of {config.downsample}")
    paths, sets = folder_images(options.input, options.max_images), []
    for resolution in options.resolution:
        images, unreadable = load_images(paths, resolution)
        sets.append(images)
    for path, why in unreadable:
        print(f"warning: {path} left out: {why}", file=sys.stderr)
    report = train_image_tokenizer(sets, options.output, config)
    print(
        f"{options.output}: {len(sets[0])} images, codes in use {report.codes_used} of {report.codebook_size} "
        f"({report.num_revived} revived), reconstruction MSE {report.reconstruction_mse:.5f}"
    )


def run(options: argparse.Namespace) -> None:
    (train_text if options.command == "text" else train_image)(options)


def main(arguments: list[str] | None = None) -> int:
    return run_program(parse_arguments, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
