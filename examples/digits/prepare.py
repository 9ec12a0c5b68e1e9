"""Writes the raw input of the quickstart: images with captions, the text corpus, and the files for scoring."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from examples.digits import corpus
from examples.digits.images import write_digits
from mars_megatron.files.writing import write_text
from mars_megatron.program import exit_code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="output folder")
    parser.add_argument("--variants", type=int, default=32, help="images written of each training digit")
    parser.add_argument("--resolution", type=int, default=16, help="height and width of the images, in pixels")
    parser.add_argument("--documents", type=int, default=6000, help="text documents for the base language model")
    parser.add_argument("--seed", type=int, default=0, help="seed of variants and text")
    options = parser.parse_args()
    root = Path(options.output)

    size, seed = options.resolution, options.seed
    write_digits(root / "train", corpus.captions, split="train", variants=options.variants, resolution=size, seed=seed)
    write_digits(root / "held_out", corpus.captions, split="held_out", resolution=size, seed=seed)
    texts = corpus.documents(options.documents, options.seed)
    _write_lines(root / "text" / "captions.jsonl", ({"text": text} for text in texts))
    vocabulary = [caption for digit in range(10) for caption in corpus.captions(digit)] * 5
    write_text(root / "tokenizer.txt", "\n".join(texts + vocabulary) + "\n")
    _, held_out = corpus.split_facts()
    _write_lines(root / "facts.jsonl", ({"prompt": f.prompt, "answer": f.answer, "group": f.kind} for f in held_out))
    shown = [corpus.captions(digit)[0 if digit % 2 == 0 else len(corpus.TEMPLATES["en"])] for digit in range(10)]
    write_text(root / "shown_prompts.txt", "\n".join(shown) + "\n")
    words = {str(digit): [word[digit] for word in corpus.WORDS.values()] for digit in range(10)}
    write_text(root / "label_words.json", json.dumps(words, ensure_ascii=False, indent=2) + "\n")
    write_text(root / "symbols.txt", "\n".join([*(f"▁{word}" for word in corpus.ENGLISH), *corpus.CHINESE]) + "\n")
    # Last: quickstart.sh takes it for the sign that all is there.
    _write_lines(root / "prompts.jsonl", _prompts())


def _prompts() -> Iterable[dict[str, Any]]:
    """Every template of every digit, with the digit as label and the language as group."""
    for language, templates in corpus.TEMPLATES.items():
        for digit in range(10):
            for template in templates:
                yield {
                    "prompt": template.format(corpus.WORDS[language][digit]),
                    "label": str(digit),
                    "group": language,
                }


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(exit_code(main))
