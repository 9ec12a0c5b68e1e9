"""Documents of texts and images: the model continues the text, and starts images by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import torch
from tqdm import tqdm

from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import MixedDecoder, agree, ids_sampler, inference
from mars_megatron.sampling.logits_to_ids import guidance_at, guide, uniforms
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.tokenizers import TextTokenizer

# What the next token of a document is.
WORD, CODE, END_OF_IMAGE, NOTHING = range(4)
LEAST = {"max_text_tokens": 1, "max_images": 0, "seed": 0}  # accepted values of a request
Part = str | torch.Tensor  # a text, or the codes of an image, int64 [codes] on the CPU


@dataclass(frozen=True, kw_only=True)
class DocumentLimits:
    """How far a document is gone on with.

    Args:
        seed: Seed of its random numbers, which depend on nothing else.
        max_images: Largest number of images that it may start.
        max_text_tokens: Most text tokens that it may write, images aside; it ends there.
        stop_after_image: It ends behind its first image.
    """

    seed: int = 0
    max_images: int = 1
    max_text_tokens: int = 64
    stop_after_image: bool = False

    def limits(self) -> dict[str, Any]:
        """The values by name, for another class with these limits."""
        return {field.name: getattr(self, field.name) for field in fields(DocumentLimits)}


@dataclass(frozen=True)
class Request(DocumentLimits):
    """One document to go on with, as ids.

    Args:
        ids: Joined ids that it begins with: text, and whole images as BOI codes EOI, in any order; not empty.
    """

    ids: Sequence[int]


@dataclass(frozen=True)
class Joint:
    """What holds for all documents of a model.

    Args:
        vocabulary: Layout of the joined ids.
        num_codes: Codes of an image.
        eos_id: End-of-text id of the text tokenizer.
        num_text_ids: Text ids that may occur are those below it, where the tokenizer has fewer than the model.
    """

    vocabulary: Vocabulary
    num_codes: int
    eos_id: int
    num_text_ids: int


def sample_documents(
    model: MARSModel,
    requests: Sequence[Request],
    joint: Joint,
    config: GenerationConfig,
    *,
    progress: bool = False,
) -> list[list[int]]:
    """Continue each document until EOS, until its text is as long as it may be, or behind an image.

    In text any text id can be sampled, and BOI while images are left; after BOI exactly `num_codes` codes, and nothing
    else; EOI follows by itself, and text again. With guidance, a code is compared with the same image without anything
    in front of it. Every tensor-parallel rank must call it, and gets the same. What a document gets does not depend on
    the others.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        requests: The documents.
        joint: Ids and sizes.
        config: Guidance, its schedule and the temperature of codes, text_temperature, top_k, top_p, min_p, batch_size.
        progress: Show a progress bar on rank 0.

    Returns:
        The new joined ids of each, without EOS; images are whole, BOI codes EOI.

    Raises:
        ValueError: The model is split over pipeline stages, or a request is empty or allows nothing.
    """
    for number, request in enumerate(requests):
        check_request(request, f"request {number}")
    written: list[list[int]] = []
    hidden = not progress or torch.distributed.get_rank() != 0
    with inference(model), tqdm(total=len(requests), desc="documents", unit="document", disable=hidden) as bar:
        for start in range(0, len(requests), config.batch_size):
            part = requests[start : start + config.batch_size]
            written += _Batch(model, part, joint, config).run()
            bar.update(len(part))
    return written


def check_request(request: Request, name: str) -> None:
    """Whether it can be gone on with.

    Raises:
        ValueError: It is empty or allows nothing.
    """
    if not request.ids:
        raise ValueError(f"{name} is empty; accepted: text, images, or both")
    for setting, least in LEAST.items():
        value = getattr(request, setting)
        if value < least:
            raise ValueError(f"{setting} of {name} is {value}; accepted: {least} or more")


class _Document:
    """What was written of one request, and what comes next.

    Args:
        request: The request.
        joint: Ids and sizes.
    """

    def __init__(self, request: Request, joint: Joint) -> None:
        self.joint = joint
        self.stop_after_image = request.stop_after_image
        self.images_left, self.words_left, self.codes_left = request.max_images, request.max_text_tokens, 0
        self.expects = WORD
        self.written: list[int] = []
        num_draws = request.max_text_tokens + request.max_images * (joint.num_codes + 1)
        self.noise = uniforms([(request.seed, 0)], num_draws)[0].tolist()
        self.num_sampled = 0

    def next_noise(self) -> float:
        """The next random number."""
        self.num_sampled += 1
        return self.noise[self.num_sampled - 1]

    def take(self, token: int) -> None:
        """Go on with a joined id that was sampled."""
        if self.expects == WORD and token == self.joint.eos_id:
            self.expects = NOTHING
            return
        self.written.append(token)
        if self.expects == CODE:
            self.codes_left -= 1
            self.expects = CODE if self.codes_left else END_OF_IMAGE
            if self.expects == END_OF_IMAGE and self.stop_after_image:
                self.end_image()
        elif token == self.joint.vocabulary.boi:
            self.images_left -= 1
            self.codes_left, self.expects = self.joint.num_codes, CODE
        else:
            self.words_left -= 1
            self.expects = WORD if self.words_left else NOTHING

    def end_image(self) -> None:
        """Go on with EOI, which is not sampled."""
        self.written.append(self.joint.vocabulary.eoi)
        self.expects = NOTHING if self.stop_after_image else WORD


class _Batch:
    """Some documents decoded together.

    Args:
        model, requests, joint, config: Of `sample_documents`.
    """

    def __init__(self, model: MARSModel, requests: Sequence[Request], joint: Joint, config: GenerationConfig) -> None:
        self.model, self.joint, self.config = model, joint, config
        self.documents = [_Document(request, joint) for request in requests]
        vocabulary = joint.vocabulary
        most = max(request.max_text_tokens + request.max_images * (joint.num_codes + 2) for request in requests)
        self.decoder = MixedDecoder(model, vocabulary, [request.ids for request in requests], most)
        self.unconditional: MixedDecoder | None = None
        if config.guidance != 1 and any(request.max_images for request in requests):
            self.unconditional = MixedDecoder(model, vocabulary, [[vocabulary.boi]] * len(requests), joint.num_codes)

    def run(self) -> list[list[int]]:
        """The new ids of each document."""
        documents = self.documents
        logits = self.decoder.start()
        if self.unconditional is not None:
            self.first_unconditional = self.unconditional.start()
        without = None
        while True:
            self._sample(logits, without)
            going = [document.expects != NOTHING for document in documents]
            if not any(going):
                return [document.written for document in documents]
            # Whoever is finished is fed what another is: a step of one modality is cheaper than one of both.
            filler = documents[going.index(True)].written[-1]
            last = [document.written[-1] if on else filler for document, on in zip(documents, going, strict=True)]
            logits = self.decoder.step(last, going)
            without = self._step_unconditional(last)

    def _sample(self, logits: torch.Tensor, without: torch.Tensor | None) -> None:
        """Give every document its next token.

        Args:
            logits: fp32 [documents, vocabulary.size].
            without: The same of the images without anything in front of them, where guidance is on.
        """
        words, codes, ends = (
            [number for number, document in enumerate(self.documents) if document.expects == kind]
            for kind in (WORD, CODE, END_OF_IMAGE)
        )
        sampled = torch.cat((self._words(logits, words), self._codes(logits, without, codes)))
        ids = agree(sampled, self.model).tolist()
        for number, token in zip(words + codes, ids, strict=True):
            self.documents[number].take(token)
        for number in ends:
            self.documents[number].end_image()

    def _words(self, logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Joined ids of text, or BOI, for these documents."""
        boi, config = self.joint.vocabulary.boi, self.config
        device = logits.device
        chosen = logits[rows]
        begins = chosen[:, boi : boi + 1]
        full = [self.documents[number].images_left == 0 for number in rows]
        begins = begins.masked_fill(torch.tensor(full, dtype=torch.bool, device=device)[:, None], float("-inf"))
        num_text = self.joint.num_text_ids
        choose = ids_sampler(config, config.text_temperature)
        columns = choose(torch.cat((chosen[:, :num_text], begins), dim=1), self._noise(rows, device))
        return torch.where(columns == num_text, boi, columns)

    def _codes(self, logits: torch.Tensor, without: torch.Tensor | None, rows: list[int]) -> torch.Tensor:
        """Joined ids of codes for these documents."""
        vocabulary, config, schedule = self.joint.vocabulary, self.config, self.config.guidance_schedule
        columns = slice(vocabulary.text_size, vocabulary.text_size + vocabulary.codebook_size)
        chosen = logits[rows, columns]
        if without is not None:
            num_codes = self.joint.num_codes
            scales = [
                guidance_at(num_codes - self.documents[number].codes_left, num_codes, config.guidance, schedule)
                for number in rows
            ]
            chosen = guide(chosen, without[rows, columns], chosen.new_tensor(scales)[:, None])
        return vocabulary.code_to_id(ids_sampler(config)(chosen, self._noise(rows, logits.device)))

    def _noise(self, rows: list[int], device: torch.device) -> torch.Tensor:
        numbers = [self.documents[number].next_noise() for number in rows]
        return torch.tensor(numbers, dtype=torch.float64, device=device)

    def _step_unconditional(self, last: list[int]) -> torch.Tensor | None:
        """Logits [documents, vocabulary.size] of images alone; rows of documents outside of an image mean nothing."""
        if self.unconditional is None:
            return None
        boi = self.joint.vocabulary.boi
        inside = [
            document.expects == CODE and token != boi for document, token in zip(self.documents, last, strict=True)
        ]
        for number, (document, token) in enumerate(zip(self.documents, last, strict=True)):
            if document.expects == CODE and token == boi:
                self.unconditional.rewind(number, 1)
        if not any(inside):
            return self.first_unconditional
        # Whoever is not inside an image is fed a token of the same modality, which it does not keep.
        fed = [token if within else boi for token, within in zip(last, inside, strict=True)]
        logits = self.unconditional.step(fed, inside)
        within = torch.tensor(inside, device=logits.device)
        return torch.where(within[:, None], logits, self.first_unconditional)


@dataclass(frozen=True)
class Document(DocumentLimits):
    """The start of a document that the model continues, and its limits.

    Args:
        parts: Texts and images in any order; not all empty.
    """

    parts: tuple[Part, ...]


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
    return Request(ids, **document.limits())


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
            # Decoded with its prefix: on their own, the first new ids may lose a space or part of a character.
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
