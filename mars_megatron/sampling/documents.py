"""Documents of texts and images: their parts as joined ids, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from mars_megatron.sampling.joint import Joint, Request
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.tokenizers import TextTokenizer

Part = str | torch.Tensor  # a text, or the codes of an image, int64 [codes] on the CPU


@dataclass(frozen=True)
class Document:
    """The beginning of a document that a model shall go on with, and how far.

    Args:
        parts: Texts and images in any order; not all empty.
        seed, max_images, max_text_tokens, stop_after_image: See `joint.Request`.
    """

    parts: tuple[Part, ...]
    seed: int = 0
    max_images: int = 1
    max_text_tokens: int = 64
    stop_after_image: bool = False


def to_request(document: Document, tokenizer: TextTokenizer, joint: Joint) -> Request:
    """The document as ids, laid out as documents are in training.

    Raises:
        ValueError: An image has another number of codes than those of the model.
    """
    ids: list[int] = []
    for part in document.parts:
        if isinstance(part, str):
            ids += tokenizer.encode(part)
        elif part.shape != (joint.num_codes,):
            raise ValueError(f"an image has codes of shape {list(part.shape)}; accepted: [{joint.num_codes}]")
        else:
            ids += joint.vocabulary.frame(part).tolist()
    return Request(ids, document.seed, document.max_images, document.max_text_tokens, document.stop_after_image)


def to_parts(
    written: Sequence[int], document: Document, tokenizer: TextTokenizer, vocabulary: Vocabulary
) -> list[Part]:
    """What was written behind a document, as texts and codes."""
    before = document.parts[-1] if document.parts else ""
    begun = tokenizer.encode(before) if isinstance(before, str) else []
    parts: list[Part] = []
    for is_image, ids in _runs(written, vocabulary):
        if is_image:
            parts.append(torch.tensor([vocabulary.id_to_code(token) for token in ids], dtype=torch.int64))
        else:
            # Decoded with its beginning: on their own, the first new ids may lose a space or part of a character.
            parts.append(tokenizer.decode([*begun, *ids]).removeprefix(tokenizer.decode(begun)))
        begun = []
    return parts


def _runs(written: Sequence[int], vocabulary: Vocabulary) -> Iterator[tuple[bool, list[int]]]:
    """(is an image, its code ids or text ids) of each part."""
    boi, eoi = vocabulary.boi, vocabulary.eoi
    images = 0

    def part(token: int) -> tuple[bool, int]:
        nonlocal images
        images += token == boi
        return token >= vocabulary.text_size, images

    for (is_image, _), ids in groupby(written, part):
        yield is_image, [token for token in ids if token not in (boi, eoi)]
