"""From prompts to pictures and back, with the tokenizers of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.generation.captions import generate_captions
from mars_megatron.generation.documents import Document, Part, to_parts, to_request
from mars_megatron.generation.images import generate_images
from mars_megatron.generation.joint import Joint, check_request, write_and_draw
from mars_megatron.generation.load import LoadedModel
from mars_megatron.generation.text import generate_text
from mars_megatron.tokenizers import ImageTokenizer, load_image_tokenizer, load_text_tokenizer


class Sampler:
    """Samples images for texts and captions for images. Every rank must make the same calls, and gets the same.

    Args:
        loaded: The model; its configuration names the tokenizers and has the sampling settings.

    Raises:
        ValueError: The text tokenizer is missing or does not fit the model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        size = loaded.config.vocabulary.text_size
        self.text_tokenizer = load_text_tokenizer(self._path("text_tokenizer"))
        if self.text_tokenizer.size > size:
            raise self._misfit("text_tokenizer", f"{self.text_tokenizer.size} ids", f"at most {size}")

    @cached_property
    def image_tokenizer(self) -> ImageTokenizer:
        """Opened when first needed: a language model has none.

        Raises:
            ValueError: It is missing or does not fit the model.
        """
        tokenizer = load_image_tokenizer(self._path("image_tokenizer"), platform.device())
        codes, pixels = self.loaded.config.vocabulary.codebook_size, self.loaded.config.image.downsample
        if tokenizer.codebook_size != codes:
            raise self._misfit("image_tokenizer", f"{tokenizer.codebook_size} codes", str(codes))
        if tokenizer.downsample != pixels:
            raise self._misfit("image_tokenizer", f"{tokenizer.downsample} pixels per token", str(pixels))
        return tokenizer

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes of an image."""
        return self.image_tokenizer.grid(self.loaded.config.image.resolution)

    def _path(self, setting: str) -> str:
        path = getattr(self.loaded.config.data, setting)
        if not path:
            raise ValueError(f"data.{setting} is empty in this checkpoint; give the path of one")
        return path

    def _misfit(self, setting: str, found: str, accepted: str) -> ValueError:
        return ValueError(f"data.{setting} {self._path(setting)} has {found}; accepted by this model: {accepted}")

    def sample(self, prompts: Sequence[str], num_per_prompt: int = 1, *, progress: bool = False) -> torch.Tensor:
        """Codes int64 [len(prompts) * num_per_prompt, grid], all images of the first prompt first.

        Replicas of the model share the work.
        """
        texts = [prompt for prompt in prompts for _ in range(num_per_prompt)]
        return self.sample_each(texts, range(len(texts)), progress=progress)

    def sample_each(self, texts: Sequence[str], indices: Sequence[int], *, progress: bool = False) -> torch.Tensor:
        """Codes int64 [len(texts), grid] of one image for each text; `indices` are those of `generate_images`.

        Replicas of the model share the work.
        """
        _, config, groups, vocabulary = self.loaded
        replicas, mine = groups.dp.size(), range(groups.dp.rank(), len(texts), groups.dp.size())
        codes = generate_images(
            self.loaded.model,
            [self.text_tokenizer.encode(texts[number]) for number in mine],
            vocabulary,
            self.grid[0] * self.grid[1],
            config.generation,
            indices=[indices[number] for number in mine],
            progress=progress,
        )
        if replicas == 1:
            return codes
        parts: list[torch.Tensor] = [codes] * replicas
        torch.distributed.all_gather_object(parts, codes, group=groups.dp)
        whole = torch.empty((len(texts), codes.shape[1]), dtype=torch.int64)
        for rank, part in enumerate(parts):
            whole[rank::replicas] = part
        return whole

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes int64 [N, grid] -> uint8 [N, height, width, 3] on the CPU."""
        return self.image_tokenizer.decode(codes, self.grid)

    def caption(
        self, images: torch.Tensor, settings: GenerationConfig | None = None, *, progress: bool = False
    ) -> list[str]:
        """Caption images.

        Args:
            images: uint8 [N, height, width, 3] or [N, 3, height, width], of the model's resolution.
            settings: Instead of those of the configuration.
            progress: Show a progress bar on rank 0.
        """
        captions = generate_captions(
            self.loaded.model,
            self.image_tokenizer.encode(images),
            self.loaded.vocabulary,
            self.text_tokenizer.eos_id,
            settings or self.loaded.config.generation,
            num_text_ids=self.text_tokenizer.size,
            progress=progress,
        )
        return [self.text_tokenizer.decode(ids) for ids in captions]

    def complete(
        self, texts: Sequence[str], settings: GenerationConfig | None = None, *, progress: bool = False
    ) -> list[str]:
        """What the model writes after each text; arguments as for `caption`.

        Raises:
            ValueError: A text is empty.
        """
        beginnings = [self.text_tokenizer.encode(text) for text in texts]
        if not all(beginnings):
            raise ValueError(f"text {beginnings.index([])} to be continued is empty")
        written = generate_text(
            self.loaded.model,
            beginnings,
            self.loaded.vocabulary,
            self.text_tokenizer.eos_id,
            settings or self.loaded.config.generation,
            num_text_ids=self.text_tokenizer.size,
            progress=progress,
        )
        # Decoded with its beginning: on their own, the first new ids may lose a space or part of a character.
        wholes = [self.text_tokenizer.decode([*begin, *ids]) for begin, ids in zip(beginnings, written, strict=True)]
        starts = [self.text_tokenizer.decode(begin) for begin in beginnings]
        return [whole.removeprefix(start) for whole, start in zip(wholes, starts, strict=True)]

    def continue_documents(self, documents: Sequence[Document], *, progress: bool = False) -> list[list[Part]]:
        """Go on with documents of texts and images: the model writes, begins images by itself, and draws them.

        Replicas of the model share the work. The settings are those of the configuration; see `write_and_draw`.

        Returns:
            For each document the texts and images that were added.

        Raises:
            ValueError: A document is empty, allows nothing, or has an image of another size.
        """
        model, config, groups, vocabulary = self.loaded
        tokenizer, (rows, columns) = self.text_tokenizer, self.grid
        joint = Joint(vocabulary, rows * columns, tokenizer.eos_id, tokenizer.size)
        requests = [to_request(document, tokenizer, joint) for document in documents]
        for number, request in enumerate(requests):
            check_request(request, f"document {number}")
        replicas, rank = groups.dp.size(), groups.dp.rank()
        mine = write_and_draw(model, requests[rank::replicas], joint, config.generation, progress=progress)
        everyones: list[list[list[int]]] = [mine] * replicas
        if replicas > 1:
            torch.distributed.all_gather_object(everyones, mine, group=groups.dp)
        return [
            to_parts(everyones[number % replicas][number // replicas], document, tokenizer, vocabulary)
            for number, document in enumerate(documents)
        ]
