"""The grid of sampled images that a run logs as it goes."""

from __future__ import annotations

import numpy as np
import torch

from mars_megatron import platform
from mars_megatron.config.schema import RunConfig
from mars_megatron.gallery.grid import image_grid
from mars_megatron.model.mars import MARSModel
from mars_megatron.sampling import generate_images
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer

IMAGES_PER_PROMPT = 8


class SampleGrid:
    """Draws the prompts of `logging.sample_prompts`, a row each, with the same random numbers every time.

    Args:
        config: Prompts, sampling settings and tokenizers.
        vocabulary: Joined id space.
    """

    def __init__(self, config: RunConfig, vocabulary: Vocabulary) -> None:
        self.prompts = config.logging.sample_prompts
        self.settings = config.generation
        self.vocabulary = vocabulary
        self.image = config.image
        text = load_text_tokenizer(config.data.text_tokenizer)
        self.image_tokenizer = load_image_tokenizer(config.data.image_tokenizer, device=str(platform.device()))
        self.ids = [text.encode(prompt) for prompt in self.prompts for _ in range(IMAGES_PER_PROMPT)]

    def draw(self, model: MARSModel) -> np.ndarray | None:
        """uint8 [height, width, 3] on rank 0, None elsewhere; every rank must call it."""
        codes = generate_images(model, self.ids, self.vocabulary, self.image.num_codes, self.settings)
        if torch.distributed.get_rank() != 0:
            return None
        images = self.image_tokenizer.decode(codes, (self.image.side, self.image.side))
        rows = np.split(np.asarray(torch.as_tensor(images)), len(self.prompts))
        return np.asarray(image_grid(rows, self.prompts))
