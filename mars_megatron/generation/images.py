"""Text to image: codes of images for prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from mars_megatron.config.schema import GenerationConfig
from mars_megatron.generation.codes import draw_codes
from mars_megatron.generation.decoding import inference
from mars_megatron.huggingface.sampling_mars import uniforms
from mars_megatron.model import MARSModel
from mars_megatron.tokenizers.vocabulary import Vocabulary


def generate_images(
    model: MARSModel,
    prompts: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    num_codes: int,
    config: GenerationConfig,
    *,
    indices: Sequence[int] | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Sample one image for each prompt. Every tensor-parallel rank must call it, and gets the same.

    The image begins at BOI and is exactly `num_codes` codes long; nothing else can be drawn in it.
    What a prompt gets depends on config.seed and its index, not on config.batch_size.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        prompts: Text ids of each prompt; an empty one is an image without a caption.
        vocabulary: Layout of the joined ids.
        num_codes: Codes of an image (its grid's rows x columns).
        config: Guidance, temperature, top_k, top_p, seed, batch_size.
        indices: Index of each prompt, which decides its random numbers; None counts from 0.
        progress: Show a progress bar on rank 0.

    Returns:
        Codes, int64 [len(prompts), num_codes] on the CPU, row by row.

    Raises:
        ValueError: The model is split over pipeline stages, or a prompt holds an id that is not text.
    """
    check_prompts(prompts, vocabulary)
    indices = range(len(prompts)) if indices is None else indices
    codes = torch.zeros((len(prompts), num_codes), dtype=torch.int64)
    hidden = not progress or torch.distributed.get_rank() != 0
    with inference(model), tqdm(total=codes.numel(), desc="sample", unit="code", disable=hidden) as bar:
        for start in range(0, len(prompts), config.batch_size):
            part = slice(start, start + config.batch_size)
            beginnings = [[*prompt, vocabulary.boi] for prompt in prompts[part]]
            noise = uniforms(config.seed, indices[part], num_codes)
            # the same form as a dropped caption in training
            unconditional = [[vocabulary.boi]] * len(beginnings)
            codes[part] = draw_codes(model, beginnings, unconditional, vocabulary, noise, config, bar).cpu()
    return codes


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
