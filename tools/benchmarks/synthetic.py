"""Seeded data to measure on: captions, photograph-like pictures, and indices of random or no tokens."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mars_megatron.files.hashes import file_sha256
from mars_megatron.index.manifest import ImageTokenizerInfo, Manifest, TextTokenizerInfo
from mars_megatron.index.modes import MODE_IMAGE, MODE_TEXT
from mars_megatron.index.writer import IndexWriter, write_index

EOS_ID = 2
_SYLLABLES = "ba be bi bo bu ca co da de di do fa fe fi fo ga go ha he hi ho ka la le li lo lu ma me mi mo na ne ni no "
_SYLLABLES += "nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi wa we wi ya yo ing er ed st th sh"
_ENDS = ("", "", "s", "n", "r", "t", "d", "ng", "st")
_FIRST_CHINESE = 0x4E00
_BLOCK = 1 << 20  # documents


class Captions:
    """Captions from a seeded word list: three in four of made-up words, the others of Chinese characters.

    Args:
        seed: Of the word list and of the captions.
        num_words: Made-up words of the list; a quarter as many Chinese ones, of 1200 characters.
    """

    def __init__(self, seed: int = 0, num_words: int = 20_000) -> None:
        self._rng = np.random.default_rng(seed)
        syllables = np.array(_SYLLABLES.split())
        drawn = self._rng.choice(syllables, (num_words, 3))
        sizes, ends = self._rng.integers(1, 4, num_words), self._rng.choice(_ENDS, num_words)
        self._words = np.array(
            ["".join(row[:size]) + end for row, size, end in zip(drawn.tolist(), sizes, ends, strict=True)]
        )
        letters = self._rng.permutation(0x1000)[:1200] + _FIRST_CHINESE
        pieces = letters[self._rng.integers(0, len(letters), (max(num_words // 4, 1), 2))].tolist()
        self._chinese = np.array(["".join(map(chr, pair[: 1 + number % 2])) for number, pair in enumerate(pieces)])

    def draw(self, count: int) -> Iterator[str]:
        """`count` captions of 8 to some 60 words, or 6 to some 50 Chinese ones; words as frequent as Zipf has it."""
        for first in range(0, count, 4096):
            number = min(4096, count - first)
            chinese = (self._rng.random(number) < 0.25).tolist()
            sizes = np.clip(self._rng.lognormal(2.9, 0.5, number), 8, 60).astype(int)
            words = iter(self._zipf(self._words, int(sizes.sum())))
            signs = iter(self._zipf(self._chinese, int(sizes.sum())))
            for is_chinese, size in zip(chinese, sizes.tolist(), strict=True):
                if is_chinese:
                    text = "".join(next(signs) for _ in range(max(size * 3 // 4, 6)))
                    yield f"{text[: size // 2]}，{text[size // 2 :]}。"
                else:
                    text = " ".join(next(words) for _ in range(size))
                    yield f"{text[:1].upper()}{text[1:]}."

    def _zipf(self, words: np.ndarray, count: int) -> list[str]:
        weights = 1.0 / np.arange(2, len(words) + 2)
        return self._rng.choice(words, count, p=weights / weights.sum()).tolist()


def photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth random fields of several scales with a little noise: a JPEG of it is as large as of a photograph."""
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells, strength in ((3, 90.0), (9, 45.0), (27, 20.0), (81, 10.0)):
        field = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            plane = Image.fromarray(field[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            total[..., channel] += strength * np.asarray(plane)
    total += rng.standard_normal(total.shape).astype(np.float32) * 3.0
    return Image.fromarray(np.clip(total + 128.0, 0, 255).astype(np.uint8))


def write_photographs(path: Path, count: int, size: tuple[int, int], seed: int = 0) -> None:
    """A WebDataset tar of JPEG files of quality 90 with captions; `size` is (width, height)."""
    rng, captions = np.random.default_rng(seed), Captions(seed)
    with tarfile.open(path, "w") as archive:
        for number, caption in enumerate(captions.draw(count)):
            picture = io.BytesIO()
            photograph(rng, *size).save(picture, "JPEG", quality=90)
            for ending, contents in (("jpg", picture.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))


def write_pairs(
    prefix: Path,
    num_documents: int,
    captions: tuple[int, int],
    *,
    text_size: int,
    codebook_size: int,
    grid: tuple[int, int],
    downsample: int,
    seed: int = 0,
) -> None:
    """An index of random tokens: a caption and an image each.

    Args:
        prefix: Where to.
        num_documents: How many.
        captions: Shortest and longest caption, in tokens.
        text_size: Ids of the text tokenizer.
        codebook_size: Image codes.
        grid: Rows and columns of codes.
        downsample: Pixels per code along a side.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    lengths, modes, _ = _pairs(rng, num_documents, captions, grid)
    total = int(lengths.sum(dtype=np.int64))
    is_text = np.repeat(modes == MODE_TEXT, lengths)
    tokens = rng.integers(0, codebook_size, total, dtype=np.int32)
    tokens[is_text] = rng.integers(EOS_ID + 1, text_size, int(is_text.sum()), dtype=np.int32)
    writer = IndexWriter(prefix)
    try:
        writer.add(tokens, lengths, modes, np.full(num_documents, 2, dtype=np.int64))
        writer.commit(
            lambda contents: Manifest(
                documents=contents.documents(),
                tokens=contents.tokens(),
                text_tokenizer=TextTokenizerInfo("", "", text_size, EOS_ID, None),
                image_tokenizer=ImageTokenizerInfo("", "", codebook_size, grid, grid[0] * downsample),
                sha256=contents.sha256,
            )
        )
    finally:
        writer.discard()


def write_pairs_without_tokens(
    prefix: Path,
    num_documents: int,
    captions: tuple[int, int],
    *,
    text_size: int,
    codebook_size: int,
    grid: tuple[int, int],
    downsample: int,
    seed: int = 0,
) -> None:
    """The same with a .bin of the right size that is a hole, so that its tokens are 0; for very many documents."""
    rng = np.random.default_rng(seed)
    lengths, modes, boundaries = _pairs(rng, num_documents, captions, grid)
    total = int(lengths.sum(dtype=np.int64))
    with Path(f"{prefix}.bin").open("wb") as tokens:
        tokens.truncate(total * 4)
    with Path(f"{prefix}.idx").open("wb") as index:
        write_index(index, lengths, modes, boundaries)
    codes = num_documents * grid[0] * grid[1]
    Manifest(
        documents={"image": num_documents},
        tokens={"text": total - codes, "visual": codes},
        text_tokenizer=TextTokenizerInfo("", "", text_size, EOS_ID, None),
        image_tokenizer=ImageTokenizerInfo("", "", codebook_size, grid, grid[0] * downsample),
        sha256={"idx": file_sha256(f"{prefix}.idx")},
    ).write(Path(f"{prefix}.json"))


def _pairs(
    rng: np.random.Generator, num_documents: int, captions: tuple[int, int], grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int32 lengths [2 D], int8 modes [2 D], int64 boundaries [D + 1]."""
    lengths = np.full(2 * num_documents, grid[0] * grid[1], dtype=np.int32)
    for first in range(0, num_documents, _BLOCK):
        end = min(first + _BLOCK, num_documents)
        lengths[2 * first : 2 * end : 2] = rng.integers(captions[0], captions[1] + 1, end - first)
    modes = np.full(2 * num_documents, MODE_IMAGE, dtype=np.int8)
    modes[::2] = MODE_TEXT
    return lengths, modes, np.arange(0, 2 * num_documents + 1, 2, dtype=np.int64)
