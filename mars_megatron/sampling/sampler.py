"""Sampling of images for texts and of texts for images, with the tokenizers of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.sampling.load import LoadedModel
from mars_megatron.sampling.logits_to_ids import image_numbers
from mars_megatron.sampling.to_documents import (
    Document,
    Joint,
    Part,
    check_request,
    sample_documents,
    to_parts,
    to_request,
)
from mars_megatron.sampling.to_images import sample_images, upscale
from mars_megatron.sampling.to_text import caption_likelihood, sample_captions, sample_text
from mars_megatron.tokenizers import ImageTokenizer, load_image_tokenizer, load_text_tokenizer
from mars_megatron.tokenizers.text_checks import check_table


class Sampler:
    """Samples images for texts and captions for images. Every rank must make the same calls, and gets the same results.

    Args:
        loaded: The model; its configuration names the tokenizers and has the sampling settings.

    Raises:
        ValueError: The text tokenizer is missing or does not fit the model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        size = loaded.config.vocabulary.text_size
        self.text_tokenizer = load_text_tokenizer(self.tokenizer_path("text_tokenizer"))
        check_table(self.text_tokenizer, size)
        # Of special tokens without a row of the table, which no text makes, the model knows nothing.
        self.num_text_ids = min(self.text_tokenizer.size, size)

    @cached_property
    def image_tokenizer(self) -> ImageTokenizer:
        """Opened when first needed: a language model has none.

        Raises:
            ValueError: It is missing or does not fit the model.
        """
        tokenizer = load_image_tokenizer(self.tokenizer_path("image_tokenizer"), platform.device())
        codes, pixels = self.loaded.config.vocabulary.codebook_size, self.loaded.config.image.downsample
        if tokenizer.codebook_size != codes:
            raise self._misfit("image_tokenizer", f"{tokenizer.codebook_size} codes", str(codes))
        if tokenizer.downsample != pixels:
            raise self._misfit("image_tokenizer", f"{tokenizer.downsample} pixels per token", str(pixels))
        return tokenizer

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes of an image."""
        return self._grid(None)

    def _grid(self, resolution: int | None) -> tuple[int, int]:
        return self.image_tokenizer.grid(resolution or self.loaded.config.image.resolution)

    def tokenizer_path(self, setting: str) -> str:
        """Path of a tokenizer: that of data.text_tokenizer or data.image_tokenizer.

        Raises:
            ValueError: The setting is empty, or the tokenizer of the checkpoint is missing.
        """
        if setting in self.loaded.missing:
            raise ValueError(self.loaded.missing[setting])
        path = getattr(self.loaded.config.data, setting)
        if not path:
            raise ValueError(f"data.{setting} is empty in this checkpoint; give the path of one")
        return path

    def _misfit(self, setting: str, found: str, accepted: str) -> ValueError:
        path = self.tokenizer_path(setting)
        return ValueError(f"data.{setting} {path} has {found}; accepted by this model: {accepted}")

    def sample(self, prompts: Sequence[str], num_per_prompt: int = 1, *, progress: bool = False) -> torch.Tensor:
        """Codes int64 [len(prompts) * num_per_prompt, grid], all images of the first prompt first.

        Replicas of the model share the work.
        """
        return self.sample_each([prompt for prompt in prompts for _ in range(num_per_prompt)], progress=progress)

    def sample_each(
        self,
        texts: Sequence[str],
        numbers: Sequence[int] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        settings: GenerationConfig | None = None,
        resolution: int | None = None,
        progress: bool = False,
    ) -> torch.Tensor:
        """Codes int64 [len(texts), grid] of one image for each text. Replicas of the model share the work.

        Args:
            texts: The prompts.
            numbers, seeds: See `sample_images`.
            settings: Instead of those of the configuration.
            resolution: Height and width in pixels; None for that of the configuration.
            progress: Show a progress bar on rank 0.
        """
        loaded, (rows, columns) = self.loaded, self._grid(resolution)
        how, prompts = settings or loaded.config.generation, [self.text_tokenizer.encode(text) for text in texts]
        numbers = image_numbers(prompts) if numbers is None else numbers

        def sample(mine: slice) -> torch.Tensor:
            seed = None if seeds is None else seeds[mine]
            return sample_images(
                loaded.model,
                prompts[mine],
                loaded.vocabulary,
                rows * columns,
                how,
                seeds=seed,
                numbers=numbers[mine],
                progress=progress,
            )

        return self._share(sample)

    def upscale_each(
        self,
        texts: Sequence[str],
        low_codes: torch.Tensor,
        numbers: Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        settings: GenerationConfig | None = None,
        progress: bool = False,
    ) -> torch.Tensor:
        """Codes int64 [len(texts), grid] of a high-resolution image for each low-resolution one, int64 [N, low codes].

        Further arguments as for `sample_each`. Replicas of the model share the work.

        Raises:
            ValueError: This model has not learned super-resolution, or from images of another size.
        """
        loaded, prompts = self.loaded, [self.text_tokenizer.encode(text) for text in texts]

        def sample(mine: slice) -> torch.Tensor:
            seed = None if seeds is None else seeds[mine]
            return upscale(
                loaded.model,
                low_codes[mine],
                prompts[mine],
                loaded.vocabulary,
                loaded.config.image,
                settings or loaded.config.generation,
                seeds=seed,
                numbers=numbers[mine],
                progress=progress,
            )

        return self._share(sample)

    def caption_scores(self, texts: Sequence[str], codes: torch.Tensor, batch_size: int) -> torch.Tensor:
        """How probable the model finds each text as the caption of its image; replicas share the work.

        Args:
            texts: One for each image, none empty.
            codes: int64 [N, grid].
            batch_size: Images looked at together.

        Returns:
            float64 [N], see `caption_likelihood`.
        """
        loaded, prompts = self.loaded, [self.text_tokenizer.encode(text) for text in texts]

        def score(mine: slice) -> torch.Tensor:
            return caption_likelihood(
                loaded.model,
                prompts[mine],
                codes[mine],
                loaded.vocabulary,
                batch_size,
                num_text_ids=self.num_text_ids,
            )

        return self._share(score)

    def _share(self, make: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        """Rows of which each replica makes some: those of its slice."""
        groups = self.loaded.groups
        replicas = groups.dp.size()
        rows = make(slice(groups.dp.rank(), None, replicas))
        if replicas == 1:
            return rows
        parts: list[torch.Tensor] = [rows] * replicas
        torch.distributed.all_gather_object(parts, rows, group=groups.dp)
        whole = rows.new_empty((sum(map(len, parts)), *rows.shape[1:]))
        for rank, part in enumerate(parts):
            whole[rank::replicas] = part
        return whole

    def decode(self, codes: torch.Tensor, resolution: int | None = None) -> torch.Tensor:
        """Codes int64 [N, grid] -> uint8 [N, height, width, 3] on the CPU, at the model's resolution or a given one."""
        return self.image_tokenizer.decode(codes, self._grid(resolution))

    def caption(self, images: torch.Tensor, settings: GenerationConfig | None = None) -> list[str]:
        """Caption images.

        Args:
            images: uint8 [N, height, width, 3] or [N, 3, height, width], of the model's resolution.
            settings: Instead of those of the configuration.
        """
        captions = sample_captions(
            self.loaded.model,
            self.image_tokenizer.encode(images),
            self.loaded.vocabulary,
            self.text_tokenizer.eos_id,
            settings or self.loaded.config.generation,
            num_text_ids=self.num_text_ids,
        )
        return [self.text_tokenizer.decode(ids) for ids in captions]

    def complete(self, texts: Sequence[str], settings: GenerationConfig | None = None) -> list[str]:
        """The continuation of each text; arguments as for `caption`.

        Raises:
            ValueError: A text is empty.
        """
        prefixes = [self.text_tokenizer.encode(text) for text in texts]
        if not all(prefixes):
            raise ValueError(f"text {prefixes.index([])} to be continued is empty")
        written = sample_text(
            self.loaded.model,
            prefixes,
            self.loaded.vocabulary,
            self.text_tokenizer.eos_id,
            settings or self.loaded.config.generation,
            num_text_ids=self.num_text_ids,
        )
        # Decoded with its prefix: on their own, the first new ids may lose a space or part of a character.
        wholes = [self.text_tokenizer.decode([*prefix, *ids]) for prefix, ids in zip(prefixes, written, strict=True)]
        starts = [self.text_tokenizer.decode(prefix) for prefix in prefixes]
        return [whole.removeprefix(start) for whole, start in zip(wholes, starts, strict=True)]

    def continue_documents(self, documents: Sequence[Document], *, progress: bool = False) -> list[list[Part]]:
        """Continue documents of texts and images: the model writes text, starts images by itself, and samples them.

        Replicas of the model share the work. The settings are those of the configuration; see `sample_documents`.

        Returns:
            For each document the texts and images that were added.

        Raises:
            ValueError: A document is empty, allows nothing, or has an image of another size.
        """
        model, config, groups, vocabulary = self.loaded
        tokenizer, (rows, columns) = self.text_tokenizer, self.grid
        joint = Joint(vocabulary, rows * columns, tokenizer.eos_id, self.num_text_ids)
        requests = [to_request(document, tokenizer, joint) for document in documents]
        for number, request in enumerate(requests):
            check_request(request, f"document {number}")
        replicas, rank = groups.dp.size(), groups.dp.rank()
        mine = sample_documents(model, requests[rank::replicas], joint, config.generation, progress=progress)
        everyones: list[list[list[int]]] = [mine] * replicas
        if replicas > 1:
            torch.distributed.all_gather_object(everyones, mine, group=groups.dp)
        return [
            to_parts(everyones[number % replicas][number // replicas], document, tokenizer, vocabulary)
            for number, document in enumerate(documents)
        ]
