"""From prompts to pictures and back, with the tokenizers of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.generation.captions import generate_captions
from mars_megatron.generation.images import generate_images
from mars_megatron.generation.load import LoadedModel
from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer


class Sampler:
    """Samples images for texts and captions for images. Every rank must make the same calls, and gets the same.

    Args:
        loaded: The model; its configuration names the tokenizers and has the sampling settings.

    Raises:
        ValueError: A tokenizer is missing or does not fit the model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        data, sizes, image = loaded.config.data, loaded.config.vocabulary, loaded.config.image
        for setting in ("text_tokenizer", "image_tokenizer"):
            if not getattr(data, setting):
                raise ValueError(f"data.{setting} is empty in this checkpoint; give the path of one")
        self.text_tokenizer = load_text_tokenizer(data.text_tokenizer)
        self.image_tokenizer = load_image_tokenizer(data.image_tokenizer, platform.device())
        text, codes, pixels = (
            self.text_tokenizer.size,
            self.image_tokenizer.codebook_size,
            self.image_tokenizer.downsample,
        )
        for setting, fine, found, accepted in (
            ("text_tokenizer", text <= sizes.text_size, f"{text} ids", f"at most {sizes.text_size}"),
            ("image_tokenizer", codes == sizes.codebook_size, f"{codes} codes", f"{sizes.codebook_size}"),
            ("image_tokenizer", pixels == image.downsample, f"{pixels} pixels per token", f"{image.downsample}"),
        ):
            if not fine:
                path = getattr(data, setting)
                raise ValueError(f"data.{setting} {path} has {found}; accepted by this model: {accepted}")
        self.grid = self.image_tokenizer.grid(image.resolution)

    def sample(self, prompts: Sequence[str], num_per_prompt: int = 1, *, progress: bool = False) -> torch.Tensor:
        """Codes int64 [len(prompts) * num_per_prompt, grid], all images of the first prompt first.

        Replicas of the model share the work.
        """
        texts = [self.text_tokenizer.encode(prompt) for prompt in prompts for _ in range(num_per_prompt)]
        _, config, groups, vocabulary = self.loaded
        replicas, mine = groups.dp.size(), range(groups.dp.rank(), len(texts), groups.dp.size())
        codes = generate_images(
            self.loaded.model,
            [texts[index] for index in mine],
            vocabulary,
            self.grid[0] * self.grid[1],
            config.generation,
            indices=mine,
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
