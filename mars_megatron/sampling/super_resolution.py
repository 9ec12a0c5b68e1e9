"""Super-resolution: codes of high-resolution images for those of low-resolution ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig, ImageConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.codes import draw_codes
from mars_megatron.sampling.decoding import agree, inference
from mars_megatron.sampling.draws import uniforms
from mars_megatron.sampling.images import check_prompts, image_keys
from mars_megatron.sequence.code_order import code_order
from mars_megatron.sequence.vocabulary import Vocabulary

STREAM = 1  # its random numbers are others than those of the low-resolution image with the same key


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

    Each forward pass behind the first draws `image.next_k` codes of every image. Guidance compares with the same
    low-resolution image without its prompt.

    Args:
        model: The whole model (parallel.pipeline 1), trained with the same `image`; put back in the mode it came in.
        low_codes: int64 [N, low codes], row by row. Those of the first tensor-parallel rank count.
        prompts: Text ids of the prompt of each; an empty one is an image without a caption.
        vocabulary: Layout of the joined ids.
        image: Sizes of both images, next_k and order.
        config: Guidance and its schedule, temperature, top_k, top_p, min_p, seed, batch_size.
        seeds, numbers: See `generate_images`.
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
    check_prompts(prompts, vocabulary)
    keys = [(*key, STREAM) for key in image_keys(prompts, config.seed, seeds, numbers)]
    order = torch.from_numpy(code_order(image))
    codes = torch.zeros((len(prompts), len(order)), dtype=torch.int64)
    low = vocabulary.frame(agree(low_codes.to(platform.device()), model).cpu()).tolist()
    slots = vocabulary.start_slots
    hidden = not progress or torch.distributed.get_rank() != 0
    with inference(model), tqdm(total=codes.numel(), desc="super-resolution", unit="code", disable=hidden) as bar:
        for start in range(0, len(prompts), config.batch_size):
            part = slice(start, start + config.batch_size)
            beginnings = [[*image, *prompt, *slots] for image, prompt in zip(low[part], prompts[part], strict=True)]
            unconditional = [[*image, *slots] for image in low[part]]
            noise = uniforms(keys[part], len(order))
            drawn = draw_codes(model, beginnings, unconditional, vocabulary, noise, config, bar, len(slots))
            codes[part, order] = drawn.cpu()
    return codes
