"""Text to image, and super-resolution: codes of images for prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig, ImageConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import Decoder, agree, ids_sampler, inference
from mars_megatron.sampling.logits_to_ids import guidance_at, guide, image_keys, uniforms
from mars_megatron.sequence import VISUAL
from mars_megatron.sequence.code_order import code_order
from mars_megatron.sequence.vocabulary import Vocabulary

STREAM = 1  # its random numbers are others than those of the low-resolution image with the same key


def sample_codes(
    model: MARSModel,
    prefixes: Sequence[Sequence[int]],
    unconditional: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    noise: torch.Tensor,
    config: GenerationConfig,
    bar: tqdm,
    per_step: int = 1,
) -> torch.Tensor:
    """Draw the codes of one batch of images, in the order of prediction; called inside `inference`.

    Nothing but codes can be sampled.

    Args:
        model: The whole model.
        prefixes: Joined ids of each sample up to the image: they end in its BOI, or its start slots.
        unconditional: The same without the prompt, for guidance; not looked at where that is off.
        vocabulary: Layout of the joined ids.
        noise: float64 [samples, codes], the random numbers.
        config: Guidance and its schedule, temperature, top_k, top_p, min_p.
        bar: Is advanced by the codes sampled.
        per_step: Codes of a sample from one forward pass; divides the codes.

    Returns:
        Codes int64 [samples, codes] on the device of the model.
    """
    num_samples, num_codes = noise.shape
    assert num_codes % per_step == 0, (num_codes, per_step)
    guided = config.guidance != 1
    samples = [*prefixes, *unconditional] if guided else list(prefixes)
    # The last codes are sampled, but never read.
    decoder = Decoder(model, vocabulary, samples, VISUAL, num_codes - per_step, per_step)
    logits = decoder.start()
    # [steps, samples * per_step]
    numbers = noise.to(logits.device).unflatten(1, (-1, per_step)).transpose(0, 1).flatten(1)
    choose = ids_sampler(config)
    steps: list[torch.Tensor] = []
    while True:
        logits = logits[:, : vocabulary.codebook_size]
        if guided:
            conditional, without = logits.chunk(2)
            scale = guidance_at(len(steps), len(numbers), config.guidance, config.guidance_schedule)
            logits = guide(conditional, without, scale)
        steps.append(agree(choose(logits, numbers[len(steps)]), model))
        bar.update(num_samples * per_step)
        if len(steps) == len(numbers):
            return torch.cat([step.view(num_samples, per_step) for step in steps], dim=1)
        ids = vocabulary.code_to_id(steps[-1])
        logits = decoder.step(torch.cat((ids, ids)) if guided else ids)


def sample_images(
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

    The image begins at BOI and is exactly `num_codes` codes long; nothing else can be sampled in it.
    An image is decided by its prompt, its seed and its number (and the settings): neither the other prompts nor
    config.batch_size change its random numbers. Where sizes of batches round differently, a random number on the very
    edge between two codes may tell.

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
    keys = image_keys(prompts, vocabulary.text_size, config.seed if seeds is None else seeds, numbers)
    codes = torch.zeros((len(prompts), num_codes), dtype=torch.int64)
    hidden = not progress or torch.distributed.get_rank() != 0
    with inference(model), tqdm(total=codes.numel(), desc="sample", unit="code", disable=hidden) as bar:
        for start in range(0, len(prompts), config.batch_size):
            part = slice(start, start + config.batch_size)
            prefixes = [[*prompt, vocabulary.boi] for prompt in prompts[part]]
            noise = uniforms(keys[part], num_codes)
            # the same form as a dropped caption in training
            unconditional = [[vocabulary.boi]] * len(prefixes)
            codes[part] = sample_codes(model, prefixes, unconditional, vocabulary, noise, config, bar).cpu()
    return codes


def upscale(
    model: MARSModel,
    low_codes: torch.Tensor,
    prompts: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    image: ImageConfig,
    config: GenerationConfig,
    *,
    seeds: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Sample a high-resolution image for each low-resolution one. Every tensor-parallel rank must call it.

    Each forward pass behind the first samples `image.next_k` codes of every image. Guidance compares with the same
    low-resolution image without its prompt.

    Args:
        model: The whole model (parallel.pipeline 1), trained with the same `image`; put back in the mode it came in.
        low_codes: int64 [N, low codes], row by row. Those of the first tensor-parallel rank count.
        prompts: Text ids of the prompt of each; an empty one is an image without a caption.
        vocabulary: Layout of the joined ids.
        image: Sizes of both images, next_k and order.
        config: Guidance and its schedule, temperature, top_k, top_p, min_p, seed, batch_size.
        seeds, numbers: See `sample_images`.
        progress: Show a progress bar on rank 0.

    Returns:
        Codes int64 [N, high codes] on the CPU, row by row.

    Raises:
        ValueError: The model is split over pipeline stages, was trained without a low resolution or for another one, or
            a prompt holds an id that is not text.
    """
    if image.num_low_codes == 0:
        raise ValueError("image.low_resolution is 0: this model has not learned super-resolution (stage III)")
    if low_codes.shape != (len(prompts), image.num_low_codes):
        raise ValueError(
            f"low-resolution codes of shape {list(low_codes.shape)} for {len(prompts)} prompts; this model was trained "
            f"on {image.num_low_codes} codes per image (image.low_resolution {image.low_resolution})"
        )
    keys = image_keys(prompts, vocabulary.text_size, config.seed if seeds is None else seeds, numbers)
    keys = [(*key, STREAM) for key in keys]
    order = torch.from_numpy(code_order(image))
    codes = torch.zeros((len(prompts), len(order)), dtype=torch.int64)
    low = vocabulary.frame(agree(low_codes.to(platform.device()), model).cpu()).tolist()
    slots = vocabulary.start_slots
    hidden = not progress or torch.distributed.get_rank() != 0
    with inference(model), tqdm(total=codes.numel(), desc="super-resolution", unit="code", disable=hidden) as bar:
        for start in range(0, len(prompts), config.batch_size):
            part = slice(start, start + config.batch_size)
            prefixes = [[*image, *prompt, *slots] for image, prompt in zip(low[part], prompts[part], strict=True)]
            unconditional = [[*image, *slots] for image in low[part]]
            noise = uniforms(keys[part], len(order))
            sampled = sample_codes(model, prefixes, unconditional, vocabulary, noise, config, bar, len(slots))
            codes[part, order] = sampled.cpu()
    return codes
