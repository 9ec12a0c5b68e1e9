"""Text to image: codes of images for prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.codes import draw_codes
from mars_megatron.sampling.decoding import inference
from mars_megatron.sampling.draws import Key, image_key, image_numbers, uniforms
from mars_megatron.sequence.vocabulary import Vocabulary


def generate_images(
    model: MARSModel,
    prompts: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    num_codes: int,
    config: GenerationConfig,
    *,
    seeds: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Sample one image for each prompt. Every tensor-parallel rank must call it, and gets the same.

    The image begins at BOI and is exactly `num_codes` codes long; nothing else can be drawn in it.
    An image is decided by its prompt, its seed and its number (and the settings): neither the other prompts nor
    config.batch_size change its random numbers. Where sizes of batches round differently, a draw on the very edge
    between two codes may tell.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        prompts: Text ids of each prompt; an empty one is an image without a caption.
        vocabulary: Layout of the joined ids.
        num_codes: Codes of an image (its grid's rows x columns).
        config: Guidance and its schedule, temperature, top_k, top_p, min_p, seed, batch_size.
        seeds: Seed of each image; None: config.seed of all.
        numbers: Number of each image, which tells images of one prompt and seed apart; None: how often its prompt
            stands in front of it.
        progress: Show a progress bar on rank 0.

    Returns:
        Codes, int64 [len(prompts), num_codes] on the CPU, row by row.

    Raises:
        ValueError: The model is split over pipeline stages, or a prompt holds an id that is not text.
    """
    check_prompts(prompts, vocabulary)
    keys = image_keys(prompts, config.seed, seeds, numbers)
    codes = torch.zeros((len(prompts), num_codes), dtype=torch.int64)
    hidden = not progress or torch.distributed.get_rank() != 0
    with inference(model), tqdm(total=codes.numel(), desc="sample", unit="code", disable=hidden) as bar:
        for start in range(0, len(prompts), config.batch_size):
            part = slice(start, start + config.batch_size)
            beginnings = [[*prompt, vocabulary.boi] for prompt in prompts[part]]
            noise = uniforms(keys[part], num_codes)
            # the same form as a dropped caption in training
            unconditional = [[vocabulary.boi]] * len(beginnings)
            codes[part] = draw_codes(model, beginnings, unconditional, vocabulary, noise, config, bar).cpu()
    return codes


def image_keys(
    prompts: Sequence[Sequence[int]], seed: int, seeds: Sequence[int] | None, numbers: Sequence[int] | None
) -> list[Key]:
    """What decides the random numbers of each image; arguments as for `generate_images`."""
    seeds = [seed] * len(prompts) if seeds is None else seeds
    numbers = image_numbers(prompts) if numbers is None else numbers
    return [image_key(*key) for key in zip(seeds, prompts, numbers, strict=True)]


def check_prompts(prompts: Sequence[Sequence[int]], vocabulary: Vocabulary) -> None:
    """Whether all ids are text.

    Raises:
        ValueError: One is not.
    """
    for number, prompt in enumerate(prompts):
        if any(not 0 <= token < vocabulary.text_size for token in prompt):
            raise ValueError(
                f"prompt {number} has the ids {list(prompt)}; accepted: 0 to {vocabulary.text_size - 1} "
                "(vocabulary.text_size is that of the text tokenizer in use)"
            )
